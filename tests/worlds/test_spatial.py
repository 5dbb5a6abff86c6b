"""Generated questions: answers agree with the room, every step of the reasoning is true, and text tells nothing.

The checks read the questions as text and know the rooms' coordinates and cameras; none uses the code that asked.
"""

import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from tests.worlds.spatial_geometry import GeometricVisibility, in_camera, projected
from worlds import WorldError
from worlds.core import SPLITS, split_of
from worlds.rooms import FIXTURES, KINDS, WALL_COLOURS, Camera, overlap
from worlds.spatial import LETTERS, Question, augmented_map, questions
from worlds.spatial_grid import ARRANGEMENTS, SETTINGS, Heading, direction
from worlds.spatial_questions import KINDS as KINDS_ASKED
from worlds.spatial_scenes import SEEN, draw_scene, look

N = 252  # questions per setting
SIDES = {"to my left": 90, "to my right": -90, "behind me": 180, "in front of me": 0}


@pytest.fixture(scope="module")
def asked() -> dict[str, list[Question]]:
    return {setting: list(questions(setting, N, GeometricVisibility(), seed=3)) for setting in SETTINGS}


@pytest.fixture(scope="module")
def every(asked) -> list[Question]:
    return [question for setting in SETTINGS for question in asked[setting]]


# ------------------------------------------------------------------------------ an independent look at every answer


def named(question: Question, pattern: str) -> str:
    match = re.search(pattern, question.stem)
    assert match, f"{question.stem!r} does not say {pattern!r}"
    return match[1]


def place(question: Question, name: str) -> np.ndarray:
    """Where an object's middle is, half way up."""
    room = question.scene.room
    (item,) = [item for item in room.items if f"{item.colour} {item.kind}" == name]
    return np.array([item.x, item.y, KINDS[item.kind].height / 2])


def front(question: Question, name: str) -> float:
    (item,) = [item for item in question.scene.room.items if f"{item.colour} {item.kind}" == name]
    return item.yaw


def camera(question: Question, number: int) -> Camera:
    """Of image ``number``, from 1."""
    return question.scene.cameras[question.views[number - 1]]


def off(way: np.ndarray, yaw: float, side: float) -> float:
    """Degrees between a way and the direction that is ``side`` degrees to the left of ``yaw``."""
    angle = math.degrees(math.atan2(way[1], way[0])) - yaw - side
    return abs((angle + 180) % 360 - 180)


def side_of(text: str) -> float:
    (side,) = [degrees for words, degrees in SIDES.items() if words in text.rpartition(": ")[2]]
    return side


def nearest_to(question: Question, origin: np.ndarray, yaw: float, side: float) -> str:
    """The option that lies most to that side of somebody at ``origin`` who faces ``yaw``, clearly more than others."""
    ways = {option: off(place(question, option) - origin, yaw, side) for option in question.options}
    best, second = sorted(ways, key=ways.__getitem__)[:2]
    assert ways[best] < 40 < ways[second], f"{question.id}: not clear, {ways}"
    return best


