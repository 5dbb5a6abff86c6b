"""Answers to all clozes about one trajectory: prefixes shared against plain generation, question by question.

    python scripts/bench/score.py [--sizes tiny mid] [--layouts history single] [--clozes N] [--trajectories N]
        [--rounds 5] [--cores 2]

Every way gives the same answers, which is checked first. ``plain_generate`` is the ``generate`` of ``transformers``
for one question at a time, ``plain_generate_batched`` the same for all of them at once, padded. Answers are as long as
the right ones, for the models are not trained. Prints one JSON line per size of model, peer, and kind of decoding, in
answers per second.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import product

from clozes import LAYOUTS, SIZES, Asked, make_chat, parameters, trajectories, use_cores
from measure import ROUNDS, comparison, rates

from vagen.policy.chat import Chat
from vagen.policy.constrain import Automaton, Constrainer
from vagen.policy.generate import Asked as Prompted
from vagen.policy.generate import generate, generate_plain

PACKAGES = ("torch", "transformers")
TARGETS = {"plain_generate": 5.0}
ASKED = {"small": (8, 1), "tiny": (32, 2), "mid": (16, 1)}  # clozes about a trajectory, and trajectories


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "mid"])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--clozes", type=int, help="about each trajectory (default: by size)")
    parser.add_argument("--trajectories", type=int, help="default: by size")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    use_cores(args.cores)
    for size, layout in product(args.sizes, args.layouts):
        clozes, count = args.clozes or ASKED[size][0], args.trajectories or ASKED[size][1]
        asked = [LAYOUTS[layout](window, clozes) for window in trajectories(count)]
        chat = make_chat(size)
        for constrained in (False, True):
            for line in measure(chat, layout, asked, args.rounds, constrained):
                print(json.dumps(line), flush=True)


def measure(chat: Chat, layout: str, asked: list[Asked], rounds: int, constrained: bool) -> list[dict]:
    """A line for each peer."""
    pairs = [pair for one in asked for pair in zip(one.samples, one.pictures, strict=True)]
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in pairs]
    limits = [len(chat.answer_tokens(sample.answer)) for sample, _ in pairs]
    automata = None
    if constrained:
        constrainer = Constrainer(chat)
        automata = [constrainer.for_sample(sample) for sample, _ in pairs]
    each = range(len(prompts))
    ways = {
        "ours": lambda: generate(chat, prompts, limits, automata=automata),
        "plain_generate": lambda: [one_alone(chat, prompts, limits, automata, number) for number in each],
        "plain_generate_batched": lambda: [a.text for a in generate_plain(chat, prompts, limits, 128, automata)],
    }
    answers = {name: way() for name, way in ways.items()}
    check_alike(answers)
    found = rates({name: lambda way=way: len(way()) for name, way in ways.items()}, rounds, 0.0, warm=False)
    ours = found.pop("ours")
    decoding = "constrained" if constrained else "free"
    about = f"{len(asked)} trajectories, {len(asked[0].samples)} clozes each, {layout} layout"
    what = f"answers/s, {about}, {decoding}, {parameters(chat)}"
    return [comparison(what, peer, ours, theirs, PACKAGES, target=TARGETS.get(peer)) for peer, theirs in found.items()]


def one_alone(
    chat: Chat, prompts: Sequence[Prompted], limits: Sequence[int], automata: Sequence[Automaton] | None, number: int
) -> str:
    """The answer to one prompt, generated for itself."""
    only = slice(number, number + 1)
    own = None if automata is None else automata[only]
    [answer] = generate_plain(chat, prompts[only], limits[only], 1, own)
    return answer.text


def check_alike(answers: dict[str, list[str]]) -> None:
    """Leave where ways differ in an answer."""
    ours = answers["ours"]
    for peer, theirs in answers.items():
        different = [number for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        if different:
            number = different[0]
            sys.exit(f"score: answer {number} is {ours[number]!r}, and {theirs[number]!r} by {peer}")


if __name__ == "__main__":
    main()
