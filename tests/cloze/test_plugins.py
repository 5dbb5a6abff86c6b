"""Clozes of other distributions, found by their entry points."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ask(tmp_path):
    """``ask(name, entry_points, module)``: what ``named(name)`` says where such a distribution is installed."""

    def run(name: str, points: str, module: str) -> str:
        info = tmp_path / "hindsight_clozes-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hindsight-clozes\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[vagen.clozes]\n{points}\n")
        (tmp_path / "hindsight.py").write_text(module)
        code = (
            "import sys\n"
            "from vagen.cloze.grammar import ClozeError, named\n"
            "try:\n    print(named(sys.argv[1]))\n"
            "except ClozeError as error:\n    print(error)\n"
        )
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        command = [sys.executable, "-c", code, name]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_installed_clozes_have_their_names(ask):
    assert ask("hindsight", "hindsight = hindsight:PATTERN", 'PATTERN = "a0 a1 o2 -> s0"') == "a0 a1 o2 -> s0"


def test_own_clozes_need_no_plugins(ask):
    """A broken plug-in does not stand in the way of those who do not use it."""
    assert ask("policy", "broken = hindsight:PATTERN", "raise ImportError") == "o0 -> a0*"


@pytest.mark.parametrize(
    ("points", "module", "complaint"),
    [
        ("policy = hindsight:PATTERN", 'PATTERN = "o0 -> s0"', "cloze 'policy' exists already"),
        ("bad = hindsight:PATTERN", 'PATTERN = "o0 -> s1"', "slot s1 depends on a0"),
        ("past->s0 = hindsight:PATTERN", 'PATTERN = "o0 -> s0"', "letters, digits and _"),
        ("bad = hindsight:PATTERN", "PATTERN = 3", "no pattern but a int"),
        ("bad = hindsight:MISSING", "PATTERN = 3", "cannot be loaded"),
        ("bad = nowhere:PATTERN", "", "cannot be loaded"),
    ],
)
def test_broken_plugins_are_named(ask, points, module, complaint):
    said = ask("something", points, module)
    assert complaint in said
    assert "hindsight-clozes" in said, "the distribution is not named"
