"""``vagen eval`` and ``check``: what a model can do, and whether the questions are right."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vagen.cli.data import places_of
from vagen.cli.options import (
    MINDCUBE_TASKS,
    MODEL,
    UsageError,
    Verbs,
    add_kinds,
    add_questions,
    add_samples,
    add_verb,
    chosen,
    hand_over,
    positive,
    spelled,
)

#: Settings of whole conversations with their defaults; on a command line they are none until one is given.
_CONVERSATION = {
    "context": "concat",
    "window": 2,
    "max_turns": 16,
    "max_actions": 1,
    "max_new_tokens": 256,
    "max_length": 4096,
}


def add_eval(verbs: Verbs) -> None:
    kinds = add_kinds(verbs, "eval", "measure a model")
    _add_worldmodel(kinds)
    _add_agent(kinds)
    _add_reorder(kinds)
    _add_mindcube(kinds)
    _add_checkpoints(kinds)


def _add_worldmodel(kinds: Verbs) -> None:
    verb = add_verb(kinds, "worldmodel", _eval_worldmodel, "accuracy of clozes by free generation: a report card")
    verb.add_argument("--model", required=True, help=MODEL)
    add_questions(verb, n=300, out="card.json")
    verb.add_argument(
        "--clozes", nargs="+", metavar="CLOZE", help="names or patterns; default: what it was trained with"
    )
    verb.add_argument("--representation", choices=["natural", "json", "grid"], help="default: as in training")
    verb.add_argument("--constrained", action="store_true", help="let the model give valid answers only")
    verb.add_argument(
        "--training-shards", nargs="+", default=[], metavar="SHARDS", help="to count seen test transitions"
    )


def _eval_worldmodel(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file

    check_file(args.out)
    chat = _load_chat(args.model, args.representation)
    trained = chat.policy.format
    from vagen.evaluate.worldmodel import evaluate, summary
    from vagen.policy.prefixes import why_not_shared

    if reason := why_not_shared(chat.policy.model):
        print(f"vagen: each question is asked for itself: {reason}", file=sys.stderr)
    card = evaluate(
        chat,
        chosen(args.worlds, trained.worlds, "--worlds"),
        chosen(args.clozes, trained.clozes, "--clozes"),
        args.n,
        args.seed,
        args.split,
        args.batch,
        places_of(args.training_shards, [])[0],
        constrained=args.constrained,
    )
    hand_over(args.out, card, summary(card))
    return 0


def _add_agent(kinds: Verbs) -> None:
    verb = add_verb(kinds, "agent", _eval_agent, "success of random, expert and model in episodes")
    verb.add_argument("--model", help=f"{MODEL}; without it only random and expert play")
    add_questions(verb, n=100, out="agents.json")
    verb.add_argument("--max-steps", type=positive, default=30, help="an episode is cut here")
    _how_to_converse(verb)


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
        group.add_argument(spelled(name), type=positive, help=f"{meaning} (default: {_CONVERSATION[name]})")


def _eval_agent(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file

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

    worlds = chosen(args.worlds, trained, "--worlds")
    result = evaluate(agents, worlds, args.n, args.seed, args.split, args.max_steps)
    lines = [
        f"{row['world']:<22}{row['agent']:<16}{row['success']:>7.3f}  ({row['ci_low']:.3f} – {row['ci_high']:.3f})"
        for row in result["rows"]
    ]
    hand_over(args.out, result, "\n".join(lines))
    return 0


def _conversation(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of whole conversations; refuses those that would change nothing."""
    given = {name: value for name in _CONVERSATION if (value := getattr(args, name)) is not None}
    if args.strategy is None and given:
        raise UsageError(f"{spelled(next(iter(given)))} is a setting of whole conversations: give --strategy too")
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


def _add_reorder(kinds: Verbs) -> None:
    verb = add_verb(kinds, "reorder", _eval_reorder, "putting shuffled images or actions in order, as in ENACT")
    verb.add_argument("--model", help=f"{MODEL}; not needed to write questions")
    add_questions(verb, n=100, out="reorder.json")
    verb.add_argument("--lengths", nargs="+", type=positive, metavar="L", help="images, 3 to 10; default: 3 4 5")
    verb.add_argument("--questions", type=Path, help="ask these, JSONL in ENACT's format, instead of our worlds")
    verb.add_argument("--images", type=Path, help="the folder that the questions' image paths start in")
    verb.add_argument("--write", type=Path, metavar="FOLDER", help="write questions and images here, and ask nobody")
    verb.add_argument("--overwrite", action="store_true", help="replace a folder of questions")
    verb.add_argument("--max-new-tokens", type=positive, default=64, help="where answers are cut")


