"""Random worlds, what is left to chance in a question, and partial views."""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

import worlds
import worlds.core
from vagen.cloze.build import build, check_answerable, write_reward
from vagen.cloze.grammar import ClozeError, named, parse
from vagen.cloze.sample import LABELS, UnaskableError, execute, simulator, window_at
from vagen.cloze.scoring import chances, score
from vagen.cloze.statistics import divergence, majority_floor
from vagen.cloze.windows import changes
from vagen.mdp import Trajectory
from worlds import Facts
from worlds.core import WorldSpec
from worlds.frozen_lake import FrozenLake
from worlds.text import read_facts, write_facts

OPEN = "_" * 15 + "G"
OPTIONS = tuple(f"{label}: " for label in LABELS)


def lake(map: str, agents: list[int], actions: list[int]) -> Trajectory:
    """A trajectory over a 4 x 4 lake by the agent's cells, written down by hand."""
    snapshots = tuple({"map": map, "agent": cell, "steps": step} for step, cell in enumerate(agents))
    return Trajectory("frozenlake-4x4", "train", 0, "hand", snapshots, tuple(actions), (0.0,) * len(actions))


def walks(n: int) -> list[Trajectory]:
    """One step each, in the middle of different lakes, so that all four actions lead to different states."""
    rng, world, found = np.random.default_rng(0), simulator("frozenlake-4x4"), []
    while len(found) < n:
        map = "".join(rng.choice(["_", "_", "O"], 15)) + "G"
        agent, action = int(rng.choice([5, 6, 9, 10])), int(rng.integers(4))
        if map[agent] == "_":
            world.restore({"map": map, "agent": agent, "steps": 0})
            world.step(action)  # type: ignore[arg-type]
            found.append(lake(map, [agent, world.state().snapshot["agent"]], [action]))
    return found


# --------------------------------------------------------------------------------------------------- what chance tells


@pytest.mark.parametrize(
    ("pattern", "shown"),
    [
        ("o0 a0' -> o1'?4", lambda sample: sample.branch.actions[0] - sample.window.actions[0]),
        ("o0 a0' -> s1'?2", lambda sample: sample.branch.actions[0] - sample.window.actions[0]),
        ("o0 o1 -> a0?2", lambda sample: frozenset(word for word in sample.world.actions if word in sample.question)),
        ("o0 -> a0*?2", lambda sample: frozenset(word for word in sample.world.actions if word in sample.question)),
    ],
)
def test_what_is_shown_does_not_tell_where_the_right_option_stands(pattern, shown):
    """Given the counterfactual action, or which options there are and which is right, each place is as likely."""
    places: defaultdict[object, Counter[str]] = defaultdict(Counter)
    for walk in walks(1200):
        try:
            sample = build("x", parse(pattern), walk, "natural")
        except UnaskableError:
            continue
        right = "" if sample.pattern.task in ("state", "observation") else write_of(sample)
        places[shown(sample), right][sample.answer] += 1
    assert len(places) >= 3
    for told, counts in places.items():
        n, options = counts.total(), parse(pattern).choices
        for label in "ABCD"[:options]:
            spread = 4 * np.sqrt(n * (options - 1)) / options  # four standard deviations
            assert abs(counts[label] - n / options) <= spread, f"{pattern}: given {told}, the places are {counts}"


def test_numbers_to_choose_from_do_not_tell_which_is_right():
    """The right one is as often the lowest as the highest, and whether it is possible is always a question."""
    ranks: Counter[int] = Counter()
    for walk in walks(400):
        sample = build("x", parse("o0 -> b0?4"), walk, "natural")
        options = [part[3:] for part in sample.question.split(". ") if part[:3] in OPTIONS]
        assert len(set(options)) == 4
        assert "impossible" in options
        numbers = sorted(int(option) for option in options if option != "impossible")
        assert numbers[0] >= 0
        right = options["ABCD".index(sample.answer)]
        if right != "impossible" and int(right) >= 2:
            ranks[numbers.index(int(right))] += 1
    assert ranks.total() > 150
    assert all(count / ranks.total() == pytest.approx(1 / 3, abs=0.12) for count in ranks.values()), ranks
    assert len(ranks) == 3


