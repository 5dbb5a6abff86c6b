"""Report cards: the questions they ask, the floors beside the accuracy, and models whose score is known beforehand."""

import json

import numpy as np
import pytest

from vagen.cloze.grammar import NAMED, named
from vagen.cloze.sample import simulator
from vagen.cloze.statistics import wilson
from vagen.config import Collect, Tiny
from vagen.data.shards import read_trajectories
from vagen.evaluate import worldmodel
from vagen.evaluate.worldmodel import draw_samples, evaluate, summary
from vagen.policy import tiny
from vagen.policy.chat import Chat
from vagen.policy.generate import Answer
from vagen.policy.policy import ClozeFormat, Policy
from vagen.rollout.agents import MixtureAgent
from vagen.rollout.collect import collect, episode_seeds
from vagen.rollout.episodes import play
from worlds import WorldError

NOTHING = np.zeros(0, dtype=np.int64)  # tokens that nobody looks at
WORLDS = ("sokoban-6x6", "minigrid-rooms-6x6", "frozenlake-6x6")
SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
CLOZES = ("state_estimation", "forward_dynamics", "inverse_dynamics", "policy", "text_forward_dynamics")
DECLARED = {
    *("world", "cloze", "pattern", "input", "representation", "horizon", "n", "accuracy", "ci_low", "ci_high"),
    *(
        "ceiling",
        "floors",
        "floor_intervals",
        "skill",
        "field_f1",
        "likelihood",
        "calibration",
        "yes",
        "parsed",
        "effective",
        "events",
        "seen_in_training",
    ),
    *("outcomes", "examples"),
}


@pytest.fixture(scope="module")
def chat() -> Chat:
    model, processor = tiny.build(Tiny(**SMALL), WORLDS, 0)
    return Chat(Policy("small", model.eval(), processor, ClozeFormat("grid", False, WORLDS, CLOZES)))


@pytest.fixture
def answering(monkeypatch):
    """``answering(function)``: models answer ``function(sample, shown)``; ``shown``: the sample's own images or not.

    Everything else of an evaluation stays as it is.
    """

    def install(function) -> None:
        drawn: list = []
        build_row = worldmodel._row

        def row(chat, samples, *rest):
            drawn[:] = samples
            return build_row(chat, samples, *rest)

        def answers(chat, samples, pictures, batch, progress, _):
            own = worldmodel.draw(samples)
            progress.update(len(samples))
            return [
                Answer(function(sample, [p.digest for p in shown] == [p.digest for p in mine]), NOTHING, np.log([0.9]))
                for sample, shown, mine in zip(samples, pictures, own, strict=True)
            ]

        monkeypatch.setattr(worldmodel, "_row", row)
        monkeypatch.setattr(worldmodel, "_answers", answers)

    return install


# ------------------------------------------------------------------------------------------------------------ contract


def test_the_same_seed_is_the_same_card_to_the_letter(chat):
    cards = [evaluate(chat, WORLDS[:2], CLOZES[:2], 5, seed) for seed in (7, 7, 8)]
    texts = [json.dumps(card, sort_keys=True, allow_nan=False) for card in cards]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2], "the seed does not matter"


def test_rows_keep_their_contract(chat):
    card = evaluate(chat, WORLDS, CLOZES, 5, 1)
    assert [(row["world"], row["cloze"]) for row in card["rows"]] == [(w, c) for w in WORLDS for c in CLOZES]
    assert card["split"] == "test"
    assert card["sampling"] == {"idle": 0.1, "balance": False}
    assert card["history"] == 0
    assert card["parameters"] == sum(p.numel() for p in chat.policy.model.parameters())
    for row in card["rows"]:
        assert len(row["outcomes"]) == row["n"]
        assert row["outcomes"].count("1") == pytest.approx(row["accuracy"] * row["n"])
        assert row.keys() == DECLARED
        pattern = named(row["cloze"])
        assert row["pattern"] == str(pattern)
        assert (row["n"], row["representation"], row["horizon"]) == (5, "grid", pattern.horizon)
        interval = wilson(round(row["accuracy"] * 5), 5)
        assert (row["ci_low"], row["ci_high"]) == (interval.low, interval.high)
        assert 1 <= len(row["examples"]) <= 5
        for example in row["examples"]:
            assert example.keys() == {"images", "question", "truth", "answer", "correct"}
            assert len(example["images"]) == len(pattern.images)
    json.dumps(card, allow_nan=False)
    assert len(summary(card).splitlines()) == 2 + len(card["rows"])


def test_floors_are_null_exactly_where_they_do_not_apply(chat):
    rows = {row["cloze"]: row for row in evaluate(chat, WORLDS[:1], CLOZES, 6, 1)["rows"]}
    applies = {
        name: {floor for floor, value in row["floors"].items() if value is not None} for name, row in rows.items()
    }
    assert applies == {
        "state_estimation": {"majority", "random", "shuffled_image"},
        "forward_dynamics": {"majority", "copy", "random", "shuffled_image"},
        "inverse_dynamics": {"majority", "random", "shuffled_image"},
        "policy": {"majority", "random", "shuffled_image"},
        "text_forward_dynamics": {"majority", "copy", "random"},
    }
    for row in rows.values():
        assert row["floors"].keys() == {"majority", "copy", "random", "shuffled_image"}
        for name, value in row["floors"].items():
            interval = row["floor_intervals"][name]
            assert (value is None) == (interval is None)
            assert value is None or interval[0] <= value <= interval[1]
    assert {name for name, row in rows.items() if row["effective"] is None} == {"state_estimation", "policy"}
    assert {row["input"] for row in rows.values() if not named(row["cloze"]).images} == {"text"}


