"""The command line: ``vagen VERB``. Parses, calls, and turns errors of use into one line and exit code 2."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

import vagen
from vagen.cli import data, evaluation, lists, results, training
from vagen.cli.options import Parser, UsageError

# Threads that wait must not spin: beside a busy neighbour that costs most of the speed. Read when torch is imported,
# which every command below does only once it knows what to do (so `vagen --help` answers at once).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
if not sys.stderr.isatty():
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # bars in a log file are noise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 for success, 2 for bad usage or input; anything unexpected rises."""
    try:
        parsed, rest = parser().parse_known_args(arguments)
        overrides = _overrides(rest, allowed=parsed.configurable)
        return parsed.run(parsed, overrides)
    except _expected_errors() as error:
        print(f"vagen: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vagen: interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands, in the order of their use."""
    made = Parser(prog="vagen", description=vagen.__doc__)
    made.add_argument("--version", action="version", version=f"vagen {vagen.__version__}")
    verbs = made.add_subparsers(title="commands", metavar="VERB", parser_class=Parser, required=True)
    training.add_quickstart(verbs)
    lists.add_worlds(verbs)
    lists.add_clozes(verbs)
    lists.add_config(verbs)
    data.add_collect(verbs)
    data.add_spatial(verbs)
    training.add_train(verbs)
    training.add_inspect(verbs)
    data.add_data(verbs)
    evaluation.add_eval(verbs)
    evaluation.add_check(verbs)
    results.add_compare(verbs)
    results.add_score(verbs)
    results.add_export(verbs)
    results.add_report(verbs)
    return made


def _expected_errors() -> tuple[type[ValueError], ...]:
    """Errors whose message is written for the user. The modules are imported already if one of theirs was raised."""
    names = {
        "worlds.core": ["WorldError"],
        "vagen.cloze.grammar": ["ClozeError"],
        "vagen.config": ["ConfigError"],
        "vagen.files": ["OutputError"],
        "vagen.data.places": ["DataError"],
        "vagen.policy.policy": ["ModelError"],
        "vagen.rollout.rollouts": ["RolloutError"],
        "vagen.rl.rewards": ["RewardError"],
        "vagen.evaluate.report": ["ReportError"],
        "vagen.hub": ["HubError"],
        "vagen.evaluate.compare": ["CompareError"],
        "vagen.evaluate.reorder": ["ReorderError"],
        "vagen.mindcube.rows": ["MindCubeError"],
    }
    found = [getattr(sys.modules[m], n) for m, classes in names.items() if m in sys.modules for n in classes]
    return (UsageError, *found)


def _overrides(rest: Sequence[str], allowed: bool) -> list[str]:
    """What is left of a command line as overrides: ``--section.key=value``, or ``--section.key value [value ...]``."""
    if rest and not allowed:
        raise UsageError(f"unrecognised arguments: {' '.join(rest)}")
    overrides: list[str] = []
    values: dict[int, list[str]] = {}  # of the overrides written without "=", by their place
    for word in rest:
        last = len(overrides) - 1
        if word.startswith("--"):
            overrides.append(word)
        elif overrides and "=" not in overrides[last]:
            values.setdefault(last, []).append(word)
        else:
            raise UsageError(f"unrecognised argument {word!r}: overrides are written --section.key=value")
    for place, words in values.items():
        overrides[place] += f"={words[0] if len(words) == 1 else _yaml_list(words)}"
    return overrides


def _yaml_list(words: Sequence[str]) -> str:
    """Words as a YAML list that keeps numbers as numbers and everything else as the text it is."""
    return f"[{', '.join(word if _is_number(word) else json.dumps(word) for word in words)}]"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
