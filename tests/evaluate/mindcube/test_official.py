"""The official result: everything the official evaluator returned for the conformance files, and rules of our own."""

import json

import pytest

from vagen.evaluate.mindcube.official import Tally, item_row, maps_of
from vagen.mindcube.rows import MindCubeError, read_responses, setting_of

FILES = (
    "01_real_qwen25vl3b_raw_qa",
    "02_real_gemma4_cogmap",
    "03_answer_formats",
    "04_cogmap_perturbations",
    "05_cogmap_malformed",
    "06_field_variants",
    "07_id_settings",
)
MAP = json.dumps({"cup": {"position": [1, 2]}, "door": {"position": [5, 2]}})
QUESTION = "what is behind me? A. Cup B. Door"


def plain(value):
    """As it would come back from a file."""
    return json.loads(json.dumps(value))


@pytest.fixture
def official(tmp_path, write_lines):
    """``official(rows, mode)``: the result; ``official(rows)``: the items."""

    def run(rows, mode: str | None = None):
        responses = read_responses(write_lines(tmp_path / "responses.jsonl", rows))
        if mode is None:
            return [plain(item_row(response)) for response in responses]
        tally = Tally(with_maps=mode == "cogmap")
        for response in responses:
            tally.add(response)
        return plain(tally.result())

    return run


def row(**fields) -> dict:
    return {
        "id": "among_1",
        "question": QUESTION,
        "gt_answer": "A",
        "answer": "A. Cup",
        "grounded_cogmap": MAP,
    } | fields


# --------------------------------------------------------------------------------------------------------- conformance


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", ["basic", "cogmap"])
def test_the_official_results(name, mode, shared):
    tally = Tally(with_maps=mode == "cogmap")
    for response in read_responses(shared / "conformance" / "inputs" / f"{name}.jsonl"):
        tally.add(response)
    expected = json.loads((shared / "conformance" / "official" / mode / f"{name}.json").read_text())
    assert plain(tally.result()) == expected


@pytest.mark.parametrize("name", FILES)
def test_the_official_items(name, shared):
    responses = read_responses(shared / "conformance" / "inputs" / f"{name}.jsonl")
    lines = (shared / "conformance" / "official" / "per_item" / f"{name}.jsonl").read_text().splitlines()
    found = [plain(item_row(response)) for response in responses]
    assert found == list(map(json.loads, lines))
    assert [list(item) for item in found] == [list(json.loads(line)) for line in lines], "in another order"


def test_every_conformance_file_is_tried(shared):
    assert sorted(path.stem for path in (shared / "conformance" / "inputs").iterdir()) == list(FILES)


# -------------------------------------------------------------------------------------------------------------- fields


@pytest.mark.parametrize(
    ("fields", "basic", "cogmap", "field"),
    [
        ({"answer": "A."}, "A", "A", "answer"),
        ({"answer": "A.", "cogmap_answer": "B."}, "A", "B", "cogmap_answer"),
        ({"answer": "A.", "cogmap_answer": "B.", "cogmap_gen_answer": "C."}, "C", "C", "cogmap_gen_answer"),
        ({"answer": "A.", "cogmap_gen_answer": ""}, None, None, "cogmap_gen_answer"),
        ({"answer": "A.", "cogmap_answer": None}, "A", None, "cogmap_answer"),
        ({"plain_answer": "A."}, None, None, "answer"),
    ],
)
def test_which_field_has_the_answer(fields, basic, cogmap, field, official):
    rows = [{"id": "among_1", "gt_answer": "A", **fields}]
    (item,) = official(rows)
    assert (item["extracted_basic_mode"], item["extracted_cogmap_mode"]) == (basic, cogmap)
    assert item["answer_field"] == field
    assert official(rows, "basic")["results"]["gen_cogmap_correct"] == (basic == "A")
    assert official(rows, "cogmap")["results"]["gen_cogmap_correct"] == (cogmap == "A")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"answer": f"{MAP} A."}, True),
        ({"answer": "A."}, False),
        ({"answer": "A.", "cognitive_map": MAP}, True),
        ({"answer": "A. {}", "cognitive_map": MAP}, True),
        ({"answer": "A.", "cognitive_map": json.loads(MAP)}, True),
        ({"answer": "A.", "answer_cognitive_map": MAP}, True),
        ({"answer": "A.", "cognitive_map": None, "answer_cognitive_map": MAP}, False),
        ({"answer": "A.", "cogmap_answer_cognitive_map": MAP}, False),
        ({"cogmap_answer": "A.", "cogmap_answer_cognitive_map": MAP}, True),
        ({"cogmap_answer": "A.", "answer_cognitive_map": MAP}, False),
        ({"cogmap_gen_answer": "A."}, True),  # the true map itself: a defect
        ({"cogmap_gen_answer": ""}, True),
        ({"cogmap_gen_answer": "A.", "cognitive_map": ""}, False),
        ({"cogmap_gen_answer": "A.", "grounded_cogmap": None}, False),
    ],
)
def test_where_a_map_is_looked_for(fields, found, official):
    (item,) = official([{"id": "among_1", "gt_answer": "A", "grounded_cogmap": MAP, **fields}])
    assert item["generated_found"] == found