# ------------------------------------------------------------------------------------------------------- known scores


def test_a_model_that_knows_the_truth_scores_one(chat, answering):
    answering(lambda sample, own: sample.answer if own else "")
    for row in evaluate(chat, WORLDS, CLOZES, 8, 1)["rows"]:
        what = f"{row['cloze']} in {row['world']}"
        assert row["accuracy"] == row["parsed"] == 1, what
        assert row["skill"] == 1 or max(v for v in row["floors"].values() if v is not None) == 1, what
        assert row["floors"]["shuffled_image"] in (0, None), f"{what}: shuffled images were the sample's own"
        assert set(row["field_f1"].values()) <= {1.0}
        assert all(example["correct"] for example in row["examples"])
        assert row["calibration"]["ece"] == pytest.approx(0.1), "all right, each with a probability of 0.9"
        assert [(b["accuracy"], b["n"]) for b in row["calibration"]["bins"]] == [(1.0, 8)]


def test_a_model_that_says_nothing_scores_zero(chat, answering):
    answering(lambda sample, own: "")
    for row in evaluate(chat, WORLDS, CLOZES, 8, 1)["rows"]:
        assert row["accuracy"] == row["parsed"] == row["ci_low"] == 0
        assert row["ci_high"] > 0
        assert set(row["field_f1"].values()) <= {0.0}
        assert row["calibration"]["ece"] == pytest.approx(0.9), "all wrong, each with a probability of 0.9"


def test_confidence_is_the_probability_of_the_whole_answer():
    assert worldmodel.confidence(Answer("up", NOTHING, np.log([0.5, 0.25]))) == pytest.approx(0.125)
    assert worldmodel.confidence(Answer("", NOTHING, np.zeros(0))) == 1


def test_terminations_say_how_often_yes_is_right(chat, answering):
    asked: list = []
    answering(lambda sample, own: asked.append((sample.name, sample.answer)) or sample.answer)
    rows = evaluate(chat, WORLDS[2:], ["termination", "state_estimation"], 20, 1)["rows"]
    said = [answer for name, answer in asked[:20] if name == "termination"]
    assert rows[0]["yes"] == said.count("yes") / 20
    assert 0 < rows[0]["yes"] < 1
    assert rows[1]["yes"] is None
    assert f", {rows[0]['yes']:.0%} yes" in summary({"rows": rows})


def test_a_model_that_ignores_the_image_equals_its_shuffled_floor(chat, answering):
    """It knows the truth whatever is shown: the floor is as high as the accuracy, and skill means nothing."""
    answering(lambda sample, own: sample.answer)
    for row in evaluate(chat, WORLDS[:1], CLOZES[:3], 8, 1)["rows"]:
        assert row["floors"]["shuffled_image"] == row["accuracy"] == 1
        assert row["skill"] is None, "no room above the floor: skill is undefined"


# ---------------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("cloze", CLOZES)
def test_samples_are_of_the_split_and_each_of_its_own_episode(world, cloze):
    for split in ("train", "test"):
        samples = draw_samples(world, cloze, named(cloze), 12, 3, split, "grid")
        assert len(samples) == 12
        assert len({sample.window.seed for sample in samples}) == 12, "two samples of one episode"
        for sample in samples:
            found = {simulator(world).split(snapshot) for snapshot in sample.window.snapshots}
            assert found == {split}, f"a {split} sample shows a layout of {found}"


def test_questions_depend_on_the_arguments_alone():
    ask = [
        ("sokoban-6x6", "inverse_dynamics", named("inverse_dynamics"), 6, seed, "test", "grid") for seed in (1, 1, 2)
    ]
    first, again, other = (draw_samples(*arguments) for arguments in ask)
    assert first == again
    assert first != other


def test_episodes_are_shared_and_none_is_left_out():
    episodes = worldmodel._episodes("frozenlake-4x4", 15, 4, "test")
    seeds = episode_seeds(4, "frozenlake-4x4", "evaluate-test", 90)
    expected = list(play("frozenlake-4x4", MixtureAgent(0.5), seeds, "test", worldmodel.EPISODE_STEPS))
    assert len(expected) > worldmodel.SIDE_BY_SIDE
    first = iter(episodes)
    assert [next(first) for _ in range(3)] == expected[:3]
    assert list(episodes) == expected, "what was taken before is missing, or comes twice"
    assert worldmodel._episodes("frozenlake-4x4", 15, 4, "test") is episodes


