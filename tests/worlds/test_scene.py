"""Rooms, furniture, and their pictures; drawn ones against rays in float64."""

import itertools
import math
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import worlds
from tests.worlds import scene_peer as peer
from worlds import furniture, scene
from worlds.core import WorldError
from worlds.furniture import extent, parts
from worlds.rooms import COLOURS, FIXTURES, KINDS, MAX_RADIUS, Camera, Item, Room, name, overlap
from worlds.scene import NOBODY, TOLERANCE, SceneRenderer, axes, project, why_missing

ROOT = Path(__file__).parents[2]
drawn = pytest.mark.skipif(bool(why_missing()), reason=f"rooms cannot be drawn: {why_missing()}")

# ------------------------------------------------------------------------------------------------- rooms as plain data


def test_enough_kinds_and_colours_with_plain_names():
    assert len(KINDS) >= 24
    assert len([kind for kind in KINDS.values() if kind.all_round]) >= 24
    assert len(COLOURS) >= 8
    for key, kind in KINDS.items():
        assert key == kind.name
        assert key.isalpha()
        assert key.islower()
    assert name(Item("chair", "red", 0, 0)) == "red chair"


@pytest.mark.parametrize("kind", KINDS)
def test_furniture_has_the_size_that_is_told_stands_on_the_floor_and_is_compound(kind):
    radius, height = extent(kind)
    told = KINDS[kind]
    assert told.radius - 0.011 <= radius <= told.radius + 0.001
    assert told.height - 0.011 <= height <= told.height + 0.001
    assert told.radius <= MAX_RADIUS
    lowest = min(furniture._outline(part)[:, 2].min() for part in parts(kind))
    assert -0.005 <= lowest <= 0.06, "it sinks into the floor, or hangs above it"
    assert len(parts(kind)) >= 3
    for part in parts(kind):
        np.testing.assert_allclose(part.axes.T @ part.axes, np.eye(3), atol=1e-12)
        assert np.linalg.det(part.axes) > 0
        furniture.paint(part.paint, "red")


@pytest.mark.parametrize("colour", COLOURS)
def test_shades_stand_out(colour):
    main, shade = (np.array(furniture.paint(paint, colour)) for paint in (furniture.MAIN, furniture.SHADE))
    assert np.abs(main - shade).max() > 0.15


def test_colours_are_far_apart():
    for one, other in itertools.combinations(COLOURS.values(), 2):
        assert math.dist(one, other) > 0.35


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Item("unicorn", "red", 0, 0), "unknown kind of item 'unicorn': choose one of airplane"),
        (lambda: Item("chair", "beige", 0, 0), "unknown colour of an item 'beige': choose one of red"),
        (lambda: Item("chair", "red", math.nan, 0), "red chair: x is nan; it must be a number"),
        (lambda: Camera(0, 0, math.inf), "camera: yaw is inf"),
        (lambda: Camera(0, 0, 0, pitch=90), "camera: pitch is 90"),
        (lambda: Camera(0, 0, 0, fov=0), "camera: fov is 0"),
        (lambda: Room(0.5, 3, ()), "at least 1 m x 1 m"),
        (lambda: Room(3, 3, (), walls=("mint",) * 3), "3 wall colours; four are needed"),
        (lambda: Room(3, 3, (), walls=("mint", "mint", "sky", "red")), "unknown wall colour 'red'"),
        (lambda: Room(3, 3, (), fixtures=("door",) * 5), "5 fixtures; four are needed"),
        (lambda: Room(3, 3, (), fixtures=("door", "door", "door", "moat")), "unknown fixture 'moat'"),
        (lambda: Room(3, 3, (), floor="lava"), "unknown floor 'lava'"),
        (lambda: Room(3, 3, (), ceiling="sky"), "unknown ceiling 'sky'"),
        (lambda: Room(3, 3, (Item("sofa", "red", 1.2, 0),)), "the red sofa at .* is beyond the walls"),
    ],
)
def test_impossible_rooms_are_refused(make, message):
    with pytest.raises(WorldError, match=message):
        make()


def test_overlap_is_that_of_the_circles_around_things():
    for gap, expected in ((-0.01, True), (0.01, False)):
        reach = KINDS["sofa"].radius + KINDS["stool"].radius + gap
        assert overlap(Item("sofa", "red", 0, 0), Item("stool", "red", 0, reach)) == expected


