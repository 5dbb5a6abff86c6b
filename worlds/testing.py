"""Checks that a world keeps the contract of ``worlds.core``; for ours and for anybody's.

    from worlds.testing import check_world

    def test_my_world():
        check_world(lambda: MyWorld("my-world"))

Each check takes a function that makes a new world, and raises :class:`BrokenContractError` with what is wrong. A check
asks only what the world claims: shortest ways only where it has a solver, for instance.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import check_env

from worlds.core import MIN_LAYOUTS, SPLITS, Facts, Snapshot, State, Thing, World, WorldError, split_of
from worlds.text import REPRESENTATIONS, read_actions, read_facts, write_actions, write_facts

Make = Callable[[], World]

SEARCHED_STATES = 1500  # how far shortest ways are searched for by hand
CORRUPTED_CELLS = 60_000  # how many cells the checks of corrupted states may write


class BrokenContractError(AssertionError):
    """A world does not do what ``worlds.core`` says it must."""


def check_world(make: Make) -> None:
    """Run every check.

    Args:
        make: makes a new world; called several times, since equal worlds must behave equally.

    Raises:
        BrokenContractError: the message says what is wrong.
    """
    for check in CHECKS:
        check(make)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise BrokenContractError(message)


def random_states(world: World, count: int, seed: int = 0) -> list[State]:
    """States of random episodes, new levels included; none after an episode's end."""
    rng = np.random.default_rng(seed)
    states: list[State] = []
    while len(states) < count:
        world.reset(seed=int(rng.integers(2**31)))
        states.append(world.state())
        for _ in range(9):
            _, _, terminated, _, _ = world.step(rng.integers(len(world.actions)))
            if terminated:
                break
            states.append(world.state())
    return states[:count]


def rollout(world: World, actions: Any) -> list[Any]:
    """Everything that can be compared after each action."""
    results = []
    for action in actions:
        frame, reward, terminated, truncated, info = world.step(action)
        state = world.state()
        results.append((frame.tobytes(), reward, terminated, truncated, info, state.snapshot, state.facts))
    return results


# --------------------------------------------------------------------------------------------------------- gymnasium


