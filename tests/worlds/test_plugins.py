"""Worlds of other distributions: found through entry points, checked as ours are, refused when broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MEADOW = '''\
"""A meadow with one flower."""

import random

import worlds
from worlds.board import Board, BoardWorld, Look

def paint(*colours):
    return lambda canvas: [canvas.rectangle(i / len(colours), 0, 1, 1, c) for i, c in enumerate(colours)]


class Meadow(BoardWorld):
    kinds = ("agent", "flower")
    looks = (
        Look("", "", "_", paint((90, 180, 90))),
        Look("flower", "", "f", paint((90, 180, 90), (250, 90, 90))),
        Look("", "agent", "@", paint((40, 40, 200))),
        Look("flower", "agent", "+", paint((40, 40, 200), (250, 90, 90))),
    )
    rules = "Blue is the agent. Red is a flower. Left and right move the agent by a cell, around the edge. Smell it."

    def __init__(self, id):
        super().__init__(id, size=12, tile_size=8, actions=("left", "right"), max_steps=200)

    def generate(self, layout_seed):
        flower, agent = random.Random(layout_seed).sample(range(144), 2)
        return Board("_" * flower + "f" + "_" * (143 - flower), agent)

    def transition(self, board, action):
        board = board._replace(agent=(board.agent + (-1, 1)[action]) % 144)
        return board, float(self.is_success(board))

    def is_success(self, board):
        return board.ground[board.agent] == "f"

    def steps_to_go(self, snapshot):
        apart = (snapshot["map"].index("f") - snapshot["agent"]) % 144
        return min(apart, 144 - apart)

    def optimal_actions(self, snapshot):
        apart = (snapshot["map"].index("f") - snapshot["agent"]) % 144
        return () if not apart else tuple(a for a, way in enumerate((144 - apart, apart)) if way <= 72)


def register_worlds():
    worlds.register("meadow", "meadow:Meadow")
'''


@pytest.fixture
def install(tmp_path):
    """Put a distribution on a path, as an installer would, and return how to run Python with it."""

    def installed(module: str, entry_point: str) -> Path:
        (tmp_path / "meadow.py").write_text(module, encoding="utf-8")
        info = tmp_path / "meadow_worlds-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: meadow-worlds\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[vagen.worlds]\nmeadow = {entry_point}\n", encoding="utf-8")
        return tmp_path

    return installed


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=folder)


def test_a_world_of_another_distribution_keeps_the_contract(install):
    assert sum(1 for line in MEADOW.splitlines() if line.strip()) <= 40
    folder = install(MEADOW, "meadow:register_worlds")
    code = (
        "import sys, worlds; from worlds.testing import check_world\n"
        "worlds.make('sokoban-6x6'); assert 'meadow' not in sys.modules\n"
        "assert 'meadow' in worlds.registered() and 'meadow' in sys.modules\n"
        "check_world(lambda: worlds.make('meadow'))\n"
    )
    result = run(folder, "-c", code)
    assert result.returncode == 0, result.stderr
    listed = run(folder, "-m", "vagen.cli", "worlds")
    assert "meadow " in listed.stdout, listed.stderr


def test_the_first_make_finds_it(install):
    folder = install(MEADOW, "meadow:register_worlds")
    result = run(folder, "-c", "import worlds; print(worlds.make('meadow').id)")
    assert result.stdout == "meadow\n", result.stderr


@pytest.mark.parametrize(
    ("module", "entry_point", "what"),
    [
        ("import not_there", "meadow:register_worlds", "ModuleNotFoundError: No module named 'not_there'"),
        ("x = 1", "meadow:register_worlds", "AttributeError: module 'meadow' has no attribute 'register_worlds'"),
        ("def f(:", "meadow:f", "SyntaxError"),
        ("f = 3", "meadow:f", "TypeError: 'int' object is not callable"),
        (
            "import worlds\ndef f():\n    worlds.register('a', 'a:A')\n    worlds.register('sokoban-6x6', 'a:A')",
            "meadow:f",
            "WorldError: world 'sokoban-6x6' is registered twice",
        ),
    ],
)
def test_broken_ones_are_one_line_that_names_the_distribution(install, module, entry_point, what):
    folder = install(module, entry_point)
    result = run(folder, "-m", "vagen.cli", "worlds")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert "worlds of meadow-worlds 1.2 cannot be registered" in line
    assert what in line
    ours = run(folder, "-c", "import worlds; print(worlds.make('sokoban-6x6').id)")
    assert ours.stdout == "sokoban-6x6\n", "worlds of our own do not depend on plug-ins"


def test_a_check_that_fails_says_what_is_wrong(install):
    broken = MEADOW.replace("if way <= 72", "if way <= 144")
    folder = install(broken, "meadow:register_worlds")
    code = "import worlds; from worlds.testing import check_world; check_world(lambda: worlds.make('meadow'))"
    result = run(folder, "-c", code)
    assert "BrokenContractError" in result.stderr
