"""Contact sheets: every picture whole and in its place."""

import numpy as np
from PIL import Image

from vagen.evaluate.sheet import CAPTION, GAP, captioned, contact_sheet, draw_sheet, in_rows
from worlds import make

RED, BLUE = (Image.new("RGB", (6, 4), colour) for colour in ("red", "blue"))


def test_pictures_stand_in_their_rows_with_white_between():
    sheet = np.asarray(contact_sheet([[RED, BLUE], [BLUE]]))
    assert sheet.shape == (2 * (4 + GAP) + GAP, 2 * (6 + GAP) + GAP, 3)
    assert (sheet[GAP : GAP + 4, GAP : GAP + 6] == (255, 0, 0)).all()
    assert (sheet[GAP : GAP + 4, 2 * GAP + 6 : 2 * GAP + 12] == (0, 0, 255)).all()
    assert (sheet[2 * GAP + 4 : 2 * GAP + 8, GAP : GAP + 6] == (0, 0, 255)).all()
    assert int((sheet != 255).any(axis=2).sum()) == 3 * 24, "three pictures and nothing else"


def test_the_last_row_may_be_shorter():
    assert [len(row) for row in in_rows([RED] * 7, 3)] == [3, 3, 1]


def test_a_caption_stands_below_its_picture():
    picture = np.full((10, 60, 3), 200, dtype=np.uint8)
    made = np.asarray(captioned(picture, "red chair"))
    assert made.shape == (10 + CAPTION, 60, 3)
    assert (made[:10] == picture).all()
    assert made[10:].min() < 100, "words in black"


def test_a_sheet_of_a_world_shows_its_states_enlarged(tmp_path):
    path = draw_sheet("sokoban-6x6", tmp_path / "sheet.png", columns=2, rows=1, zoom=2)
    world = make("sokoban-6x6")
    world.reset(seed=1)
    frame = world.render_states([world.state().snapshot])[0]
    sheet = np.asarray(Image.open(path))
    left = 2 * GAP + 2 * frame.shape[1]
    assert (sheet[GAP:-GAP:2, left:-GAP:2] == frame).all()
