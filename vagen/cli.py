"""The command line: ``vagen VERB``. Parses, calls, and turns errors of use into one line and exit code 2."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import vagen

# Threads that wait must not spin: beside a busy neighbour that costs most of the speed. Read when torch is imported,
# which every command below does only once it knows what to do (so `vagen --help` answers at once).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
if not sys.stderr.isatty():
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # bars in a log file are noise


_SPLITS = ["train", "val", "test"]
_MODEL = "a model folder, a run (its newest checkpoint), or a Hub id"
_MINDCUBE_TASKS = [
    *("raw_qa", "ff_rsn", "aug_cgmap_in", "aug_cgmap_out", "plain_cgmap_out"),
    *("plain_cgmap_ffr_out", "aug_cgmap_ffr_out", "cgmap_in_ffr_out"),
]
_SPATIAL_SETTINGS = ["among", "around", "rotation", "translation"]


class UsageError(ValueError):
    """A command line that cannot be carried out."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message} (see `{self.prog} --help`)")


class _Help(argparse.HelpFormatter):
    """Says the default of every option that takes a value and has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = not action.option_strings or action.nargs == 0 or action.default in (None, [], argparse.SUPPRESS)
        return text if silent or "default" in text else f"{text} (default: %(default)s)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 for success, 2 for bad usage or input; anything unexpected rises."""
    try:
        parsed, rest = _parser().parse_known_args(arguments)
        overrides = _overrides(rest, allowed=parsed.configurable)
        return parsed.run(parsed, overrides)
    except _expected_errors() as error:
        print(f"vagen: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vagen: interrupted", file=sys.stderr)
        return 130


