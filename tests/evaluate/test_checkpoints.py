"""Rank correlations against their definition, and a run whose checkpoints are measured."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vagen.config import Tiny
from vagen.evaluate import checkpoints
from vagen.evaluate.checkpoints import Point, as_json, checkpoints_of, correlations, evaluate, picture, spearman, table
from vagen.policy import tiny
from vagen.policy.policy import ClozeFormat, ModelError, Policy

SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
SERIES = st.integers(3, 9).flatmap(lambda k: st.tuples(*[st.lists(st.integers(0, 4), min_size=k, max_size=k)] * 2))


def by_definition(x: list[int], y: list[int]) -> float | None:
    """Pearson's correlation of ranks, ties averaged, in plain Python."""

    def ranks(values):
        return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]

    a, b = ranks(x), ranks(y)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((i - mean_a) * (j - mean_b) for i, j in zip(a, b, strict=True))
    bottom = math.sqrt(sum((i - mean_a) ** 2 for i in a) * sum((j - mean_b) ** 2 for j in b))
    return top / bottom if bottom else None


@given(SERIES)
def test_spearman_is_its_definition(series):
    x, y = series
    rho, p = spearman(np.array(x, float), np.array(y, float), permutations=20)
    expected = by_definition(x, y)
    assert rho == (None if expected is None else pytest.approx(expected))
    assert (p is None) == (rho is None)


def test_p_values_are_those_of_all_pairings():
    """Four in perfect order: 2 of 24 pairings are as extreme."""
    rho, p = spearman(np.arange(4.0), np.arange(4.0) ** 2)
    assert rho == pytest.approx(1)
    assert p == pytest.approx(2 / 24, abs=0.01)


def points(accuracies: list[float], successes: list[float]) -> list[Point]:
    return [
        Point(step, "w", {"c": a, "flat": 0.5}, s, s, s)
        for step, (a, s) in enumerate(zip(accuracies, successes, strict=True))
    ]


def test_a_cloze_that_never_changes_has_no_correlation(tmp_path):
    found = correlations(points([0.1, 0.5, 0.9], [0.0, 0.2, 0.1]))
    assert [(c.cloze, c.rho) for c in found] == [("c", pytest.approx(0.5)), ("flat", None)]
    assert "–" in table(found)
    data = json.loads(json.dumps(as_json(points([0.1, 0.5, 0.9], [0.0, 0.2, 0.1]), found), allow_nan=False))
    assert len(data["points"]) == 3
    with Image.open(picture(points([0.1, 0.5, 0.9], [0.0, 0.2, 0.1]), tmp_path / "p.png")) as image:
        assert min(image.size) > 300


def test_every_checkpoint_of_a_run_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "PERMUTATIONS", 50)
    form = ClozeFormat("grid", False, ("frozenlake-4x4",), ("state_estimation", "policy"))
    for step in (5, 10, 20):
        model, processor = tiny.build(Tiny(**SMALL, image_size=32), ["frozenlake-4x4"], step)
        Policy("small", model, processor, form).save(tmp_path / "checkpoints" / f"step-{step:06d}" / "model")
    assert list(checkpoints_of(tmp_path)) == [5, 10, 20]
    measured, found = evaluate(tmp_path, (), (), 4, 3, 1, "val", 8, 4)
    assert [(p.step, p.world) for p in measured] == [(step, "frozenlake-4x4") for step in (5, 10, 20)]
    assert all(p.accuracy.keys() == {"state_estimation", "policy"} for p in measured)
    assert [(c.cloze, c.checkpoints) for c in found] == [("state_estimation", 3), ("policy", 3)]


def test_a_run_with_one_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"has 0 checkpoints.*keep_checkpoints"):
        checkpoints_of(tmp_path)
