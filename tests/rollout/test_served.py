"""What vLLM is asked for and how its answers are read, with a stand-in that has the calls of vLLM's documentation.

vLLM itself needs a GPU. The stand-in expands placeholders as vLLM does and writes with the built-in engine.
"""

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vagen.policy.chat import Picture
from vagen.policy.errors import ModelError
from vagen.rollout.cached import CachedEngine
from vagen.rollout.engine import Request
from vagen.rollout.rollouts import Settings, rollout
from vagen.rollout.sampling import Sampling
from vagen.rollout.served import ServedEngine

WORLD = "sokoban-6x6"
HOW = Settings(strategy="no_think", max_turns=3, sampling=Sampling(0.0, max_tokens=6))


@dataclass
class Parameters:
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]
    logprobs: int
    logit_bias: dict[int, float]
    detokenize: bool


@dataclass
class StandIn:
    """An ``LLM`` and its ``llm_engine`` in one."""

    chat: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    parameters: list[Parameters] = field(default_factory=list)
    waiting: list[tuple] = field(default_factory=list)
    resting: bool = False  # every other step finishes nothing
    extra: tuple[int, ...] = ()  # put before every prompt

    @property
    def llm_engine(self):
        return self

    def sleep(self, level: int) -> None:
        self.events.append("sleep")

    def wake_up(self) -> None:
        self.events.append("wake")

    def reset_prefix_cache(self) -> None:
        self.events.append("reset")

    def apply_model(self, change) -> list:
        return [change(self)]

    def load_weights(self, weights) -> set[str]:
        self.weights = {name: tensor.clone() for name, tensor in weights}
        return set(self.weights)

    def abort_request(self, names: list[str]) -> None:
        self.events.append(f"abort {len(names)}")

    def add_request(self, name: str, prompt: dict, parameters: Parameters) -> None:
        self.parameters.append(parameters)
        images = [np.asarray(image) for image in prompt.get("multi_modal_data", {}).get("image", [])]
        self.waiting.append((name, prompt["prompt_token_ids"], images, parameters))

    def step(self) -> list:
        name, ids, images, parameters = self.waiting.pop()
        self.resting = not self.resting
        if self.resting:
            self.waiting.append((name, ids, images, parameters))
            return [SimpleNamespace(request_id=name, finished=False)]
        engine = CachedEngine(self.chat, 1)
        prompt, pictures = self._expanded(ids, images), tuple(map(Picture.of, images))
        with engine.session(Sampling(parameters.temperature, parameters.top_p, parameters.max_tokens)):
            engine.submit([Request(0, prompt, pictures, np.random.default_rng(parameters.seed))])
            (said,) = engine.step()
        tokens = said.tokens.tolist()
        chances = [
            {token: SimpleNamespace(logprob=log)} for token, log in zip(tokens, said.log_probs.tolist(), strict=True)
        ]
        completion = SimpleNamespace(token_ids=tokens, logprobs=chances)
        read = [*self.extra, *prompt.ids.tolist()]
        return [SimpleNamespace(request_id=name, finished=True, prompt_token_ids=read, outputs=[completion])]

    def _expanded(self, ids, images):
        """The prompt with 36 placeholders for each one."""
        from vagen.policy.chat import Prompt

        places = [place for place, token in enumerate(ids) if token == self.chat.image_token]
        assert len(places) == len(images), "not one placeholder for each image"
        numbers = iter(range(len(images)))
        whole = [(t, next(numbers) if t == self.chat.image_token else -1) for t in ids]
        pairs = [pair for pair in whole for _ in range(36 if pair[1] >= 0 else 1)]
        tokens, image_of = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
        grid = self.chat.image_tensors([Picture.of(image) for image in images])
        positions = self.chat._positions(torch.from_numpy(tokens)[None], image_of, grid)
        return Prompt(tokens, positions.numpy(), image_of)