def test_a_world_that_cannot_be_played_is_refused_every_time(monkeypatch):
    def fail(*_):
        raise WorldError("too few layouts")

    monkeypatch.setattr(worldmodel, "play", fail)
    for _ in range(2):
        with pytest.raises(WorldError, match="too few layouts"):
            draw_samples("frozenlake-4x4", "policy", named("policy"), 3, 12345, "test", "grid")
    worldmodel._episodes.cache_clear()


def test_dynamics_are_asked_mostly_where_something_happens(chat, answering):
    answering(lambda sample, own: sample.answer)
    for row in evaluate(chat, WORLDS, ["forward_dynamics"], 60, 1)["rows"]:
        assert row["effective"] > 0.7, f"{row['world']}: {row['effective']:.0%} of transitions change anything"


def test_what_training_has_seen_is_counted_exactly(chat, answering, tmp_path):
    """Against a search through every transition of the shards, for a world small enough to repeat itself."""
    answering(lambda sample, own: sample.answer)
    world, cloze = "frozenlake-4x4", "text_forward_dynamics"
    gather = Collect(worlds=(world,), episodes=300, max_steps=12, split="test", shard_size=100)
    (folder,) = collect(gather, tmp_path, 0)
    trajectories = list(read_trajectories(folder))
    samples = draw_samples(world, cloze, named(cloze), 20, 1, "test", "grid")
    found = sum(
        any(
            t.actions[step] == sample.window.actions[0]
            and all(
                simulator(world).facts(ours) == simulator(world).facts(theirs)
                for ours, theirs in zip(sample.window.snapshots, t.snapshots[step : step + 2], strict=True)
            )
            for t in trajectories
            for step in range(len(t))
        )
        for sample in samples
    )
    assert 0 < found < 20, "the test cannot tell seen from unseen"
    (row,) = evaluate(chat, [world], [cloze], 20, 1, training_shards=[folder])["rows"]
    assert row["seen_in_training"] == found / 20
    (other,) = collect(Collect(worlds=("frozenlake-6x6",), episodes=20), tmp_path / "other", 0)
    (none,) = evaluate(chat, [world], [cloze], 20, 1, training_shards=[other])["rows"]
    assert none["seen_in_training"] == 0
    (unknown,) = evaluate(chat, [world], [cloze], 20, 1)["rows"]
    assert unknown["seen_in_training"] is None


def test_unknown_worlds_are_refused_before_anything_is_asked(chat, monkeypatch):
    monkeypatch.setattr(worldmodel, "_row", lambda *_: pytest.fail("a row was computed"))
    with pytest.raises(WorldError, match="sokoban-6x6"):
        evaluate(chat, ["sokoban-6x6", "sokoban-6x7"], ["policy"], 2, 1)


def test_every_named_cloze_can_be_measured(chat, answering):
    """In the world that determines all of them."""
    answering(lambda sample, own: sample.answer)
    rows = evaluate(chat, ["sokoban-6x6"], list(NAMED), 4, 1)["rows"]
    assert [row["accuracy"] for row in rows] == [1.0] * len(NAMED)


def test_constrained_answers_all_parse(chat):
    """Of a model with random weights, free answers hardly ever do."""
    free, constrained = (evaluate(chat, WORLDS[:2], CLOZES, 4, 1, constrained=only) for only in (False, True))
    assert (free["constrained"], constrained["constrained"]) == (False, True)
    assert [row["parsed"] for row in constrained["rows"]] == [1.0] * len(constrained["rows"])
    assert min(row["parsed"] for row in free["rows"]) < 0.5


# ----------------------------------------------------------------------------------------------------------- histories


@pytest.mark.parametrize(("cloze", "most"), [("state_estimation", 3), ("inverse_dynamics", 2), ("retrodiction", 0)])
def test_samples_have_any_history_that_training_could_have_shown(cloze, most):
    ask = ("sokoban-6x6", cloze, named(cloze), 60, 3, "test", "grid")
    samples = draw_samples(*ask, history=3)
    assert samples == draw_samples(*ask, history=3)
    assert {sample.pattern.history for sample in samples} == set(range(most + 1))
    assert all(sample.window.snapshots[: len(sample.pattern.images)] == sample.images for sample in samples if most)
    if not most:
        assert samples == draw_samples(*ask)


def test_the_card_of_a_model_with_a_history_asks_after_one(chat, answering):
    """Which the model's own folder says; rows keep the names and patterns of the clozes."""
    asked = []

    def truth(sample, shown):
        asked.append(sample.pattern.history)
        return sample.answer if shown else ""

    answering(truth)
    form = ClozeFormat("grid", False, WORLDS, CLOZES, history=2)
    remembering = Chat(Policy("small", chat.policy.model, chat.policy.processor, form))
    card = evaluate(remembering, ["sokoban-6x6"], ["forward_dynamics", "policy"], 12, 0)
    assert set(asked) == {0, 1, 2}
    assert card["history"] == 2
    for row, cloze in zip(card["rows"], ("forward_dynamics", "policy"), strict=True):
        assert (row["cloze"], row["pattern"], row["horizon"]) == (cloze, str(named(cloze)), 1)
        assert row["accuracy"] == 1.0
        assert row["floors"]["shuffled_image"] == 0.0