# ------------------------------------------------------------------------------------------------------------ geometry

angles = st.floats(-720, 720)
places = st.floats(-5, 5)


@given(yaw=angles, pitch=st.floats(-80, 80), x=places, y=places, size=st.integers(2, 9), fov=st.floats(20, 120))
@settings(max_examples=50)
def test_points_along_the_rays_of_a_picture_project_to_its_pixels(yaw, pitch, x, y, size, fov):
    camera = Camera(x, y, yaw, pitch=pitch, fov=fov)
    directions = peer.rays(camera, size)
    points = np.array([x, y, camera.height]) + 3 * directions
    column, row, depth = project(camera, points).T
    np.testing.assert_allclose(depth, 3, atol=1e-9)
    rows, columns = np.divmod(np.arange(size * size), size)
    np.testing.assert_allclose(column * size, columns + 0.5, atol=1e-6)
    np.testing.assert_allclose(row * size, rows + 0.5, atol=1e-6)


@given(yaw=angles, pitch=st.floats(-80, 80))
def test_a_camera_has_right_handed_axes(yaw, pitch):
    right, up, forward = axes(Camera(0, 0, yaw, pitch=pitch))
    np.testing.assert_allclose(np.cross(right, up), -forward, atol=1e-12)
    assert up[2] > 0
    assert right[2] == 0