def _eval_reorder(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file

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
        worlds = chosen(args.worlds, chat.policy.format.worlds, "--worlds")
        rows = evaluate(chat, worlds, args.lengths, args.n, args.seed, args.split, args.batch, args.max_new_tokens)
    hand_over(args.out, as_json(rows, chat.policy.name), table(rows))
    return 0


def _refuse_idle_options(args: argparse.Namespace) -> None:
    """Options of reordering that would change nothing beside others."""
    given = {name for name, value in vars(args).items() if value != args.default_of(name)}
    idle = {
        "write": ("questions", "images", "model", "batch", "max_new_tokens", "out"),
        "questions": ("worlds", "lengths", "n", "seed", "split"),
    }
    for decisive, others in idle.items():
        if decisive in given and (beside := [name for name in others if name in given]):
            raise UsageError(f"{spelled(beside[0])} changes nothing beside {spelled(decisive)}: leave one of them out")
    if "images" in given and "questions" not in given:
        raise UsageError("--images is the folder of the images of --questions: give that too")
    if "overwrite" in given and "write" not in given:
        raise UsageError("--overwrite replaces the folder of --write: give that too")


def _write_reorder(args: argparse.Namespace) -> int:
    from vagen.evaluate.reorder import QUESTIONS, draw_cells, write_questions
    from vagen.files import check_folder

    if not args.worlds:
        raise UsageError("--write makes questions about --worlds: name some")
    check_folder(args.write, QUESTIONS, args.overwrite)
    cells = draw_cells(args.worlds, args.lengths, args.n, args.seed, args.split)
    items = [item for _, items in cells for item in items]
    print(write_questions(items, args.write, args.overwrite))
    return 0


def _add_mindcube(kinds: Verbs) -> None:
    verb = add_verb(kinds, "mindcube", _eval_mindcube, "answers to MindCube questions; the same command resumes")
    verb.add_argument("--questions", type=Path, required=True, help="MindCube questions, JSONL")
    verb.add_argument("--images", type=Path, required=True, help="the folder that the questions' image paths start in")
    verb.add_argument("--model", required=True, help=MODEL)
    verb.add_argument(
        "--task",
        required=True,
        choices=MINDCUBE_TASKS,
        metavar="TASK",
        help=f"what is shown and asked: {', '.join(MINDCUBE_TASKS)}",
    )
    verb.add_argument("--prompts", type=Path, help="templates, YAML; default: the shipped configs/mindcube.yaml")
    verb.add_argument(
        "--shuffle-images",
        action="store_true",
        help="show each question the images of another scene: what is got right without looking",
    )
    verb.add_argument(
        "--choose",
        action="store_true",
        help="after what is written before the answer, take the likeliest option: always one that can be read",
    )
    verb.add_argument("--batch", type=positive, default=8, help="questions per forward pass")
    verb.add_argument("--max-new-tokens", type=positive, help="where answers are cut; default: as the templates say")
    verb.add_argument("--overwrite", action="store_true", help="begin anew, whatever the output holds")
    verb.add_argument("--out", type=Path, required=True, help="where the responses go, JSONL")


def _eval_mindcube(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.config import located, shipped
    from vagen.files import check_file
    from vagen.mindcube.prompts import read_wording

    check_file(args.out)
    wording = read_wording(located(args.prompts or shipped("mindcube.yaml")), args.task)
    from vagen.evaluate.mindcube.ask import ask, choosing, prepare, shuffled

    inquiry = prepare(args.questions, args.images, wording)
    if args.choose:
        inquiry = choosing(inquiry)
    if args.shuffle_images:
        inquiry = shuffled(inquiry)
    chat = _load_chat(args.model, None)
    ask(chat, inquiry, args.out, args.batch, args.max_new_tokens or wording.max_new_tokens, args.overwrite)
    print(args.out)
    return 0


def _add_checkpoints(kinds: Verbs) -> None:
    verb = add_verb(
        kinds, "checkpoints", _eval_checkpoints, "a run's checkpoints: does understanding go with success?"
    )
    verb.add_argument("run_folder", type=Path, metavar="RUN", help="the output of a training")
    add_questions(verb, n=200, out="checkpoints.json")
    verb.add_argument("--clozes", nargs="+", metavar="CLOZE", help="default: what it was trained with")
    verb.add_argument("--episodes", type=positive, default=100, help="episodes per world")
    verb.add_argument("--max-steps", type=positive, default=30, help="an episode is cut here")


def _eval_checkpoints(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file

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
    hand_over(args.out, as_json(points, found), table(found))
    picture(points, drawing)
    return 0


def add_check(verbs: Verbs) -> None:
    verb = add_verb(
        verbs, "check", _check, "check every cloze in every world against the simulator; floors and ceilings"
    )
    verb.add_argument("--worlds", nargs="+", metavar="WORLD", help="default: all")
    verb.add_argument("--clozes", nargs="+", metavar="CLOZE", help="names or patterns; default: all that have a name")
    verb.add_argument(
        "--representations",
        nargs="+",
        choices=["natural", "json", "grid"],
        metavar="FORM",
        help="how states are written: natural, json, grid; default: all",
    )
    verb.add_argument("--n", type=positive, default=200, help="samples per world and cloze")
    add_samples(verb)
    verb.add_argument("--out", type=Path, default=Path("check.json"), help="where the JSON goes")


def _check(args: argparse.Namespace, _: list[str]) -> int:
    from vagen.files import check_file

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
    hand_over(args.out, as_json(rows), table(rows))
    return 0 if all(row.passed for row in rows) else 1


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