@pytest.mark.parametrize(("pattern", "odd"), [("o0 -> b0?4", "impossible"), ("o0 a0 -> s1?5", "unchanged")])
def test_where_an_odd_option_stands_does_not_tell_where_the_right_one_does(pattern, odd):
    """Wrong options that come in an order of their own would: the right one is where the order breaks."""
    places: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for walk in [w for w in walks(1500) if w.snapshots[0]["agent"] != w.snapshots[1]["agent"]]:
        try:
            sample = build("x", parse(pattern), walk, "natural")
        except UnaskableError:
            continue
        options = {part[0]: part[3:] for part in sample.question.split(". ") if part[:3] in OPTIONS}
        before = write_facts(sample.world.facts(walk.snapshots[0]), sample.world.schema, "natural")
        wanted = before if odd == "unchanged" else odd
        for label, option in options.items():
            if option == wanted and label != sample.answer:
                places[label][sample.answer] += 1
    labels = LABELS[: parse(pattern).choices]
    assert len(places) == len(labels)
    for label, counts in places.items():
        n, others = counts.total(), len(labels) - 1
        assert n >= 40
        for other in set(labels) - {label}:
            spread = 4 * np.sqrt(n * (others - 1)) / others  # four standard deviations
            assert abs(counts[other] - n / others) <= spread, f"{odd} at {label}: right are {counts}"


