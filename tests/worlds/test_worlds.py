"""What every registered world must keep, and the splits of the quickstart worlds."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import worlds
from worlds.board import BoardWorld
from worlds.core import SPLITS, Facts, State, Thing, World, WorldError, split_of
from worlds.minigrid import MiniGrid
from worlds.text import REPRESENTATIONS, read_actions, read_facts, write_actions, write_facts

IDS = worlds.registered()
QUICKSTART = ("sokoban-6x6", "frozenlake-6x6", "minigrid-rooms-6x6")

on_every_world = pytest.mark.parametrize("id", IDS)


@pytest.fixture
def world(id):
    return worlds.make(id)


def random_states(world: World, count: int, seed: int = 0) -> list[State]:
    """States of random episodes, new levels included."""
    rng = np.random.default_rng(seed)
    states = []
    while len(states) < count:
        world.reset(seed=int(rng.integers(2**31)))
        states.append(world.state())
        for _ in range(9):
            world.step(rng.integers(len(world.actions)))
            states.append(world.state())
    return states[:count]


def rollout(world: World, actions) -> list:
    """Everything that can be compared after each action."""
    results = []
    for action in actions:
        frame, reward, terminated, truncated, info = world.step(action)
        state = world.state()
        results.append((frame.tobytes(), reward, terminated, truncated, info, state.snapshot, state.facts))
    return results


# --------------------------------------------------------------------------------------------------------- gymnasium


@on_every_world
@pytest.mark.filterwarnings("ignore:.*")
def test_gymnasium_accepts_it(world):
    check_env(world)


@on_every_world
def test_it_describes_itself(world, id):
    assert world.id == id
    assert world.action_space.n == len(world.actions) == len(set(world.actions))
    assert 3 <= world.rules.count(".") <= 8
    assert all(action in world.rules.lower() for action in world.actions)
    frame, info = world.reset(seed=0)
    assert frame.shape == world.observation_space.shape
    assert frame.shape[:2] == (8 * world.schema.height, 8 * world.schema.width)
    assert info == {"success": False}


@on_every_world
def test_actions_may_be_any_integers_in_range(world):
    world.reset(seed=0)
    for action in (0, np.int64(0), np.uint8(0), world.action_space.sample()):
        world.step(action)
    for action in (-1, len(world.actions)):
        with pytest.raises(WorldError, match=f"action {action} is not one of 0 to"):
            world.step(action)


@on_every_world
def test_episodes_are_truncated(world):
    world.reset(seed=0)
    rng = np.random.default_rng(0)
    optimal = world.optimal_actions(world.state().snapshot)
    world.restore({**world.state().snapshot, "steps": world.max_steps - 2})
    wait = next(action for action in range(len(world.actions)) if action not in optimal)
    assert not world.step(wait)[3]
    if not world.step(rng.integers(len(world.actions)))[2]:
        assert world.step(wait)[3]


# ------------------------------------------------------------------------------------------------------- determinism


@on_every_world
def test_a_seed_decides_everything(id):
    one, two = worlds.make(id), worlds.make(id)
    two.reset(seed=99)  # what happened before must not matter
    actions = np.random.default_rng(0).integers(len(one.actions), size=30)
    for seed in range(3):
        np.testing.assert_array_equal(one.reset(seed=seed)[0], two.reset(seed=seed)[0])
        assert rollout(one, actions) == rollout(two, actions)
    assert one.reset()[0].tobytes() == two.reset()[0].tobytes()  # without a seed the stream goes on


def digest_of_rollouts() -> str:
    digest = hashlib.sha256()
    for id in IDS:
        world = worlds.make(id)
        digest.update(world.reset(seed=5, options={"split": "val"})[0].tobytes())
        for action in np.random.default_rng(5).integers(len(world.actions), size=50):
            digest.update(world.step(action)[0].tobytes())
            state = world.state()
            digest.update(json.dumps([state.snapshot, world.key(state.snapshot)], sort_keys=True).encode())
            digest.update(write_facts(state.facts, world.schema, "natural").encode())
            digest.update(str(world.optimal_actions(state.snapshot)).encode())
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


# --------------------------------------------------------------------------------------------------------- snapshots


@on_every_world
def test_snapshots_survive_json(world):
    for state in random_states(world, 50):
        copy = json.loads(json.dumps(state.snapshot))
        assert copy == state.snapshot
        assert world.facts(copy) == state.facts
        world.restore(copy)
        assert world.state() == state


@on_every_world
def test_restoring_replays_what_happened(id):
    world, fresh = worlds.make(id), worlds.make(id)
    rng = np.random.default_rng(1)
    for seed in range(8):
        world.reset(seed=seed)
        for _ in range(rng.integers(12)):
            world.step(rng.integers(len(world.actions)))
        snapshot = world.state().snapshot
        actions = rng.integers(len(world.actions), size=12)
        happened = rollout(world, actions)
        world.restore(snapshot)
        assert rollout(world, actions) == happened
        fresh.restore(json.loads(json.dumps(snapshot)))  # an instance that was never reset
        assert rollout(fresh, actions) == happened


@on_every_world
def test_many_states_are_rendered_as_one_is(world):
    snapshots = [state.snapshot for state in random_states(world, 40)]
    images = world.render_states(snapshots)
    assert images.dtype == np.uint8
    now = world.state()
    for snapshot, image in zip(snapshots, images, strict=True):
        world.restore(snapshot)
        np.testing.assert_array_equal(world.render(), image)
    world.restore(now.snapshot)
    world.render_states(snapshots[:3])
    assert world.state() == now


@on_every_world
def test_images_and_facts_say_the_same(world):
    """Different facts look different, and equal facts equal."""
    states = random_states(world, 120)
    images = world.render_states([state.snapshot for state in states])
    facts_by_image = {}
    for state, image in zip(states, images, strict=True):
        assert facts_by_image.setdefault(image.tobytes(), state.facts) == state.facts
    assert len(facts_by_image) == len({state.facts for state in states})


@on_every_world
def test_fully_visible_worlds_change_as_their_facts_do(world):
    if not (world.fully_visible and world.deterministic):
        pytest.skip("facts do not decide")
    for state in random_states(world, 20):
        later = {**state.snapshot, "steps": 0}
        for action in range(len(world.actions)):
            outcomes = []
            for snapshot in (state.snapshot, later):
                world.restore(snapshot)
                terminated = world.step(action)[2]
                outcomes.append((world.state().facts, terminated))
            assert outcomes[0] == outcomes[1]


@on_every_world
def test_terminated_episodes_stay_as_they_are(world):
    for seed in range(3):
        world.reset(seed=seed)
        while not world.step(world.optimal_actions(world.state().snapshot)[0])[2]:
            pass
        end = world.state()
        assert world.optimal_actions(end.snapshot) == ()
        for action in range(len(world.actions)):
            frame, reward, terminated, _, info = world.step(action)
            assert (reward, terminated, info, world.state()) == (0.0, True, {"success": True}, end)
            np.testing.assert_array_equal(frame, world.render())


# -------------------------------------------------------------------------------------------------------------- text


@on_every_world
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_text_says_exactly_the_facts(world, representation):
    for state in random_states(world, 60):
        text = write_facts(state.facts, world.schema, representation)
        assert read_facts(text, world.schema, representation) == state.facts


def corruptions(facts: Facts, world: World):
    """Every change of one thing, as (things taken away, things put there): removal, detail, move, addition."""
    cells = list(itertools.product(range(world.schema.width), range(world.schema.height)))
    for thing in sorted(facts.things):
        yield {thing}, set()
        for detail in world.schema.kinds[thing.kind]:
            yield {thing}, {Thing(thing.kind, thing.x, thing.y, detail)}
        for x, y in cells:
            yield {thing}, {Thing(thing.kind, x, y, thing.detail)}
    for kind, details in world.schema.kinds.items():
        for detail, (x, y) in itertools.product(details, cells):
            yield set(), {Thing(kind, x, y, detail)}


def is_representable(facts: Facts, world: World) -> bool:
    cells: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for thing in facts.things:
        cells.setdefault((thing.x, thing.y), []).append((thing.kind, thing.detail))
    return all(tuple(sorted(content)) in world.schema.glyphs for content in cells.values())


@on_every_world
def test_no_corrupted_state_passes_for_the_truth(world):
    """All corruptions of a 6 x 6 state; of larger ones, as many by chance."""
    rng = np.random.default_rng(0)
    [*_, state] = random_states(world, 6)
    truth = {
        representation: write_facts(state.facts, world.schema, representation) for representation in REPRESENTATIONS
    }
    changes = list(corruptions(state.facts, world))
    for i in rng.permutation(len(changes))[:3000]:
        removed, added = changes[i]
        corrupted = Facts(state.facts.things - removed | added)
        if corrupted == state.facts:
            continue
        if not is_representable(corrupted, world):
            for representation in ("natural", "json"):  # the grid has no word for such a cell
                text = write_facts(corrupted, world.schema, representation)
                assert read_facts(text, world.schema, representation) is None
            continue
        for representation in REPRESENTATIONS:
            text = write_facts(corrupted, world.schema, representation)
            assert text != truth[representation]
            assert read_facts(text, world.schema, representation) == (corrupted if text else None)


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


@on_every_world
def test_actions_round_trip(world):
    for actions in itertools.product(range(len(world.actions)), repeat=3):
        assert read_actions(write_actions(actions, world.actions), world.actions) == actions


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


@on_every_world
def test_the_layout_is_static(world):
    world.reset(seed=3, options={"split": "test"})
    key = world.key(world.state().snapshot)
    for _ in range(20):
        world.step(world.action_space.sample())
        assert world.key(world.state().snapshot) == key
        assert world.split(world.state().snapshot) == "test"


def test_a_world_with_too_few_layouts_says_so():
    world = MiniGrid("empty", "MiniGrid-Empty-5x5-v0")  # has a single layout
    world.reset(seed=0)
    only = world.split(world.state().snapshot)
    other = next(split for split in SPLITS if split != only)
    with pytest.raises(WorldError, match=f"world empty: no layout of split '{other}' in 1000 tries; it has too few"):
        world.reset(seed=0, options={"split": other})
    with pytest.raises(WorldError, match="unknown split 'dev'"):
        world.reset(seed=0, options={"split": "dev"})


# ------------------------------------------------------------------------------------------------------------ optima


def fewest_steps(world: World, snapshot) -> int | None:
    """Steps to success by searching through ``step`` and ``restore``, told apart by facts alone."""
    layer, seen = [snapshot], {world.facts(snapshot)}
    for depth in itertools.count(1):
        following = []
        for state, action in itertools.product(layer, range(len(world.actions))):
            world.restore(state)
            _, _, terminated, _, info = world.step(action)
            if info["success"]:
                return depth
            after = world.state()
            if not terminated and after.facts not in seen:
                seen.add(after.facts)
                following.append(after.snapshot)
        if not following:
            return None
        layer = following


@on_every_world
def test_optimal_actions_lead_to_success_in_the_fewest_steps(world):
    rng = np.random.default_rng(0)
    for seed in range(2):
        world.reset(seed=seed)
        start = world.state().snapshot
        fewest = fewest_steps(world, start)
        world.restore(start)
        terminated, steps = False, 0
        while not terminated:
            optimal = world.optimal_actions(world.state().snapshot)
            assert optimal
            assert list(optimal) == sorted(set(optimal))
            _, _, terminated, _, info = world.step(rng.choice(optimal))
            steps += 1
        assert info["success"]
        assert steps == fewest


@pytest.mark.parametrize("id", QUICKSTART)
def test_optimal_actions_are_all_of_them(world):
    for seed in range(4):
        world.reset(seed=seed)
        start = world.state().snapshot
        fewest = fewest_steps(world, start)
        assert fewest is not None
        expected = []
        for action in range(len(world.actions)):
            world.restore(start)
            _, _, terminated, _, info = world.step(action)
            left = 0 if info["success"] else None if terminated else fewest_steps(world, world.state().snapshot)
            if left == fewest - 1:
                expected.append(action)
        assert world.optimal_actions(start) == tuple(expected)


@on_every_world
def test_steps_to_go_fall_by_one_along_optimal_actions(world):
    """With ``test_optimal_actions_…``, which counts the steps of such ways, that makes every number exact."""
    rng = np.random.default_rng(0)
    for seed in range(3):
        world.reset(seed=seed)
        terminated, expected = False, world.steps_to_go(world.state().snapshot)
        while not terminated:
            snapshot = world.state().snapshot
            assert world.steps_to_go(snapshot) == expected
            _, _, terminated, _, _ = world.step(rng.choice(world.optimal_actions(snapshot)))
            expected -= 1
        assert expected == 0
        assert world.steps_to_go(world.state().snapshot) == 0


@on_every_world
def test_steps_to_go_and_optimal_actions_know_the_same(world):
    for state in random_states(world, 60):
        left = world.steps_to_go(state.snapshot)
        assert bool(world.optimal_actions(state.snapshot)) == (left is not None and left > 0), state.snapshot


@pytest.mark.parametrize("id", [id for id in IDS if isinstance(worlds.make(id), BoardWorld)])
def test_solvers_agree_with_trying_everything(world):
    """What a board world without a solver of its own falls back on."""
    for state in random_states(world, 12):
        assert BoardWorld.steps_to_go(world, state.snapshot) == world.steps_to_go(state.snapshot)
        assert BoardWorld.optimal_actions(world, state.snapshot) == world.optimal_actions(state.snapshot)


# -------------------------------------------------------------------------------------------------- imagined states


@on_every_world
def test_realised_facts_show_themselves_and_go_on_as_the_state_does(world):
    """Seen again after its facts were all that was kept of it, a fully visible state has the same futures."""
    rng = np.random.default_rng(0)
    states = random_states(world, 40)
    for state, other in zip(states, [*states[1:], states[0]], strict=True):
        realised = world.realise(state.facts, like=other.snapshot)
        assert realised is not None
        assert world.facts(realised) == state.facts
        if world.fully_visible and not world.inventory(state.snapshot) and world.deterministic:
            action = rng.integers(len(world.actions))
            outcomes = []
            for snapshot in (state.snapshot, realised):
                world.restore(snapshot)
                _, _, terminated, _, info = world.step(action)
                outcomes.append((terminated, info, world.state().facts))
            assert outcomes[0] == outcomes[1]


@on_every_world
def test_facts_that_cannot_be_are_not_realised(world):
    state = random_states(world, 1)[0]
    (agent,) = state.facts.of_kind("agent")
    nobody = Facts(state.facts.things - {agent})
    assert world.realise(nobody, like=state.snapshot) is None
    assert world.realise(Facts(nobody.things | two_places(world, agent)), like=state.snapshot) is None
    outside = {replace(agent, x=world.schema.width)}
    assert world.realise(Facts(nobody.things | outside), like=state.snapshot) is None
    assert world.realise(Facts(state.facts.things | {Thing("dragon", 0, 0)}), like=state.snapshot) is None


def two_places(world: World, agent: Thing) -> set[Thing]:
    """The agent twice."""
    return {replace(agent, x=x) for x in (agent.x, (agent.x + 1) % world.schema.width)}


@on_every_world
def test_outcomes_are_what_steps_lead_to(world):
    for state in random_states(world, 20):
        for action in range(len(world.actions)):
            outcomes = world.outcomes(state.snapshot, action)
            assert sum(chance for chance, _ in outcomes) == pytest.approx(1)
            world.restore(state.snapshot)
            world.step(action)
            after = world.state().facts
            assert after in [world.facts(snapshot) for _, snapshot in outcomes]
            assert world.foreseeable(state.snapshot, action) == (len(outcomes) == 1)


def test_unknown_worlds_name_the_nearest():
    with pytest.raises(WorldError, match="did you mean 'sokoban-6x6'"):
        worlds.make("sokoban-6x7")


if __name__ == "__main__":
    print(digest_of_rollouts())
