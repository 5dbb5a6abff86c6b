"""Other people's environments: known by their pictures, restored by playing again, asked what pictures can tell."""

import re

import gymnasium
import numpy as np
import pytest

import worlds
import worlds.core
from vagen.cloze.build import build, check_answerable
from vagen.cloze.grammar import NAMED, ClozeError, named
from vagen.cloze.sample import simulator, window_at
from vagen.cloze.scoring import score
from vagen.rollout.agents import RandomAgent
from vagen.rollout.episodes import play
from worlds import WorldError
from worlds.core import WorldSpec

POLE, LAKE, TAXI = "pole-of-mine", "lake-of-mine", "taxi-of-mine"
POLE_SETTINGS = {"env_id": "CartPole-v1", "actions": ("push left", "push right"), "rules": "Balance.", "size": 48}
LAKE_SETTINGS = {
    "env_id": "FrozenLake-v1",
    "actions": ("left", "down", "right", "up"),
    "rules": "Walk.",
    "size": 32,
    "is_slippery": False,
    "map_name": "4x4",
}
TAXI_SETTINGS = {
    "env_id": max(id for id in gymnasium.registry if id.startswith("Taxi-")),
    "actions": ("south", "north", "east", "west", "pick up", "drop"),
    "rules": "Drive.",
    "size": 64,
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for id, settings in ((POLE, POLE_SETTINGS), (LAKE, LAKE_SETTINGS), (TAXI, TAXI_SETTINGS)):
        monkeypatch.setitem(worlds.core._REGISTRY, id, WorldSpec(id, "worlds.adapters:GymWorld", settings))
    yield
    simulator.cache_clear()


@pytest.fixture
def pole():
    return worlds.make(POLE)


def test_episodes_are_those_of_the_environment(pole):
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    pole.reset(seed=3)
    env.reset(seed=pole.state().snapshot["seed"])
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = int(rng.integers(2))
        _, reward, terminated, truncated, _ = env.step(action)
        frame, *outcome, info = pole.step(action)
        assert outcome == [reward, terminated, truncated]
        assert frame.shape == pole.observation_space.shape == (48, 48, 3)
        assert info == {"success": False}
        if terminated:
            break
    assert terminated, "the pole never fell, so the end was not compared"
    after = pole.step(0)
    assert np.array_equal(after[0], frame)
    assert after[1:3] == (0.0, True)


def test_states_are_restored_by_playing_again(pole):
    pole.reset(seed=1)
    states, frames = [pole.state()], [pole.render()]
    for action in (0, 1, 1, 0, 0, 1):
        frames.append(pole.step(action)[0])
        states.append(pole.state())
    other = worlds.make(POLE)
    for order in (range(7), range(6, -1, -1), (3, 0, 6, 2)):
        for t in order:
            other.restore(states[t].snapshot)
            assert other.state() == states[t]
            assert np.array_equal(other.render(), frames[t])
    assert np.array_equal(other.render_states([state.snapshot for state in states]), frames)
    assert other.state() == states[2], "drawing changed the present state"
    other.restore(states[2].snapshot)
    other.step(1)
    assert other.state() == states[3]


def test_an_environment_that_does_not_repeat_itself_is_noticed(pole):
    pole.reset(seed=1)
    for _ in range(3):
        pole.step(0)
    snapshot = pole.state().snapshot
    with pytest.raises(WorldError, match="does not repeat itself"):
        worlds.make(POLE).restore({**snapshot, "actions": [1, 1, 1]})


def test_layouts_are_split_and_too_few_are_refused(pole):
    for split in worlds.SPLITS:
        pole.reset(seed=0, options={"split": split})
        assert pole.split(pole.state().snapshot) == split
    wanted = next(split for split in worlds.SPLITS if split != _only_split())
    with pytest.raises(WorldError, match=f"no first picture of split '{wanted}'.*too few"):
        worlds.make(LAKE).reset(seed=0, options={"split": wanted})


def test_what_no_picture_tells_is_not_held_against_an_answer(pole):
    """A push shows in the picture one step later: after one step, both pushes look alike, and both are right."""
    [trajectory] = play(POLE, RandomAgent(), range(1), "train", 4)
    sample = build("inverse_dynamics", named("inverse_dynamics"), window_at(trajectory, 0, 1), "json")
    assert all(score(sample, word).correct for word in pole.actions)


def _only_split() -> str:
    lake = worlds.make(LAKE)
    lake.reset(seed=0)
    return lake.split(lake.state().snapshot)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": "CartPole-v77"}, "cannot make CartPole-v77"),
        ({"env_id": "Pendulum-v1"}, "Pendulum-v1 has actions Box"),
        ({"actions": ("one", "two", "three")}, "3 words"),
    ],
)
def test_what_cannot_be_a_world_is_refused(changes, message):
    from worlds.adapters import GymWorld

    with pytest.raises(WorldError, match=message):
        GymWorld(id="x", **{**POLE_SETTINGS, **changes})


def test_only_what_pictures_tell_is_asked(pole):
    def refusal(pattern: str) -> str:
        try:
            check_answerable(pattern, named(pattern), pole)
        except ClozeError as error:
            return str(error)
        return ""

    for name, pattern in NAMED.items():
        reason = refusal(pattern)
        assert not reason or re.search(r"slot \S+: .*(is not known|no solver|seen in part)", reason), reason
        asks_states = any(slot.startswith("s") for slot in pattern.split())
        assert not asks_states or "is not known, only its pictures" in reason, f"{name} is asked"
    asked = {name for name, pattern in NAMED.items() if not refusal(pattern)}
    assert {"inverse_dynamics", "plan_inference", "reward", "termination", "next_observation"} <= asked


@pytest.mark.parametrize("cloze", ["inverse_dynamics", "plan_inference", "reward", "termination", "next_observation"])
@pytest.mark.parametrize("id", [TAXI, LAKE])
def test_the_truth_is_right_and_a_lie_is_wrong(id, cloze):
    pattern = named(cloze)
    trajectories = list(play(id, RandomAgent(), range(3), _only_split() if id == LAKE else "train", 8))
    wrong = right = 0
    for trajectory in trajectories:
        for start in range(len(trajectory) - pattern.length + 1):
            try:
                sample = build(cloze, pattern, window_at(trajectory, start, pattern.length), "json")
            except ClozeError:
                continue
            right += 1
            assert score(sample, sample.answer).correct
            for lie in ("", "nonsense", "push up", "7.5", "Z"):
                assert not score(sample, lie).correct
            if cloze == "inverse_dynamics":
                wrong += sum(not score(sample, word).correct for word in simulator(id).actions)
    assert right > 0
    if cloze == "inverse_dynamics":
        assert wrong > 0, "every action counts as right"


def test_provenance_names_the_environments_package(pole):
    assert "gymnasium" in pole.packages()