def answer_from_the_room(question: Question) -> str:
    """The right option, from the text, the cameras and the coordinates of the room."""
    stem = question.stem
    if "did I move" in stem:
        one, two = camera(question, 1), camera(question, 2)
        right, _, ahead = in_camera(
            Camera(one.x, one.y, one.yaw, one.height, 0.0, one.fov), np.array([two.x, two.y, one.height])
        )
        way = "left" if right < 0 else "right"
        return f"Diagonally forward and {way}" if ahead > 0.2 else f"Directly {way}"
    if "relative to" in stem:
        name, other = named(question, r"is the (.+) relative"), named(question, r"relative to the (.+)\?")
        seen = camera(question, 1)
        # Both stand before the camera, in the picture's plane or beyond its edge.
        return (
            "Left"
            if in_camera(seen, place(question, name))[0] < in_camera(seen, place(question, other))[0]
            else "Right"
        )
    if "is there a" in stem:
        name, other = named(question, r"is there an? (.+) behind"), named(question, r"behind the (.+)\?")
        seen = camera(question, int(named(question, r"As image (\d) looks along")))
        return (
            "Yes" if in_camera(seen, place(question, name))[2] > in_camera(seen, place(question, other))[2] else "No"
        )
    if "the nearest behind the" in stem:
        seen = camera(question, int(named(question, r"As image (\d) looks along")))
        start = in_camera(seen, place(question, named(question, r"behind the (.+)\?")))[2]
        depths = {option: in_camera(seen, place(question, option))[2] for option in question.options}
        return min((o for o in depths if depths[o] > start), key=depths.__getitem__)
    if "get closer" in stem:
        seen = camera(question, int(named(question, r"where image (\d)")))
        yaw = math.radians(seen.yaw + (90 if "turn left" in stem else -90))
        start = np.array([seen.x, seen.y])
        target = place(question, named(question, r"closer to the (.+)\?"))[:2]
        step = start + 0.3 * np.array([math.cos(yaw), math.sin(yaw)])
        return "Yes" if np.linalg.norm(target - step) < np.linalg.norm(target - start) else "No"
    if "would I see" in stem:
        stand = named(question, r"where the (.+) is, facing")
        way = place(question, named(question, r"see the (.+) in front")) - place(question, stand)
        return "Yes" if off(way, front(question, stand), 0) < 45 else "No"
    if "of the" in stem.rpartition(": ")[2] and "what would be to the" in stem:
        middle = place(question, named(question, r"(?:left|right) of the (.+)\?"))
        side = 90 if "to the left of" in stem else -90
        return nearest_to(question, middle, front(question, named(question, r"where the (.+) is, facing")), side)
    if "which object would be the nearest" in stem:
        stand = named(question, r"where the (.+) is, facing")
        ways = {option: place(question, option) - place(question, stand) for option in question.options}
        there = [o for o, way in ways.items() if off(way, front(question, stand), side_of(stem)) < 40]
        return min(there, key=lambda option: np.linalg.norm(ways[option]))
    if "positioned where" in stem:
        stand = named(question, r"where the (.+) is, facing")
        return nearest_to(question, place(question, stand), front(question, stand), side_of(stem))
    if "what is to the" in stem:
        seen = camera(question, int(named(question, r"As image (\d) looks at")))
        middle = place(question, named(question, r"(?:left|right) of the (.+)\?"))
        return nearest_to(question, middle, seen.yaw, 90 if "to the left of" in stem else -90)
    seen = camera(question, int(named(question, r"(?:where|as in) image (\d)")))
    turn = {"to the left.": 90, "to the right.": -90, "turn around.": 180}
    said = [degrees for words, degrees in turn.items() if f"{words} What" in stem and "then I turn" in stem]
    yaw = seen.yaw + (said[0] if said else 0)
    return nearest_to(question, np.array([seen.x, seen.y, 0]), yaw, side_of(stem))


def test_every_answer_agrees_with_the_room(every):
    for question in every:
        assert question.options[question.right] == answer_from_the_room(question), f"{question.id}: {question.text}"


def test_in_a_mirror_left_and_right_change_places(every):
    """The check above can fail: held against the mirrored room it refuses every answer that has a side."""
    sided = [
        q for q in every if q.kind in ("motion", "relative", "beside", "from outside") and q.setting != "rotation"
    ]
    assert len(sided) > 100
    for question in sided:
        assert question.options[question.right] != answer_from_the_room(mirrored(question)), question.text


def mirrored(question: Question) -> Question:
    """The same question about the room and the cameras as a mirror shows them."""
    scene = question.scene
    items = tuple(replace(item, x=-item.x, yaw=180 - item.yaw) for item in scene.room.items)
    cameras = tuple(replace(seen, x=-seen.x, yaw=180 - seen.yaw) for seen in scene.cameras)
    return replace(question, scene=replace(scene, room=replace(scene.room, items=items), cameras=cameras))


def test_what_is_to_the_side_of_the_picture_is_where_the_projection_puts_it(asked):
    """In a row as the front sees it, left and right are left and right in the picture."""
    for question in asked["around"]:
        scene = question.scene
        points = np.array([[item.x, item.y, KINDS[item.kind].height / 2] for item in scene.room.items])
        for view, signs in ((0, 1), (3, -1)):
            columns = projected(scene.cameras[view], points)[:, 0]
            assert (np.diff(columns) * signs > 0).all(), f"{question.id}: {columns}"


