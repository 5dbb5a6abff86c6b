"""Answers to all clozes about one trajectory: prefixes shared against plain generation, question by question.

    python scripts/bench/score.py [--sizes tiny mid] [--layouts history single] [--clozes N] [--trajectories N]
        [--sample N] [--rounds N] [--cores 2]

Every way gives the same answers, which is checked first. ``plain_generate`` is the ``generate`` of ``transformers``
for one question at a time, ``plain_generate_batched`` the same for all of them at once, padded. Both are so slow on
the larger model that they get a sample of the questions there, evenly spread. Answers are as long as the right ones,
for the models are not trained. Prints one JSON line per size of model, peer, and kind of decoding, in answers per
second.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import product

from clozes import LAYOUTS, ROUNDS_OF, SIZES, Asked, make_chat, parameters, trajectories, use_cores
from measure import comparison, rates

from vagen.policy.chat import Chat
from vagen.policy.constrain import Automaton, Constrainer
from vagen.policy.generate import generate, generate_plain
from vagen.policy.packing import Asked as Prompted

PACKAGES = ("torch", "transformers")
TARGETS = {"plain_generate": 5.0}
ASKED = {"small": (8, 1), "tiny": (32, 2), "mid": (32, 2)}  # clozes about a trajectory, and trajectories
SAMPLED = {"small": 4, "tiny": 64, "mid": 8}  # of all these, what the peers answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "mid"])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--clozes", type=int, help="about each trajectory (default: by size)")
    parser.add_argument("--trajectories", type=int, help="default: by size")
    parser.add_argument("--sample", type=int, help="questions that the peers get (default: by size)")
    parser.add_argument("--rounds", type=int, help="default: by size")
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    use_cores(args.cores)
    for size, layout in product(args.sizes, args.layouts):
        clozes, count = args.clozes or ASKED[size][0], args.trajectories or ASKED[size][1]
        asked = [LAYOUTS[layout](window, clozes) for window in trajectories(count)]
        chat = make_chat(size)
        for constrained in (False, True):
            for line in measure(
                chat, layout, asked, args.sample or SAMPLED[size], args.rounds or ROUNDS_OF[size], constrained
            ):
                print(json.dumps(line), flush=True)


def measure(chat: Chat, layout: str, asked: list[Asked], sample: int, rounds: int, constrained: bool) -> list[dict]:
    """A line for each peer, which answers a sample of the questions."""
    pairs = [pair for one in asked for pair in zip(one.samples, one.pictures, strict=True)]
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in pairs]
    limits = [len(chat.answer_tokens(sample.answer)) for sample, _ in pairs]
    automata = None
    if constrained:
        constrainer = Constrainer(chat)
        automata = [constrainer.for_sample(sample) for sample, _ in pairs]
    some = range(0, len(prompts), max(1, len(prompts) // sample))
    ways = {
        "ours": lambda: generate(chat, prompts, limits, automata=automata),
        "plain_generate": lambda: [plain(chat, prompts, limits, automata, [one])[0] for one in some],
        "plain_generate_batched": lambda: plain(chat, prompts, limits, automata, some),
    }
    answers = {name: way() for name, way in ways.items()}
    answers["ours"] = [answers["ours"][one] for one in some]
    check_alike(answers)
    found = rates({name: lambda way=way: len(way()) for name, way in ways.items()}, rounds, 0.0, warm=False)
    ours = found.pop("ours")
    decoding = "constrained" if constrained else "free"
    about = f"{len(asked)} trajectories, {len(asked[0].samples)} clozes each, {layout} layout"
    if len(some) < len(prompts):
        about += f", {len(some)} of these for the peer"
    what = f"answers/s, {about}, {decoding}, {parameters(chat)}"
    return [comparison(what, peer, ours, theirs, PACKAGES, target=TARGETS.get(peer)) for peer, theirs in found.items()]


def plain(
    chat: Chat,
    prompts: Sequence[Prompted],
    limits: Sequence[int],
    automata: Sequence[Automaton] | None,
    some: Sequence[int],
) -> list[str]:
    """The answers to some of the prompts, by ``transformers``, in one batch."""
    own = None if automata is None else [automata[one] for one in some]
    answers = generate_plain(chat, [prompts[one] for one in some], [limits[one] for one in some], len(some), own)
    return [answer.text for answer in answers]


def check_alike(answers: dict[str, list[str]]) -> None:
    """Leave where ways differ in an answer."""
    ours = answers["ours"]
    for peer, theirs in answers.items():
        different = [number for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        if different:
            number = different[0]
            sys.exit(f"score: answer {number} of the sample is {ours[number]!r}, and {theirs[number]!r} by {peer}")


if __name__ == "__main__":
    main()
