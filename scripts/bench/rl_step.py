"""A step of reinforcement by GRPO: ours against TRL's GRPOTrainer.

    python scripts/bench/rl_step.py [--sizes tiny mid] [--groups N] [--members 8] [--tokens N ...]
        [--rounds 5] [--cores 2]

Both train the same model, each in a process of its own, a step at a time by turns: they write as many responses, at
most as long, to as many prompts that show states of the same world, reward them, and learn. That the prompts have as
many tokens is checked first. Episodes are of one turn, for TRL plays further ones only where a model calls tools,
which an untrained model does not. There is no reference model. By default a step of the smaller model is that of
``configs/rl_quickstart.yaml``, and one with longer responses, which share nothing, stands beside it. Prints a
JSON line per size of model and length, in responses per second. TRL is installed by ``peers.sh``.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack

from clozes import SIZES, make_chat, parameters, use_cores
from measure import ROUNDS, comparison, rates
from worker import Worker, peers_python

TARGET, TARGETED = 3.0, 8  # with responses of so many tokens
GROUPS = {"small": 2, "tiny": 16, "mid": 4}  # prompts in a step
TOKENS = {"small": (4,), "tiny": (8, 32), "mid": (8,)}  # of a response


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "mid"])
    parser.add_argument("--groups", type=int, help="prompts in a step (default: by size)")
    parser.add_argument("--members", type=int, default=8, help="responses to each")
    parser.add_argument("--tokens", nargs="+", type=int, help="of a response (default: by size)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    use_cores(args.cores)
    for size in args.sizes:
        for tokens in args.tokens or TOKENS[size]:
            print(json.dumps(measure(size, args.groups or GROUPS[size], tokens, args)), flush=True)


def measure(size: str, groups: int, tokens: int, args: argparse.Namespace) -> dict:
    """The line about a size of model and of responses."""
    arguments = [f"--size={size}", f"--groups={groups}", f"--members={args.members}", f"--tokens={tokens}"]
    with ExitStack() as stack:
        ours = stack.enter_context(Worker(sys.executable, "rl_ours.py", arguments, args.cores))
        theirs = stack.enter_context(Worker(peers_python(), "rl_trl.py", arguments, args.cores))
        check_alike({"ours": ours.about["prompt_tokens"], "trl": theirs.about["prompt_tokens"]})
        found = rates({"ours": ours, "theirs": theirs}, args.rounds, 0.0, warm=False)
    prompt = ours.about["prompt_tokens"]
    lengths = f"{groups} prompts of {prompt} tokens, {args.members} responses each of at most {tokens}"
    what = f"responses/s of GRPO, {lengths}, {parameters(make_chat(size))}"
    packages, versions = ("torch", "transformers", "deepspeed"), theirs.about["versions"]
    target = TARGET if tokens == TARGETED else None
    line = comparison(what, "trl", found["ours"], found["theirs"], packages, versions=versions, target=target)
    return {**line, "size": size, "peak_bytes": {"ours": ours.peak, "theirs": theirs.peak}}


def check_alike(prompts: dict[str, int]) -> None:
    """Leave where the ways do not read as many tokens."""
    if len(set(prompts.values())) > 1:
        sys.exit(f"rl_step: prompts have different numbers of tokens: {prompts}")


if __name__ == "__main__":
    main()