def test_every_object_that_matters_is_seen_in_an_image_that_is_shown(every):
    geometry = GeometricVisibility()
    for question in every:
        shares = geometry.visible(question.scene.room, [question.scene.cameras[view] for view in question.views])
        seen = {name for name, share in zip(question.scene.names, shares.max(0), strict=True) if share >= SEEN}
        said = {name for name in question.scene.names if name in question.text}
        assert said <= seen, f"{question.id} speaks of {said - seen}, which no image shows"


# ------------------------------------------------------------------------------------------------------- the reasoning


def check_steps(question: Question) -> None:
    """Parse every statement and hold it against the true map, the room and what is seen."""
    map_ = json.loads(question.row()["grounded_cogmap"])
    things = {thing["name"]: thing for thing in map_["objects"]}
    views = {view["name"]: view for view in map_["views"]}
    headings = {str(heading): heading for heading in Heading}
    quarters = {"ahead of me": 0, "to my right": 1, "behind me": 2, "to my left": 3}
    shares = GeometricVisibility().visible(question.scene.room, [question.scene.cameras[v] for v in question.views])
    conclusions = []
    cell = r"\[(\d+), (\d+)\]"
    facing, standing = "", (0, 0)
    for step in question.steps:
        if match := re.fullmatch(r"(?:Image|View) (\d) shows (.+)\.", step):
            names = re.split(r", the | and the ", match[2].removeprefix("the "))
            for name in names:
                share = shares[int(match[1]) - 1][question.scene.names.index(name)]
                assert share >= SEEN, f"{step} but only {share} of the {name} is seen"
        elif match := re.fullmatch(rf"((?:Image|View) \d) was taken at {cell} and looks (\w+)\.", step):
            view = views[match[1]]
            assert view["position"] == [int(match[2]), int(match[3])], step
            assert view["facing"] == match[4], step
        elif match := re.fullmatch(r"Image (\d) looks (\w+)\.", step):
            assert views[f"Image {match[1]}"]["facing"] == match[2], step
        elif match := re.fullmatch(rf"I stand at {cell} and face (\w+)\.", step):
            standing, facing = (int(match[1]), int(match[2])), match[3]
            poses = [(tuple(thing["position"]), thing.get("facing")) for thing in [*map_["objects"], *map_["views"]]]
            assert (standing, facing) in poses, f"{step} There is nobody"
        elif match := re.fullmatch(r"I turn (.+) and then face (\w+)\.", step):
            turn = {"90 degrees to the right": 1, "around": 2, "90 degrees to the left": 3}[match[1]]
            assert headings[match[2]] == (headings[facing] + turn) % 4, step
            facing = match[2]
        elif match := re.fullmatch(r"In image (\d) the (.+) faces (away from me|to my right|me|to my left)\.", step):
            looks, faces = (headings[thing["facing"]] for thing in (views[f"Image {match[1]}"], things[match[2]]))
            assert looks.turned(["away from me", "to my right", "me", "to my left"].index(match[3])) == faces, step
            assert shares[int(match[1]) - 1][question.scene.names.index(match[2])] >= SEEN, step
        elif match := re.fullmatch(rf"The (.+) is at {cell} and faces (\w+)\.", step):
            assert things[match[1]]["position"] == [int(match[2]), int(match[3])], step
            assert things[match[1]]["facing"] == match[4], step
        elif match := re.fullmatch(rf"The (.+) is at {cell}\.", step):
            assert things[match[1]]["position"] == [int(match[2]), int(match[3])], step
        elif match := re.fullmatch(rf"A step forward leads to {cell}\.", step):
            dx, dy = headings[facing].step
            assert (standing[0] + dx, standing[1] + dy) == (int(match[1]), int(match[2])), step
            standing_before, standing = standing, (int(match[1]), int(match[2]))
        elif match := re.fullmatch(r"The square of the distance to the (.+) goes from (\d+) to (\d+)\.", step):
            goal = things[match[1]]["position"]
            squares = [(goal[0] - x) ** 2 + (goal[1] - y) ** 2 for x, y in (standing_before, standing)]
            assert squares == [int(match[2]), int(match[3])], step
            conclusions.append("Yes" if squares[1] < squares[0] else "No")
        elif match := re.fullmatch(rf"From {cell} to {cell} it is (.+)\.", step):
            x, y = int(match[1]), int(match[2])
            for part in match[5].split(" and "):
                length, way = part.split()
                dx, dy = headings[way].step
                x, y = x + int(length) * dx, y + int(length) * dy
            assert (x, y) == (int(match[3]), int(match[4])), step
        elif match := re.fullmatch(r"When I face (\w+), (.+) is (\w+)\.", step):
            assert headings[match[3]] == (headings[match[1]] + quarters[match[2]]) % 4, step
        elif match := re.fullmatch(rf"Seen from {cell}, the (.+) is (\w+)\.", step):
            x, y = things[match[3]]["position"]
            dx, dy = headings[match[4]].step
            ahead = (x - int(match[1])) * dx + (y - int(match[2])) * dy
            aside = abs((x - int(match[1])) * dy) + abs((y - int(match[2])) * dx)
            assert ahead > aside, step
        else:
            assert step == question.steps[-1], f"{question.id}: not a known form: {step!r}"
            assert step.startswith("So ")
            answer = question.options[question.right]
            if answer in ("Yes", "No"):
                assert (" not " in step) == (answer == "No"), f"{question.id}: {step} but {answer}"
                assert conclusions in ([], [answer])
            elif answer in ("Left", "Right"):
                assert f"to the {answer.lower()} of" in step
            else:
                assert answer.lower() in step.lower(), f"{question.id}: {step} but {answer}"


