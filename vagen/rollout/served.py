"""The vLLM engine: responses written by vLLM in this process, which gets the policy's weights at each session.

Needs the package ``vllm`` (the extra ``vllm``) and a GPU. Written against the documented interface of vLLM 0.11 and
later (``LLM``, ``LLMEngine.add_request`` and ``step``, ``SamplingParams``, ``apply_model``, ``sleep``, ``wake_up`` and
``reset_prefix_cache``), and never run with it so far. Earlier turns are not computed again, since vLLM caches the keys
and values of common prefixes, images by their content included. Each process has a whole engine of its own.

Random numbers come from vLLM, seeded per response. So an episode is a function of its seed here too, though not the
same one as with the built-in engine.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image

from vagen.policy.adapters import has_adapters, merged_state
from vagen.policy.chat import Chat
from vagen.policy.errors import ModelError
from vagen.rollout.engine import Request, Sampled
from vagen.rollout.sampling import GREEDY, Sampling

_NEVER = -100.0  # the least that vLLM adds to a logit
_SEEDS = 2**31


class ServedEngine:
    """Writes with vLLM.

    Args:
        chat: the policy's prompts; its weights are what vLLM gets.
        path: a folder or Hub id with the model's configuration and processor.
        lanes: how many responses are written at once.
        images: the most images of a prompt.
        max_length: the most tokens of a prompt and its response.
        memory: the share of the GPU's memory that vLLM takes while a session is open.
        gathered: opened while weights are copied; brings the whole model here where it is spread over processes.

    Raises:
        ModelError: vLLM is not installed, or would not read the prompts as they are.
    """

    def __init__(
        self,
        chat: Chat,
        path: str,
        lanes: int = 64,
        images: int = 16,
        max_length: int = 4096,
        memory: float = 0.4,
        gathered: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the weights are in this process
        try:
            self._vllm = importlib.import_module("vllm")
        except ImportError as error:
            raise ModelError(f"vLLM cannot be imported ({error}): pip install 'vagen-cloze[vllm]'") from None
        chat.unexpanded(chat.opening("", "?", []))  # refuses models whose prompts it cannot write
        launched = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._llm = self._vllm.LLM(
            model=path,
            dtype=str(chat.policy.model.dtype).removeprefix("torch."),
            max_model_len=max_length,
            max_num_seqs=lanes,
            limit_mm_per_prompt={"image": images},
            gpu_memory_utilization=memory,
            enable_prefix_caching=True,
            enable_sleep_mode=True,
            logprobs_mode="raw_logprobs",  # at temperature 1, before anything is banned
            distributed_executor_backend="external_launcher" if launched else None,
        )
        self._llm.sleep(level=1)
        self.chat = chat
        self.lanes = lanes
        self._gathered = gathered
        self._sampling = GREEDY
        self._asked: dict[str, Request] = {}
        self._number = 0

    @contextmanager
    def session(self, sampling: Sampling) -> Iterator[None]:
        """See :class:`vagen.rollout.engine.Engine`. Outside of sessions vLLM leaves the GPU to training."""
        self._sampling = sampling
        self._llm.wake_up()
        try:
            self._copy_weights()
            yield
        finally:
            self._llm.llm_engine.abort_request(list(self._asked))
            self._asked = {}
            self._llm.sleep(level=1)

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            name, self._number = str(self._number), self._number + 1
            prompt: dict[str, Any] = {"prompt_token_ids": self.chat.unexpanded(request.prompt).tolist()}
            if request.pictures:
                prompt["multi_modal_data"] = {"image": [Image.fromarray(p.pixels) for p in request.pictures]}
            self._llm.llm_engine.add_request(name, prompt, self._parameters(request))
            self._asked[name] = request

    def step(self) -> list[Sampled]:
        finished: list[Any] = []
        while not finished:
            finished = [output for output in self._llm.llm_engine.step() if output.finished]
        return [self._sampled(self._asked.pop(output.request_id), output) for output in finished]

    def _parameters(self, request: Request) -> Any:
        return self._vllm.SamplingParams(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            max_tokens=self._sampling.max_tokens,
            seed=int(request.generator.integers(_SEEDS)),
            stop_token_ids=sorted(self.chat.end_tokens),
            logprobs=0,  # of the sampled tokens alone
            logit_bias=dict.fromkeys(self.chat.banned, _NEVER),
            detokenize=False,
        )

    def _sampled(self, request: Request, output: Any) -> Sampled:
        if list(output.prompt_token_ids) != request.prompt.ids.tolist():
            raise ModelError(
                f"vLLM reads a prompt of {len(request.prompt.ids)} tokens as {len(output.prompt_token_ids)} others: "
                f"its processor is not that of {self.chat.policy.name}"
            )
        (written,) = output.outputs
        tokens = np.array(written.token_ids, dtype=np.int64)
        log_probs = [known[token].logprob for token, known in zip(tokens.tolist(), written.logprobs, strict=True)]
        return Sampled(request.lane, tokens, np.array(log_probs), int(tokens[-1]) not in self.chat.end_tokens)

    def _copy_weights(self) -> None:
        """Let vLLM have the policy's weights, and forget what it computed with others."""
        model = self.chat.policy.model
        with self._gathered():
            state = model.state_dict()
            weights = list((merged_state(model, state) if has_adapters(model) else state).items())
            self._llm.apply_model(lambda served: served.load_weights(iter(weights)))
        self._llm.reset_prefix_cache()
