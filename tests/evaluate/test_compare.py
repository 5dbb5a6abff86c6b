"""Comparisons of report cards: which rows are paired, what is said of them, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vagen.evaluate.compare import CompareError, as_json, compare, picture, table

SAMPLING = {"idle": 0.1, "balance": False}


def row(world: str, cloze: str, outcomes: str, **changes) -> dict:
    right = outcomes.count("1")
    return {
        "world": world,
        "cloze": cloze,
        "pattern": cloze,
        "representation": "grid",
        "n": len(outcomes),
        "accuracy": right / len(outcomes),
        "outcomes": outcomes,
        **changes,
    }


@pytest.fixture
def cards(tmp_path):
    """``cards(first_rows, second_rows, seed=…)`` writes two cards and returns their paths."""

    def write(first: list[dict], second: list[dict], seed: int = 1) -> tuple[Path, Path]:
        paths = tmp_path / "a.json", tmp_path / "b.json"
        for path, rows, its_seed in zip(paths, (first, second), (1, seed), strict=True):
            card = {"rows": rows, "model": path.stem, "seed": its_seed, "split": "test"}
            path.write_text(json.dumps(card | {"sampling": SAMPLING, "history": 0}))
        return paths

    return write


def test_rows_are_paired_where_the_questions_are_the_same(cards):
    found = compare(*cards([row("w", "c", "0" * 12 + "1" * 8)], [row("w", "c", "1" * 20)]))
    (only,) = found.rows
    assert only.paired
    assert only.difference == pytest.approx(0.6)
    assert only.p == pytest.approx(2 / 2**12)
    assert only.p_adjusted == only.p
    assert (found.mean.value, found.mean.low) == pytest.approx((only.difference, only.low))


CHANGES: dict[str, Callable[[dict], None]] = {
    "seed": lambda card: card.update(seed=2),
    "split": lambda card: card.update(split="val"),
    "sampling": lambda card: card.update(sampling={"idle": 0.1, "balance": True}),
    "history": lambda card: card.update(history=3),
    "pattern": lambda card: card["rows"][0].update(pattern="other"),
    "n": lambda card: card.update(rows=[row("w", "c", "00111")]),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_other_questions_are_compared_without_a_test(cards, reason):
    assert _compared_after(CHANGES[reason], cards) == (reason,)


@pytest.mark.parametrize("missing", ["outcomes", "sampling"])
def test_cards_that_do_not_say_what_was_asked_are_compared_without_a_test(cards, missing):
    def forget(card: dict) -> None:
        del (card["rows"][0] if missing == "outcomes" else card)[missing]

    assert _compared_after(forget, cards) == ("version of the card",)


def _compared_after(change: Callable[[dict], None], cards) -> tuple[str, ...]:
    """Why two cards are not paired that differ in one thing; checks that they are compared all the same."""
    paths = cards([row("w", "c", "0011")], [row("w", "c", "0111")])
    card = json.loads(paths[1].read_text())
    change(card)
    paths[1].write_text(json.dumps(card))
    found = compare(*paths)
    (only,) = found.rows
    assert not only.paired
    assert only.p is None
    assert f"unpaired: other {only.unpaired[0]}" in table(found)
    assert only.low < only.difference < only.high
    return only.unpaired


def test_models_of_one_name_are_told_apart_by_their_paths(cards):
    paths = cards([row("w", "c", "01")], [row("w", "c", "01")])
    assert table(compare(*paths)).startswith("A: a   B: b\n")
    paths[1].write_text(paths[1].read_text().replace('"model": "b"', '"model": "a"'))
    assert table(compare(*paths)).startswith(f"A: {paths[0]}   B: {paths[1]}\n")


def test_several_rows_are_adjusted_for_and_strays_are_named(cards):
    better = [row("w", "c", "0" * 10), row("w", "d", "01" * 5), row("v", "c", "1"), row("w", "x", "1")]
    worse = [row("w", "c", "1" * 10), row("w", "d", "01" * 5), row("v", "c", "1", representation="json")]
    found = compare(*cards(better, worse))
    assert [(r.cloze, r.p_adjusted) for r in found.rows] == [("c", pytest.approx(4 / 2**10)), ("d", 1.0)]
    assert found.only_first == ("v c grid", "w x grid")
    assert found.only_second == ("v c json",)
    text = table(found)
    assert "+1.000" in text
    assert "only in A: v c grid; w x grid" in text
    assert text.count(" *") == 1, "exactly one row differs beyond chance"


def test_the_picture_and_the_json_hold_every_row(cards, tmp_path):
    rows = [row("w", f"c{i}", "01" * 9) for i in range(7)]
    found = compare(*cards(rows, rows))
    with Image.open(picture(found, tmp_path / "c.png")) as image:
        assert image.width > 600
        assert image.height > 250
    data = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert len(data["rows"]) == 7
    assert data["mean"]["value"] == 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "no report card"),
        ('{"rows": [], "seed": 1, "split": "test"}', "rows"),
        (json.dumps({"rows": [row("w", "c", "01", n=3)], "seed": 1, "split": "test"}), "2 outcomes for n=3"),
        (json.dumps({"rows": [row("w", "c", "01", accuracy=2)], "seed": 1, "split": "test"}), "accuracy"),
        (json.dumps({"rows": [row("w", "other", "01")], "seed": 1, "split": "test"}), "share no row"),
        (None, "cannot read"),
    ],
)
def test_cards_that_cannot_be_compared_are_refused(cards, tmp_path, content, complaint):
    good, bad = cards([row("w", "c", "01")], [])
    bad.unlink()
    if content is not None:
        bad.write_text(content)
    with pytest.raises(CompareError, match=complaint):
        compare(good, bad)