def test_yaw_turns_counter_clockwise_from_east():
    for yaw, ahead in ((0, (1, 0)), (90, (0, 1)), (180, (-1, 0)), (270, (0, -1))):
        _, _, forward = axes(Camera(0, 0, yaw, pitch=0))
        np.testing.assert_allclose(forward, (*ahead, 0), atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ pictures


def random_room(rng: np.random.Generator, items: int = 6, size: float = 6.0) -> Room:
    placed: list[Item] = []
    while len(placed) < items:
        kind, colour = str(rng.choice(list(KINDS))), str(rng.choice(list(COLOURS)))
        x, y = (float(v) for v in rng.uniform(-size / 2 + MAX_RADIUS, size / 2 - MAX_RADIUS, 2))
        item = Item(kind, colour, x, y, float(rng.uniform(0, 360)))
        if not any(overlap(item, other) for other in placed):
            placed.append(item)
    return Room(size, size, tuple(placed))


def random_camera(rng: np.random.Generator, room: Room) -> Camera:
    """Anywhere in the room but in a thing."""
    while True:
        x, y = (float(v) for v in rng.uniform(-room.width / 2 + 0.1, room.width / 2 - 0.1, 2))
        if all(math.hypot(x - item.x, y - item.y) > MAX_RADIUS + 0.1 for item in room.items):
            return Camera(x, y, float(rng.uniform(0, 360)), fov=float(rng.choice([60, 90])))


@drawn
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_as_rays_find_it(kind):
    room = Room(5, 5, (Item(kind, "red", 0.3, -0.2, 35.0),))
    camera = Camera(1.9, 0.4, 195, 1.3, -22, 55)
    shown = SceneRenderer().segment(room, [camera], 64)[0]
    expected, _ = peer.nearest(room, camera, 64)
    own = np.count_nonzero(expected == 0)
    assert own > 50
    # MuJoCo's cylinders and balls are polygons, so edges differ by a pixel here and there.
    assert np.count_nonzero(shown != expected) <= 0.16 * own + 4


@drawn
def test_segmentation_is_what_rays_find_among_many_things():
    rng = np.random.default_rng(0)
    wrong, own = 0, 0
    for _ in range(10):
        room = random_room(rng)
        camera = random_camera(rng, room)
        shown = SceneRenderer().segment(room, [camera], 64)[0]
        expected, _ = peer.nearest(room, camera, 64)
        assert set(np.unique(shown)) <= {NOBODY, *range(len(room.items))}
        wrong += np.count_nonzero(shown != expected)
        own += np.count_nonzero(expected != NOBODY)
    assert own > 1000, "the views show too little to say anything"
    assert wrong < 0.06 * own


@drawn
def test_shares_seen_are_what_rays_find():
    rng = np.random.default_rng(1)
    compared = 0
    for _ in range(9):
        room = random_room(rng)
        camera = random_camera(rng, room)
        shares = SceneRenderer().visible(room, [camera])[0]
        wide = replace(camera, fov=2 * math.degrees(math.atan(3 * math.tan(math.radians(camera.fov / 2)))))
        if wide.fov > 150:
            continue
        size = 150
        shown, alone = peer.nearest(room, wide, size)
        middle = np.zeros((size, size), bool)
        middle[size // 3 : 2 * size // 3, size // 3 : 2 * size // 3] = True
        for number, share in enumerate(shares):
            own = np.count_nonzero(np.isfinite(alone[number]))
            seen = np.count_nonzero((shown == number) & middle)
            if seen > 60:
                assert share == pytest.approx(seen / own, abs=0.08)
                compared += 1
            elif not seen:
                assert share < 0.05
    assert compared >= 6


@drawn
def test_shares_of_things_hidden_cut_off_and_in_the_open():
    camera = Camera(2.4, 0, 180, pitch=-15, fov=60)
    front, behind = Item("fridge", "red", 0.4, 0), Item("stool", "blue", -1.0, 0)
    room = Room(6, 6, (front, behind, Item("duck", "yellow", -0.5, 1.0), Item("dog", "black", 2.5, 2.5)))
    fridge, stool, duck, dog = SceneRenderer().visible(room, [camera])[0]
    assert fridge == 1
    assert stool < 0.05, "a stool behind a fridge is hidden"
    assert duck == 1
    assert dog == 0, "what is behind the camera is not seen"
    without = SceneRenderer().visible(replace(room, items=room.items[1:]), [camera])[0]
    assert without[0] == 1
    [[half]] = SceneRenderer().visible(Room(6, 6, (Item("barrel", "red", 0, 0),)), [replace(camera, yaw=210)])
    assert 0.3 < half < 0.7, "the edge of the picture cuts the barrel in half"


@drawn
def test_the_short_cut_for_things_in_the_open_changes_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    scenes = []
    for _ in range(5):
        room = random_room(rng, items=4)
        scenes.append((room, [random_camera(rng, room) for _ in range(3)]))
    quick = [SceneRenderer().visible(*views, 112) for views in scenes]
    assert any(
        scene._in_the_open(camera, room.items, np.ones(4, bool)).any()
        for room, cameras in scenes
        for camera in cameras
    )
    monkeypatch.setattr(scene, "_in_the_open", lambda camera, items, seen: np.zeros(len(items), bool))
    for views, before in zip(scenes, quick, strict=True):
        np.testing.assert_array_equal(SceneRenderer().visible(*views, 112), before)


@drawn
def test_a_thing_more_never_shows_more_of_the_others():
    rng = np.random.default_rng(3)
    for _ in range(4):
        room = random_room(rng)
        cameras = [random_camera(rng, room) for _ in range(2)]
        every = SceneRenderer().visible(room, cameras, 112)
        fewer = SceneRenderer().visible(replace(room, items=room.items[:-1]), cameras, 112)
        assert (every[:, :-1] <= fewer + 1e-9).all()


@drawn
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.has_front])
def test_what_has_a_front_looks_different_from_every_side(kind):
    """As large as in questions about what stands in the middle; a tenth of a thing that differs is soon overlooked."""
    camera, size = Camera(-1.6, 0, yaw=0), 224
    pictures, own = [], []
    for yaw in (0, 90, 180, 270):
        room = Room(6, 6, (Item(kind, "red", 0.9, 0, yaw=yaw),))
        pictures.append(SceneRenderer().render(room, [camera], size)[0].astype(int))
        own.append(SceneRenderer().segment(room, [camera], size)[0] == 0)
    for one, other in itertools.combinations(range(4), 2):
        changed = np.abs(pictures[one] - pictures[other]).max(-1) > 24
        share = changed.sum() / (own[one] | own[other]).sum()
        assert share > 0.2, f"turned by {90 * one} and {90 * other} degrees, only {share:.0%} of it changes"


