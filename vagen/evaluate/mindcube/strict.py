"""The strict result: accuracies with intervals over what needs no looking, and maps compared exactly.

Letters are read as officially. Maps are those of the answer, never the true map; rows without a readable map count
with the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from vagen.cloze.statistics import skill, wilson
from vagen.evaluate.mindcube.answers import extract_letter
from vagen.evaluate.mindcube.blind import Baseline, Exam
from vagen.evaluate.mindcube.floor import random_scores
from vagen.evaluate.mindcube.official import generated_map, true_map
from vagen.mindcube.exact import TURNS, Agreement, agree, finite_map
from vagen.mindcube.maps import CognitiveMap
from vagen.mindcube.rows import KINDS, OUT_OF_OVERALL, SETTINGS, Response


@dataclass(frozen=True, slots=True)
class Judged:
    """A row, judged.

    Attributes:
        line: its number in the file, from 1.
        id: of its question.
        setting, kind: what is asked about, and how.
        letter: what the answer says; ``None`` if nothing can be read.
        correct: whether that is right.
        true_map: what the row's map is compared with, its views only if the generated map has some; ``None`` if the
            row has no true map.
        parsed: whether the answer has a map that can be read.
        agreement: with the true map; ``None`` without one.
    """

    line: int
    id: Any
    setting: str
    kind: str
    letter: str | None
    correct: bool
    true_map: CognitiveMap | None
    parsed: bool
    agreement: Agreement | None

    def row(self) -> dict[str, Any]:
        """As a line of JSON."""
        kept = ("line", "id", "setting", "kind", "letter", "correct", "parsed")
        agreement = asdict(self.agreement) if self.agreement else None
        return {**{name: getattr(self, name) for name in kept}, "map": agreement}


def judge(response: Response, exam: Exam) -> Judged:
    """Judge one row; ``exam`` is the same row's.

    Raises:
        MindCubeError: its true map is nested too deeply to be read.
    """
    letter = extract_letter(response.map_answer)
    found = _found_map(response)
    truth = finite_map(true_map(response), generated=False)
    if truth is not None and not (found and found.has_views):
        truth = CognitiveMap(truth.objects, {}, False)
    if truth is not None and not truth.places:
        truth = None
    return Judged(
        line=response.line,
        id=response.id,
        setting=exam.setting,
        kind=exam.kind,
        letter=letter,
        correct=letter is not None and letter == response.truth,
        true_map=truth,
        parsed=found is not None,
        agreement=None if truth is None else agree(found, truth),
    )


def strict_result(rows: Sequence[Judged], blind: Sequence[Baseline], skipped: int, seed: int = 0) -> dict[str, Any]:
    """The strict result of all rows that have a right answer.

    Args:
        rows: in the order of the baselines' ``correct``.
        skipped: rows left out because they have no right answer.
        seed: decides the random maps.
    """
    mapped = [(number, row.true_map) for number, row in enumerate(rows) if row.true_map is not None]
    chance: defaultdict[int, list[Agreement]] = defaultdict(list)
    for index, agreement in random_scores([true for _, true in mapped], agree, seed):
        chance[mapped[index][0]].append(agreement)
    return {
        "mode": "strict",
        "n": len(rows),
        "skipped": skipped,
        "seed": seed,
        "blind_fitted_on": {baseline.name: baseline.fitted_on for baseline in blind},
        "rows": [_group(by, name, members, rows, blind, chance) for by, name, members in _groups(rows)],
    }


def _groups(rows: Sequence[Judged]) -> Iterator[tuple[str, str, list[int]]]:
    """(by what, name, row numbers) of every group with members; translation has no part in the overall ones."""
    counted = [number for number, row in enumerate(rows) if row.setting != OUT_OF_OVERALL]
    yield "overall", "overall", counted
    for name in SETTINGS:
        if members := [number for number, row in enumerate(rows) if row.setting == name]:
            yield "setting", name, members
    for name in KINDS:
        if members := [number for number in counted if rows[number].kind == name]:
            yield "kind", name, members


def _group(
    by: str,
    name: str,
    members: Sequence[int],
    rows: Sequence[Judged],
    blind: Sequence[Baseline],
    chance: Mapping[int, Sequence[Agreement]],
) -> dict[str, Any]:
    """The figures of some rows; ``None`` stands for what cannot be said."""
    group: dict[str, Any] = {"by": by, "name": name, "n": len(members)}
    if not members:
        return group
    accuracy = wilson(sum(rows[n].correct for n in members), len(members))
    floors = {baseline.name: fmean(baseline.correct[n] for n in members) for baseline in blind}
    best = max(floors.values())
    agreements = [agreement for n in members if (agreement := rows[n].agreement) is not None]
    return {
        **group,
        "answered": fmean(rows[n].letter is not None for n in members),
        "accuracy": accuracy.value,
        "ci_low": accuracy.low,
        "ci_high": accuracy.high,
        "blind": floors,
        "over_blind": accuracy.value - best,
        "skill": skill(accuracy.value, [best], 1.0),
        "maps_read": fmean(rows[n].parsed for n in members),
        "maps": _map_figures(agreements),
        "random_maps": _map_figures([agreement for n in members for agreement in chance.get(n, ())]),
    }


def _map_figures(agreements: Sequence[Agreement]) -> dict[str, Any] | None:
    if not agreements:
        return None
    isomorphic = wilson(sum(agreement.isomorphic for agreement in agreements), len(agreements))
    facings = [agreement.facing for agreement in agreements if agreement.facing is not None]
    return {
        "n": len(agreements),
        "overall": fmean(agreement.overall for agreement in agreements),
        "directional": fmean(agreement.directional for agreement in agreements),
        "facing": fmean(facings) if facings else None,
        "coverage": fmean(agreement.coverage for agreement in agreements),
        "precision": fmean(agreement.precision for agreement in agreements),
        "isomorphic": isomorphic.value,
        "isomorphic_ci_low": isomorphic.low,
        "isomorphic_ci_high": isomorphic.high,
        "turns": [sum(agreement.turns == turns for agreement in agreements) for turns in TURNS],
    }


def _found_map(response: Response) -> CognitiveMap | None:
    try:
        return finite_map(generated_map(response), generated=True)
    except (RecursionError, ValueError):
        return None
