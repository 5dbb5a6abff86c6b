"""What a stream is said to ask about is what it asks."""

import re

from vagen.cloze.sample import simulator
from vagen.config import Clozes
from vagen.data.asked import asked
from vagen.data.stream import ClozeStream


def test_shares_are_those_of_the_groups(shards):
    weights = {"state_estimation": 1.0, "forward_dynamics": 1.0, "termination": 1.0}
    stream = ClozeStream([shards["sokoban-6x6"], shards["frozenlake-4x4"]], Clozes(weights=weights), 3)
    lines = asked(stream, 20)
    assert [line.split(":")[0] for line in lines] == ["sokoban-6x6", "frozenlake-4x4"]
    for line in lines:
        world, _, said = line.partition(": ")
        samples = [s for n in range(20) for s in stream.group(n).samples if s.window.world == world]
        moved = [s for s in samples if s.name != "state_estimation"]
        facts = simulator(world).facts
        idle = [s for s in moved if facts(s.window.snapshots[0]) == facts(s.window.snapshots[1])]
        (share,) = re.findall(r"nothing visible (\d+)%", said) or ["0"]
        assert int(share) == round(100 * len(idle) / len(moved))
        ends = [s.answer for s in samples if s.name == "termination"]
        assert f"termination {ends.count('yes') / len(ends):.0%} yes" in said


def test_clozes_about_one_moment_have_no_events(shards):
    stream = ClozeStream([shards["sokoban-6x6"]], Clozes(weights={"state_estimation": 1.0}), 3)
    assert asked(stream, 4) == ["sokoban-6x6: no transitions"]


def test_only_the_commonest_kinds_of_change_are_named(shards, monkeypatch):
    stream = ClozeStream([shards["sokoban-6x6"]], Clozes(weights={"forward_dynamics": 1.0}), 3)
    (whole,) = asked(stream, 20)
    monkeypatch.setattr("vagen.data.asked.KINDS_NAMED", 1)
    (line,) = asked(stream, 20)
    kinds = whole.split(": changes ")[1].split(", ")
    others = f"{len(kinds) - 1} others"
    assert re.fullmatch(rf"sokoban-6x6: changes {re.escape(kinds[0])}, {others} \d+%", line)
    assert sum(map(int, re.findall(r"(\d+)%", line))) == 100