@pytest.mark.parametrize(
    ("id", "setting"),
    [
        ("around_x", "around"),
        ("AROUND", "around"),
        ("among_around", "around"),
        ("translation_rotation", "rotation"),
        ("among_Translation", "translation"),
        ("group_among_1", "among"),
        ("surroundings", "other"),
        ("", "other"),
        (None, "other"),
    ],
)
def test_settings(id, setting):
    assert setting_of(id) == setting


# -------------------------------------------------------------------------------------------------------------- counts


def test_translation_has_no_part_in_the_overall_figures(official):
    rows = [row(id="translation_1"), row(), row(answer="B. Door"), row(gt_answer=None), row(gt_answer="")]
    basic, cogmap = (official(rows, mode)["results"] for mode in ("basic", "cogmap"))
    assert (basic["total"], basic["unfiltered_total"], basic["gen_cogmap_accuracy"]) == (2, 5, 0.5)
    assert (cogmap["total"], cogmap["unfiltered_total"], cogmap["gen_cogmap_accuracy"]) == (2, 3, 0.5)
    assert basic["settings"]["translation"]["gen_cogmap_accuracy"] == 1.0
    assert not basic["settings"]["translation"]["include_in_overall"]


def test_overall_figures_are_rounded_where_maps_are_scored(official):
    rows = [row(), row(answer="B."), row(answer=f"C. {MAP}")]
    assert official(rows, "basic")["results"]["gen_cogmap_accuracy"] == 1 / 3
    found = official(rows, "cogmap")["results"]
    assert found["gen_cogmap_accuracy"] == 0.3333
    assert found["settings"]["among"]["gen_cogmap_accuracy"] == 1 / 3
    assert found["cogmap_similarity"]["valid_accuracy"] == 0.3333
    assert found["settings"]["among"]["cogmap_similarity"]["valid_percent"] == 1 / 3 * 100


def test_similarity_is_averaged_over_valid_maps(official):
    turned = json.dumps({"cup": {"position": [5, 2]}, "door": {"position": [1, 2]}})
    strange = json.dumps({"cup": {"position": [5, 2]}, "window": {"position": [1, 2]}})
    answers = [MAP, turned, strange, '{"cup": 1}', "none"]
    found = official([row(answer=f"A. {answer}") for answer in answers], "cogmap")["results"]
    figures = found["settings"]["among"]["cogmap_similarity"]
    assert (figures["parsable_json_count"], figures["valid_format_count"], figures["total_valid"]) == (4, 3, 3)
    assert figures["isomorphic_count"] == 2
    assert figures["avg_overall_similarity"] == pytest.approx((1 + 1 + 0.3) / 3)
    assert figures["rotation_distribution"] == {"identity": 2, "z_rot_180": 1}


