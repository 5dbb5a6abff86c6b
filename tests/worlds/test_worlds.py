"""What every world must keep, on all registered worlds and a sample of the others; the quickstart's splits."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import worlds
from worlds import core
from worlds.board import BoardWorld
from worlds.core import SPLITS, Facts, WorldError, WorldSpec, split_of
from worlds.testing import CHECKS, BrokenContractError, check_world, random_states
from worlds.text import REPRESENTATIONS, read_actions, read_facts, write_actions, write_facts

IDS = worlds.registered()
QUICKSTART = ("sokoban-6x6", "frozenlake-6x6", "minigrid-rooms-6x6")
FAMILIES = ("minigrid/", "babyai/")

# One of each kind of environment, in one view or the other.
SAMPLE = (
    "minigrid/BlockedUnlockPickup-v0",
    "minigrid/DistShift1-v0/partial",
    "minigrid/DoorKey-6x6-v0",
    "minigrid/DoorKey-8x8-v0/partial",
    "minigrid/Dynamic-Obstacles-6x6-v0",
    "minigrid/Dynamic-Obstacles-Random-5x5-v0/partial",
    "minigrid/Empty-Random-5x5-v0",
    "minigrid/Fetch-5x5-N2-v0",
    "minigrid/GoToDoor-6x6-v0/partial",
    "minigrid/GoToObject-6x6-N2-v0",
    "minigrid/KeyCorridorS3R2-v0/partial",
    "minigrid/LavaGapS6-v0/partial",
    "minigrid/LockedRoom-v0/partial",
    "minigrid/MemoryS7-v0",
    "minigrid/MultiRoom-N2-S4-v0/partial",
    "minigrid/ObstructedMaze-1Dlhb-v0",
    "minigrid/Playground-v0/partial",
    "minigrid/PutNear-6x6-N2-v0",
    "minigrid/RedBlueDoors-6x6-v0",
    "minigrid/Unlock-v0/partial",
    "minigrid/UnlockPickup-v0",
    "babyai/GoToLocalS6N3-v0",
    "babyai/GoToSeqS5R2-v0/partial",
    "babyai/KeyInBox-v0/partial",
    "babyai/OpenDoorsOrderN2Debug-v0/partial",
    "babyai/PutNextS5N2Carrying-v0",
)

each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))


@pytest.fixture
def world(id):
    return worlds.make(id)


@each_check
@pytest.mark.parametrize("id", IDS)
def test_it_keeps_the_contract(id, check):
    check(lambda: worlds.make(id))


@pytest.mark.parametrize("id", SAMPLE)
def test_a_sample_of_the_families_keeps_the_contract(id):
    check_world(lambda: worlds.make(id))


@pytest.mark.slow
@pytest.mark.parametrize("id", [id for id in worlds.available() if id.startswith(FAMILIES)])
def test_all_of_the_families_keep_the_contract(id):
    check_world(lambda: worlds.make(id))


# ----------------------------------------------------------------------------------------------------- broken worlds


def broken(**changes):
    """A lake of which something is wrong."""

    def make():
        world = worlds.make("frozenlake-6x6")
        world.id = f"broken {'and '.join(changes)}"
        for name, value in changes.items():
            setattr(world, name, value)
        return world

    return make


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rules": "Walk to the goal. Go on. Do."}, "do not say what these actions do"),
        ({"steps_to_go": lambda snapshot: 3}, "a shorter way|do not fall|is reached|leaves"),
        ({"optimal_actions": lambda snapshot: (0,)}, "optimal|success"),
        ({"restore": lambda snapshot: None}, "brings back"),
        ({"belief": lambda seen, asked: Facts(frozenset())}, "belief"),
        ({"realise": lambda facts, like: None}, "realise"),
        ({"outcomes": lambda snapshot, action: ((0.5, snapshot),)}, "sum to 1"),
        ({"layout": lambda snapshot: snapshot["agent"]}, "the layout changes"),
        ({"render_states": lambda snapshots: np.zeros((len(snapshots), 48, 48, 3), np.uint8)}, "one image"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_checks_notice_what_is_wrong(changes, what):
    with pytest.raises((BrokenContractError, TypeError), match=what):
        check_world(broken(**changes))


# ------------------------------------------------------------------------------------------------------- determinism


def digest_of_rollouts() -> str:
    digest = hashlib.sha256()
    for id in (*IDS, "babyai/GoToLocalS6N3-v0", "minigrid/PutNear-6x6-N2-v0/partial"):
        world = worlds.make(id)
        digest.update(world.reset(seed=5, options={"split": "val"})[0].tobytes())
        for action in np.random.default_rng(5).integers(len(world.actions), size=50):
            digest.update(world.step(action)[0].tobytes())
            state = world.state()
            digest.update(json.dumps([state.snapshot, world.key(state.snapshot)], sort_keys=True).encode())
            digest.update(write_facts(state.facts, world.schema, "natural").encode())
            digest.update(str(world.expert_actions(state.snapshot)).encode())
    return digest.hexdigest()


def test_processes_agree_whatever_their_hash_seed():
    digests = set()
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        result = subprocess.run(
            [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(result.stdout.strip())
    assert len(digests) == 1


# -------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("id", QUICKSTART)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_no_text_makes_the_parser_raise(world, representation):
    world.reset(seed=0)
    truth = write_facts(world.state().facts, world.schema, representation)
    junk = st.text() | st.text(alphabet='0123456789 ,;:.[]{}"#_GO@agentwll\n', max_size=300)
    edits = st.builds(
        lambda start, length, put: truth[:start] + put + truth[start + length :],
        st.integers(0, len(truth)),
        st.integers(0, 5),
        st.text(alphabet='0123456789 ,;"[]{}agentwall\n', max_size=5),
    )

    @settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(junk | edits)
    def check(text):
        facts = read_facts(text, world.schema, representation)
        assert facts is None or isinstance(facts, Facts)
        if facts is not None:  # whatever parses is a state that can be written
            assert read_facts(write_facts(facts, world.schema, representation), world.schema, representation) == facts
        actions = read_actions(text, world.actions)
        assert actions is None or all(0 <= action < len(world.actions) for action in actions)

    check()


def test_actions_are_written_as_words():
    assert write_actions((0, 2), ("up", "down", "left")) == "up, left"


# ------------------------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize("id", QUICKSTART)
def test_no_layout_is_in_two_splits(world):
    """20,000 seeds over the three quickstart worlds."""
    keys = {split: set() for split in SPLITS}
    shares = dict.fromkeys(SPLITS, 0)
    for seed in range(4_667):
        world.reset(seed=seed)
        key = world.key(world.state().snapshot)
        keys[split_of(key)].add(key)
        shares[split_of(key)] += 1
    assert shares["train"] > 7 * shares["val"] / 2
    for split in SPLITS:
        for seed in range(667):
            world.reset(seed=seed, options={"split": split})
            snapshot = world.state().snapshot
            assert world.split(snapshot) == split
            keys[split].add(world.key(snapshot))
    for one, two in itertools.combinations(SPLITS, 2):
        assert keys[one].isdisjoint(keys[two])
    assert len(set().union(*keys.values())) > 1000


@pytest.mark.parametrize("id", IDS)
def test_registered_worlds_have_layouts_enough(world):
    assert world.layouts() >= worlds.MIN_LAYOUTS


@pytest.mark.parametrize("id", [id for id in IDS if isinstance(w := worlds.make(id), BoardWorld) and w.deterministic])
def test_solvers_agree_with_trying_everything(world):
    """What a board world without a solver of its own falls back on."""
    for state in random_states(world, 12):
        assert BoardWorld.steps_to_go(world, state.snapshot) == world.steps_to_go(state.snapshot)
        assert BoardWorld.optimal_actions(world, state.snapshot) == world.optimal_actions(state.snapshot)


def test_unknown_worlds_name_the_nearest():
    with pytest.raises(WorldError, match="did you mean 'sokoban-6x6'"):
        worlds.make("sokoban-6x7")


@pytest.mark.parametrize("id", ["sokoban-6x6", "minigrid-rooms-6x6", "babyai/GoToRedBallGrey-v0/partial"])
def test_a_world_in_other_sizes_is_the_same_world(id):
    """Episodes, splits and texts stay; only the pictures grow, to what was asked for."""
    plain, large = worlds.make(id), worlds.make(f"{id}@28")
    for seed in range(3):
        for world in (plain, large):
            world.reset(seed=seed, options={"split": "val"})
        assert large.state() == plain.state()
        assert large.render().shape == large.observation_space.shape
        assert [size * 8 for size in large.render().shape[:2]] == [size * 28 for size in plain.render().shape[:2]]
    assert (large.rules, large.schema) == (plain.rules, plain.schema)
    check_world(lambda: worlds.make(f"{id}@28"))


@pytest.mark.parametrize(
    ("id", "complaint"),
    [
        ("sokoban-6x6@", "size of its tiles in px"),
        ("sokoban-6x6@big", "'big'"),
        ("sokoban-6x6@4", "at least 8 px"),
        ("sokoban-6x6@9999", "at most 256"),
        ("sokoban-6x7@28", "did you mean 'sokoban-6x6'"),
    ],
)
def test_sizes_that_are_none_are_refused(id, complaint):
    with pytest.raises(WorldError, match=complaint):
        worlds.make(id)


def test_worlds_of_one_size_say_so(monkeypatch):
    monkeypatch.setattr(core, "_REGISTRY", {"pole": WorldSpec("pole", "worlds.adapters:GymWorld", {})})
    with pytest.raises(WorldError, match="pole is drawn in one size only"):
        worlds.make("pole@28")
    with pytest.raises(WorldError, match="choose another"):
        worlds.register("pole@28", "worlds.adapters:GymWorld")


if __name__ == "__main__":
    print(digest_of_rollouts())
