"""Generated questions beside MindCube's own: the same fields, kinds of questions, cells and views."""

import json

from tests.worlds.spatial_geometry import GeometricVisibility
from vagen.mindcube.rows import kind_of, read_rows, setting_of, take_apart
from worlds.spatial import questions
from worlds.spatial_grid import ARRANGEMENTS, SETTINGS


def asked(setting: str) -> list[dict]:
    return [question.row() for question in questions(setting, 80, GeometricVisibility())]


def test_every_kind_of_question_of_the_public_files_is_asked(shared):
    official = {(setting_of(row["id"]), kind_of(take_apart(row["question"]).stem)) for _, row in read_rows(
        shared / "tinybench_questions.jsonl"
    )}  # fmt: skip
    ours = {(s, kind_of(take_apart(row["question"]).stem)) for s in SETTINGS for row in asked(s)}
    assert official <= ours, f"not asked: {official - ours}"


def test_lines_have_the_fields_of_the_public_files(shared):
    _, official = next(read_rows(shared / "tinybench_questions.jsonl"))
    for setting in SETTINGS:
        for row in asked(setting):
            assert set(official) <= set(row)
            assert all(type(row[name]) is type(official[name]) for name in official)


def test_maps_have_the_official_cells_and_views(shared):
    """Objects by their order, views by where they are and look: each official map is one of an arrangement of ours."""
    compared = set()
    for path in sorted((shared / "conformance" / "inputs").glob("0[24]_*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if not row.get("grounded_cogmap") or setting_of(row["id"]) not in SETTINGS:
                continue
            map_ = json.loads(row["grounded_cogmap"])
            cells = tuple(tuple(thing["position"]) for thing in map_["objects"])
            views = {(tuple(view["position"]), view["facing"]) for view in map_["views"]}
            if any(view["facing"] == "inner" for view in map_["views"]):
                continue  # a camera that moves up and down: things in our rooms stand on the floor
            setting = setting_of(row["id"])
            fitting = [
                arrangement
                for arrangement in ARRANGEMENTS[setting]
                if sorted(arrangement.cells) == sorted(cells)
                and views <= {(view.cell, str(view.heading)) for view in arrangement.views}
                and (setting != "among" or arrangement.cells == cells)
            ]
            assert len(fitting) == 1, f"{row['id']}: {map_}"
            compared.add(fitting[0].name)
    assert {"four_around_one", "three_view", "row_of_3"} <= compared