@drawn
def test_equal_views_are_equal_pictures_whatever_was_drawn_before():
    room = random_room(np.random.default_rng(4))
    cameras = [Camera(2.6, 2.6, 225), Camera(-2.6, 2.6, 315)]
    renderer = SceneRenderer()
    first = renderer.render(room, cameras, 64)
    assert first.shape == (2, 64, 64, 3)
    assert first.dtype == np.uint8
    renderer.visible(room, cameras)
    renderer.render(Room(4, 4, ()), cameras[:1], 96)
    SceneRenderer(shadows=True).render(room, cameras, 64)
    np.testing.assert_array_equal(renderer.render(room, cameras[::-1], 64), first[::-1])
    np.testing.assert_array_equal(SceneRenderer().render(room, cameras, 64), first)


@drawn
def test_empty_rooms_and_no_cameras():
    renderer, room = SceneRenderer(), Room(4, 4, ())
    camera = Camera(0, 0, 0)
    assert renderer.render(room, [], 32).shape == (0, 32, 32, 3)
    assert renderer.segment(room, [], 32).shape == (0, 32, 32)
    assert renderer.visible(room, [camera]).shape == (1, 0)
    assert (renderer.segment(room, [camera], 32) == NOBODY).all()


@drawn
def test_pictures_of_impossible_sizes_are_refused():
    for size in (0, scene.MAX_SIZE + 1):
        with pytest.raises(WorldError, match=f"a picture cannot be {size} pixels wide"):
            SceneRenderer().render(Room(4, 4, ()), [Camera(0, 0, 0)], size)


@drawn
def test_each_wall_looks_different():
    views = [Camera(0, 0, yaw, pitch=0) for yaw in (0, 90, 180, 270)]
    grey = dict(walls=("grey",) * 4)
    for room in (
        Room(4, 4, (), fixtures=("door",) * 4),  # by colour, and by what is on it
        Room(4, 4, (), **grey, fixtures=FIXTURES[:4]),
        Room(4, 4, (), **grey, fixtures=FIXTURES[2:]),
    ):
        pictures = SceneRenderer().render(room, views, 64).astype(float)
        for one, other in itertools.combinations(pictures, 2):
            assert np.abs(one - other).mean() > 2


@drawn
def test_shadows_darken_and_samples_smooth():
    room, camera = Room(5, 5, (Item("table", "red", 0, 0),)), Camera(2, 0.5, 190)
    plain = SceneRenderer(samples=0).render(room, [camera], 96)[0].astype(int)
    shadowy = SceneRenderer(shadows=True, samples=0).render(room, [camera], 96)[0].astype(int)
    smooth = SceneRenderer(samples=4).render(room, [camera], 96)[0].astype(int)
    assert (shadowy <= plain + 1).all()
    assert (plain - shadowy > 20).any(-1).sum() > 50, "the table casts no shadow"
    assert len(np.unique(smooth.reshape(-1, 3), axis=0)) > 1.5 * len(np.unique(plain.reshape(-1, 3), axis=0))


@drawn
@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_is_drawn_in_its_colour(colour):
    """The colour of a thing's lit pixels is nearest to its own, of all of them, at whatever brightness."""
    room = Room(5, 5, (Item("armchair", colour, 0, 0, 20),))
    for camera in (Camera(2, 0.3, 188), Camera(0.3, -2, 98)):
        picture = SceneRenderer(samples=0).render(room, [camera], 96)[0] / 255
        own = picture[SceneRenderer().segment(room, [camera], 96)[0] == 0]
        lit = own[own.sum(1) >= np.quantile(own.sum(1), 0.6)].mean(0)
        brightness = np.linspace(0.5, 1.2, 29)[:, None]
        far = {other: np.linalg.norm(brightness * mixed - lit, axis=1).min() for other, mixed in COLOURS.items()}
        assert min(far, key=far.__getitem__) == colour


# ---------------------------------------------------------------------------------------- processes, forks, threads

_ELSEWHERE = """
import sys
import numpy as np
from tests.worlds.test_scene import random_room
from worlds.rooms import Camera
from worlds.scene import SceneRenderer
room = random_room(np.random.default_rng(5))
cameras = [Camera(2.6, 2.6, 225), Camera(-2.6, -2.6, 45)]
np.savez(sys.argv[1], SceneRenderer().render(room, cameras, 64), SceneRenderer().visible(room, cameras))
"""


