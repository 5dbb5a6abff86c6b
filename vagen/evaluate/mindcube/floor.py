"""The random-map floor: what maps with the right names in random places score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from vagen.mindcube.maps import CognitiveMap, Place

T = TypeVar("T")  # what a measure gives

GRID = 10  # cells per side
DRAWS = 2000
_FACINGS = ("up", "right", "down", "left")


def random_scores(
    true_maps: Sequence[CognitiveMap], measure: Callable[[CognitiveMap, CognitiveMap], T], seed: int = 0
) -> list[tuple[int, T]]:
    """``DRAWS`` times, the index of a true map drawn from those given and ``measure(random map, true map)``.

    A function of the arguments alone; empty without true maps.
    """
    if not true_maps:
        return []
    generator = np.random.default_rng([seed, 7])
    chosen = generator.integers(len(true_maps), size=DRAWS)
    return [(int(i), measure(random_map(true_maps[i], generator), true_maps[i])) for i in chosen]


def random_map(true_map: CognitiveMap, generator: np.random.Generator) -> CognitiveMap:
    """The names of a map, each in a uniformly drawn cell; what faces somewhere faces a random way in the plane."""
    objects, views = (_scattered(places, generator) for places in (true_map.objects, true_map.views))
    return CognitiveMap(objects, views, true_map.has_views)


def _scattered(places: dict[Any, Place], generator: np.random.Generator) -> dict[Any, Place]:
    cells = generator.integers(GRID, size=(len(places), 2)).tolist()
    facings = generator.integers(len(_FACINGS), size=len(places)).tolist()
    return {
        name: Place(float(x), float(y), _FACINGS[facing] if place.facing else None)
        for (name, place), (x, y), facing in zip(places.items(), cells, facings, strict=True)
    }
