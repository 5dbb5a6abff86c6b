"""The sample that comes with the repository is small, whole, true, and made as its page says."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import vagen.cli
from vagen.data.audit import check
from vagen.data.places import places
from vagen.data.shards import read_trajectories

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "data" / "samples"
SPATIAL = SAMPLES / "spatial"  # questions, not episodes
LIMIT = 300_000  # bytes


def test_it_is_small_and_has_cards():
    files = [path for path in SAMPLES.rglob("*") if path.is_file() and SPATIAL not in path.parents]
    assert sum(path.stat().st_size for path in files) <= LIMIT
    folders = sorted(SAMPLES.glob("*/train"))
    assert len(folders) == 3
    assert all((folder / "README.md").is_file() for folder in folders)


def test_it_is_whole_and_true(tmp_path):
    rows = check(places([f"{SAMPLES}/*/train"], tmp_path), tmp_path)
    assert [row.problems for row in rows] == [[], [], []]
    assert all(row.trajectories >= 20 for row in rows)


def test_the_documented_command_makes_it_again(tmp_path, monkeypatch, capsys):
    """But for the versions that made it."""
    page = (ROOT / "data" / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    [command] = [line.strip() for line in page.splitlines() if line.strip().startswith("vagen collect")]
    monkeypatch.chdir(tmp_path)
    assert vagen.cli.main(shlex.split(command)[1:]) == 0
    made = tmp_path / "data" / "samples"
    for folder in SAMPLES.glob("*/train"):
        again = [replace(t, provenance={}) for t in read_trajectories(made / folder.relative_to(SAMPLES))]
        assert again == [replace(t, provenance={}) for t in read_trajectories(folder)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_it_can_be_inspected(capsys, number):
    arguments = ["inspect", "--config", str(ROOT / "configs" / "cloze.yaml"), "--number", str(number)]
    assert vagen.cli.main([*arguments, f"--shards={SAMPLES}/*/train"]) == 0
    assert "state_estimation" in capsys.readouterr().out