def test_answers_without_a_letter_are_listed(official):
    rows = [row(answer="none"), row(answer=None), row(answer="", gt_answer=None), {"id": "x", "gt_answer": "A"}]
    for mode in ("basic", "cogmap"):
        cases = official(rows, mode)["error_cases"]
        assert [case["answer"] for case in cases["gen_cogmap_error"]] == ["none", None, ""]
        assert cases["gen_cogmap_error"][0] == {
            "id": "among_1",
            "question": QUESTION,
            "gt_answer": "A",
            "answer": "none",
        }
        assert cases["gen_cogmap_error"][2]["question"] == ""
    assert cases["cogmap_extraction_error"] == []


@pytest.mark.parametrize(
    "deep", ['{"a":' * 100_000 + "}" * 100_000, '{"a": ' + "9" * 5000 + "}"], ids=["deep", "long"]
)
def test_answers_that_python_cannot_read_are_listed(deep, official):
    found = official([row(answer=f"A. {deep}")], "cogmap")
    (case,) = found["error_cases"]["cogmap_extraction_error"]
    assert (case["id"], case["type"], case["response"]) == ("among_1", "generated", f"A. {deep}"[:500])
    assert case["error"]
    assert found["results"]["gen_cogmap_correct"] == 1


def test_nothing_to_score_is_all_zeros(official):
    found = official([row(gt_answer=None)], "cogmap")["results"]
    assert (found["total"], found["gen_cogmap_accuracy"]) == (0, 0.0)
    assert found["cogmap_similarity"]["avg_overall_similarity"] == 0.0
    assert official([row(id="translation_1")], "cogmap")["results"]["cogmap_similarity"]["valid_accuracy"] == 0.0


def test_rows_without_a_right_answer_may_hold_anything(official):
    (item,) = official([row(gt_answer=None, answer=5)])
    assert (item["extracted_basic_mode"], item["gt"]) == (None, None)
    assert official([row(gt_answer=None, answer=[5])], "cogmap")["results"]["total"] == 0


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1: the file is empty"),
        ("\n", "line 1: the line is blank"),
        ('{"id": "a"}\n\n{"id": "b"}\n', "line 2: the line is blank"),
        ('{"id": "a"}\n  \t\n', "line 2: the line is blank"),
        ('{"id": "a"}\n{"id":\n', "line 2: not JSON"),
        ('{"id": "a"}\n[1]\n', "line 2: need a JSON object, got list"),
        ('{"id": "a"}\nnull\n', "line 2: need a JSON object, got NoneType"),
        ('{"id": "a", "gt_answer": "A", "answer": 5}\n', "line 1: answer must be text, got int"),
        ('{"id": "a", "gt_answer": "A", "answer": ["A."]}\n', "line 1: answer must be text, got list"),
        ('{"id": "a", "gt_answer": "A", "cogmap_answer": {"a": 1}}\n', "line 1: cogmap_answer must be text, got dict"),
        ('{"id": 5, "gt_answer": "A", "answer": "A."}\n', "line 1: id must be text, got int"),
        ('\ufeff{"id": "a"}\n', "line 1: not JSON"),
        ('{"a": ' * 100_000, "line 1: not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "line 1: not JSON"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_crashes_the_official_evaluator_is_refused_with_the_line(text, complaint, tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MindCubeError) as error:
        list(read_responses(path))
    assert f"{path}, {complaint}" in str(error.value)


def test_bytes_that_are_no_text_are_refused_with_the_line(tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "\xff"}\n')
    with pytest.raises(MindCubeError, match="line 2: not UTF-8"):
        list(read_responses(path))
    with pytest.raises(MindCubeError, match=r"cannot read .*missing"):
        list(read_responses(tmp_path / "missing"))


def test_a_true_map_that_python_cannot_read_is_refused_with_the_line(tmp_path, write_lines):
    path = write_lines(tmp_path / "responses.jsonl", [row(), row(grounded_cogmap='{"a":' * 100_000 + "}" * 100_000)])
    fine, deep = read_responses(path)
    assert maps_of(fine).grounded
    with pytest.raises(MindCubeError, match=r"responses\.jsonl, line 2: grounded_cogmap cannot be read"):
        maps_of(deep)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_how_lines_may_end(end, tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_bytes((json.dumps(row()) + "\r\n" + json.dumps(row()) + end).encode())
    assert len(list(read_responses(path))) == 2
