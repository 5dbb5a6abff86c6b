"""Turns per second of rollouts that keep their cache, against encoding the whole conversation again for each turn.

    python scripts/bench/rollout.py [--turns 16] [--episodes 16] [--tokens 8]

The peer is plain ``transformers`` generation: each turn, the conversations so far go through ``model.generate`` as one
batch, all of their images with them. Both play the same episodes greedily; they must write the same tokens, or nothing
is printed. The model is untrained, so that every episode has all of its turns and every response its full length.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from measure import ROUNDS, comparison, rates

from vagen.config import Tiny
from vagen.policy import tiny
from vagen.policy.chat import Chat
from vagen.policy.policy import ClozeFormat, Policy
from vagen.rollout.cached import CachedEngine
from vagen.rollout.engine import Engine, Request, Sampled
from vagen.rollout.prompts import Context
from vagen.rollout.rollouts import Settings, rollout
from vagen.rollout.sampling import Sampling

WORLD = "sokoban-6x6"
TARGET, TARGETED = 5.0, 16  # over so many turns of a growing conversation


class PlainEngine:
    """Answers all requests by one call of ``generate``; remembers nothing."""

    def __init__(self, chat: Chat, lanes: int):
        self.chat = chat
        self.lanes = lanes
        self._tokens = 0
        self._asked: list[Request] = []

    @contextmanager
    def session(self, sampling: Sampling) -> Iterator[None]:
        self._tokens = sampling.max_tokens
        yield

    def submit(self, requests: Sequence[Request]) -> None:
        self._asked += requests

    @torch.inference_mode()
    def step(self) -> list[Sampled]:
        asked, self._asked = self._asked, []
        inputs = self._inputs(asked)
        output = self.chat.policy.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=self._tokens,
            eos_token_id=sorted(self.chat.end_tokens),
            pad_token_id=self.chat.tokenizer.pad_token_id,
            suppress_tokens=list(self.chat.banned),
        )
        rows = output[:, inputs["input_ids"].shape[1] :].numpy()
        return [self._sampled(request.lane, row) for request, row in zip(asked, rows, strict=True)]

    def _inputs(self, asked: Sequence[Request]) -> dict[str, torch.Tensor]:
        length = max(len(request.prompt.ids) for request in asked)
        ids = np.full((len(asked), length), self.chat.tokenizer.pad_token_id)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, request in enumerate(asked):
            begin = length - len(request.prompt.ids)
            ids[row, begin:], mask[row, begin:] = request.prompt.ids, 1
            types[row, begin:] = request.prompt.image_of >= 0
        pictures = [picture for request in asked for picture in request.pictures]
        tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if hasattr(self.chat.policy.model.model, "get_rope_index"):
            tensors["mm_token_type_ids"] = torch.from_numpy(types)
        return tensors | self.chat.image_tensors(pictures)

    def _sampled(self, lane: int, row: np.ndarray) -> Sampled:
        ends = np.flatnonzero(np.isin(row, list(self.chat.end_tokens)))
        tokens = row[: int(ends[0]) + 1] if len(ends) else row
        return Sampled(lane, tokens, np.zeros(len(tokens)), not len(ends))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--architectures", nargs="+", default=["idefics3", "qwen2_5_vl", "qwen3_vl"])
    parser.add_argument("--contexts", nargs="+", default=["concat"], choices=["concat", "window", "no_concat"])
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=8, help="of each response")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for architecture in args.architectures:
        chat = _chat(architecture)
        for context in args.contexts:
            settings = _settings(context, args.turns, args.tokens)
            ours, theirs = CachedEngine(chat, args.episodes), PlainEngine(chat, args.episodes)
            if _responses(ours, settings) != _responses(theirs, settings):
                print(f"{architecture}, {context}: the two write different tokens", file=sys.stderr)
                return 1
            played = f"{args.episodes} episodes of {args.turns} turns with {args.tokens} tokens"
            what = f"turns/s, {played}, context {context}, {architecture}"
            ways = {"ours": _turns(ours, settings), "theirs": _turns(theirs, settings)}
            found = rates(ways, args.rounds, 0.0, warm=False)
            target = TARGET if context == "concat" and args.turns == TARGETED else None
            packages = ("torch", "transformers")
            line = comparison(what, "plain_generate", found["ours"], found["theirs"], packages, target=target)
            print(json.dumps(line), flush=True)
    return 0


def _chat(architecture: str) -> Chat:
    model, processor = tiny.build(Tiny.model_validate({"architecture": architecture}), [WORLD], 0)
    return Chat(Policy("tiny", model.eval(), processor, ClozeFormat(worlds=(WORLD,))))


def _settings(context: Context, turns: int, tokens: int) -> Settings:
    sampling = Sampling(temperature=0.0, max_tokens=tokens)
    return Settings(context=context, max_turns=turns, max_length=16384, sampling=sampling)


def _responses(engine: Engine, settings: Settings) -> list[list[int]]:
    seeds = range(engine.lanes)
    return [turn.response.tolist() for r in rollout(engine, WORLD, seeds, seeds, settings) for turn in r.turns]


def _turns(engine: Engine, settings: Settings) -> Callable[[], int]:
    return lambda: len(_responses(engine, settings))


if __name__ == "__main__":
    sys.exit(main())
