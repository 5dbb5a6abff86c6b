"""The documentation's commands exist, its example world works, and its links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vagen.cli import _overrides, parser
from vagen.cloze.grammar import FAMILIES, NAMED, named
from vagen.config import load

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[str]:
    """Every ``vagen …`` line of a page's shell blocks, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("vagen ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_understood(page):
    for command in commands(page):
        words = shlex.split(command, comments=True)[1:]
        parsed, rest = parser().parse_known_args(words)
        config = ROOT / (getattr(parsed, "config", None) or "none")
        load(config if config.is_file() else None, _overrides(rest, allowed=parsed.configurable))


def test_some_commands_are_documented():
    assert len([command for page in PAGES for command in commands(page)]) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_the_table_of_clozes_is_that_of_the_code():
    rows = [
        f"| {name} | `{pattern}` | {named(name).length} | {'@k' if name in FAMILIES else ''} |"
        for name, pattern in NAMED.items()
    ]
    page = (ROOT / "docs" / "clozes.md").read_text(encoding="utf-8")
    table = page.split("| name | pattern | transitions | any length |\n|---|---|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == rows


def test_the_example_world_passes_every_check(tmp_path):
    """Found by its entry point, as after ``pip install``."""
    examples = ROOT / "docs" / "examples"
    project = tomllib.loads((examples / "pyproject.toml").read_text())["project"]
    info = tmp_path / "maze_world-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((name, entry),) = project["entry-points"]["vagen.worlds"].items()
    (info / "entry_points.txt").write_text(f"[vagen.worlds]\n{name} = {entry}\n")
    code = (
        "from vagen.cloze.grammar import NAMED\n"
        "from vagen.evaluate.check import check, table\n"
        "rows = check(['maze-6x6'], list(NAMED), n=6)\n"
        "assert all(row.passed and not row.refused for row in rows), table(rows)\n"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{examples}:{tmp_path}", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((examples / "maze.py").read_text().splitlines()) < 50


def test_the_card_of_seven_gridworlds_is_the_one_described():
    """The table of the page says what the report card beside it says."""
    card = json.loads((ROOT / "data" / "cards" / "gridworlds" / "report_card.json").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for row in card["rows"]:
        floor = max(value for value in row["floors"].values() if value is not None)
        above = row["ci_low"] > max(interval[1] for interval in row["floor_intervals"].values() if interval)
        figure = f"{row['accuracy']:.2f}"
        found.setdefault(row["cloze"], []).append(f"{f'**{figure}**' if above else figure} ({floor:.2f})")
    page = (ROOT / "docs" / "gridworlds.md").read_text(encoding="utf-8")
    for cloze, cells in found.items():
        assert f"| {cloze} | {' | '.join(cells)} |" in page, f"the row of {cloze} differs"
