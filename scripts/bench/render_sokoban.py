"""The renderer of gym-sokoban, for ``render.py``: run in the peers' environment by :mod:`worker`.

    python scripts/bench/render_sokoban.py ROOMS.json

Its package imports the gym of old, of which the renderer needs nothing, so that file is loaded alone. ``ROOMS.json``
has a room per frame, (rows, columns) of the numbers that gym-sokoban gives to what is on a cell.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from worker import Serving


def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # of imageio's, once per picture that is read
    rooms = [np.array(room) for room in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))]
    draw = renderer()

    def work() -> int:
        return len([draw(room) for room in rooms])

    versions = {package: version(package) for package in ("gym-sokoban", "imageio")}
    Serving().serve(work, shape=list(draw(rooms[0]).shape), versions=versions)


def renderer() -> Any:
    """``room_to_rgb`` of gym-sokoban."""
    package = importlib.util.find_spec("gym_sokoban")
    if package is None or not package.submodule_search_locations:
        sys.exit("gym-sokoban is not installed here: run scripts/bench/peers.sh")
    folder = Path(package.submodule_search_locations[0]) / "envs"
    # Recent setuptools have no pkg_resources any more; the renderer asks it where its pictures are, and nothing else.
    stand_in = types.ModuleType("pkg_resources")
    vars(stand_in)["resource_filename"] = lambda _, name: str(folder / name)
    sys.modules.setdefault("pkg_resources", stand_in)
    spec = importlib.util.spec_from_file_location("render_utils", folder / "render_utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.room_to_rgb


if __name__ == "__main__":
    main()
