"""Scoring a file of responses in one of three modes, with what blind answers and random maps score beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from vagen.cloze.statistics import wilson
from vagen.evaluate.mindcube.blind import Baseline, Exam, baselines
from vagen.evaluate.mindcube.floor import random_scores
from vagen.evaluate.mindcube.official import Tally, item_row
from vagen.evaluate.mindcube.strict import Judged, judge, strict_result
from vagen.files import atomic_path, check_file, write_text_atomically
from vagen.mindcube.rows import OUT_OF_OVERALL, MindCubeError, Response, read_responses, read_rows
from vagen.mindcube.similarity import compare

Mode = Literal["official-basic", "official-cogmap", "strict"]
MODES: tuple[Mode, ...] = get_args(Mode)

Writer = Callable[[dict[str, Any]], object]  # takes a line per row
Blind = Callable[[Sequence[Exam]], list[Baseline]]


def score_file(
    responses: Path, mode: Mode, out: Path, per_item: Path | None = None, training: Path | None = None
) -> str:
    """Score a file, write the result and, where asked for, a line per row; returns a summary for people.

    Official modes write the official result and nothing else, so the baselines are in the summary only; the strict
    result has them.

    Args:
        training: a file of questions with right answers, for the blind rules to be fitted on.

    Raises:
        MindCubeError: a file cannot be read, in which case the message names the line, or no line has an answer.
        OutputError: a place cannot be written to.
    """
    inputs = [path.resolve() for path in (responses, training) if path is not None]
    outputs = [check_file(path) for path in (out, per_item) if path is not None]
    if len({*inputs, *outputs}) < len(inputs) + len(outputs):
        raise MindCubeError("a file is named twice: the responses, the result and the lines per row need one each")
    blind = partial(baselines, training=read_training(training) if training else None, source=str(training or ""))
    with ExitStack() as stack:
        write = None if per_item is None else stack.enter_context(_lines(per_item))
        if mode == "strict":
            result, summary = _strict(responses, write, blind)
        else:
            result, summary = _official(responses, mode == "official-cogmap", write, blind)
    write_text_atomically(out, json.dumps(result, indent=2) + "\n")
    return "\n".join(summary)


def _answers(path: Path) -> Iterator[Response]:
    """The rows of a file of responses; refuses one of questions."""
    answered = False
    for response in read_responses(path):
        answered = answered or response.answered
        yield response
    if not answered:
        raise MindCubeError(f"{path}: no line has an answer; give the responses that `vagen eval mindcube` writes")


def read_training(path: Path) -> list[Exam]:
    """The questions of a file that have a right answer.

    Raises:
        MindCubeError: the file cannot be read, or has none.
    """
    rows = (row for _, row in read_rows(path))
    exams = [Exam.of(row.get("id"), row.get("question"), row["gt_answer"]) for row in rows if row.get("gt_answer")]
    if not any(exam.options for exam in exams):
        raise MindCubeError(f"{path}: no line has a question with options and a gt_answer to learn from")
    return exams


def _official(
    responses: Path, with_maps: bool, write: Writer | None, blind: Blind
) -> tuple[dict[str, Any], Iterator[str]]:
    tally = Tally(with_maps)
    exams: list[Exam] = []
    for response in _answers(responses):
        tally.add(response)
        if write is not None:
            write(item_row(response))
        if response.truth:
            exams.append(Exam.of(response.id, response.question, response.truth))
    result = tally.result()
    return result, _official_summary(result["results"], tally, exams, blind(exams))


def _strict(responses: Path, write: Writer | None, blind: Blind) -> tuple[dict[str, Any], Iterator[str]]:
    rows: list[Judged] = []
    exams: list[Exam] = []
    skipped = 0
    for response in _answers(responses):
        if not response.truth:
            skipped += 1
            continue
        exams.append(Exam.of(response.id, response.question, response.truth))
        rows.append(judge(response, exams[-1]))
        if write is not None:
            write(rows[-1].row())
    found = blind(exams)
    result = strict_result(rows, found, skipped)
    return result, chain(_strict_summary(result), _fitted(found))


def _official_summary(
    results: dict[str, Any], tally: Tally, exams: Sequence[Exam], blind: Sequence[Baseline]
) -> Iterator[str]:
    settings = {"overall": results, **results["settings"]}
    yield f"{'setting':<14}{'n':>6}{'accuracy':>10}{'95 % interval':>18}" + "".join(f"{b.name:>9}" for b in blind)
    for name, figures in settings.items():
        if not (n := figures["total"]):
            continue
        share = wilson(figures["gen_cogmap_correct"], n)
        members = [i for i, exam in enumerate(exams) if _in(exam.setting, name)]
        floors = "".join(f"{fmean(b.correct[i] for i in members):>9.3f}" for b in blind)
        yield f"{name:<14}{n:>6}{share.value:>10.3f}{share.low:>10.3f} – {share.high:.3f}{floors}"
    yield from _fitted(blind)
    if "cogmap_similarity" in results:
        yield from _official_maps(results["cogmap_similarity"], tally)


def _official_maps(figures: dict[str, Any], tally: Tally) -> Iterator[str]:
    yield (
        f"maps: valid {figures['valid_accuracy']:.3f}, isomorphic {figures['isomorphic_accuracy']:.3f}, "
        f"similarity of the valid ones {figures['avg_overall_similarity']:.3f}"
    )
    chance = [similarity for _, similarity in random_scores(tally.true_maps(), compare)]
    if chance:
        yield (
            f"random maps: isomorphic {fmean(s.isomorphic for s in chance):.3f}, "
            f"similarity {fmean(s.overall for s in chance):.3f}"
        )


def _strict_summary(result: dict[str, Any]) -> Iterator[str]:
    heads = ("chance", "letter", "text")
    yield (
        f"{'':<22}{'n':>6}{'answered':>10}{'accuracy':>10}{'95 % interval':>18}"
        + "".join(f"{head:>9}" for head in heads)
        + f"{'skill':>8}{'maps':>8}{'random':>8}{'isomorphic':>12}{'random':>8}"
    )
    rows = [row for row in result["rows"] if row["n"]]
    mapped = any(row["maps_read"] for row in rows)
    for row in rows:
        name = row["name"] if row["by"] == "overall" else f"{row['by']} {row['name']}"
        line = f"{name:<22}{row['n']:>6}{row['answered']:>10.3f}"
        line += f"{row['accuracy']:>10.3f}{row['ci_low']:>10.3f} – {row['ci_high']:.3f}"
        line += "".join(f"{row['blind'][head]:>9.3f}" for head in heads) + _cell(row["skill"], 8)
        maps, chance = (row["maps"] or {}, row["random_maps"] or {}) if mapped else ({}, {})
        yield line + "".join(
            _cell(figures.get(key), width)
            for key, figures, width in (
                ("overall", maps, 8),
                ("overall", chance, 8),
                ("isomorphic", maps, 12),
                ("isomorphic", chance, 8),
            )
        )
    yield "answered: a letter can be read; chance, letter, text: blind rules; skill: of what the best of them leaves"
    if mapped:
        yield "maps, isomorphic: agreement with the true map, each with that of random maps beside it"
    else:
        yield "maps, isomorphic: no answer has a map that can be read"
    if any(row["name"] == OUT_OF_OVERALL for row in rows):
        yield f"overall, kinds: without {OUT_OF_OVERALL}, as the official evaluator counts"


def _fitted(blind: Sequence[Baseline]) -> Iterator[str]:
    for baseline in blind[1:]:
        yield f"blind baseline {baseline.name!r} fitted on {baseline.fitted_on}"


def _cell(value: float | None, width: int) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:>{width}.3f}"


def _in(setting: str, name: str) -> bool:
    return setting == name or (name == "overall" and setting != OUT_OF_OVERALL)


@contextmanager
def _lines(path: Path) -> Iterator[Writer]:
    """Writes JSON objects, a line each, to a file that is whole or absent."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield lambda row: file.write(json.dumps(row) + "\n")
