"""The questions that a scene allows, with what is right, what is wrong and why. Knows the map, and not the pictures.

A kind of question is one function: it takes a scene and a :class:`Draw`, and gives a draft, or ``None`` where the
scene does not allow it. Whatever a text-only reader could learn is left to chance, in equal parts: which of two
answers is right, who stands where, and (in :mod:`worlds.spatial`) which letter is right. So a motion question offers
the two motions that happen, not four of which two never do.

Every step of the reasoning is a statement about the map or about what an image shows, in a few fixed forms:
:mod:`worlds.spatial_steps` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Protocol

import numpy as np

from worlds.spatial_grid import (
    AHEAD,
    BEHIND,
    TO_LEFT,
    TO_RIGHT,
    Arrangement,
    Cell,
    Heading,
    Setting,
    View,
    direction,
    moved,
    square_distance,
)
from worlds.spatial_steps import Steps, an, listed

YES_NO = ("Yes", "No")
DIAGONALS = ("Diagonally forward and left", "Diagonally forward and right")
SIDEWAYS = ("Directly left", "Directly right")
SIDES = ("Left", "Right")
_START = 0  # where motions begin: two images tell only what is relative to the first, and this one looks up
Category = tuple[str, str, str, str]


class Known(Protocol):
    """What questions need to know of a scene.

    Attributes:
        arrangement: where things are.
        names: of the objects, all different.
        facings: which way each object faces; ``None`` for what has no front.
        seen: for each view, whether it shows each object.
    """

    @property
    def arrangement(self) -> Arrangement: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def facings(self) -> tuple[Heading | None, ...]: ...
    @property
    def seen(self) -> tuple[tuple[bool, ...], ...]: ...


@dataclass(frozen=True)
class Draw:
    """What is left to chance in one question.

    Attributes:
        generator: for everything that no answer depends on.
        first: for questions with two fixed answers, whether the first is right.
    """

    generator: np.random.Generator
    first: bool

    def one_of(self, choices: Sequence[int]) -> int:
        return choices[int(self.generator.integers(len(choices)))]


@dataclass(frozen=True)
class Draft:
    """A question before its options have letters.

    Attributes:
        code: what its id ends with.
        category: movement, relation, time and perspective, as MindCube files them.
        views: the views that are shown, in order, as numbers of the arrangement.
        stem: the text before the options.
        right: the right answer.
        wrong: the other answers.
        steps: the reasoning, a statement each.
    """

    code: str
    category: Category
    views: tuple[int, ...]
    stem: str
    right: str
    wrong: tuple[str, ...]
    steps: tuple[str, ...]


Ask = Callable[[Known, Draw], Draft | None]


# -------------------------------------------------------------------------------------------------------------- among


def _among_motion(scene: Known, draw: Draw) -> Draft:
    end = 1 if draw.first else 3
    return _motion(scene, (_START, end), draw.first, DIAGONALS, f"q0_1_{end}", "perpendicular")


def _among_behind(scene: Known, draw: Draw) -> Draft:
    view = draw.one_of(range(4))
    steps = _looking(scene, (0, 1, 2, 3), view)
    return _which(
        scene,
        f"q{view}_2_1",
        ("perpendicular", "P-O", "meanwhile", "self"),
        (0, 1, 2, 3),
        f"{_four_sides(scene)} I stand where image {view + 1} was taken and look the same way. What is behind me?",
        (1 + view, BEHIND),
        (1, 2, 3, 4),
        steps,
        _at(scene, view),
        "behind me",
    )


def _among_approach(scene: Known, draw: Draw) -> Draft:
    view = draw.one_of(range(4))
    turn = draw.one_of((TO_LEFT, TO_RIGHT))
    ahead = 1 + (view + (1 if turn == TO_LEFT else 3)) % 4
    target = ahead if draw.first else draw.one_of([o for o in range(1, 5) if o != ahead])
    code = f"q{view}_2_{2 if turn == TO_LEFT else 3}"
    return _approach(scene, (0, 1, 2, 3), view, turn, target, code, "perpendicular", _four_sides(scene))


def _among_beside(scene: Known, draw: Draw) -> Draft:
    view = draw.one_of(range(4))
    side = draw.one_of((TO_LEFT, TO_RIGHT))
    centre, word = scene.names[0], "left" if side == TO_LEFT else "right"
    target = 1 + (view + (1 if side == TO_LEFT else 3)) % 4
    _, heading = _at(scene, view)
    return _which(
        scene,
        f"q{view}_5_{1 if side == TO_LEFT else 2}",
        ("perpendicular", "O-O", "meanwhile", "self"),
        (0, 1, 2, 3),
        f"{_four_sides(scene)} As image {view + 1} looks at it, what is to the {word} of the {centre}?",
        (target, side),
        (1, 2, 3, 4),
        _looking(scene, (0, 1, 2, 3), view).at(centre, scene.arrangement.cells[0]),
        (scene.arrangement.cells[0], heading),
        f"to the {word} of the {centre}",
    )


def _among_sees(scene: Known, draw: Draw) -> Draft | None:
    facing = scene.facings[0]
    if facing is None:
        return None
    ahead = next(number for number in range(1, 5) if _from_centre(scene, number) == facing)
    target = ahead if draw.first else draw.one_of([o for o in range(1, 5) if o != ahead])
    name = scene.names[target]
    steps = (
        _located(scene, (0, 1, 2, 3), target, _standing_as(scene, (0, 1, 2, 3), 0, facing))
        .lies(scene.arrangement.cells[0], name, _from_centre(scene, target))
        .means(facing, (_from_centre(scene, target) - facing) % 4)
        .so(f"I {'see' if draw.first else 'do not see'} the {name}")
    )
    return _decided(
        f"gen_3_{target}",
        ("perpendicular", "O-O", "meanwhile", "level1"),
        (0, 1, 2, 3),
        f"{_four_sides(scene)} If I were positioned where the {scene.names[0]} is, facing the way it faces, would I "
        f"see the {name} in front of me?",
        draw.first,
        YES_NO,
        steps,
    )


def _among_own_sides(scene: Known, draw: Draw) -> Draft | None:
    facing = scene.facings[0]
    if facing is None:
        return None
    side = draw.one_of((TO_LEFT, TO_RIGHT, BEHIND))
    target = next(number for number in range(1, 5) if _from_centre(scene, number) == facing.turned(side))
    words = {TO_LEFT: "to my left", TO_RIGHT: "to my right", BEHIND: "behind me"}[side]
    return _which(
        scene,
        f"gen_4_{(TO_LEFT, TO_RIGHT, BEHIND).index(side) + 1}",
        ("perpendicular", "O-O", "meanwhile", "level2"),
        (0, 1, 2, 3),
        f"{_four_sides(scene)} If I were positioned where the {scene.names[0]} is, facing the way it faces, what "
        f"would be {words}?",
        (target, side),
        (1, 2, 3, 4),
        _standing_as(scene, (0, 1, 2, 3), 0, facing),
        (scene.arrangement.cells[0], facing),
        words,
    )


def _among_from_outside(scene: Known, draw: Draw) -> Draft | None:
    standing = [o for o in range(1, 5) if scene.facings[o] == _from_centre(scene, o).turned(BEHIND)]
    if not standing:
        return None
    stand, side = draw.one_of(standing), draw.one_of((TO_LEFT, TO_RIGHT))
    facing = _from_centre(scene, stand).turned(BEHIND)
    target = next(o for o in range(1, 5) if _from_centre(scene, o) == facing.turned(side))
    centre, word = scene.names[0], "left" if side == TO_LEFT else "right"
    return _which(
        scene,
        f"gen_6_{2 * stand - (side == TO_LEFT)}",
        ("perpendicular", "O-O", "meanwhile", "level2"),
        (0, 1, 2, 3),
        f"{_four_sides(scene)} If I were positioned where the {scene.names[stand]} is, facing the way it faces, what "
        f"would be to the {word} of the {centre}?",
        (target, side),
        [o for o in range(1, 5) if o != stand],
        _standing_as(scene, (0, 1, 2, 3), stand, facing).at(centre, scene.arrangement.cells[0]),
        (scene.arrangement.cells[0], facing),
        f"to the {word} of the {centre}",
    )


def _four_sides(scene: Known) -> str:
    return (
        f"The {scene.names[0]} stands in the middle of a room. Image 1 shows it from the front, image 2 from the "
        "left, image 3 from the back and image 4 from the right, each with what stands beyond it:"
    )


def _from_centre(scene: Known, number: int) -> Heading:
    return direction(scene.arrangement.cells[0], scene.arrangement.cells[number])


# ------------------------------------------------------------------------------------------------------------- around


_FRONT, _LEFT, _RIGHT, _BACK = range(4)  # the views of a row


def _around_motion(scene: Known, draw: Draw) -> Draft:
    end = _LEFT if draw.first else _RIGHT
    return _motion(scene, (_START, end), draw.first, DIAGONALS, f"q1_{end}", "linear")


def _around_nearest(scene: Known, draw: Draw) -> Draft | None:
    count = len(scene.names)
    if count < 3:
        return None
    views, side = _three_sides(draw)
    image = views.index(side) + 1
    order = _along(scene, side)
    place = draw.one_of(range(count - 1))
    near, target = order[place], order[place + 1]
    name = scene.names[near]
    return _which(
        scene,
        f"q2_{_code(views, side, count, near)}",
        ("linear", "O-O", "meanwhile", "self"),
        views,
        f"{_row_from(scene, views)} As image {image} looks along the row, which object is the nearest behind the "
        f"{name}?",
        (target, AHEAD),
        [other for other in range(count) if other != near],
        _looking(scene, views, side).at(name, scene.arrangement.cells[near]),
        (scene.arrangement.cells[near], _at(scene, side)[1]),
        f"the nearest behind the {name}",
    )


def _around_is_behind(scene: Known, draw: Draw) -> Draft:
    count = len(scene.names)
    views, side = _three_sides(draw)
    image = views.index(side) + 1
    order = _along(scene, side)
    place = draw.one_of(range(count - 1))
    near, far = order[place], order[place + 1]
    thing, base = (far, near) if draw.first else (near, far)
    name, other = scene.names[thing], scene.names[base]
    heading = _at(scene, side)[1]
    steps = (
        _looking(scene, views, side)
        .at(other, scene.arrangement.cells[base])
        .at(name, scene.arrangement.cells[thing])
        .means(heading, AHEAD)
        .lies(
            scene.arrangement.cells[base],
            name,
            direction(scene.arrangement.cells[base], scene.arrangement.cells[thing]),
        )
        .so(f"the {name} is {'' if draw.first else 'not '}behind the {other}")
    )
    return _decided(
        f"q2_{_code(views, side, count, base)}_{thing + 1}",
        ("linear", "O-O", "meanwhile", "self"),
        views,
        f"{_row_from(scene, views)} As image {image} looks along the row, is there {an(name)} behind the {other}?",
        draw.first,
        YES_NO,
        steps,
    )


def _around_approach(scene: Known, draw: Draw) -> Draft | None:
    count = len(scene.names)
    if count < 3:
        return None
    views, _ = _three_sides(draw)
    turn = draw.one_of((TO_LEFT, TO_RIGHT))
    ends = (0, count - 1) if (turn == TO_LEFT) == (views[0] == _FRONT) else (count - 1, 0)  # the nearer, the further
    target = ends[0] if draw.first else ends[1]
    code = f"q3_{1 + (turn == TO_RIGHT) + 2 * (target > 0) + 4 * (views[0] == _BACK)}"
    return _approach(scene, views, views[0], turn, target, code, "linear", _row_from(scene, views))


def _around_own_sides(scene: Known, draw: Draw) -> Draft | None:
    count = len(scene.names)
    if count < 3:
        return None
    cells = scene.arrangement.cells
    asked = [  # (who stands there, facing which way, what is nearest on a side); at an end one side is empty
        (stand, facing, other)
        for stand, facing in enumerate(scene.facings)
        if facing is not None and 0 < stand < count - 1
        for other in (stand - 1, stand + 1)
    ]
    if not asked:
        return None
    stand, facing, target = asked[draw.one_of(range(len(asked)))]
    side = (direction(cells[stand], cells[target]) - facing) % 4
    views, _ = _three_sides(draw)
    words = {AHEAD: "in front of me", TO_RIGHT: "to my right", BEHIND: "behind me", TO_LEFT: "to my left"}[side]
    return _which(
        scene,
        f"q4_{4 * stand + side + 1}",
        ("linear", "O-O", "meanwhile", "level2"),
        views,
        f"{_row_from(scene, views)} If I were positioned where the {scene.names[stand]} is, facing the way it faces, "
        f"which object would be the nearest {words}?",
        (target, side),
        [other for other in range(count) if other != stand],
        _standing_as(scene, views, stand, facing),
        (cells[stand], facing),
        f"the nearest {words}",
    )


def _three_sides(draw: Draw) -> tuple[tuple[int, ...], int]:
    """The views shown, the front or the back first, and the one from the side that is asked about."""
    side = draw.one_of((_LEFT, _RIGHT))
    return (draw.one_of((_FRONT, _BACK)), _LEFT, _RIGHT), side


def _row_from(scene: Known, views: Sequence[int]) -> str:
    sides = [scene.arrangement.views[view].side for view in views]
    return (
        f"{len(scene.names)} objects stand in a row. Image 1 shows them from the {sides[0]}, image 2 from the "
        f"{sides[1]} end of the row and image 3 from the {sides[2]} end, left and right as the front sees them:"
    )


def _along(scene: Known, side: int) -> list[int]:
    """The objects of a row as a view from its end meets them."""
    numbers = list(range(len(scene.names)))
    return numbers if side == _LEFT else numbers[::-1]


def _code(views: Sequence[int], side: int, count: int, thing: int) -> int:
    """A number that tells the questions about a row apart."""
    return 1 + thing + count * ((side == _RIGHT) + 2 * (views[0] == _BACK))


# ----------------------------------------------------------------------------------------------------------- rotation


_SIDE_WORDS = {TO_RIGHT: "to my right", BEHIND: "behind me", TO_LEFT: "to my left"}


def _rotation_beside(scene: Known, draw: Draw) -> Draft | None:
    return _from_the_spot(scene, draw, (0,), (TO_LEFT, TO_RIGHT))


def _rotation_behind(scene: Known, draw: Draw) -> Draft | None:
    return _from_the_spot(scene, draw, (0,), (BEHIND,))


def _rotation_turned(scene: Known, draw: Draw) -> Draft | None:
    return _from_the_spot(scene, draw, (TO_LEFT, TO_RIGHT, BEHIND), (TO_LEFT, TO_RIGHT, BEHIND))


def _from_the_spot(scene: Known, draw: Draw, turns: Sequence[int], sides: Sequence[int]) -> Draft | None:
    views = scene.arrangement.views
    headings = [view.heading for view in views]
    asked = [
        (view, turn, side)
        for view in range(len(views))
        for turn in turns
        for side in sides
        if headings[view].turned(turn + side) in headings
    ]
    if not asked:
        return None
    view, turn, side = asked[draw.one_of(range(len(asked)))]
    everything = tuple(range(len(views)))
    cell, heading = _at(scene, view)
    steps = _looking(scene, everything, view)
    if turn:
        steps = steps.turned(heading, turn)
    turning = {
        0: "",
        TO_LEFT: ", then I turn 90 degrees to the left",
        TO_RIGHT: ", then I turn 90 degrees to the right",
        BEHIND: ", then I turn around",
    }[turn]
    return _which(
        scene,
        f"q{view + 1}_{1 + 4 * turn + side}",
        ("perpendicular", "PO", "rotation", "self"),
        everything,
        f"{_on_the_spot(views)} I look as in image {view + 1}{turning}. What is {_SIDE_WORDS[side]}?",
        (headings.index(heading.turned(turn + side)), side),
        everything,
        steps,
        (cell, heading.turned(turn)),
        _SIDE_WORDS[side],
    )


def _on_the_spot(views: Sequence[View]) -> str:
    """What the camera did, said in words: the images alone do not tell."""
    words = {TO_RIGHT: "90 degrees to the right", TO_LEFT: "90 degrees to the left", BEHIND: "around, by 180 degrees"}
    turns = [
        f"for image {number + 1} it turned {words[(after.heading - before.heading) % 4]}"
        for number, (before, after) in enumerate(pairwise(views), start=1)
    ]
    return f"A camera stays in one place and turns: image 1 comes first, {listed(turns)}. From these images:"


# -------------------------------------------------------------------------------------------------------- translation


def _translation_motion(scene: Known, draw: Draw) -> Draft:
    views = (0, 1) if draw.first else (1, 0)
    return _motion(scene, views, draw.first, SIDEWAYS, f"q1_{1 if draw.first else 2}", "linear")


def _translation_relative(scene: Known, draw: Draw) -> Draft:
    thing, base = (0, 2) if draw.first else (2, 0)
    views = (0, 1) if draw.one_of((0, 1)) else (1, 0)
    name, other = scene.names[thing], scene.names[base]
    cells = scene.arrangement.cells
    way = direction(cells[base], cells[thing])
    steps = (
        shown(scene, views)
        .looks("Image", _taken(scene, views))
        .at(name, cells[thing])
        .at(other, cells[base])
        .lies(cells[base], name, way)
        .so(f"the {name} is to the {way} of the {other}")
    )
    return _decided(
        f"q2_{1 + 2 * (views[0] == 1) + (thing == 2)}",
        ("linear", "O-O", "meanwhile", "self"),
        views,
        "Between image 1 and image 2 the camera moved sideways and did not turn: on which side is the "
        f"{name} relative to the {other}?",
        draw.first,
        SIDES,
        steps,
    )


# --------------------------------------------------------------------------------------------------- what they share


def _motion(
    scene: Known, views: tuple[int, int], first: bool, answers: tuple[str, str], code: str, movement: str
) -> Draft:
    (start, heading), (end, _) = (_at(scene, view) for view in views)
    steps = shown(scene, views, "View").looks("View", _taken(scene, views)).move(start, end)
    offset = (end[0] - start[0], end[1] - start[1])
    if _projected(offset, heading):
        steps = steps.means(heading, AHEAD)
    side = TO_LEFT if first else TO_RIGHT
    right, wrong = answers if first else answers[::-1]
    steps = steps.means(heading, side).so(f"I moved {right.lower()}")
    return Draft(
        code,
        (movement, "P-P", "meanwhile", "self"),
        views,
        "The two views show one scene: in which direction did I move from the first view to the second, as the first "
        "one looks?",
        right,
        (wrong,),
        steps.lines,
    )


def _projected(offset: Cell, heading: Heading) -> int:
    """How many cells of an offset are ahead."""
    return offset[0] * heading.step[0] + offset[1] * heading.step[1]


def _which(
    scene: Known,
    code: str,
    category: Category,
    views: tuple[int, ...],
    stem: str,
    target: tuple[int, int],
    options: Sequence[int],
    steps: Steps,
    pose: tuple[Cell, Heading],
    words: str,
) -> Draft:
    """A question whose answer is an object.

    Args:
        target: the right object, and on which side (quarter turns to the right) of the pose it lies.
        options: the objects on offer.
        pose: whose side is meant: seen from this cell, by somebody who faces this way.
        words: what the conclusion says of the object.
    """
    number, side = target
    (cell, heading), name = pose, scene.names[number]
    way = heading.turned(side)
    steps = (
        _located(scene, views, number, steps.means(heading, side)).lies(cell, name, way).so(f"the {name} is {words}")
    )
    wrong = tuple(scene.names[other] for other in options if other != number)
    return Draft(code, category, views, stem, name, wrong, steps.lines)


def _approach(
    scene: Known, views: tuple[int, ...], view: int, turn: int, target: int, code: str, line: str, opening: str
) -> Draft:
    """Whether one comes closer to an object, who turns where one of the images was taken and walks ahead.

    Args:
        views, view: those shown, and the one where the walk begins.
        turn: in quarter turns to the right.
        target: the object.
        line: how MindCube files the arrangement.
        opening: what the images are.
    """
    cell, heading = _at(scene, view)
    goal, name = scene.arrangement.cells[target], scene.names[target]
    after = moved(cell, heading.turned(turn))
    before_it, after_it = square_distance(cell, goal), square_distance(after, goal)
    closer = after_it < before_it
    steps = (
        _located(scene, views, target, _looking(scene, views, view).turned(heading, turn))
        .forward(after)
        .distance(name, before_it, after_it)
        .so(f"I {'get' if closer else 'do not get'} closer to the {name}")
    )
    return _decided(
        code,
        (line, "P-O", "sequence", "self"),
        views,
        f"{opening} I stand where image {views.index(view) + 1} was taken and look the same way. If I turn "
        f"{'left' if turn == TO_LEFT else 'right'} and walk forward, do I get closer to the {name}?",
        closer,
        YES_NO,
        steps,
    )


def _decided(
    code: str,
    category: Category,
    views: tuple[int, ...],
    stem: str,
    first: bool,
    answers: tuple[str, str],
    steps: Steps,
) -> Draft:
    """A question with two fixed answers."""
    right, wrong = answers if first else answers[::-1]
    return Draft(code, category, views, stem, right, (wrong,), steps.lines)


def _at(scene: Known, view: int) -> tuple[Cell, Heading]:
    taken = scene.arrangement.views[view]
    return taken.cell, taken.heading


def _taken(scene: Known, views: Sequence[int]) -> list[View]:
    return [scene.arrangement.views[view] for view in views]


def shown(scene: Known, views: Sequence[int], word: str = "Image") -> Steps:
    """What each of some views shows, called images or otherwise."""
    steps = Steps()
    for number, view in enumerate(views, start=1):
        steps = steps.shows(word, number, [n for n, seen in zip(scene.names, scene.seen[view], strict=True) if seen])
    return steps


def _looking(scene: Known, views: Sequence[int], view: int) -> Steps:
    """What each image shows, and where one stands who looks as one of the views does."""
    return shown(scene, views).stand(*_at(scene, view))


def _located(scene: Known, views: Sequence[int], thing: int, steps: Steps) -> Steps:
    """Where a thing is; before that, where just one of the images shown looks straight at it, which and which way."""
    cell = scene.arrangement.cells[thing]
    looking = [(n, view.heading) for n, view in enumerate(_taken(scene, views), start=1) if _straight(view, cell)]
    if len(looking) == 1:
        steps = steps.towards(*looking[0])
    return steps.at(scene.names[thing], cell)


def _straight(view: View, cell: Cell) -> bool:
    """Whether a cell is on the line along which a view looks."""
    dx, dy = view.heading.step
    x, y = cell[0] - view.cell[0], cell[1] - view.cell[1]
    return x * dy == y * dx and x * dx + y * dy > 0


def _standing_as(scene: Known, views: Sequence[int], thing: int, facing: Heading) -> Steps:
    """What each image shows, which way a thing faces in the first that shows it, and how one stands in its place."""
    first = next(place for place, view in enumerate(views) if scene.seen[view][thing])
    name, cell = scene.names[thing], scene.arrangement.cells[thing]
    side = (facing - scene.arrangement.views[views[first]].heading) % 4
    return shown(scene, views).seen_facing(first + 1, name, side).faces(name, cell, facing).stand(cell, facing)


KINDS: Mapping[Setting, Mapping[str, Ask]] = MappingProxyType(
    {
        "among": {
            "motion": _among_motion,
            "behind": _among_behind,
            "approach": _among_approach,
            "beside": _among_beside,
            "sees": _among_sees,
            "own sides": _among_own_sides,
            "from outside": _among_from_outside,
        },
        "around": {
            "motion": _around_motion,
            "nearest behind": _around_nearest,
            "is behind": _around_is_behind,
            "approach": _around_approach,
            "own sides": _around_own_sides,
        },
        "rotation": {
            "beside": _rotation_beside,
            "behind": _rotation_behind,
            "turned": _rotation_turned,
        },
        "translation": {
            "motion": _translation_motion,
            "relative": _translation_relative,
        },
    }
)
