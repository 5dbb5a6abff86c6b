"""``vagen quickstart``, ``train`` and ``inspect``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vagen.cli.options import UsageError, Verbs, add_configuration, add_processes, add_verb, natural


def add_quickstart(verbs: Verbs) -> None:
    verb = add_verb(verbs, "quickstart", _quickstart, "collect, train, evaluate, export and report in one go", True)
    verb.add_argument("--config", metavar="FILE", help="YAML; default: the configuration that comes with the package")
    add_processes(verb, "one per GPU, without GPUs one per core up to 2")


def _quickstart(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.config import load, shipped

    config = load(args.config or shipped("quickstart.yaml"), overrides)
    from vagen.quickstart import quickstart

    print(quickstart(config, args.processes or _default_processes()))
    return 0


def add_train(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "train",
        _train,
        "train a policy with cloze objectives, or by reinforcement where the configuration has a section rl",
        True,
    )
    verb.epilog = (
        f"{verb.epilog} SIGTERM or SIGINT ends the training after the current step, with a checkpoint; exit code 143 "
        "or 130."
    )
    add_configuration(verb)
    earlier = verb.add_mutually_exclusive_group()
    earlier.add_argument(
        "--resume",
        dest="start",
        action="store_const",
        const="resume",
        help="go on from the output's newest checkpoint",
    )
    earlier.add_argument(
        "--overwrite", dest="start", action="store_const", const="overwrite", help="replace a run in the same output"
    )
    verb.set_defaults(start="new")
    add_processes(verb, "one per GPU, without GPUs one")


def _train(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.config import load

    config = load(args.config, overrides)
    from vagen.train.launch import launched, run_processes

    if launched() and args.processes:
        raise UsageError("--processes starts processes itself, and a launcher has started this one: leave it out")
    processes = 1 if launched() else args.processes or _gpus() or 1
    if processes > 1:
        _prepare(config, processes, args.start)
        words = ["--config", args.config, *overrides, *([] if args.start == "new" else [f"--{args.start}"])]
        return run_processes(processes, words)
    from vagen.train.engine import stop_processes

    if config.rl is not None:
        from vagen.train.rl import train as reinforce

        outcome = reinforce(config, args.start)
    else:
        from vagen.evaluate.validation import Validation
        from vagen.train.cloze import train

        outcome = train(config, args.start, Validation)
    stop_processes()
    first = os.environ.get("RANK", "0") == "0"
    if outcome.stopped is not None:
        if first:
            print(
                f"vagen: stopped by {outcome.stopped.name} after step {outcome.step}, which {outcome.model.parent} "
                "holds: go on with --resume",
                file=sys.stderr,
            )
        return 128 + outcome.stopped
    if first:
        print(outcome.model)
    return 0


def _prepare(config, processes: int, start) -> None:  # type: ignore[no-untyped-def]
    """Check a training's inputs once, before its processes do."""
    if config.rl is not None:
        from vagen.train.rl import prepare as prepare_rl

        prepare_rl(config, start)
        return
    from vagen.train.run import prepare

    prepare(config, processes, start)


def add_inspect(verbs: Verbs) -> None:
    verb = add_verb(verbs, "inspect", _inspect, "print the exact tokens of training samples", True)
    add_configuration(verb)
    verb.add_argument("--number", type=natural, default=0, help="which group of the stream")
    verb.add_argument("--output", type=Path, help="also write the images here")


def _inspect(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.config import load

    config = load(args.config, overrides)
    from vagen.train.inspection import inspect_group

    print(inspect_group(config, args.number, args.output))
    return 0


def _default_processes() -> int:
    return _gpus() or min(2, os.cpu_count() or 1)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
