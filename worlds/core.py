"""The contract every world keeps, the registry, and the split of worlds by static layout.

A world is a :class:`gymnasium.Env` whose observation is an RGB image and whose exact state is known. Two views of
that state are kept apart:

* the *snapshot* restores the world exactly (it may hold step counters and hidden contents),
* the *facts* are what the image shows, and therefore what may be asked and scored.

A world registers with one line, ``register(id, "module:Class", **settings)``. Worlds of other distributions register
through an entry point of the group ``vagen.worlds`` that names a function which does so::

    # pyproject.toml of the other distribution       # my_worlds.py
    [project.entry-points."vagen.worlds"]             def register_worlds():
    my-worlds = "my_worlds:register_worlds"               worlds.register("my-world", "my_worlds:MyWorld", size=5)

The function is called once, when worlds are listed or an id is asked for that is not one of ours. Whole collections
(every environment of a package) register with ``register_family``. ``worlds.testing.check_world`` checks a world.

``make("sokoban-6x6@28")`` is the world ``sokoban-6x6`` drawn with tiles of 28 px: any world whose constructor takes
``tile_size`` can be drawn to the measure of a model's vision patches.

This module knows nothing about text, models or training.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Literal, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # (H, W, 3) RGB
Snapshot = Mapping[str, Any]  # JSON-serialisable
View = Literal["full", "partial"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SPLIT_SHARES: Mapping[Split, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
MAX_LAYOUT_TRIES = 1000
MAX_TILE_SIZE = 256  # px
MIN_LAYOUTS = 100  # fewer layouts carry no claim about layouts that were not trained on
SURE_DRAWS = 40  # this many different layouts in a row come of a world with many more


class WorldError(ValueError):
    """Bad input about worlds; the message says what, where and how to mend it."""


@dataclass(frozen=True, order=True)
class Thing:
    """One visible thing on a board.

    ``x`` counts columns from the left and ``y`` rows from the top, both from 0. ``detail`` is a word that tells
    things of one kind apart (a facing, a colour, "red locked"), or "".
    """

    kind: str
    x: int
    y: int
    detail: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything the image of a board shows: a set of things. Equal facts are equal states, as far as anyone sees."""

    things: frozenset[Thing]

    def of_kind(self, kind: str) -> tuple[Thing, ...]:
        """The things of one kind, in reading order (row by row)."""
        return tuple(sorted((t for t in self.things if t.kind == kind), key=lambda t: (t.y, t.x, t.detail)))

    def at(self, x: int, y: int) -> tuple[Thing, ...]:
        return tuple(sorted(t for t in self.things if (t.x, t.y) == (x, y)))


CellContent = tuple[tuple[str, str], ...]  # sorted (kind, detail) pairs that share one cell; () is an empty cell


@dataclass(frozen=True)
class BoardSchema:
    """What facts a world can have, and how they are written.

    ``kinds`` maps each kind to the details it may carry (``("",)`` where it carries none), in the order in which
    they are written. ``glyphs`` maps every possible content of a cell to one word without white space; no two
    contents share a glyph, so the grid representation loses nothing.
    """

    width: int
    height: int
    kinds: Mapping[str, tuple[str, ...]]
    glyphs: Mapping[CellContent, str]
    contents: Mapping[str, CellContent] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        contents = {glyph: content for content, glyph in self.glyphs.items()}
        if len(contents) != len(self.glyphs):
            raise WorldError("two cell contents share a glyph: give each content of a cell its own")
        object.__setattr__(self, "contents", contents)

    def allows(self, facts: Facts) -> bool:
        """Whether every thing is of a known kind and on the board, and every cell holds what a cell can hold."""
        cells: dict[tuple[int, int], list[tuple[str, str]]] = {}
        for thing in facts.things:
            if thing.detail not in self.kinds.get(thing.kind, ()):
                return False
            if not (0 <= thing.x < self.width and 0 <= thing.y < self.height):
                return False
            cells.setdefault((thing.x, thing.y), []).append((thing.kind, thing.detail))
        return all(tuple(sorted(content)) in self.glyphs for content in cells.values())


@dataclass(frozen=True)
class State:
    """An exact state: ``snapshot`` restores it, ``facts`` is what can be seen of it."""

    snapshot: Snapshot
    facts: Facts