def check_gymnasium_accepts_it(make: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(make())


def check_it_describes_itself(make: Make) -> None:
    world = make()
    count = getattr(world.action_space, "n", None)
    _require(count == len(world.actions) == len(set(world.actions)), "one word for each action, all different")
    _require(3 <= world.rules.count(".") <= 9, "the rules are three to nine sentences")
    missing = [action for action in world.actions if action not in world.rules.lower()]
    _require(not missing, f"the rules do not say what these actions do: {missing}")
    frame, info = world.reset(seed=0)
    _require(frame.shape == world.observation_space.shape, "frames have the shape of the observation space")
    _require(frame.dtype == np.uint8 and frame.ndim == 3, "frames are (H, W, 3) bytes")
    _require(info == {"success": False}, "an episode begins without success, and info says so")
    _require(world.max_steps >= 1, "an episode has at least one step")
    snapshot = world.state().snapshot
    for said in (world.mission(snapshot), world.inventory(snapshot)):
        _require(isinstance(said, str) and "\n" not in said, "mission and inventory are one line of text")


def check_actions_may_be_any_integers_in_range(make: Make) -> None:
    world = make()
    world.reset(seed=0)
    for action in (0, np.int64(0), np.uint8(0), world.action_space.sample()):
        world.step(action)  # pyright: ignore[reportArgumentType]
    for wrong in (-1, len(world.actions)):
        message = _refusal(lambda wrong=wrong: world.step(np.int64(wrong)))
        _require(f"action {wrong} is not one of 0 to" in message, f"action {wrong} is refused with a WorldError")


def check_episodes_are_truncated(make: Make) -> None:
    world = make()
    rng = np.random.default_rng(0)
    for seed in range(2):
        world.reset(seed=seed)
        for steps in range(1, world.max_steps + 2):
            _, _, terminated, truncated, _ = world.step(rng.integers(len(world.actions)))
            if terminated:
                break
            expected = steps >= world.max_steps
            _require(truncated == expected, f"step {steps} of {world.max_steps}: truncated {truncated}")


# ------------------------------------------------------------------------------------------------------- determinism


def check_a_seed_decides_everything(make: Make) -> None:
    one, two = make(), make()
    two.reset(seed=99)  # what happened before must not matter
    actions = np.random.default_rng(0).integers(len(one.actions), size=30)
    for seed in range(3):
        same = np.array_equal(one.reset(seed=seed)[0], two.reset(seed=seed)[0])
        _require(same and rollout(one, actions) == rollout(two, actions), f"seed {seed} gives two different episodes")
    _require(np.array_equal(one.reset()[0], two.reset()[0]), "without a seed, the stream of episodes goes on")


def check_snapshots_survive_json(make: Make) -> None:
    world = make()
    for state in random_states(world, 30):
        copy = json.loads(json.dumps(state.snapshot))
        _require(copy == state.snapshot, "a snapshot is plain JSON")
        _require(world.facts(copy) == state.facts, "facts(snapshot) are those of the state")
        world.restore(copy)
        _require(world.state() == state, "restoring a snapshot brings back its state")


def check_restored_states_go_on_as_before(make: Make) -> None:
    world, fresh = make(), make()
    rng = np.random.default_rng(1)
    for seed in range(5):
        world.reset(seed=seed)
        for action in rng.integers(len(world.actions), size=int(rng.integers(25))):
            world.step(action)
        snapshot = world.state().snapshot
        actions = rng.integers(len(world.actions), size=12)
        happened = rollout(world, actions)
        world.restore(snapshot)
        _require(rollout(world, actions) == happened, "a restored state repeats what happened after it")
        fresh.restore(json.loads(json.dumps(snapshot)))  # an instance that was never reset
        _require(rollout(fresh, actions) == happened, "a world that was never reset repeats it as well")


def check_terminated_episodes_stay_as_they_are(make: Make) -> None:
    world = make()
    for seed in range(3):
        _, terminated, info = _episode(world, seed)
        if not terminated:
            continue
        end = world.state()
        if world.has_solver:
            _require(world.optimal_actions(end.snapshot) == (), "no action is optimal when the episode is over")
        for action in range(len(world.actions)):
            frame, reward, terminated, _, again = world.step(np.int64(action))
            unchanged = (reward, terminated, again, world.state()) == (0.0, True, info, end)
            _require(unchanged, "a terminated episode stays as it is, and pays nothing")
            _require(np.array_equal(frame, world.render()), "a terminated episode shows its last state")


def _episode(world: World, seed: int, steps: int = 300) -> tuple[list[State], bool, dict[str, Any]]:
    """Play the expert, or at random where there is none: the states before each step, the end and its ``info``."""
    rng = np.random.default_rng(seed)
    _, info = world.reset(seed=seed)
    states: list[State] = []
    for _ in range(steps):
        states.append(world.state())
        best = world.expert_actions(states[-1].snapshot)
        _, _, terminated, truncated, info = world.step(rng.choice(best or range(len(world.actions))))
        if terminated or truncated:
            return states, terminated, info
    return states, False, info


# ------------------------------------------------------------------------------------------------------------ images


def check_many_states_are_rendered_as_one_is(make: Make) -> None:
    world = make()
    snapshots = [state.snapshot for state in random_states(world, 30)]
    images = world.render_states(snapshots)
    _require(images.dtype == np.uint8, "images are bytes")
    now = world.state()
    for snapshot, image in zip(snapshots, images, strict=True):
        world.restore(snapshot)
        _require(np.array_equal(world.render(), image), "render_states shows what render shows")
    world.restore(now.snapshot)
    world.render_states(snapshots[:3])
    _require(world.state() == now, "render_states leaves the present state alone")


def check_images_and_facts_say_the_same(make: Make) -> None:
    world = make()
    states = random_states(world, 100)
    facts_of: dict[bytes, Facts] = {}
    for state, image in zip(states, world.render_states([state.snapshot for state in states]), strict=True):
        _require(facts_of.setdefault(image.tobytes(), state.facts) == state.facts, "one image, two different facts")
    if world.facts_tell_all:
        _require(len(facts_of) == len({state.facts for state in states}), "the same facts, two different images")


# -------------------------------------------------------------------------------------------------------------- text


def check_text_says_exactly_the_facts(make: Make) -> None:
    world = make()
    for state, representation in itertools.product(random_states(world, 30), REPRESENTATIONS):
        text = write_facts(state.facts, world.schema, representation)
        _require(read_facts(text, world.schema, representation) == state.facts, f"{representation} text loses facts")


def check_no_corrupted_state_passes_for_the_truth(make: Make) -> None:
    """All corruptions of a small state; of larger ones, as many by chance."""
    world = make()
    rng = np.random.default_rng(0)
    *_, state = random_states(world, 6)
    truth = {name: write_facts(state.facts, world.schema, name) for name in REPRESENTATIONS}
    changes = list(_corruptions(state.facts, world))
    enough = CORRUPTED_CELLS // (world.schema.width * world.schema.height)
    for i in rng.permutation(len(changes))[: min(enough, 3000)]:
        removed, added = changes[i]
        corrupted = Facts(state.facts.things - removed | added)
        if corrupted == state.facts:
            continue
        if not _is_representable(corrupted, world):
            for name in ("natural", "json"):  # the grid has no word for such a cell
                text = write_facts(corrupted, world.schema, name)
                _require(read_facts(text, world.schema, name) is None, f"{name} text of an impossible state is read")
            continue
        for name in REPRESENTATIONS:
            text = write_facts(corrupted, world.schema, name)
            _require(text != truth[name], f"{name} text does not tell two states apart")
            expected = corrupted if text else None
            _require(read_facts(text, world.schema, name) == expected, f"{name} text of another state is misread")


def _corruptions(facts: Facts, world: World) -> Iterator[tuple[set[Thing], set[Thing]]]:
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


def _is_representable(facts: Facts, world: World) -> bool:
    cells: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for thing in facts.things:
        cells.setdefault((thing.x, thing.y), []).append((thing.kind, thing.detail))
    return all(tuple(sorted(content)) in world.schema.glyphs for content in cells.values())


def check_actions_round_trip(make: Make) -> None:
    world = make()
    for actions in itertools.product(range(len(world.actions)), repeat=3):
        again = read_actions(write_actions(actions, world.actions), world.actions)
        _require(again == actions, f"actions {actions} are read back as {again}")


# ------------------------------------------------------------------------------------------------------------ splits


def check_layouts_are_static_and_split(make: Make) -> None:
    world = make()
    if world.layouts() < MIN_LAYOUTS:
        message = _refusal(lambda: world.reset(seed=3, options={"split": "test"}))
        _require(str(world.layouts()) in message, "too few layouts are refused, and their number is told")
        world.reset(seed=3)
    else:
        for split in SPLITS:
            world.reset(seed=3, options={"split": split})
            _require(world.split(world.state().snapshot) == split, f"asked for split {split}, got another")
    key = world.key(world.state().snapshot)
    for action in np.random.default_rng(0).integers(len(world.actions), size=20):
        world.step(action)
        _require(world.key(world.state().snapshot) == key, "the layout changes within an episode")
    _require(world.split(world.state().snapshot) == split_of(key), "the split is a function of the layout's key")
    refused = _refusal(lambda: world.reset(seed=0, options={"split": "dev"}))
    _require("unknown split 'dev'" in refused, "unknown splits are refused")


def _refusal(call: Callable[[], object]) -> str:
    """The message of the WorldError that a call raises; "" where it raises none."""
    try:
        call()
    except WorldError as error:
        return str(error)
    return ""


# ------------------------------------------------------------------------------------------------------------ optima


def check_shortest_ways(make: Make) -> None:
    """Steps to go fall by one along optimal actions, end in success, and no search by hand finds a shorter way."""
    world = make()
    if not world.has_solver:
        state = random_states(world, 1)[0]
        for ask in (world.optimal_actions, world.steps_to_go):
            _require(_refusal(lambda ask=ask: ask(state.snapshot)), "a world without solver refuses to be asked")
        return
    if not world.deterministic:
        return
    rng = np.random.default_rng(0)
    for seed in range(3):
        world.reset(seed=seed)
        start = world.state().snapshot
        expected = world.steps_to_go(start)
        _require(expected, "an episode begins where success is neither reached nor out of reach")
        _require(seed > 1 or _agrees(fewest_steps(world, start), expected), "there is a shorter way")
        world.restore(start)
        terminated, success = False, False
        while not terminated:
            snapshot = world.state().snapshot
            optimal = world.optimal_actions(snapshot)
            _require(world.steps_to_go(snapshot) == expected, "steps to go do not fall by one along optimal actions")
            _require(optimal and [*optimal] == sorted(set(optimal)), "optimal actions are sorted, each once")
            _, _, terminated, _, info = world.step(rng.choice(optimal))
            success = info["success"]
            expected = (expected or 0) - 1
        _require(success and expected == 0, "optimal actions end in success, after as many steps as was said")
        _require(world.steps_to_go(world.state().snapshot) == 0, "no step is left after success")


def check_optimal_actions_are_all_of_them(make: Make) -> None:
    """An action is optimal exactly where one step less is left after it."""
    world = make()
    if not (world.has_solver and world.deterministic):
        return
    for state in random_states(world, 20):
        left = world.steps_to_go(state.snapshot)
        expected = []
        for action in range(len(world.actions)):
            world.restore(state.snapshot)
            _, _, terminated, _, info = world.step(np.int64(action))
            after = world.steps_to_go(world.state().snapshot)
            _require(not info["success"] or after == 0, "success leaves no steps")
            _require(not terminated or info["success"] or after is None, "an end without success leaves no way")
            _require(left is not None or after is None, "success is out of reach, and then it is not")
            _require(after is None or (left or 0) <= after + 1, "a step leads more than one step nearer")
            if left is not None and left > 0 and after == left - 1:
                expected.append(action)
        _require(world.optimal_actions(state.snapshot) == tuple(expected), "other actions are optimal")


def fewest_steps(world: World, snapshot: Snapshot) -> tuple[int, bool]:
    """Steps to success by searching through ``step`` and ``restore``, and whether the search came to its end.

    Where it did not (``SEARCHED_STATES``), the number is what it has excluded.
    """
    layer = [snapshot]
    seen = {_identity(world, snapshot)}
    for depth in itertools.count(1):
        following = []
        for state, action in itertools.product(layer, range(len(world.actions))):
            world.restore(state)
            _, _, terminated, _, info = world.step(np.int64(action))
            if info["success"]:
                return depth, True
            after = world.state().snapshot
            identity = _identity(world, after)
            if not terminated and identity not in seen:
                seen.add(identity)
                following.append(after)
        if not following or len(seen) > SEARCHED_STATES:
            return depth, False
        layer = following
    raise AssertionError("unreachable")


def _identity(world: World, snapshot: Snapshot) -> str:
    """What tells states apart for a search: everything but the steps taken."""
    return json.dumps({key: value for key, value in snapshot.items() if key not in ("steps", "past")}, sort_keys=True)


def _agrees(searched: tuple[int, bool], expected: int | None) -> bool:
    depth, found = searched
    return depth == expected if found else expected is None or expected > depth


# ------------------------------------------------------------------------------------------------- imagined states


def check_facts_are_realised(make: Make) -> None:
    """Seen again after its facts were all that was kept of it, a fully visible state has the same futures."""
    world = make()
    rng = np.random.default_rng(0)
    states = random_states(world, 30)
    for state, other in zip(states, [*states[1:], states[0]], strict=True):
        _require(world.realise(state.facts, state.snapshot) == state.snapshot, "a state realises its own facts")
        if world.view == "partial" or world.key(state.snapshot) != world.key(other.snapshot):
            continue
        realised = world.realise(state.facts, like=other.snapshot)
        if realised is None:
            _require(world.inventory(state.snapshot) or world.inventory(other.snapshot), "possible facts are realised")
            continue
        _require(world.facts(realised) == state.facts, "a realised state shows the facts")
        same_hands = world.inventory(state.snapshot) == world.inventory(realised)
        if not (world.fully_visible and world.deterministic and same_hands):
            continue
        action = int(rng.integers(len(world.actions)))
        outcomes = []
        for snapshot in (state.snapshot, realised):
            world.restore(snapshot)
            world.step(np.int64(action))
            outcomes.append(world.state().facts)
        _require(outcomes[0] == outcomes[1], "a realised state goes on in another way")


def check_impossible_facts_are_not_realised(make: Make) -> None:
    world = make()
    state = random_states(world, 1)[0]
    agents = state.facts.of_kind("agent")
    if len(agents) != 1:
        return
    nobody = Facts(state.facts.things - set(agents))
    _require(world.realise(nobody, like=state.snapshot) is None, "a state without an agent is realised")
    agent = agents[0]
    elsewhere = Thing("agent", (agent.x + 1) % world.schema.width, agent.y, agent.detail)
    twice = Facts(state.facts.things | {elsewhere})
    _require(world.realise(twice, like=state.snapshot) is None, "a state with two agents is realised")
    outside = Facts(nobody.things | {replace(agent, x=world.schema.width)})
    _require(world.realise(outside, like=state.snapshot) is None, "a state with an agent beyond the edge is realised")
    unknown = Facts(state.facts.things | {Thing("dragon", 0, 0)})
    _require(world.realise(unknown, like=state.snapshot) is None, "a state with an unknown thing is realised")


def check_whatever_is_realised_goes_on(make: Make) -> None:
    """Answers of models may describe any state: what a world takes for one of its own, it can step from."""
    world = make()
    rng = np.random.default_rng(0)
    facing = sorted({agent.detail for state in random_states(world, 5) for agent in state.facts.of_kind("agent")})
    for state in random_states(world, 20):
        agents = state.facts.of_kind("agent")
        others = sorted(state.facts.things - set(agents))
        if len(agents) != 1 or not others:
            return
        for _ in range(20):
            x, y = rng.integers(world.schema.width), rng.integers(world.schema.height)
            agent = Thing("agent", int(x), int(y), str(rng.choice(facing)))
            gone = {thing for thing in others if (thing.x, thing.y) == (agent.x, agent.y) and rng.random() < 0.5}
            gone.add(others[rng.integers(len(others))])
            realised = world.realise(Facts(state.facts.things - {*agents, *gone} | {agent}), like=state.snapshot)
            if realised is None:
                continue
            world.restore(realised)
            for action in rng.integers(len(world.actions), size=6):
                if not world.terminated:
                    world.step(action)
            world.facts(world.state().snapshot)


def check_outcomes(make: Make) -> None:
    """``outcomes`` are what ``step`` leads to; a single one for what can be foreseen in a random world."""
    world = make()
    for state in random_states(world, 12):
        for action in range(len(world.actions)):
            if not world.deterministic and _refusal(lambda a=action, s=state: world.outcomes(s.snapshot, a)):
                return  # a random world that does not know its chances
            outcomes = world.outcomes(state.snapshot, action)
            _require(abs(sum(chance for chance, _ in outcomes) - 1) < 1e-9, "chances do not sum to 1")
            world.restore(state.snapshot)
            world.step(np.int64(action))
            after = world.state().facts
            _require(after in [world.facts(snapshot) for _, snapshot in outcomes], "a step leads to another state")
            foreseen = world.foreseeable(state.snapshot, action)
            _require(not foreseen or len(outcomes) == 1, "an action with several outcomes cannot be foreseen")


def check_fully_visible_worlds_change_as_their_facts_do(make: Make) -> None:
    """No two states with equal facts, inventory and mission change differently, unless nobody can foresee it."""
    world = make()
    if not (world.fully_visible and world.deterministic):
        return
    outcomes: dict[tuple[Any, ...], Facts] = {}
    for state in random_states(world, 60):
        said = (state.facts, world.inventory(state.snapshot), world.mission(state.snapshot))
        for action in range(len(world.actions)):
            world.restore(state.snapshot)
            world.step(np.int64(action))
            after = world.state().facts
            if world.foreseeable(state.snapshot, action):
                _require(outcomes.setdefault((*said, action), after) == after, "equal facts change differently")


def check_beliefs(make: Make) -> None:
    """A belief about a state just seen holds all it shows; more images never unsay what fewer have said."""
    world = make()
    states = _episode(world, seed=1)[0][:12]
    snapshots = [state.snapshot for state in states]
    for i, state in enumerate(states):
        believed = world.belief([state.snapshot], state.snapshot)
        _require(believed == state.facts, "the belief about a state that is seen is what it shows")
        if world.deterministic:
            some, more = (world.belief(snapshots[start : i + 1], state.snapshot) for start in (i, 0))
            lost = {thing for thing in some.things if thing.kind != "unknown"} - more.things
            _require(not lost, "with more images, less is known")
        for name in REPRESENTATIONS:
            text = write_facts(believed, world.schema, name)
            _require(read_facts(text, world.schema, name) == believed, "a belief can be written and read")


CHECKS: tuple[Callable[[Make], None], ...] = (
    check_gymnasium_accepts_it,
    check_it_describes_itself,
    check_actions_may_be_any_integers_in_range,
    check_episodes_are_truncated,
    check_a_seed_decides_everything,
    check_snapshots_survive_json,
    check_restored_states_go_on_as_before,
    check_terminated_episodes_stay_as_they_are,
    check_many_states_are_rendered_as_one_is,
    check_images_and_facts_say_the_same,
    check_text_says_exactly_the_facts,
    check_no_corrupted_state_passes_for_the_truth,
    check_actions_round_trip,
    check_layouts_are_static_and_split,
    check_shortest_ways,
    check_optimal_actions_are_all_of_them,
    check_facts_are_realised,
    check_impossible_facts_are_not_realised,
    check_whatever_is_realised_goes_on,
    check_outcomes,
    check_fully_visible_worlds_change_as_their_facts_do,
    check_beliefs,
)