@pytest.mark.parametrize("pattern", ["s0 -> o0?4", "o0 -> s0?4"])
def test_the_right_state_is_not_the_one_between_the_others(pattern):
    """Else the options alone would tell which it is: the wrong ones would all be one step from it."""
    between = asked = 0
    for walk in walks(200):
        try:
            sample = build("x", parse(pattern), walk, "natural")
        except UnaskableError:
            continue
        places = [int(snapshot["agent"]) for snapshot in options_of(sample)]
        right = places["ABCD".index(sample.answer)]
        between += all(abs(right % 4 - p % 4) + abs(right // 4 - p // 4) <= 1 for p in places)
        asked += 1
    assert asked > 100
    assert between / asked < 0.45, "the right option is mostly one step from all others"


def options_of(sample) -> list:
    """The snapshots of the options, by the agent's place in them."""
    if sample.pattern.task == "observation":
        return list(sample.images[-4:])
    texts = [part[3:] for part in sample.question.split(". ") if part[:3] in OPTIONS]
    read = [read_facts(text.removesuffix("?"), sample.world.schema, "natural") for text in texts]
    return [{"agent": agent.y * 4 + agent.x} for facts in read for agent in facts.of_kind("agent")]


def test_counterfactual_branches_mostly_change_something(trajectories):
    world, moved = simulator("sokoban-6x6"), []
    for episode in trajectories["sokoban-6x6"]:
        for start in range(len(episode)):
            window = window_at(episode, start, 1)
            after = {world.facts(s) for a in range(4) for s in execute(world, window.snapshots[0], [a]) or ()}
            if len(after - {world.facts(s) for s in window.snapshots}):  # another action changes something else
                moved.append(changes(build("x", named("counterfactual"), window, "grid")))
    assert len(moved) > 40
    assert 0.8 < np.mean(moved) < 1, "nothing else than what changes would be a hint"


def write_of(sample) -> str:
    """The right option, read off the question."""
    for part in sample.question.split(". "):
        if part.startswith(f"{sample.answer}: "):
            return part[3:]
    raise AssertionError(f"no option {sample.answer} in {sample.question!r}")


def test_questions_are_the_same_in_every_process():
    code = (
        "import worlds\n"
        "from vagen.cloze.build import build\n"
        "from vagen.cloze.grammar import named\n"
        "from vagen.mdp import Trajectory\n"
        "world = worlds.make('sokoban-6x6')\n"
        "for seed in range(3):\n"
        "    world.reset(seed=seed)\n"
        "    states, actions = [world.state().snapshot], [seed, 2, 3]\n"
        "    for action in actions:\n"
        "        world.step(action)\n"
        "        states.append(world.state().snapshot)\n"
        "    window = Trajectory('sokoban-6x6', 'train', seed, 'hand', tuple(states), tuple(actions), (0.0,) * 3)\n"
        "    for name in ('next_observation', 'counterfactual', 'reorder_actions', 'o0 a0 -> s1?4', 'o0 -> b0?3'):\n"
        "        s = build(name, named(name), window, 'json')\n"
        "        print(s.question, s.answer, s.images, sep='|')\n"
    )
    said = set()
    for hash_seed in ("0", "77"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        said.add(done.stdout)
    assert len(said) == 1
    assert said.pop().count("\n") == 15


# ------------------------------------------------------------------------------------------------- nothing to be asked


@pytest.mark.parametrize(
    ("cloze", "agents", "actions", "asked"),
    [
        ("reorder_actions", [5, 6, 7, 7], [2, 2, 2], False),
        ("reorder_observations", [0, 0, 0, 0], [0, 3, 0], False),
        ("text_reorder_states", [0, 0, 0, 0], [0, 3, 0], False),
        ("reorder_actions", [0, 0, 0, 0], [0, 3, 0], True),  # the words differ, though every order is right
        ("reorder_observations", [0, 0, 0, 1], [0, 3, 2], True),
    ],
)
def test_the_order_of_things_all_alike_is_not_asked(cloze, agents, actions, asked):
    walk = lake(OPEN, agents, actions)
    if asked:
        assert build(cloze, named(cloze), walk, "grid").answer
    else:
        with pytest.raises(UnaskableError, match="all alike"):
            build(cloze, named(cloze), walk, "grid")


def test_more_options_than_actions_are_refused():
    with pytest.raises(ClozeError, match=r"slot a0: frozenlake-4x4 has 4 actions"):
        build("x", parse("o0 o1 -> a0?5"), lake(OPEN, [0, 1], [2]), "grid")


def test_a_world_with_one_action_has_no_counterfactuals(monkeypatch):
    monkeypatch.setattr(simulator("frozenlake-4x4"), "actions", ("left",))
    with pytest.raises(UnaskableError, match="no other action"):
        build("counterfactual", named("counterfactual"), lake(OPEN, [1, 0], [0]), "grid")


def test_what_nobody_can_foresee_is_not_asked(monkeypatch):
    monkeypatch.setattr(FrozenLake, "foreseeable", lambda self, snapshot, action: snapshot["agent"] != 5)
    hidden, open_ = lake(OPEN, [5, 6, 7], [2, 2]), lake(OPEN, [1, 5, 6], [1, 2])
    for pattern in ("o0 a0 -> s1", "o0 a0 -> b1", "o0 a0 -> a1*", "o0 o1 -> a0", "o0 a0 -> d0"):
        with pytest.raises(UnaskableError, match="cannot be known before"):
            build(pattern, parse(pattern), hidden, "grid")
    for pattern in ("o0 -> b0", "o0 -> a0*", "o0 -> s0", "o0 a0 o1 -> s1"):
        assert build(pattern, parse(pattern), hidden, "grid").answer
    for pattern in ("o0 a0 -> s1", "o0 a0 -> b1", "o0 a0 -> a1*"):
        assert build(pattern, parse(pattern), open_, "grid").answer


@pytest.mark.parametrize(("reward", "text"), [(-0.0, "0"), (-0.001, "0"), (-0.006, "-0.01"), (0.125, "0.12")])
def test_no_reward_is_minus_nothing(reward, text):
    assert write_reward(reward) == text


def test_a_label_is_that_label_and_nothing_more():
    sample = build("x", parse("o0 o1 -> a0?2"), lake(OPEN, [5, 6], [2]), "grid")
    other = "AB".replace(sample.answer, "")
    for text, correct in (
        (sample.answer, True),
        (f" {sample.answer}\n", True),
        (f"{sample.answer},", False),
        (other, False),
        ("", False),
    ):
        assert score(sample, text).correct == correct
    assert not score(sample, f"{sample.answer} {other}").correct
    silent = build("x", parse("o0 o1 -> a0"), lake(OPEN, [5, 6], [2]), "grid", with_answer=False)
    assert not score(silent, "").correct


# ------------------------------------------------------------------------------------------------------- partial views


@pytest.fixture
def holes_unseen(monkeypatch) -> None:
    """A lake where what can be known of a state leaves out the holes."""
    monkeypatch.setattr(FrozenLake, "fully_visible", False, raising=False)
    seen = FrozenLake.facts

    def belief(self, given, asked) -> Facts:
        return Facts(frozenset(thing for thing in seen(self, asked).things if thing.kind != "hole"))

    monkeypatch.setattr(FrozenLake, "belief", belief)


def test_wrong_states_tell_no_more_than_can_be_known(holes_unseen):
    for walk in walks(30):
        sample = build("x", parse("o0 a0 -> s1?3"), walk, "natural")
        assert "goal" in sample.question
        assert "hole" not in sample.question, "only wrong options show holes"


def test_images_to_choose_from_differ_where_little_is_known(holes_unseen):
    for walk in walks(60):
        sample = build("x", parse("o0 a0 -> o1?4"), walk, "natural")
        frames = sample.world.render_states(sample.images[1:])
        assert len({frame.tobytes() for frame in frames}) == 4, "two options look the same"


# ------------------------------------------------------------------------------------------------------- random worlds


@pytest.fixture
def slippery(monkeypatch):
    """A slippery lake, registered for one test."""
    spec = WorldSpec("slippery", "worlds.frozen_lake:FrozenLake", {"size": 4, "slippery": True})
    monkeypatch.setitem(worlds.core._REGISTRY, "slippery", spec)
    simulator.cache_clear()
    yield worlds.make("slippery")
    simulator.cache_clear()


@pytest.mark.parametrize(
    "pattern", ["o0 a0 -> s1", "o0 o1 a1 -> s2", "s0 a0 -> s1", "o0 a0 o1 -> s1", "o0 r0 a1 o1 -> s1"]
)
def test_states_up_to_one_step_ahead_can_be_asked(pattern, slippery):
    check_answerable(pattern, parse(pattern), slippery)


@pytest.mark.parametrize(
    ("pattern", "slot"),
    [
        ("o0 a0 o2 a1 -> s1", "o2"),
        ("o0 a0 r0 -> s1", "r0"),
        ("o0 d0 a0 -> s1", "d0"),
        ("o0 a0 s2 -> s1", "s2"),
        ("o0 b0 -> s0", "b0"),
        ("o0 a0 b1 -> s1", "b1"),
        ("o0 a0' o1' -> s1'", "s1'"),
        ("o0 -> s0?2", "s0"),
        ("o0 a0 a1 -> s2", "s2"),
    ],
)
def test_what_tells_of_the_outcome_is_refused_where_chance_rules(pattern, slot, slippery):
    """The chances that are scored are those before anything of the outcome is known."""
    with pytest.raises(ClozeError, match=rf"slot {slot}: slippery is random"):
        check_answerable(pattern, parse(pattern), slippery)


def test_chances_are_the_shares_of_many_tries(slippery):
    slippery.reset(seed=0)
    before = {**slippery.state().snapshot, "map": "_O__" + "____" * 2 + "___G", "agent": 4}
    window = Trajectory("slippery", "train", 0, "hand", (before, before), (3,), (0.0,))
    expected = chances(build("forward_dynamics", named("forward_dynamics"), window, "grid"))
    assert sum(expected.values()) == pytest.approx(1)
    counts: Counter[str] = Counter()
    for seed in range(1500):
        slippery.reset(seed=seed)
        slippery.restore({**before, "rng": slippery.state().snapshot["rng"]})
        slippery.step(3)  # type: ignore[arg-type]
        counts[write_facts(slippery.state().facts, slippery.schema, "grid")] += 1
    assert counts.keys() == expected.keys()
    assert len(counts) == 3
    for text, chance in expected.items():
        assert counts[text] / 1500 == pytest.approx(chance, abs=0.05)


def test_divergence_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 5):
        p, q = rng.dirichlet(np.ones(size)), rng.dirichlet(np.ones(size + 1))[:size]
        kl, mass = divergence(p.tolist(), np.log(q).tolist())
        assert mass == pytest.approx(q.sum())
        assert kl == pytest.approx(sum(a * np.log(a * q.sum() / b) for a, b in zip(p, q, strict=True)), abs=1e-12)
    assert divergence([0.5, 0.5], [-2000.0, -2000.0]) == (0.0, 0.0), "tiny probabilities are still compared"
    assert divergence([2 / 3, 1 / 3], np.log([0.6, 0.3]).tolist()) == (pytest.approx(0, abs=1e-12), pytest.approx(0.9))


# -------------------------------------------------------------------------------------------------------------- floors


def test_the_majority_may_be_another_possible_past():
    """Always "from the west" is right for all who may have come from there, wherever they came from."""
    bump, step = lake(OPEN, [0, 0], [0]), lake(OPEN, [1, 0], [0])
    samples = [build("x", named("retrodiction"), walk, "grid") for walk in (step, step, bump, bump) * 2]
    assert {sample.answer for sample in samples} == {samples[0].answer, samples[2].answer}
    assert majority_floor(samples).value == 1


@pytest.mark.parametrize("pattern", ["o0 a0 -> s1", "o0 a0 -> d0", "o0 o1 -> a0", "o0 -> b0"])
def test_windows_may_be_longer_than_what_is_asked(pattern):
    walk = lake(OPEN, [0, 1, 2, 3], [2, 2, 2])
    short, long = (build(pattern, parse(pattern), window, "grid") for window in (window_at(walk, 0, 1), walk))
    assert (short.question, short.answer, short.images) == (long.question, long.answer, long.images)
    assert score(long, long.answer).correct
