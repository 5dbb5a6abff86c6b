"""Rendered worlds whose exact state is known. Needs neither torch nor the ``vagen`` package."""

from worlds.core import (
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
    make,
    register,
    registered,
    split_of,
)

__all__ = [
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
    "make",
    "register",
    "registered",
    "split_of",
]

# One line per world: id, where it lives, its settings.
register("sokoban-6x6", "worlds.sokoban:Sokoban", size=6, boxes=1)
register("sokoban-8x8-2box", "worlds.sokoban:Sokoban", size=8, boxes=2)
register("frozenlake-4x4", "worlds.frozen_lake:FrozenLake", size=4)
register("frozenlake-6x6", "worlds.frozen_lake:FrozenLake", size=6)
register("frozenlake-8x8", "worlds.frozen_lake:FrozenLake", size=8)
register("minigrid-rooms-6x6", "worlds.minigrid:MiniGrid", env_id="VAGEN-Rooms-6x6-v0")
register("minigrid-rooms-8x8", "worlds.minigrid:MiniGrid", env_id="VAGEN-Rooms-8x8-v0")
register("minigrid-simple-crossing-9x9", "worlds.minigrid:MiniGrid", env_id="MiniGrid-SimpleCrossingS9N2-v0")
register("minigrid-lava-crossing-9x9", "worlds.minigrid:MiniGrid", env_id="MiniGrid-LavaCrossingS9N2-v0")
register("minigrid-four-rooms", "worlds.minigrid:MiniGrid", env_id="MiniGrid-FourRooms-v0")