@drawn
def test_another_process_draws_the_same(tmp_path):
    path = tmp_path / "pictures.npz"
    subprocess.run([sys.executable, "-c", _ELSEWHERE, str(path)], check=True, cwd=ROOT, timeout=300)
    room = random_room(np.random.default_rng(5))
    cameras = [Camera(2.6, 2.6, 225), Camera(-2.6, -2.6, 45)]
    with np.load(path) as elsewhere:
        pictures, shares = elsewhere["arr_0"].astype(float), elsewhere["arr_1"]
    assert np.abs(SceneRenderer().render(room, cameras, 64) - pictures).mean() <= TOLERANCE
    np.testing.assert_allclose(SceneRenderer().visible(room, cameras), shares, atol=0.02)


@drawn
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
def test_a_child_of_a_process_that_has_drawn_draws_on_its_own():
    """In a process of its own: this one has threads by now, and forking it may block."""
    code = """
import os, sys
import numpy as np
from worlds.rooms import Camera, Item, Room
from worlds.scene import SceneRenderer
room, cameras = Room(5, 5, (Item("chair", "red", 0, 0),)), [Camera(2, 0, 180)]
before = SceneRenderer().render(room, cameras, 64)
pid = os.fork()
same = np.array_equal(SceneRenderer().render(room, cameras, 64), before)
if pid == 0:
    os._exit(0 if same and SceneRenderer().visible(room, cameras)[0, 0] == 1 else 7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) or (0 if same else 8))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)


@drawn
def test_threads_draw_on_their_own():
    room, cameras = Room(5, 5, (Item("chair", "red", 0, 0),)), [Camera(2, 0, 180)]
    expected = SceneRenderer().render(room, cameras, 64)
    found: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: found.append(SceneRenderer().render(room, cameras, 64))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for pictures in found:
        np.testing.assert_array_equal(pictures, expected)


# ----------------------------------------------------------------------------------------------------- what is missing


def test_without_mujoco_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(scene, "find_spec", lambda package: None)
    with pytest.raises(WorldError, match=r"needs MuJoCo, which is not installed: pip install 'vagen-cloze\[scene\]'"):
        SceneRenderer()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere OpenGL comes with the system")
def test_without_opengl_it_says_what_to_install(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(scene, "find_spec", lambda package: True)
    monkeypatch.setattr(scene.ctypes.util, "find_library", lambda library: None)
    with pytest.raises(WorldError, match="neither EGL nor OSMesa is there: install Mesa"):
        SceneRenderer()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere OpenGL comes with the system")
def test_a_way_to_opengl_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(scene, "find_spec", lambda package: True)
    monkeypatch.setattr(scene.ctypes.util, "find_library", lambda library: library if library == "EGL" else None)
    with pytest.raises(WorldError, match="MUJOCO_GL=osmesa is not there: install Mesa"):
        SceneRenderer()


@drawn
def test_a_way_to_opengl_that_mujoco_does_not_know_is_one_line():
    """In a process of its own: MuJoCo reads it once."""
    words = (
        "from worlds.rooms import Camera, Room; from worlds.scene import SceneRenderer; "
        "SceneRenderer().render(Room(4, 4, ()), [Camera(0, 0, 0)], 32)"
    )
    done = subprocess.run(
        [sys.executable, "-c", words],
        cwd=ROOT,
        env=os.environ | {"MUJOCO_GL": "bogus"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "WorldError: rooms cannot be drawn: OpenGL through" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no choice")
def test_egl_is_preferred_and_the_user_decides(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(scene.ctypes.util, "find_library", lambda library: library)
    assert scene.opengl() == "egl"
    monkeypatch.setattr(scene.ctypes.util, "find_library", lambda library: library if library == "OSMesa" else None)
    assert scene.opengl() == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert scene.opengl() == "", "nothing else in the place of what the user chose"
    monkeypatch.setattr(scene.ctypes.util, "find_library", lambda library: library)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert scene.opengl() == "osmesa"


def test_rooms_are_known_without_mujoco_and_say_what_they_need(monkeypatch):
    from worlds import core, scene_world

    monkeypatch.setattr(scene_world, "why_missing", lambda: "it needs MuJoCo: install it")
    monkeypatch.setattr(core, "_FOUND", {})
    assert not [id for id in worlds.available() if id.startswith("room/")]
    assert worlds.unsupported()["room/5x5"] == "it needs MuJoCo: install it"
    with pytest.raises(WorldError, match="world 'room/5x5' does not work: it needs MuJoCo"):
        worlds.make("room/5x5")