def _expected_errors() -> tuple[type[ValueError], ...]:
    """Errors whose message is written for the user. The modules are imported already if one of theirs was raised."""
    names = {
        "vagen.cli": ["UsageError"],
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vagen", description=vagen.__doc__)
    parser.add_argument("--version", action="version", version=f"vagen {vagen.__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="VERB", parser_class=_Parser, required=True)

    verb = _verb(verbs, "quickstart", _quickstart, "collect, train, evaluate, export and report in one go", True)
    verb.add_argument("--config", metavar="FILE", help="YAML; default: the configuration that comes with the package")
    _processes(verb, "one per GPU, without GPUs one per core up to 2")

    verb = _verb(verbs, "worlds", _worlds, "list the worlds, or draw one")
    verb.add_argument("--all", action="store_true", help="also every environment of MiniGrid and BabyAI")
    verb.add_argument("--draw", metavar="WORLD", help="write a sheet of random states of this world")
    verb.add_argument("--output", type=Path, default=Path("worlds.png"), help="where the picture goes")

    verb = _verb(verbs, "clozes", _clozes, "list the clozes that have a name, with their patterns")

    verb = _verb(verbs, "config", _config, "list the configuration keys, with their defaults and meanings")
    verb.add_argument("sections", nargs="*", metavar="SECTION", help="only keys that start so: train, optimizer.rates")

    verb = _verb(verbs, "collect", _collect, "play episodes and keep them as shards", True)
    _configuration(verb, required=False)
    verb.add_argument("--worlds", nargs="+", metavar="WORLD", help="default: collect.worlds of the configuration")
    verb.add_argument(
        "--split", choices=_SPLITS, help="which layouts; default: collect.split of the configuration, train"
    )
    verb.add_argument("--output", type=Path, default=Path("data"), help="shards go to OUTPUT/WORLD/SPLIT")
    verb.add_argument("--overwrite", action="store_true", help="replace shards that are there")

    verb = _verb(verbs, "spatial", _spatial, "draw rooms and write questions about them, in MindCube's form")
    verb.add_argument(
        "--settings",
        nargs="+",
        choices=_SPATIAL_SETTINGS,
        metavar="SETTING",
        help=f"where cameras and objects are: {', '.join(_SPATIAL_SETTINGS)}; default: all",
    )
    verb.add_argument("--train", type=_natural, default=1000, metavar="N", help="questions per setting to train on")
    verb.add_argument("--val", type=_natural, default=100, metavar="N", help="and to validate with")
    verb.add_argument("--test", type=_natural, default=200, metavar="N", help="and to test with")
    verb.add_argument(
        "--tasks",
        nargs="+",
        choices=_MINDCUBE_TASKS,
        metavar="TASK",
        help=f"forms of prompts and outputs to train on: {', '.join(_MINDCUBE_TASKS)}; default: all",
    )
    verb.add_argument("--prompts", type=Path, help="templates, YAML; default: those that come with the package")
    verb.add_argument("--size", type=_positive, default=224, help="pixels per side of the images")
    verb.add_argument("--seed", type=_natural, default=0, help="equal seeds write equal questions")
    verb.add_argument("--output", type=Path, required=True, help="the folder to make; replaces an earlier one")

    verb = _verb(
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
    _configuration(verb)
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
    _processes(verb, "one per GPU, without GPUs one")

    verb = _verb(verbs, "inspect", _inspect, "print the exact tokens of training samples", True)
    _configuration(verb)
    verb.add_argument("--number", type=_natural, default=0, help="which group of the stream")
    verb.add_argument("--output", type=Path, help="also write the images here")

    kinds = _verb(verbs, "data", None, "check, count or export collected data").add_subparsers(
        metavar="WHAT", parser_class=_Parser, required=True
    )
    verb = _verb(kinds, "check", _data_check, "verify checksums and frames, and play every episode again", True)
    _which_data(verb, out="data-check.json")
    verb = _verb(kinds, "stats", _data_stats, "count what is there, and what splits share", True)
    _which_data(verb, out="data-stats.json")
    verb = _verb(kinds, "export", _data_export, "write cloze tests for other trainers", True)
    _configuration(verb)
    verb.add_argument("--format", choices=["trl"], default="trl", help="TRL's conversational format, with images")
    verb.add_argument(
        "--layout", choices=["messages", "prompt-completion"], default="messages", help="which of TRL's two forms"
    )
    verb.add_argument("--groups", type=_positive, default=1000, help="windows to ask about; several samples each")
    verb.add_argument("--output", type=Path, required=True, help="the folder to make")

    kinds = _verb(verbs, "eval", None, "measure a model").add_subparsers(
        metavar="WHAT", parser_class=_Parser, required=True
    )
    verb = _verb(kinds, "worldmodel", _eval_worldmodel, "accuracy of clozes by free generation: a report card")
    verb.add_argument("--model", required=True, help=_MODEL)
    _what_to_ask(verb, n=300, out="card.json")
    verb.add_argument(
        "--clozes", nargs="+", metavar="CLOZE", help="names or patterns; default: what it was trained with"
    )
    verb.add_argument("--representation", choices=["natural", "json", "grid"], help="default: as in training")
    verb.add_argument("--constrained", action="store_true", help="let the model give valid answers only")
    verb.add_argument(
        "--training-shards", nargs="+", default=[], metavar="SHARDS", help="to count seen test transitions"
    )
    verb = _verb(kinds, "agent", _eval_agent, "success of random, expert and model in episodes")
    verb.add_argument("--model", help=f"{_MODEL}; without it only random and expert play")
    _what_to_ask(verb, n=100, out="agents.json")
    verb.add_argument("--max-steps", type=_positive, default=30, help="an episode is cut here")
    _how_to_converse(verb)

    verb = _verb(kinds, "reorder", _eval_reorder, "putting shuffled images or actions in order, as in ENACT")
    verb.add_argument("--model", help=f"{_MODEL}; not needed to write questions")
    _what_to_ask(verb, n=100, out="reorder.json")
    verb.add_argument("--lengths", nargs="+", type=_positive, metavar="L", help="images, 3 to 10; default: 3 4 5")
    verb.add_argument("--questions", type=Path, help="ask these, JSONL in ENACT's format, instead of our worlds")
    verb.add_argument("--images", type=Path, help="the folder that the questions' image paths start in")
    verb.add_argument("--write", type=Path, metavar="FOLDER", help="write questions and images here, and ask nobody")
    verb.add_argument("--max-new-tokens", type=_positive, default=64, help="where answers are cut")

    verb = _verb(kinds, "mindcube", _eval_mindcube, "answers to MindCube questions; the same command resumes")
    verb.add_argument("--questions", type=Path, required=True, help="MindCube questions, JSONL")
    verb.add_argument("--images", type=Path, required=True, help="the folder that the questions' image paths start in")
    verb.add_argument("--model", required=True, help=_MODEL)
    verb.add_argument(
        "--task",
        required=True,
        choices=_MINDCUBE_TASKS,
        metavar="TASK",
        help=f"what is shown and asked: {', '.join(_MINDCUBE_TASKS)}",
    )
    verb.add_argument("--prompts", type=Path, help="templates, YAML; default: those that come with the package")
    verb.add_argument(
        "--shuffle-images",
        action="store_true",
        help="show each question the images of another scene: what is got right without looking",
    )
    verb.add_argument("--batch", type=_positive, default=8, help="questions per forward pass")
    verb.add_argument("--max-new-tokens", type=_positive, help="where answers are cut; default: as the templates say")
    verb.add_argument("--overwrite", action="store_true", help="begin anew, whatever the output holds")
    verb.add_argument("--out", type=Path, required=True, help="where the responses go, JSONL")

    verb = _verb(kinds, "checkpoints", _eval_checkpoints, "a run's checkpoints: does understanding go with success?")
    verb.add_argument("run_folder", type=Path, metavar="RUN", help="the output of a training")
    _what_to_ask(verb, n=200, out="checkpoints.json")
    verb.add_argument("--clozes", nargs="+", metavar="CLOZE", help="default: what it was trained with")
    verb.add_argument("--episodes", type=_positive, default=100, help="episodes per world")
    verb.add_argument("--max-steps", type=_positive, default=30, help="an episode is cut here")

    verb = _verb(verbs, "check", _check, "check every cloze in every world against the simulator; floors and ceilings")
    verb.add_argument("--worlds", nargs="+", metavar="WORLD", help="default: all")
    verb.add_argument("--clozes", nargs="+", metavar="CLOZE", help="names or patterns; default: all that have a name")
    verb.add_argument(
        "--representations",
        nargs="+",
        choices=["natural", "json", "grid"],
        metavar="FORM",
        help="how states are written: natural, json, grid; default: all",
    )
    verb.add_argument("--n", type=_positive, default=200, help="samples per world and cloze")
    _which_samples(verb)
    verb.add_argument("--out", type=Path, default=Path("check.json"), help="where the JSON goes")

    verb = _verb(verbs, "compare", _compare, "compare two report cards row by row, with paired tests and a picture")
    verb.add_argument("first", type=Path, metavar="A.json", help="a report card of `vagen eval worldmodel`")
    verb.add_argument(
        "second",
        type=Path,
        metavar="B.json",
        help="another; where both were asked the same (seed, split, n, sampling, history) a paired test is made",
    )
    verb.add_argument("--out", type=Path, default=Path("comparison.json"), help="where the JSON goes; a PNG beside it")
    kinds = _verb(verbs, "score", None, "score responses").add_subparsers(
        metavar="WHAT", parser_class=_Parser, required=True
    )
    verb = _verb(kinds, "mindcube", _score_mindcube, "letters and cognitive maps of MindCube responses")
    verb.add_argument("responses", type=Path, metavar="RESPONSES", help="JSONL in the official schema")
    verb.add_argument(
        "--mode",
        required=True,
        choices=["official-basic", "official-cogmap", "strict"],
        help="as the official evaluator does, or without its defects",
    )
    verb.add_argument("--per-item", type=Path, help="also write a line per response here")
    verb.add_argument("--baseline-train", type=Path, help="questions with answers to fit the blind baselines on")
    verb.add_argument("--out", type=Path, required=True, help="where the JSON goes")

    verb = _verb(verbs, "export", _export, "make a plain Hugging Face folder of a run or model")
    verb.add_argument("source", type=Path, metavar="SOURCE", help="a run or a model folder")
    verb.add_argument("--output", type=Path, required=True, help="the folder to make; an earlier export is replaced")
    verb.add_argument("--card", type=Path, help="a report card for the model card")
    verb.add_argument("--push-to-hub", metavar="REPO", help="also publish it: NAME or OWNER/NAME")
    verb.add_argument("--private", action="store_true", help="publish so that only you can see it")
    verb.add_argument(
        "--adapter-only", action="store_true", help="only the adapters, without the base model's weights"
    )

    verb = _verb(verbs, "report", _report, "make one HTML page of a run")
    verb.add_argument("run_folder", type=Path, metavar="RUN", help="the output of a training")
    return parser


def _verb(verbs, name, run, help, configurable=False) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
    epilog = (
        "Any configuration key (`vagen config` lists them) can be overridden: --section.key=value, or "
        "--section.key VALUE VALUE ..."
        if configurable
        else None
    )
    parser = verbs.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}{'' if help.endswith('?') else '.'}",
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.set_defaults(run=run, configurable=configurable)
    return parser


def _configuration(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE",
        help="configuration, YAML" + ("" if required else "; default: the defaults that `vagen config` lists"),
    )


def _processes(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--processes", type=_positive, metavar="N", help=f"training processes on this machine (default: {default})"
    )


def _which_data(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="folders, globs or addresses, as for training")
    parser.add_argument("--out", type=Path, default=Path(out), help="where the JSON goes")


def _what_to_ask(parser: argparse.ArgumentParser, n: int, out: str) -> None:
    parser.add_argument("--worlds", nargs="+", metavar="WORLD", help="default: what the model was trained on")
    parser.add_argument("--n", type=_positive, default=n, help="samples or episodes per row")
    _which_samples(parser)
    parser.add_argument("--batch", type=_positive, default=128, help="questions, or episodes, answered at a time")
    parser.add_argument("--out", type=Path, default=Path(out), help="where the JSON goes")


def _which_samples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_natural, default=1, help="equal seeds ask every model the same")
    parser.add_argument("--split", choices=_SPLITS, default="test", help="which layouts are asked about")


#: Settings of whole conversations with their defaults; on a command line they are none until one is given.
_CONVERSATION = {
    "context": "concat",
    "window": 2,
    "max_turns": 16,
    "max_actions": 1,
    "max_new_tokens": 256,
    "max_length": 4096,
}


def _how_to_converse(parser: argparse.ArgumentParser) -> None:
    """Options of whole conversations, with the settings they stand for as their destinations."""
    group = parser.add_argument_group(
        "conversations", "with --strategy the model plays whole conversations, without it each step is a policy cloze"
    )
    group.add_argument(
        "--strategy",
        choices=["no_think", "free_think", "grounding", "worldmodeling", "grounding_worldmodeling"],
        help="what each response consists of",
    )
    numbers = {
        "window": "turns seen with --context window",
        "max_turns": "responses of an episode",
        "max_actions": "actions of a response",
        "max_new_tokens": "tokens of a response",
        "max_length": "tokens of a prompt and its response",
    }
    group.add_argument(
        "--context",
        choices=["concat", "window", "no_concat"],
        help="what a prompt shows: the whole conversation, its last turns, or the present "
        f"(default: {_CONVERSATION['context']})",
    )
    for name, meaning in numbers.items():
        group.add_argument(_option(name), type=_positive, help=f"{meaning} (default: {_CONVERSATION[name]})")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# ------------------------------------------------------------------------------------------------------------- verbs


def _quickstart(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.config import load, shipped

    config = load(args.config or shipped("quickstart.yaml"), overrides)
    from vagen.quickstart import quickstart

    print(quickstart(config, args.processes or _default_processes()))
    return 0


def _worlds(args: argparse.Namespace, _: list[str]) -> int:
    if args.draw is None:
        _show(_list_worlds(args.all))
        return 0
    from vagen.evaluate.sheet import draw_sheet

    print(draw_sheet(args.draw, args.output))
    return 0


def _show(lines: Iterable[str]) -> None:
    """Print lines as they come, until whoever reads them has seen enough, as in ``vagen config | head``."""
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end


def _list_worlds(every: bool) -> Iterator[str]:
    """One line per world as soon as it is known; last the ones that do not work."""
    from worlds import MIN_LAYOUTS, available, make, registered, unsupported

    ids = available() if every else registered()
    width = max(map(len, ids))
    yield f"{'world':<{width}}  {'pixels':<9} {'view':<8} {'solver':<7} {'layouts':<8} actions"
    for id in ids:
        world = make(id)
        height, pixels, _ = world.observation_space.shape or (0, 0, 0)
        size = f"{pixels} x {height}"
        layouts = world.layouts()
        enough = f"≥ {MIN_LAYOUTS}" if layouts >= MIN_LAYOUTS else str(layouts)
        solver = "yes" if world.has_solver else "no"
        actions = ", ".join(world.actions)
        yield f"{id:<{width}}  {size:<9} {world.view:<8} {solver:<7} {enough:<8} {actions}"
    if every:
        for id, reason in unsupported().items():
            yield f"{id:<{width}}  does not work: {reason}"


def _clozes(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.cloze.grammar import FAMILIES, all_named, named

    clozes = all_named()
    width, room = (max(map(len, words)) for words in (clozes, clozes.values()))
    lines = [f"{'cloze':<{width}}  {'pattern':<{room}}  transitions"]
    for name, pattern in clozes.items():
        longer = f", or any: {name}@k" if name in FAMILIES else ""
        lines.append(f"{name:<{width}}  {pattern:<{room}}  {named(name).length}{longer}")
    _show(lines)
    print("--clozes takes any other pattern too, such as 'o0 o1 a1 -> a0'", file=sys.stderr)
    return 0


def _config(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.config import described

    keys = list(described())
    for section in args.sections:
        if section not in (key.name for key in keys):
            raise UsageError(f"unknown configuration key {section!r}: `vagen config` lists them all")
    below = tuple(f"{section}." for section in args.sections) or ("",)
    chosen = [key for key in keys if f"{key.name}.".startswith(below)]
    width = max(len(key.name) for key in chosen)
    _show(f"{key.name:<{width}}  {'  '.join(filter(None, (key.default, key.meaning)))}".rstrip() for key in chosen)
    return 0


def _collect(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.config import load

    config = load(args.config, overrides)
    given = {"worlds": tuple(args.worlds) if args.worlds else None, "split": args.split}
    chosen = config.collect.model_copy(update={key: value for key, value in given.items() if value is not None})
    from vagen.data.shards import MANIFEST
    from vagen.rollout.collect import collect

    for folder, manifest in collect(chosen, args.output, config.seed, args.overwrite).items():
        print(
            f"{manifest.world}: {manifest.trajectories} trajectories, {manifest.transitions} transitions, "
            f"{manifest.layouts} layouts",
            file=sys.stderr,
        )
        print(folder / MANIFEST)
    return 0


def _spatial(args: argparse.Namespace, _: list[str]) -> int:
    if not args.train + args.val + args.test:
        raise UsageError("--train, --val and --test are all 0: nothing is to be asked")
    from vagen.config import shipped
    from vagen.mindcube.prompts import TASKS, read_wording

    wordings = [read_wording(args.prompts or shipped("mindcube.yaml"), task) for task in args.tasks or TASKS]
    from worlds.scene import SceneRenderer

    renderer = SceneRenderer()
    from vagen.spatial import Amounts, write
    from worlds.spatial_grid import SETTINGS

    amounts = Amounts(args.train, args.val, args.test)
    print(write(args.output, renderer, args.settings or SETTINGS, amounts, wordings, args.seed, args.size))
    return 0


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


def _inspect(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.config import load

    config = load(args.config, overrides)
    from vagen.train.inspection import inspect_group

    print(inspect_group(config, args.number, args.output))
    return 0


def _data_check(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.files import check_file

    check_file(args.out)
    found, cache = _places(args.shards, overrides)
    from dataclasses import asdict

    from vagen.data.audit import check, check_table
    from vagen.files import write_json

    rows = check(found, cache)
    write_json(args.out, {"rows": [asdict(row) | {"passed": row.passed} for row in rows]})
    print(check_table(rows), file=sys.stderr)
    print(args.out)
    return 0 if all(row.passed for row in rows) else 1


def _data_stats(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.files import check_file

    check_file(args.out)
    found, cache = _places(args.shards, overrides)
    from dataclasses import asdict

    from vagen.data.audit import stats, stats_table
    from vagen.files import write_json

    rows, overlaps = stats(found, cache)
    write_json(args.out, {"rows": list(map(asdict, rows)), "overlaps": list(map(asdict, overlaps))})
    print(stats_table(rows, overlaps), file=sys.stderr)
    print(args.out)
    return 0


def _places(entries: Sequence[str], overrides: list[str]):  # type: ignore[no-untyped-def]
    """The places of entries of ``shards``, and the cache of what is elsewhere."""
    from vagen.config import load

    cache = Path(load(None, overrides).data.cache).expanduser()
    from vagen.data.places import places

    return places(entries, cache), cache


def _data_export(args: argparse.Namespace, overrides: list[str]) -> int:
    from vagen.config import load

    config = load(args.config, overrides)
    from vagen.conversations import export

    print(export(config, args.output, args.groups, args.layout))
    return 0


def _eval_worldmodel(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file, write_json

    check_file(args.out)
    chat = _load_chat(args.model, args.representation)
    trained = chat.policy.format
    from vagen.evaluate.worldmodel import evaluate, summary
    from vagen.policy.prefixes import why_not_shared

    if reason := why_not_shared(chat.policy.model):
        print(f"vagen: each question is asked for itself: {reason}", file=sys.stderr)
    card = evaluate(
        chat,
        _chosen(args.worlds, trained.worlds, "--worlds"),
        _chosen(args.clozes, trained.clozes, "--clozes"),
        args.n,
        args.seed,
        args.split,
        args.batch,
        _places(args.training_shards, [])[0],
        constrained=args.constrained,
    )
    write_json(args.out, card)
    print(summary(card), file=sys.stderr)
    print(args.out)
    return 0


def _eval_agent(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file, write_json

    check_file(args.out)
    conversation = _conversation(args)
    from vagen.evaluate.agent import Player, evaluate
    from vagen.rollout.agents import ExpertAgent, ModelAgent, RandomAgent

    agents: list[Player] = [RandomAgent(), ExpertAgent()]
    trained: tuple[str, ...] = ()
    if args.model is not None:
        chat = _load_chat(args.model, None)
        agents.append(ModelAgent(chat, args.batch) if args.strategy is None else _conversing(chat, args, conversation))
        trained = chat.policy.format.worlds

    worlds = _chosen(args.worlds, trained, "--worlds")
    result = evaluate(agents, worlds, args.n, args.seed, args.split, args.max_steps)
    write_json(args.out, result)
    for row in result["rows"]:
        interval = f"{row['ci_low']:.3f} – {row['ci_high']:.3f}"
        print(f"{row['world']:<22}{row['agent']:<16}{row['success']:>7.3f}  ({interval})", file=sys.stderr)
    print(args.out)
    return 0


def _conversation(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of whole conversations; refuses those that would change nothing."""
    given = {name: value for name in _CONVERSATION if (value := getattr(args, name)) is not None}
    if args.strategy is None and given:
        raise UsageError(f"{_option(next(iter(given)))} is a setting of whole conversations: give --strategy too")
    if args.strategy is not None and args.model is None:
        raise UsageError("--strategy says how a model plays: give --model")
    if "window" in given and args.context != "window":
        raise UsageError("--window counts the turns that --context window shows: give that too")
    return _CONVERSATION | given


def _conversing(chat, args: argparse.Namespace, conversation: dict[str, Any]):  # type: ignore[no-untyped-def]
    """The model as a greedy player of whole conversations."""
    from vagen.rollout.cached import CachedEngine
    from vagen.rollout.rollouts import ConversingModel, Settings
    from vagen.rollout.sampling import Sampling

    sampling = Sampling(temperature=0.0, max_tokens=conversation.pop("max_new_tokens"))
    form = chat.policy.format
    settings = Settings(
        strategy=args.strategy,
        representation=form.representation,
        explain=form.explain,
        sampling=sampling,
        **conversation,
    )
    return ConversingModel(CachedEngine(chat, args.batch), settings)


def _eval_checkpoints(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file, write_json

    drawing = check_file(args.out).with_suffix(".png")
    from vagen.evaluate.checkpoints import as_json, evaluate, picture, table

    points, found = evaluate(
        args.run_folder,
        args.worlds or (),
        args.clozes or (),
        args.n,
        args.episodes,
        args.seed,
        args.split,
        args.batch,
        args.max_steps,
    )
    write_json(args.out, as_json(points, found))
    picture(points, drawing)
    print(table(found), file=sys.stderr)
    print(args.out)
    return 0


def _check(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file, write_json

    check_file(args.out)
    from vagen.cloze.grammar import all_named
    from vagen.evaluate.check import as_json, check, table
    from worlds import registered
    from worlds.text import REPRESENTATIONS

    rows = check(
        args.worlds or registered(),
        args.clozes or list(all_named()),
        args.representations or REPRESENTATIONS,
        args.n,
        args.seed,
        args.split,
    )
    write_json(args.out, as_json(rows))
    print(table(rows), file=sys.stderr)
    print(args.out)
    return 0 if all(row.passed for row in rows) else 1


def _compare(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.evaluate.compare import as_json, compare, picture, table
    from vagen.files import check_file, write_json

    comparison = compare(args.first, args.second)
    drawing = check_file(args.out).with_suffix(".png")
    write_json(args.out, as_json(comparison))
    picture(comparison, drawing)
    print(table(comparison), file=sys.stderr)
    print(args.out)
    return 0


def _eval_reorder(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file, write_json

    _refuse_idle_options(args)
    if wrong := [length for length in args.lengths or () if not 3 <= length <= 10]:
        raise UsageError(f"--lengths {wrong[0]}: episodes of 3 to 10 images can be put in order")
    args.lengths = args.lengths or [3, 4, 5]
    if args.write is not None:
        return _write_reorder(args)
    if args.model is None:
        raise UsageError("give --model to ask, or --write to make questions")
    check_file(args.out)
    from vagen.evaluate.reorder import as_json, evaluate, evaluate_file, table

    chat = _load_chat(args.model, None)
    if args.questions is not None:
        images = args.images or args.questions.parent
        rows = evaluate_file(chat, args.questions, images, args.batch, args.max_new_tokens)
    else:
        worlds = _chosen(args.worlds, chat.policy.format.worlds, "--worlds")
        rows = evaluate(chat, worlds, args.lengths, args.n, args.seed, args.split, args.batch, args.max_new_tokens)
    write_json(args.out, as_json(rows, chat.policy.name))
    print(table(rows), file=sys.stderr)
    print(args.out)
    return 0


def _refuse_idle_options(args: argparse.Namespace) -> None:
    """Options of reordering that would change nothing beside others."""
    given = [name for name in ("write", "questions", "worlds", "lengths", "images", "model") if getattr(args, name)]
    idle = {"write": ("questions", "images", "model"), "questions": ("worlds", "lengths")}
    for decisive, others in idle.items():
        if decisive in given and (beside := [name for name in others if name in given]):
            raise UsageError(f"{_option(beside[0])} changes nothing beside {_option(decisive)}: leave one of them out")
    if "images" in given and "questions" not in given:
        raise UsageError("--images is the folder of the images of --questions: give that too")


def _write_reorder(args: argparse.Namespace) -> int:
    from vagen.evaluate.reorder import draw_cells, write_questions

    if not args.worlds:
        raise UsageError("--write makes questions about --worlds: name some")
    cells = draw_cells(args.worlds, args.lengths, args.n, args.seed, args.split)
    items = [item for _, items in cells for item in items]
    print(write_questions(items, args.write))
    return 0


def _eval_mindcube(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.config import shipped
    from vagen.files import check_file
    from vagen.mindcube.prompts import read_wording

    check_file(args.out)
    wording = read_wording(args.prompts or shipped("mindcube.yaml"), args.task)
    from vagen.evaluate.mindcube.ask import ask, prepare, shuffled

    inquiry = prepare(args.questions, args.images, wording)
    if args.shuffle_images:
        inquiry = shuffled(inquiry)
    chat = _load_chat(args.model, None)
    ask(chat, inquiry, args.out, args.batch, args.max_new_tokens or wording.max_new_tokens, args.overwrite)
    print(args.out)
    return 0


def _score_mindcube(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.evaluate.mindcube.score import score_file

    print(score_file(args.responses, args.mode, args.out, args.per_item, args.baseline_train), file=sys.stderr)
    print(args.out)
    return 0


def _export(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.export import export

    folder = export(args.source, args.output, args.card, args.adapter_only)
    if args.push_to_hub is not None:
        from vagen.hub import push

        print(f"published: {push(folder, args.push_to_hub, args.private)}", file=sys.stderr)
    print(folder)
    return 0


def _report(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.evaluate.report import write_report

    print(write_report(args.run_folder))
    return 0


def _load_chat(model: str, representation: str | None):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    from vagen.policy.chat import Chat
    from vagen.policy.policy import best_device, load
    from vagen.train.run import CHECKPOINTS, latest_model

    if (Path(model) / CHECKPOINTS).is_dir():
        folder = latest_model(Path(model))
        checkpoint = folder.parent.name
        print(f"vagen: {model} is a run: its newest checkpoint, {checkpoint}, is taken", file=sys.stderr)
        policy = replace(load(str(folder)), name=f"{Path(model).resolve().name}/{checkpoint}")
    else:
        policy = load(model)
    policy.model.to(best_device())
    if representation is not None:
        policy = replace(policy, format=replace(policy.format, representation=representation))
    return Chat(policy)


def _chosen(given: Sequence[str] | None, trained: Sequence[str], option: str) -> Sequence[str]:
    if not (given or trained):
        raise UsageError(f"the model does not say what it was trained on: give {option}")
    return given or trained


def _natural(text: str) -> int:
    """A whole number of 0 or more, as argparse wants types: its message names the option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of 0 or more, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, got {text!r}")
    return int(text)


def _default_processes() -> int:
    return _gpus() or min(2, os.cpu_count() or 1)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


if __name__ == "__main__":
    sys.exit(main())
