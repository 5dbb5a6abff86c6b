"""Rendered worlds whose exact state is known. Needs neither torch nor the ``vagen`` package."""

from worlds.core import (
    MIN_LAYOUTS,
    SPLITS,
    BoardSchema,
    Facts,
    Frame,
    Snapshot,
    Split,
    State,
    Thing,
    World,
    WorldError,
    available,
    is_available,
    make,
    register,
    register_family,
    registered,
    split_of,
    unsupported,
)

__all__ = [
    "MIN_LAYOUTS",
    "SPLITS",
    "BoardSchema",
    "Facts",
    "Frame",
    "Snapshot",
    "Split",
    "State",
    "Thing",
    "World",
    "WorldError",
    "available",
    "is_available",
    "make",
    "register",
    "register_family",
    "registered",
    "split_of",
    "unsupported",
]

# One line per world: id, where it lives, its settings.
register("sokoban-5x5", "worlds.sokoban:Sokoban", size=5, boxes=1)
register("sokoban-6x6", "worlds.sokoban:Sokoban", size=6, boxes=1)
register("sokoban-8x8-2box", "worlds.sokoban:Sokoban", size=8, boxes=2)
register("frozenlake-4x4", "worlds.frozen_lake:FrozenLake", size=4)
register("frozenlake-6x6", "worlds.frozen_lake:FrozenLake", size=6)
register("frozenlake-8x8", "worlds.frozen_lake:FrozenLake", size=8)
register("frozenlake-4x4-slippery", "worlds.frozen_lake:FrozenLake", size=4, slippery=True)
register("frozenlake-6x6-slippery", "worlds.frozen_lake:FrozenLake", size=6, slippery=True)
register("frozenlake-8x8-slippery", "worlds.frozen_lake:FrozenLake", size=8, slippery=True)
register("minigrid-rooms-6x6", "worlds.minigrid:MiniGrid", env_id="VAGEN-Rooms-6x6-v0")
register("minigrid-rooms-8x8", "worlds.minigrid:MiniGrid", env_id="VAGEN-Rooms-8x8-v0")
register("minigrid-simple-crossing-9x9", "worlds.minigrid:MiniGrid", env_id="MiniGrid-SimpleCrossingS9N2-v0")
register("minigrid-lava-crossing-9x9", "worlds.minigrid:MiniGrid", env_id="MiniGrid-LavaCrossingS9N2-v0")
register("minigrid-four-rooms", "worlds.minigrid:MiniGrid", env_id="MiniGrid-FourRooms-v0")

# One line per family: every environment of the minigrid package, as <family>/<name> and <family>/<name>/partial.
register_family("minigrid/", "worlds.minigrid_ids:find")
register_family("babyai/", "worlds.minigrid_ids:find")

# Furnished rooms in three dimensions, where MuJoCo is installed: room/5x5, ...
register_family("room/", "worlds.scene_world:find")