@pytest.fixture
def serve(monkeypatch):
    """``serve(chat)``: an engine and the stand-in behind it."""

    def make(chat, **options):
        llm = StandIn(chat)
        module = ModuleType("vllm")
        module.SamplingParams = Parameters
        module.LLM = lambda **arguments: (llm.arguments.update(arguments), llm)[1]
        monkeypatch.setitem(sys.modules, "vllm", module)
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        return ServedEngine(chat, "some/model", **options), llm

    return make


@pytest.mark.parametrize("architecture", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_episodes_are_those_of_the_built_in_engine(make_chat, serve, architecture):
    """Greedily: same prompts, one placeholder for each image, same tokens, same log-probabilities."""
    chat = make_chat(architecture)
    engine, _ = serve(chat, lanes=3)
    seeds = [1, 2, 3, 4]
    served = list(rollout(engine, WORLD, seeds, seeds, HOW))
    built_in = list(rollout(CachedEngine(chat, 3), WORLD, seeds, seeds, HOW))
    for ours, theirs in zip(served, built_in, strict=True):
        assert [t.response.tolist() for t in ours.turns] == [t.response.tolist() for t in theirs.turns]
        assert [t.cut for t in ours.turns] == [t.cut for t in theirs.turns]
        for mine, other in zip(ours.turns, theirs.turns, strict=True):
            np.testing.assert_allclose(mine.log_probs, other.log_probs, atol=1e-5)


def test_what_vllm_is_asked_for(make_chat, serve, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)  # other tests may have joined a group
    chat = make_chat("qwen2_5_vl")
    engine, llm = serve(chat, lanes=2, images=5, max_length=777, memory=0.25)
    wanted = {"model": "some/model", "max_model_len": 777, "max_num_seqs": 2, "gpu_memory_utilization": 0.25}
    wanted |= {"limit_mm_per_prompt": {"image": 5}, "enable_prefix_caching": True, "dtype": "float32"}
    assert wanted.items() <= llm.arguments.items()
    assert llm.arguments["logprobs_mode"] == "raw_logprobs"
    assert llm.arguments["distributed_executor_backend"] is None
    list(rollout(engine, WORLD, [1, 1], [0, 0], Settings(max_turns=2, sampling=Sampling(0.7, 0.9, 5))))
    for parameters in llm.parameters:
        assert (parameters.temperature, parameters.top_p, parameters.max_tokens) == (0.7, 0.9, 5)
        assert parameters.stop_token_ids == sorted(chat.end_tokens)
        assert parameters.logit_bias.keys() == set(chat.banned)
        assert not parameters.detokenize
    assert len({parameters.seed for parameters in llm.parameters}) == 4, "two responses have the same random numbers"


def test_each_session_has_the_policys_weights(make_chat, serve):
    chat = make_chat("llava")
    opened = []
    engine, llm = serve(chat, gathered=lambda: opened.append(1) or torch.no_grad())
    assert llm.events == ["sleep"]
    head = chat.policy.model.get_output_embeddings().weight
    try:
        for scale in (2.0, 0.5):
            with torch.no_grad():
                head.mul_(scale)
            llm.events.clear()
            with engine.session(Sampling()):
                state = chat.policy.model.state_dict()
                assert llm.weights.keys() == state.keys()
                assert all(torch.equal(llm.weights[name], tensor) for name, tensor in state.items())
                assert llm.events == ["wake", "reset"]
            assert llm.events == ["wake", "reset", "abort 0", "sleep"]
    finally:
        assert len(opened) == 2


def test_prompts_that_vllm_reads_otherwise_are_an_error(make_chat, serve):
    engine, llm = serve(make_chat("qwen3_vl"))
    llm.extra = (3,)
    with pytest.raises(ModelError, match="its processor is not that of small"):
        list(rollout(engine, WORLD, [1], [1], HOW))
    assert llm.events[-2:] == ["abort 0", "sleep"]


def test_models_whose_images_are_more_than_placeholders_are_refused(make_chat, serve):
    with pytest.raises(ModelError, match="marks images by more than a repeated placeholder"):
        serve(make_chat("idefics3"))


def test_without_vllm_the_error_says_what_to_install(make_chat, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(ModelError, match=r"vagen-cloze\[vllm\]"):
        ServedEngine(make_chat("llava"), "some/model")
