"""Training on clozes: packed rows against one sequence per cloze, by ourselves and by TRL's SFTTrainer.

    python scripts/bench/cloze_train.py [--sizes tiny mid] [--layouts history single] [--clozes 16] [--windows N]
        [--at-once N] [--rounds N] [--cores 2] [--peers own_unpacked trl]

All train the same model on the same clozes about the same windows of four frames, as many per update, each in a
process of its own, a step at a time by turns; that they start from the same loss is checked first. In the ``history``
layout each cloze shows all frames so far, in the ``single`` one only those that it asks about. The peers take as many
sequences per forward pass as they are fastest with, and add up gradients. Prints one JSON line per size of model,
layout, number of clozes and peer, in clozes per second. ``bound`` is the share of what sharing can save at most: the
operations of separate sequences over those of the trie. TRL is installed by ``peers.sh``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

from clozes import LAYOUTS, ROUNDS_OF, SIZES, make_chat, parameters, trajectories, use_cores
from measure import comparison, rates
from train_step import packed_rows, unpacked_rows
from worker import Worker, peers_python

from vagen.policy.packing import work_of
from vagen.policy.work import Cost

PEERS = ("own_unpacked", "trl")
ALIKE = 1e-3  # how far first losses may be apart, relative
TARGETS = {("history", "own_unpacked"): 7.0, ("history", "trl"): 10.0}  # with TARGETED clozes about a window
TARGETED = 16
#: Sequences per forward pass of the peers, where they are fastest: of 16, 32 and 128, and of 4 and 16.
AT_ONCE = {"small": dict.fromkeys(LAYOUTS, 4), "tiny": {"history": 32, "single": 16}, "mid": dict.fromkeys(LAYOUTS, 4)}
WINDOWS = {"small": 1, "tiny": 8, "mid": 1}  # per update: a step of the smaller one is hardly more than its overhead
SHARE = 0.8  # of the bound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "mid"])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--clozes", nargs="+", type=int, default=[16], help="about each window")
    parser.add_argument("--windows", type=int, help="per update (default: by size)")
    parser.add_argument("--at-once", type=int, help="sequences per forward pass of the peers (default: by size)")
    parser.add_argument("--rounds", type=int, help="default: by size")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    args = parser.parse_args()
    use_cores(args.cores)
    for size, layout, clozes in product(args.sizes, args.layouts, args.clozes):
        windows = args.windows or WINDOWS[size]
        for line in measure(size, layout, clozes, windows, args):
            print(json.dumps(line), flush=True)


def measure(size: str, layout: str, clozes: int, windows: int, args: argparse.Namespace) -> Iterator[dict]:
    """A line for each peer."""
    arguments = [f"--size={size}", f"--clozes={clozes}", f"--windows={windows}", f"--layout={layout}"]
    arguments.append(f"--at-once={args.at_once or min(AT_ONCE[size][layout], clozes * windows)}")
    python = {"own_unpacked": sys.executable, "trl": peers_python() if "trl" in args.peers else ""}
    script = {"own_unpacked": ["train_step.py", "--way=unpacked"], "trl": ["train_trl.py"]}
    with ExitStack() as stack:
        ours = Worker(sys.executable, "train_step.py", ["--way=packed", *arguments], args.cores)
        workers = {"ours": stack.enter_context(ours)}
        for peer in args.peers:
            name, *own = script[peer]
            workers[peer] = stack.enter_context(Worker(python[peer], name, [*own, *arguments], args.cores))
        check_alike(workers)
        found = rates(workers, args.rounds or ROUNDS_OF[size], 0.0, warm=False)
    bound, about = sharing_bound(size, layout, clozes, windows)
    what = (
        f"clozes/s of training, {clozes} clozes about 4 frames, {windows} windows an update, {layout} layout, {about}"
    )
    for peer in args.peers:
        line = comparison(
            what,
            peer,
            found["ours"],
            found[peer],
            ("torch", "transformers"),
            bound if peer == "own_unpacked" else None,  # TRL differs in more than sharing
            workers[peer].about.get("versions", {}),
            target=TARGETS.get((layout, peer)) if clozes == TARGETED else None,
            share=SHARE if clozes == TARGETED and peer == "own_unpacked" else None,
        )
        memory = {"ours": workers["ours"].peak, "theirs": workers[peer].peak}
        setting = {"size": size, "layout": layout, "clozes": clozes}
        yield {**line, "sharing_bound": round(bound, 3), **setting, "peak_bytes": memory}


def sharing_bound(size: str, layout: str, clozes: int, windows: int) -> tuple[float, str]:
    """Operations of separate sequences over those of packed rows, and the model in words."""
    chat = make_chat(size)
    asked = [LAYOUTS[layout](window, clozes).samples for window in trajectories(windows)]
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
