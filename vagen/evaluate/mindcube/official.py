"""The official result of a file of responses: names, counts, rounding and all. Knows nothing about reading files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vagen.evaluate.mindcube.answers import extract_letter
from vagen.mindcube.maps import CognitiveMap, check_map, find_map, find_map_kept
from vagen.mindcube.rows import OUT_OF_OVERALL, SETTINGS, MindCubeError, Response, Setting, setting_of
from vagen.mindcube.similarity import Similarity, compare_json

EXCERPT = 500  # characters of an answer kept beside an error


@dataclass(frozen=True, slots=True)
class Maps:
    """The maps of one row.

    Attributes:
        generated: the generated map as JSON; ``None`` if there is none.
        grounded: the true map as JSON.
        error: why reading the generated map failed for good, else ``None``.
    """

    generated: Any
    grounded: Any
    error: str | None = None

    @property
    def similarity(self) -> Similarity | None:
        """``None`` unless there are both."""
        return compare_json(self.generated, self.grounded) if self.generated and self.grounded else None


def maps_of(response: Response) -> Maps:
    """The maps of a row where the official evaluator finds them.

    It takes the true map for the generated one if the answer is in ``cogmap_gen_answer`` and holds none.

    Raises:
        MindCubeError: the true map cannot be read.
    """
    grounded = true_map(response)
    try:
        generated = generated_map(response)
    except (RecursionError, ValueError) as error:
        return Maps(None, grounded, str(error))
    leaks = response.map_field == "cogmap_gen_answer" and not response.stored_maps
    return Maps(generated or (grounded if leaks else generated), grounded)


def generated_map(response: Response) -> Any:
    """The map in the answer, or else the one stored beside it; ``None`` if there is neither.

    Raises:
        RecursionError, ValueError: it cannot be read, as in :func:`find_map`.
    """
    found = find_map(response.map_answer if isinstance(response.map_answer, str) else None)
    if not found and response.stored_maps:
        (stored,) = response.stored_maps
        return find_map(stored) if isinstance(stored, str) else stored
    return found


def true_map(response: Response) -> Any:
    """The true map of a row as JSON; ``None`` if it has none.

    Raises:
        MindCubeError: it is text that cannot be read.
    """
    if not isinstance(response.grounded, str):
        return response.grounded
    try:
        return find_map_kept(response.grounded)
    except (RecursionError, ValueError) as error:
        raise MindCubeError(f"{response.where}: grounded_cogmap cannot be read ({error})") from None


def item_row(response: Response) -> dict[str, Any]:
    """What the official functions find in one row, scored or not."""
    maps = maps_of(response)
    row = {
        "line": response.line - 1,
        "id": response.id,
        "case": response.case,
        "setting": setting_of(response.id),
        "answer_field": response.map_field,
        "extracted_cogmap_mode": extract_letter(response.map_answer),
        "extracted_basic_mode": extract_letter(response.answer),
        "gt": response.truth,
        "generated_found": bool(maps.generated),
        "grounded_found": bool(maps.grounded),
    }
    if (similarity := maps.similarity) is not None:
        row["similarity"] = {
            "isomorphic": similarity.isomorphic,
            "rotation_invariant_isomorphic": similarity.isomorphic,
            "position_similarity": similarity.directional,
            "facing_similarity": similarity.facing,
            "directional_similarity": similarity.directional,
            "relative_position_accuracy": similarity.directional,
            "overall_similarity": similarity.overall,
            "valid_graph": similarity.valid_graph,
            "parsable_json": similarity.parsable,
            "valid_format": similarity.valid_format,
            "coverage": similarity.coverage,
            "best_rotation": similarity.best_rotation,
        }
    return row


@dataclass
class MapTally:
    """Sums over the maps of a setting, or of all settings that count."""

    parsable: int = 0
    valid_format: int = 0
    valid: int = 0
    isomorphic: int = 0
    facing: float = 0.0
    directional: float = 0.0
    overall: float = 0.0
    rotations: Counter[str] = field(default_factory=Counter)

    def add(self, similarity: Similarity) -> None:
        self.parsable += similarity.parsable
        self.valid_format += similarity.valid_format
        if similarity.valid_graph:
            self.valid += 1
            self.isomorphic += similarity.isomorphic
            self.facing += similarity.facing
            self.directional += similarity.directional
            self.overall += similarity.overall
            self.rotations[similarity.best_rotation or "none"] += 1

    def mean(self, total: float) -> float:
        return total / self.valid if self.valid else 0.0


class Tally:
    """Counts up rows to the official result.

    Args:
        with_maps: the *cogmap* mode; else the *basic* mode.
    """

    def __init__(self, with_maps: bool):
        self._with_maps = with_maps
        self._rows = 0
        self._totals: Counter[Setting] = Counter()
        self._correct: Counter[Setting] = Counter()
        self._maps = {setting: MapTally() for setting in SETTINGS}
        self._overall_maps = MapTally()
        self._compared: list[tuple[Any, bool]] = []  # true map, whether the generated one has views
        self._unanswered: list[dict[str, Any]] = []
        self._unreadable: list[dict[str, Any]] = []

    def add(self, response: Response) -> None:
        """Count one row; rows without a right answer only count as rows."""
        self._rows += 1
        if not response.truth:
            return
        setting = setting_of(response.id)
        self._totals[setting] += 1
        answer = response.map_answer if self._with_maps else response.answer
        letter = extract_letter(answer)
        self._correct[setting] += letter is not None and letter == response.truth
        if letter is None:
            self._unanswered.append(
                {"id": response.id, "question": response.question, "gt_answer": response.truth, "answer": answer}
            )
        if self._with_maps:
            self._add_maps(response, setting)

    def result(self) -> dict[str, Any]:
        """The result as the official evaluator writes it."""
        counted: list[Setting] = [setting for setting in SETTINGS if setting != OUT_OF_OVERALL]
        total, correct = (sum(counts[setting] for setting in counted) for counts in (self._totals, self._correct))
        accuracy = _share(correct, total)
        results: dict[str, Any] = {
            "total": total,
            "unfiltered_total": self._totals.total() if self._with_maps else self._rows,
            "gen_cogmap_correct": correct,
            "gen_cogmap_accuracy": round(accuracy, 4) if self._with_maps else accuracy,
            "settings": {setting: self._setting(setting) for setting in SETTINGS},
        }
        errors = {"gen_cogmap_error": self._unanswered}
        if self._with_maps:
            results["cogmap_similarity"] = _overall_maps(self._overall_maps, total)
            errors["cogmap_extraction_error"] = self._unreadable
        return {"results": results, "error_cases": errors}

    def true_maps(self) -> list[CognitiveMap]:
        """What the valid maps of the overall figures were compared with: with views only where they had some."""
        pairs = [(check_map(true, generated=False), has_views) for true, has_views in self._compared]
        return [true if has_views else CognitiveMap(true.objects, {}, False) for true, has_views in pairs]

    def _add_maps(self, response: Response, setting: Setting) -> None:
        maps = maps_of(response)
        if maps.error is not None:
            excerpt = (response.map_answer or "")[:EXCERPT]
            case = {"id": response.id, "type": "generated", "response": excerpt, "error": maps.error}
            self._unreadable.append(case)
        if (similarity := maps.similarity) is not None:
            self._maps[setting].add(similarity)
            if setting != OUT_OF_OVERALL:
                self._overall_maps.add(similarity)
                if similarity.valid_graph:
                    self._compared.append((maps.grounded, "views" in maps.generated))

    def _setting(self, setting: Setting) -> dict[str, Any]:
        total, correct = self._totals[setting], self._correct[setting]
        figures: dict[str, Any] = {
            "total": total,
            "gen_cogmap_correct": correct,
            "gen_cogmap_accuracy": _share(correct, total),
            "include_in_overall": setting != OUT_OF_OVERALL,
        }
        if self._with_maps:
            figures["cogmap_similarity"] = _setting_maps(self._maps[setting], total)
        return figures


def _setting_maps(tally: MapTally, total: int) -> dict[str, Any]:
    return {
        "total_valid": tally.valid,
        "valid_percent": _share(tally.valid, total) * 100,
        "isomorphic_count": tally.isomorphic,
        "rotation_invariant_isomorphic_count": tally.isomorphic,
        "parsable_json_count": tally.parsable,
        "valid_format_count": tally.valid_format,
        "avg_relative_position_accuracy": tally.mean(tally.directional),
        "avg_facing_similarity": tally.mean(tally.facing),
        "avg_directional_similarity": tally.mean(tally.directional),
        "avg_overall_similarity": tally.mean(tally.overall),
        "rotation_distribution": dict(tally.rotations),
    }


def _overall_maps(tally: MapTally, total: int) -> dict[str, Any]:
    return {
        "parsable_json_count": tally.parsable,
        "parsable_json_accuracy": round(_share(tally.parsable, total), 4),
        "valid_count": tally.valid,
        "valid_accuracy": round(_share(tally.valid, total), 4),
        "isomorphic_count": tally.isomorphic,
        "isomorphic_accuracy": round(_share(tally.isomorphic, total), 4),
        "avg_overall_similarity": round(tally.mean(tally.overall), 4),
        "avg_facing_similarity": round(tally.mean(tally.facing), 4),
        "avg_directional_similarity": round(tally.mean(tally.directional), 4),
        "rotation_distribution": dict(tally.rotations),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