class World(gymnasium.Env[Frame, np.int64]):
    """A rendered world with exact state.

    Subclasses set the attributes below and implement the methods marked abstract. ``reset`` takes the split in its
    options, ``reset(seed=3, options={"split": "test"})``; without one any layout may come up. A world with fewer than
    ``MIN_LAYOUTS`` layouts refuses to be split. The ``info`` that ``reset`` and ``step`` return holds ``success``
    (bool).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - declared so by gymnasium
        "render_modes": ["rgb_array"],
        "render_fps": 4,
    }
    renderer_version: ClassVar[int] = 1  # raise it when the same state gives other pixels
    renders_from_state: ClassVar[bool] = True  # else trajectories carry their frames
    knows_state: ClassVar[bool] = True  # else facts only tell whether two states look alike, and states are not asked
    facts_tell_all: ClassVar[bool] = True  # equal facts give equal images; else these also show what is never asked
    noise_seeds: tuple[int, ...] = ()  # of the noise put on this episode, set by ``reset``

    id: str  # the name under which it is registered
    actions: tuple[str, ...]  # words, by action number
    schema: BoardSchema
    rules: str  # what a person must know to act and to read the image, in a few sentences
    max_steps: int  # of the present episode, where episodes differ
    view: View = "full"  # "partial": the image shows what the agent sees from where it stands
    deterministic: bool = True
    fully_visible: bool = True  # the facts, with the inventory, determine how facts change
    visible_reward: bool = True  # the facts before and after determine the reward
    has_solver: bool = True  # optimal_actions and steps_to_go are exact; where off, they refuse to answer

    render_mode: str | None = "rgb_array"

    @abstractmethod
    def state(self) -> State:
        """The exact present state."""

    @abstractmethod
    def restore(self, snapshot: Snapshot) -> None:
        """Put the world back into a state; stepping on from there repeats what happened before."""

    @property
    @abstractmethod
    def terminated(self) -> bool:
        """Whether the present state ends the episode; a further step changes nothing."""

    @abstractmethod
    def render_states(self, snapshots: Sequence[Snapshot]) -> NDArray[np.uint8]:
        """The images of many states at once, (B, H, W, 3). Does not change the present state."""

    @abstractmethod
    def layout(self, snapshot: Snapshot) -> Any:
        """The static layout (walls, goals, …, not the agent's pose) as JSON; it decides the split."""

    @abstractmethod
    def facts(self, snapshot: Snapshot) -> Facts:
        """The visible facts of a state, without restoring it."""

    @abstractmethod
    def optimal_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        """Every action that starts a shortest way to success; empty where success is out of reach or reached."""

    @abstractmethod
    def steps_to_go(self, snapshot: Snapshot) -> int | None:
        """The fewest steps to success, 0 where it is reached and ``None`` where it is out of reach."""

    def expert_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        """Actions that a good player may take: the optimal ones, or where these are not known, those of a heuristic.

        Empty where nobody knows any.
        """
        return self.optimal_actions(snapshot) if self.has_solver else ()

    def layouts(self) -> int:
        """How many layouts sampling finds; at least ``MIN_LAYOUTS`` means enough, not how many there are.

        May leave the world in another episode.
        """
        return MIN_LAYOUTS

    @abstractmethod
    def realise(self, facts: Facts, like: Snapshot) -> Snapshot | None:
        """A state that shows ``facts``; what cannot be seen is as in ``like``. ``None`` where no state shows them."""

    def mission(self, snapshot: Snapshot) -> str:
        """What this episode asks for, in words; "" where the rules say it for every episode."""
        return ""

    def inventory(self, snapshot: Snapshot) -> str:
        """What the agent holds, in words, where that matters and the image does not show it; "" elsewhere."""
        return ""

    def belief(self, seen: Sequence[Snapshot], asked: Snapshot) -> Facts:
        """What the images of ``seen`` (states of one episode), with the actions between, tell of the state ``asked``.

        In a full view that is every fact. In a partial view, places that no image of ``seen`` shows are things of kind
        "unknown", so that a perfect memory answers exactly this.
        """
        return self.facts(asked)

    def foreseeable(self, snapshot: Snapshot, action: int) -> bool:
        """Whether the visible outcome of an action follows from what can be known before it."""
        return self.deterministic

    def outcomes(self, snapshot: Snapshot, action: int) -> tuple[tuple[float, Snapshot], ...]:
        """Every state that an action may lead to, with its chance. Leaves the world in one of them."""
        if not self.deterministic:
            raise WorldError(f"world {self.id} is random and does not know its chances")
        self.restore(snapshot)
        self.step(np.int64(action))
        return ((1.0, self.state().snapshot),)

    def packages(self) -> tuple[str, ...]:
        """The distributions whose versions decide what an episode looks like, besides this one."""
        return ("gymnasium", "minigrid", "numpy")

    def render(self) -> Frame:  # type: ignore[override]
        return self.render_states([self.state().snapshot])[0]

    def key(self, snapshot: Snapshot) -> str:
        """A digest of the static layout that is the same in every process; layouts with equal keys are equal."""
        text = json.dumps(self.layout(snapshot), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def split(self, snapshot: Snapshot) -> Split:
        return split_of(self.key(snapshot))


def split_of(layout_key: str) -> Split:
    """The split a layout belongs to: a fixed function of its digest, so no layout is ever in two splits."""
    point = int(layout_key, 16) / 16 ** len(layout_key)
    for split in SPLITS:
        if point < SPLIT_SHARES[split]:
            return split
        point -= SPLIT_SHARES[split]
    return SPLITS[-1]


def wanted_split(options: Mapping[str, Any] | None) -> Split | None:
    """The split asked for in ``reset``'s options, checked."""
    split = (options or {}).get("split")
    if split is not None and split not in SPLITS:
        raise WorldError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return split


def count_layouts(keys: Iterable[str]) -> int:
    """The number of different layouts among drawn ones, given by their keys; stops when there are surely enough.

    That is when ``MIN_LAYOUTS`` were found, or when none of the first ``SURE_DRAWS`` came twice: of fewer than
    ``MIN_LAYOUTS`` layouts that happens once in 4,000 times at most. It returns ``MIN_LAYOUTS`` then.
    """
    found: set[str] = set()
    for drawn, key in enumerate(keys, 1):
        found.add(key)
        if len(found) >= MIN_LAYOUTS or drawn == len(found) == SURE_DRAWS:
            return MIN_LAYOUTS
    return len(found)


def check_enough_layouts(id: str, layouts: int) -> None:
    """Refuse to split a world whose layouts are too few for a claim about unseen ones."""
    if layouts < MIN_LAYOUTS:
        noun = "layout was" if layouts == 1 else "layouts were"
        raise WorldError(
            f"world {id}: only {layouts} different {noun} found, and splits need at least {MIN_LAYOUTS}: it has too "
            "few layouts to be split into train, val and test; play it without a split, or take a larger world"
        )


def layout_seeds(generator: np.random.Generator) -> Iterator[int]:
    """Seeds to try layouts with until one falls into the wanted split; ends after ``MAX_LAYOUT_TRIES``."""
    for _ in range(MAX_LAYOUT_TRIES):
        yield int(generator.integers(2**31 - 1))


# ---------------------------------------------------------------------------------------------------------- registry

ENTRY_POINTS = "vagen.worlds"


@dataclass(frozen=True)
class WorldSpec:
    """How to build a registered world: ``entry`` is "module:callable", called with ``id`` and ``kwargs``."""

    id: str
    entry: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """Many worlds that are found in a package instead of being listed.

    ``worlds`` holds how to build each by its id; ``unsupported`` the reason why others of the package do not work.
    """

    worlds: Mapping[str, WorldSpec]
    unsupported: Mapping[str, str] = field(default_factory=dict)


_REGISTRY: dict[str, WorldSpec] = {}
_FAMILIES: dict[str, str] = {}  # prefix of the ids -> "module:function" that returns the family
_FOUND: dict[str, Family] = {}  # families asked for so far, by prefix
_PLUGINS_LOADED = False


def register(id: str, entry: str, **kwargs: Any) -> None:
    """Make ``make(id)`` work. The entry is imported only when a world is made."""
    if id in _REGISTRY:
        raise WorldError(f"world {id!r} is registered twice")
    if "@" in id:
        raise WorldError(f"world {id!r} has an @ in its id, after which comes the size of tiles; choose another")
    _REGISTRY[id] = WorldSpec(id, entry, kwargs)


def register_family(prefix: str, entry: str) -> None:
    """Make ``make`` work for all worlds of a family, whose ids start with ``prefix``.

    ``entry`` is "module:function"; the function is called with the prefix, returns a :class:`Family`, and is imported
    only when one of the ids is asked for, or all of them.
    """
    if prefix in _FAMILIES:
        raise WorldError(f"the family of worlds {prefix!r} is registered twice")
    _FAMILIES[prefix] = entry


def registered() -> tuple[str, ...]:
    """The ids of all worlds that registered one by one, those of other distributions included, sorted."""
    _load_plugins()
    return tuple(sorted(_REGISTRY))


def available() -> tuple[str, ...]:
    """Every id that ``make`` accepts, sizes of tiles aside: the registered ones and those of families, sorted."""
    return tuple(sorted({*registered(), *(id for prefix in _FAMILIES for id in _family(prefix).worlds)}))


def unsupported() -> dict[str, str]:
    """The members of families that do not work, by id, and why."""
    reasons = {id: why for prefix in _FAMILIES for id, why in _family(prefix).unsupported.items()}
    return dict(sorted(reasons.items()))


def is_available(id: str) -> bool:
    """Whether ``make`` accepts an id; cheaper than looking it up in ``available()``."""
    return _find(id) is not None


def make(id: str) -> World:
    """A new world by its id, which may end with the size of its tiles in px: ``sokoban-6x6@28``.

    Raises:
        WorldError: no world has this id, and the message names the nearest one; or it does not work, and why.
    """
    spec = _find(id)
    if spec is None:
        raise WorldError(_unknown(id))
    entry = _load(spec.entry)
    if "@" in id and "tile_size" not in inspect.signature(entry).parameters:
        raise WorldError(f"world {id}: {id.partition('@')[0]} is drawn in one size only; leave out @ and what follows")
    return entry(id=id, **spec.kwargs)


def _find(id: str) -> WorldSpec | None:
    """How to build a world; ``None`` where there is none of this id."""
    name, at, size = id.partition("@")
    if not at:
        return _find_unsized(id)
    spec = _find_unsized(name)
    if spec is None or not (size.isascii() and size.isdecimal() and 0 < int(size) <= MAX_TILE_SIZE):
        return None
    return WorldSpec(id, spec.entry, {**spec.kwargs, "tile_size": int(size)})


def _find_unsized(id: str) -> WorldSpec | None:
    if id not in _REGISTRY:
        _load_plugins()
    if id in _REGISTRY:
        return _REGISTRY[id]
    return next((_family(prefix).worlds.get(id) for prefix in _FAMILIES if id.startswith(prefix)), None)


def _unknown(id: str) -> str:
    prefix = next((prefix for prefix in _FAMILIES if id.startswith(prefix)), None)
    family = _family(prefix) if prefix is not None else Family({})
    name, at, size = id.partition("@")
    if name in family.unsupported:
        return f"world {id!r} does not work: {family.unsupported[name]}"
    if at and _find_unsized(name):
        return f"world {id!r}: after @ comes the size of its tiles in px, at most {MAX_TILE_SIZE}; not {size!r}"
    near = get_close_matches(name, [*_REGISTRY, *family.worlds], n=1, cutoff=0.4)
    return f"unknown world {id!r}: " + (f"did you mean {near[0]!r}?" if near else "`vagen worlds` lists them")


def _family(prefix: str) -> Family:
    if prefix not in _FOUND:
        _FOUND[prefix] = _load(_FAMILIES[prefix])(prefix)
    return _FOUND[prefix]


def _load(entry: str) -> Callable[..., Any]:
    module, name = entry.split(":")
    return getattr(importlib.import_module(module), name)


def _load_plugins() -> None:
    """Let other distributions register their worlds, once."""
    global _PLUGINS_LOADED
    if _PLUGINS_LOADED:
        return
    _PLUGINS_LOADED = True  # a plug-in may list worlds itself
    for point in entry_points(group=ENTRY_POINTS):
        before = dict(_REGISTRY)
        try:
            point.load()()
        except (ImportError, AttributeError, SyntaxError, TypeError, ValueError, LookupError, OSError) as error:
            _REGISTRY.clear()
            _REGISTRY.update(before)
            _PLUGINS_LOADED = False
            raise WorldError(_broken(point, error)) from error


def _broken(point: EntryPoint, error: BaseException) -> str:
    origin = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"worlds of {origin} cannot be registered (entry point {point.name} = {point.value}): {what}; "
        "mend or uninstall that distribution"
    )