def test_every_step_of_the_reasoning_is_true(every):
    for question in every:
        check_steps(question)


@pytest.mark.parametrize("number", range(3))
def test_a_false_step_is_noticed(asked, number):
    question = next(q for q in asked["among"] if q.kind == "approach")
    steps = list(question.steps)
    place = next(i for i, s in enumerate(steps) if s.startswith(("I stand", "I turn", "The square")[number]))
    swaps = (("face", "face not"), ("left", "right"), ("from", "from 1"))
    old, new = swaps[number]
    steps[place] = steps[place].replace(old, new) if old in steps[place] else steps[place].replace("right", "left")
    with pytest.raises((AssertionError, KeyError)):
        check_steps(replace(question, steps=tuple(steps)))


# ------------------------------------------------------------------------------------------------ nothing to learn by


def test_the_map_holds_what_the_images_show(every):
    for question in every:
        mapped = {thing["name"] for thing in json.loads(augmented_map(question))["objects"]}
        shares = GeometricVisibility().visible(
            question.scene.room, [question.scene.cameras[v] for v in question.views]
        )
        seen = [name for name, share in zip(question.scene.names, shares.max(axis=0), strict=True) if share >= SEEN]
        assert mapped == set(seen), f"{question.id}: the images show {seen}"


def test_letters_kinds_and_fixed_answers_come_equally_often(asked):
    for setting, questions_ in asked.items():
        kinds = Counter(question.kind for question in questions_)
        assert set(kinds) == set(KINDS_ASKED[setting])
        assert max(kinds.values()) - min(kinds.values()) <= 2, f"{setting}: {kinds}"
        letters: defaultdict[tuple, Counter] = defaultdict(Counter)
        fixed: defaultdict[str, Counter] = defaultdict(Counter)
        for question in questions_:
            letters[question.kind, len(question.options)][question.letter] += 1
            if question.options[question.right] not in question.scene.names:
                fixed[question.kind][question.options[question.right], question.letter] += 1
        for (kind, count), seen in letters.items():
            numbers = [seen[letter] for letter in LETTERS[:count]]
            assert max(numbers) - min(numbers) <= 2, f"{setting}, {kind}: {seen}"
        for kind, seen in fixed.items():
            assert len(seen) == 4, f"{setting}, {kind}: {seen}"
            assert max(seen.values()) - min(seen.values()) <= 2, f"{setting}, {kind}: {seen}"


def test_options_are_different_and_real(every):
    for question in every:
        assert len(set(question.options)) == len(question.options) >= 2
        things = [option for option in question.options if option in question.scene.names]
        assert len(things) in (0, len(question.options)), f"{question.id}: {question.options}"
        assert len(set(question.scene.names)) == len(question.scene.names)


