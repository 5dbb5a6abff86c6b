"""Finds every environment of the ``minigrid`` package: which become worlds under which id, and which do not, and why.

``MiniGrid-DoorKey-6x6-v0`` becomes ``minigrid/DoorKey-6x6-v0``, ``BabyAI-GoTo-v0`` becomes ``babyai/GoTo-v0``; with
``/partial`` behind it, the world is seen as its agent sees it.
"""

from __future__ import annotations

from importlib.util import find_spec

import gymnasium
import minigrid  # noqa: F401 - registers its environments with gymnasium

from worlds.core import Family, WorldSpec

_PREFIXES = {"minigrid/": "MiniGrid-", "babyai/": "BabyAI-"}  # ours -> the package's
_WFC = "minigrid.envs.wfc:"
_WFC_NEEDS = ("imageio", "networkx")


def find(prefix: str) -> Family:
    """All environments whose ids in the package start as ``prefix`` says."""
    theirs = _PREFIXES[prefix]
    worlds: dict[str, WorldSpec] = {}
    unsupported: dict[str, str] = {}
    for env_id, spec in gymnasium.registry.items():
        if not env_id.startswith(theirs):
            continue
        id = prefix + env_id.removeprefix(theirs)
        reason = _reason_against(str(spec.entry_point))
        for name, partial in ((id, False), (f"{id}/partial", True)):
            if reason:
                unsupported[name] = reason
            else:
                worlds[name] = WorldSpec(name, "worlds.minigrid:world", {"env_id": env_id, "partial": partial})
    return Family(worlds, unsupported)


def _reason_against(entry_point: str) -> str:
    """Why an environment does not work; "" if it does."""
    missing = [package for package in _WFC_NEEDS if find_spec(package) is None]
    if entry_point.startswith(_WFC) and missing:
        needs = " and ".join(missing)
        return f"it needs {needs}, which minigrid leaves out by default: pip install 'minigrid[wfc]'"
    return ""
