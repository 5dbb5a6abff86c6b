"""Training on clozes: packed rows against one sequence per cloze, by ourselves and by TRL's SFTTrainer.

    python scripts/bench/cloze_train.py [--sizes tiny mid] [--clozes 16] [--windows 1] [--layout single]
        [--rounds 5] [--cores 2] [--peers own_unpacked trl]

All train the same model on the same clozes about the same windows of four frames, as many per update, each in a
process of its own, a step at a time by turns; that they start from the same loss is checked first. Prints one JSON
line per size of model, number of clozes and peer, in clozes per second. ``bound`` is the share of what sharing can
save at most: the operations of separate sequences over those of the trie. TRL is installed by ``peers.sh``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from clozes import LAYOUTS, SIZES, make_chat, parameters, trajectories, use_cores
from measure import ROUNDS, comparison, rates
from train_step import packed_rows, unpacked_rows
from worker import Worker, peers_python

from vagen.policy.packing import work_of
from vagen.policy.work import Cost

PEERS = ("own_unpacked", "trl")
ALIKE = 1e-3  # how far first losses may be apart, relative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "mid"])
    parser.add_argument("--layout", choices=LAYOUTS, default="single")
    parser.add_argument("--clozes", nargs="+", type=int, default=[16], help="about each window")
    parser.add_argument("--windows", type=int, default=1, help="per update")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    args = parser.parse_args()
    use_cores(args.cores)
    for size in args.sizes:
        for clozes in args.clozes:
            for line in measure(size, clozes, args):
                print(json.dumps(line), flush=True)


def measure(size: str, clozes: int, args: argparse.Namespace) -> Iterator[dict]:
    """A line for each peer."""
    arguments = [f"--size={size}", f"--clozes={clozes}", f"--windows={args.windows}", f"--layout={args.layout}"]
    python = {"own_unpacked": sys.executable, "trl": peers_python() if "trl" in args.peers else ""}
    script = {"own_unpacked": ["train_step.py", "--way=unpacked"], "trl": ["train_trl.py"]}
    with ExitStack() as stack:
        ours = Worker(sys.executable, "train_step.py", ["--way=packed", *arguments], args.cores)
        workers = {"ours": stack.enter_context(ours)}
        for peer in args.peers:
            name, *own = script[peer]
            workers[peer] = stack.enter_context(Worker(python[peer], name, [*own, *arguments], args.cores))
        check_alike(workers)
        found = rates(workers, args.rounds, 0.0, warm=False)
    bound, about = sharing_bound(size, clozes, args)
    what = f"clozes/s of training, {clozes} clozes to a window of 4 frames, {args.layout} layout, {about}"
    for peer in args.peers:
        versions = workers[peer].about.get("versions", {})
        line = comparison(what, peer, found["ours"], found[peer], ("torch", "transformers"), bound, versions)
        memory = {"ours": workers["ours"].peak, "theirs": workers[peer].peak}
        yield {**line, "sharing_bound": round(bound, 3), "clozes": clozes, "size": size, "peak_bytes": memory}


def sharing_bound(size: str, clozes: int, args: argparse.Namespace) -> tuple[float, str]:
    """Operations of separate sequences over those of packed rows, and the model in words."""
    chat = make_chat(size)
    asked = [LAYOUTS[args.layout](window, clozes).samples for window in trajectories(args.windows)]
    cost = Cost.of(chat.policy.model)
    separate, together = (cost.operations(work_of(rows(chat, asked))) for rows in (unpacked_rows, packed_rows))
    return separate / together, parameters(chat)


def check_alike(workers: dict[str, Worker]) -> None:
    """Leave where the ways do not start from the same loss: then they do not train on the same."""
    losses = {name: worker.about["loss"] for name, worker in workers.items()}
    if max(losses.values()) - min(losses.values()) > ALIKE * max(losses.values()):
        sys.exit(f"cloze_train: the first losses differ: {losses}")


if __name__ == "__main__":
    main()