# ------------------------------------------------------------------------------------------------- scenes and splits


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_same_arguments_give_the_same_questions(setting):
    one, two, other = (list(questions(setting, 40, GeometricVisibility(), seed)) for seed in (5, 5, 6))
    assert [q.row() for q in one] == [q.row() for q in two]
    assert not {q.scene.key for q in one} & {q.scene.key for q in other}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_scene_is_in_one_split_only(setting):
    scenes = {split: {q.scene for q in questions(setting, 60, GeometricVisibility(), 1, split)} for split in SPLITS}
    for split, found in scenes.items():
        assert {split_of(scene.key) for scene in found} == {split}
    assert len({scene.key for found in scenes.values() for scene in found}) == sum(map(len, scenes.values()))


def test_ids_are_different_and_name_setting_and_scene(every):
    assert len({question.id for question in every}) == len(every)
    for question in every:
        assert question.id.startswith(f"{question.setting}_{question.scene.key}_")


@pytest.mark.parametrize("setting", SETTINGS)
def test_things_stand_apart_and_inside_and_the_map_says_which_way(setting):
    for arrangement in ARRANGEMENTS[setting]:
        for seed in range(30):
            scene = draw_scene(arrangement, np.random.default_rng(seed))
            items = scene.room.items
            assert not any(overlap(one, other) for i, one in enumerate(items) for other in items[:i])
            turn = scene.cameras[0].yaw - arrangement.views[0].heading.yaw
            assert turn % 90 == 0
            for camera_, view in zip(scene.cameras, arrangement.views, strict=True):
                assert (camera_.yaw - view.heading.yaw - turn) % 360 == 0
                assert abs(camera_.x) < scene.room.width / 2
                assert abs(camera_.y) < scene.room.depth / 2
            for i, one in enumerate(items):
                for j, other in enumerate(items[:i]):
                    way = direction(arrangement.cells[i], arrangement.cells[j])
                    degrees = off(np.array([other.x - one.x, other.y - one.y]), way.yaw + turn, 0)
                    assert degrees <= 50, f"{arrangement.name}: {i}, {j}"  # a diagonal counts as up or down


@pytest.mark.parametrize("setting", SETTINGS)
def test_walls_tell_neither_where_one_looks_nor_what_is_on_the_next(setting):
    ahead, following = Counter(), Counter()
    scenes = [draw_scene(ARRANGEMENTS[setting][0], np.random.default_rng(seed)) for seed in range(600)]
    for scene in scenes:
        first = round(scene.cameras[0].yaw / 90) % 4  # of ``SIDES``: the wall that the first view looks at
        for words in (scene.room.walls, scene.room.fixtures):
            ahead[words[first]] += 1
            following.update((words[side], words[(side + 1) % 4]) for side in range(4))
    for words in (WALL_COLOURS, FIXTURES):
        assert max(ahead[word] for word in words) < 1.4 * len(scenes) / len(words)
        pairs = [following[one, other] for one in words for other in words if one != other]
        assert max(pairs) < 2 * sum(pairs) / len(pairs)


def test_a_camera_among_things_sees_the_walls_to_both_sides():
    """By them one knows which way one has moved."""
    for seed in range(20):
        scene = draw_scene(ARRANGEMENTS["among"][0], np.random.default_rng(seed))
        corners = np.array(
            [[x * scene.room.width / 2, y * scene.room.depth / 2, 1.0] for x in (-1, 1) for y in (-1, 1)]
        )
        for seen in scene.cameras:
            columns = projected(seen, corners)[:, 0]
            ahead = columns[np.isfinite(columns) & (in_camera(seen, corners)[:, 2] > 2)]
            assert len(ahead) == 2
            assert (np.abs(ahead) < 0.9).all(), "the corners are too near the edge of the picture"


def test_a_scene_that_does_not_show_enough_is_refused():
    class Blind:
        def visible(self, room, cameras):
            return np.zeros((len(cameras), len(room.items)))

    scene = draw_scene(ARRANGEMENTS["among"][0], np.random.default_rng(0))
    assert look(scene, Blind()) is None
    assert look(scene, GeometricVisibility()) is not None
    with pytest.raises(WorldError, match="shows what its questions need"):
        next(questions("rotation", 1, Blind()))


@pytest.mark.parametrize(("setting", "split", "words"), [("beside", "train", "setting"), ("among", "dev", "split")])
def test_unknown_words_are_refused(setting, split, words):
    with pytest.raises(WorldError, match=f"unknown {words}.*choose one of"):
        next(questions(setting, 1, GeometricVisibility(), 0, split))
