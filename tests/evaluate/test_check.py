"""``vagen check`` passes as things are, and would not if the truth were wrong or a corruption right."""

import json
from dataclasses import replace

import pytest

import worlds
import worlds.text
from vagen.cloze.grammar import NAMED, ClozeError
from vagen.cloze.sample import Sample
from vagen.cloze.scoring import Score, score
from vagen.evaluate import check as checking
from vagen.evaluate.check import as_json, check, table
from worlds import WorldError
from worlds.text import REPRESENTATIONS

SMALL = ("frozenlake-4x4", "sokoban-6x6", "minigrid-rooms-6x6")


@pytest.fixture(scope="module")
def rows():
    return check(SMALL, list(NAMED), n=12)


def test_every_cloze_passes_in_small_worlds(rows):
    assert len(rows) == len(SMALL) * len(NAMED) * len(REPRESENTATIONS)
    assert [row for row in rows if not row.passed] == []
    refused = {(row.world, row.cloze): row.refused for row in rows if row.refused}
    assert refused.keys() == {("minigrid-rooms-6x6", "reward"), ("minigrid-rooms-6x6", "text_reward")}
    assert all("cannot be seen" in reason for reason in refused.values())
    assert all(row.n == 12 for row in rows if not row.refused)


def test_representations_are_asked_about_the_same_windows(rows):
    for row, other in zip(rows[::3], rows[1::3], strict=True):
        assert replace(other, representation=row.representation) == row


def test_the_table_and_the_json_hold_every_row(rows):
    text = table(rows)
    assert all(text.count(f"{world}  ") >= len(NAMED) for world in SMALL)
    assert text.endswith(f"0 of {len(rows)} rows failed")
    for column in text.splitlines()[0].split()[3:-1]:
        assert column in text[text.index("truth: ") :], f"nothing explains the column {column!r}"
    data = json.loads(json.dumps(as_json(rows), allow_nan=False))
    assert data["passed"]
    assert len(data["rows"]) == len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("world", worlds.registered())
def test_every_cloze_passes_in_every_world(world):
    rows = check([world], list(NAMED), n=60)
    assert [row for row in rows if not row.passed] == []


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda sample, answer: Score(False, True, {}), "the truth is refused"),
        (lambda sample, answer: Score(True, True, {}), "anything is taken"),
    ],
)
def test_wrong_scores_are_noticed(monkeypatch, wrong, complaint):
    monkeypatch.setattr(checking, "score", wrong)
    [row] = check(["sokoban-6x6"], ["forward_dynamics"], ["grid"], n=5)
    assert not row.passed, complaint
    assert "FAILED" in table([row])
    assert not as_json([row])["passed"]


def test_corruptions_are_states_that_differ(monkeypatch):
    seen = []

    def spy(sample: Sample, answer: str) -> Score:
        seen.append((sample.answer, answer))
        return score(sample, answer)

    monkeypatch.setattr(checking, "score", spy)
    check(["minigrid-rooms-6x6"], ["state_estimation"], ["json"], n=20)
    corrupted = [(truth, answer) for truth, answer in seen if truth != answer]
    assert len(corrupted) == 20
    assert all(worlds.text.read_facts(a, worlds.make("minigrid-rooms-6x6").schema, "json") for _, a in corrupted)


def test_what_does_not_exist_is_refused():
    with pytest.raises(WorldError, match="nowhere"):
        check(["nowhere"], ["policy"])
    with pytest.raises(ClozeError, match="polici"):
        check(["sokoban-6x6"], ["polici"])
