"""Our training step, for ``cloze_train.py``: run as a process of its own by :mod:`worker`.

A step draws the frames, writes the prompts, packs, and goes forward, backward and on. Nothing is kept from one step to
the next but the model, the optimizer, and what prompts begin with and answers are, which repeat in any training.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from clozes import LAYOUTS, SIZES, make_chat, trajectories
from worker import Serving

from vagen.cloze.sample import Sample
from vagen.policy.batches import encode_all
from vagen.policy.chat import Chat, Encoded
from vagen.policy.packing import Batch, PackedLoss, Row, collate, distinct_pictures, pack
from vagen.train.allocation import keep_freed_memory

LEARNING_RATE, MAX_NORM = 1e-4, 1.0
ROWS = 8  # packed ones per forward pass


def main() -> None:
    args = arguments()
    keep_freed_memory()
    chat = make_chat(args.size, packed=args.way == "packed")
    windows = trajectories(args.windows)
    stepper = Stepper(chat, args.way, args.at_once)
    asked = [LAYOUTS[args.layout](window, args.clozes).samples for window in windows]
    first = stepper.loss(asked)
    Serving().serve(lambda: stepper.step(asked), loss=first)


def arguments() -> argparse.Namespace:
    """Of the processes that train, ours and the peer's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", choices=["packed", "unpacked"], default="packed")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--layout", choices=LAYOUTS, default="history")
    parser.add_argument("--clozes", type=int, default=16)
    parser.add_argument("--windows", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=8, help="sequences per forward pass, where they are not packed")
    return parser.parse_args()


def packed_rows(chat: Chat, asked: Sequence[Sequence[Sample]]) -> list[Row]:
    """A row for all clozes about a window."""
    every = iter(encode_all(chat, [sample for samples in asked for sample in samples]))
    return [pack([next(every) for _ in samples]) for samples in asked]


def unpacked_rows(chat: Chat, asked: Sequence[Sequence[Sample]]) -> list[Row]:
    """A row for each cloze, with images of its own, the short ones first."""
    every = encode_all(chat, [sample for samples in asked for sample in samples])
    return sorted((pack([_alone(one, number)]) for number, one in enumerate(every)), key=lambda row: len(row.ids))


def _alone(encoded: Encoded, number: int) -> Encoded:
    """A sample whose images no other has, so that nothing shares them."""
    mark = number.to_bytes(4, "big")
    return replace(encoded, pictures=tuple(replace(p, digest=p.digest + mark) for p in encoded.pictures))


class Stepper:
    """A model that trains on clozes, packed or one to a sequence."""

    def __init__(self, chat: Chat, way: str, at_once: int):
        self._chat = chat
        self._rows = packed_rows if way == "packed" else unpacked_rows
        self._at_once = ROWS if way == "packed" else at_once
        self._module = PackedLoss(chat.policy.model.train())
        self._optimizer = torch.optim.AdamW(chat.policy.model.parameters(), lr=LEARNING_RATE, fused=True)

    def loss(self, asked: Sequence[Sequence[Sample]]) -> float:
        """Per target, without learning from it."""
        with torch.no_grad():
            losses = [self._module(batch) for batch in self._batches(asked)]
        return float(torch.cat(losses).mean())

    def step(self, asked: Sequence[Sequence[Sample]]) -> int:
        """One update; says how many clozes it is from."""
        targets = 0
        for batch in self._batches(asked):
            losses = self._module(batch)
            losses.sum().backward()
            targets += len(losses)
        parameters = [p for p in self._chat.policy.model.parameters() if p.grad is not None]
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad /= targets
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM, foreach=True)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return sum(map(len, asked))

    def _batches(self, asked: Sequence[Sequence[Sample]]) -> Iterator[Batch]:
        chat, policy = self._chat, self._chat.policy
        chat.forget()
        rows = self._rows(chat, asked)
        for start in range(0, len(rows), self._at_once):
            some = rows[start : start + self._at_once]
            ones, cells = [np.ones(len(row.targets)) for row in some], [row.sample for row in some]
            batch = collate(some, ones, cells, chat.image_tensors(distinct_pictures(some)), 0)
            yield batch.to(policy.device, policy.model.dtype)


if __name__ == "__main__":
    main()
