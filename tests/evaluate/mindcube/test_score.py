"""Scoring from the command line: results, lines per row, summaries, and bad input."""

import json
from pathlib import Path

import pytest

import vagen.cli
from vagen.cloze.statistics import wilson
from vagen.evaluate.mindcube.score import MODES
from vagen.mindcube.rows import KINDS, SETTINGS

QUESTION = "Image 1 shows a scene: is there a cup behind the door? A. Yes B. No"


@pytest.fixture
def score(tmp_path, write_lines, capsys):
    """``score(rows, mode, *options)``: exit code, result, and the printed summary."""

    def run(rows, mode: str, *options):
        path = rows if isinstance(rows, Path) else write_lines(tmp_path / "responses.jsonl", rows)
        out = tmp_path / "result.json"
        words = ["score", "mindcube", str(path), "--mode", mode, "--out", str(out), *map(str, options)]
        code = vagen.cli.main(words)
        printed = capsys.readouterr()
        if code == 0:
            assert printed.out == f"{out}\n", "the path of the result is printed last"
        return code, json.loads(out.read_text()) if out.is_file() else None, printed.err

    return run


@pytest.fixture
def row(true_map):
    def make(answer: str = "A. Yes", **fields) -> dict:
        whole = {"id": "around_s1_q1", "question": QUESTION, "gt_answer": "A", "answer": answer}
        return whole | {"grounded_cogmap": json.dumps(true_map)} | fields

    return make


def by_name(result) -> dict:
    return {(group["by"], group["name"]): group for group in result["rows"]}


# -------------------------------------------------------------------------------------------------------------- strict


def test_a_strict_result(score, row, true_map):
    good = json.dumps(true_map)
    plain = json.dumps({entry["name"]: {"position": entry["position"]} for entry in true_map["objects"]})
    rows = [
        row(f"{good} A. Yes"),
        row(f"{plain} A. Yes"),
        row("B. No"),
        row("nothing {broken}"),
        row("A. Yes", grounded_cogmap=None, id="among_1", question="did I move? A. Left B. Right"),
        row("A. Yes", id="translation_1"),
        row("A. Yes", gt_answer=None),
    ]
    code, result, summary = score(rows, "strict")
    assert code == 0
    assert (result["mode"], result["n"], result["skipped"]) == ("strict", 6, 1)
    groups = by_name(result)
    assert list(groups) == [
        ("overall", "overall"),
        ("setting", "around"),
        ("setting", "translation"),
        ("setting", "among"),
        ("kind", "motion"),
        ("kind", "behind"),
    ]
    overall = groups["overall", "overall"]
    share = wilson(3, 5)
    assert (overall["n"], overall["accuracy"]) == (5, 0.6), "translation has no part in it"
    assert (overall["ci_low"], overall["ci_high"]) == (share.low, share.high)
    assert overall["answered"] == 0.8
    assert overall["over_blind"] == pytest.approx(0.6 - max(overall["blind"].values()))
    assert set(overall["blind"]) == {"chance", "letter", "text"}
    assert overall["blind"]["chance"] == 0.5
    assert overall["maps_read"] == 0.4
    maps = overall["maps"]
    assert maps["n"] == 4, "rows without a true map have none to compare with, rows without a map count as wrong"
    assert (maps["isomorphic"], maps["coverage"]) == (0.5, 0.5)
    facings = (1 + 0 + 0 + 0) / 4
    assert maps["facing"] == facings, "the plain map faces nowhere"
    assert maps["directional"] == 0.5
    assert maps["turns"] == [4, 0, 0, 0]
    assert groups["setting", "among"]["maps"] is None
    assert overall["random_maps"]["isomorphic"] < 0.05 < overall["random_maps"]["directional"] < 0.6
    assert "random" in summary
    assert "setting around" in summary
    assert score(rows, "strict")[1] == result, "the same again"


def test_a_perfect_file_is_perfect(score, row, true_map):
    rows = [row(f"{json.dumps(true_map)} {'AB'[n % 2]}. x", gt_answer="AB"[n % 2]) for n in range(8)]
    group = by_name(score(rows, "strict")[1])["overall", "overall"]
    assert (group["accuracy"], group["skill"], group["maps_read"]) == (1.0, 1.0, 1.0)
    assert (group["maps"]["overall"], group["maps"]["isomorphic"]) == (1.0, 1.0)


def test_the_true_map_never_passes_for_a_generated_one(score, row):
    rows = [{**row(), "cogmap_gen_answer": "A. Yes"}]
    assert score(rows, "official-cogmap")[1]["results"]["cogmap_similarity"]["isomorphic_count"] == 1
    group = by_name(score(rows, "strict")[1])["overall", "overall"]
    assert (group["maps_read"], group["maps"]["overall"]) == (0.0, 0.0)


def test_two_things_of_seven_are_not_a_perfect_map(score, row):
    two = json.dumps({"cup": {"position": [5, 5]}, "door": {"position": [5, 8]}})
    official = score([row(f"{two} A.")], "official-cogmap")[1]["results"]["cogmap_similarity"]
    assert official["avg_directional_similarity"] == 1.0
    strict = by_name(score([row(f"{two} A.")], "strict")[1])["overall", "overall"]["maps"]
    assert strict["directional"] == pytest.approx(2 / 20)


def test_strict_reads_every_conformance_file(score, shared, tmp_path):
    for path in sorted((shared / "conformance" / "inputs").iterdir()):
        code, result, _ = score(path, "strict", "--per-item", tmp_path / "items.jsonl")
        assert code == 0
        items = list(map(json.loads, (tmp_path / "items.jsonl").read_text().splitlines()))
        assert len(items) == result["n"]
        assert sum(item["correct"] for item in items) == round(
            sum(group["accuracy"] * group["n"] for group in result["rows"] if group["by"] == "setting")
        )
        for group in result["rows"]:
            assert 0 <= group["ci_low"] <= group["accuracy"] <= group["ci_high"] <= 1
            assert group["name"] in (*SETTINGS, *KINDS, "overall")


# ------------------------------------------------------------------------------------------------------------ official


def test_official_results_are_written_as_they_are(score, shared, tmp_path):
    name = "05_cogmap_malformed"
    official = shared / "conformance" / "official"
    for mode in ("basic", "cogmap"):
        items = tmp_path / f"{mode}.jsonl"
        path = shared / "conformance" / "inputs" / f"{name}.jsonl"
        code, result, summary = score(path, f"official-{mode}", "--per-item", items)
        assert code == 0
        assert result == json.loads((official / mode / f"{name}.json").read_text())
        expected = (official / "per_item" / f"{name}.jsonl").read_text().splitlines()
        assert list(map(json.loads, items.read_text().splitlines())) == list(map(json.loads, expected))
        assert "overall" in summary
        assert "text" in summary.splitlines()[0]
        assert ("random maps" in summary) == (mode == "cogmap")


def test_the_summary_shows_what_needs_no_looking(score, row):
    rows = [row(f"{'BA'[n % 4 == 0]}. x", id=f"around_s{n}_q1", gt_answer="AB"[n % 4 == 0]) for n in range(40)]
    _, _, summary = score(rows, "official-basic")
    head, overall = summary.splitlines()[:2]
    assert head.split() == ["setting", "n", "accuracy", "95", "%", "interval", "chance", "letter", "text"]
    assert overall.split() == ["overall", "40", "0.000", "0.000", "–", "0.088", "0.500", "0.750", "0.750"]
    assert "fitted on these answers themselves" in summary


def test_baselines_from_a_training_file(score, row, tmp_path, write_lines):
    training = write_lines(tmp_path / "train.jsonl", [row(gt_answer="B") for _ in range(5)] + [{"id": 5}])
    rows = [row(id=f"around_s{n}_q1") for n in range(20)]
    group = by_name(score(rows, "strict")[1])["overall", "overall"]
    assert (group["blind"]["letter"], group["blind"]["text"]) == (1.0, 1.0)
    _, result, summary = score(rows, "strict", "--baseline-train", training)
    group = by_name(result)["overall", "overall"]
    assert (group["blind"]["letter"], group["blind"]["text"]) == (0.0, 0.0)
    assert result["blind_fitted_on"]["text"] == str(training)
    assert f"fitted on {training}" in summary


@pytest.mark.parametrize("mode", MODES)
def test_files_without_anything_to_score(mode, score, row, tmp_path):
    code, result, _ = score([row(gt_answer=None)], mode)
    assert code == 0
    if mode == "strict":
        assert result["rows"] == [{"by": "overall", "name": "overall", "n": 0}]
    else:
        assert result["results"]["total"] == 0
    assert score([row(id="translation_1")], mode)[0] == 0


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("mode", MODES)
def test_bad_lines_are_named(mode, score, tmp_path, row):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row()) + "\n\n", encoding="utf-8")
    code, result, printed = score(path, mode, "--per-item", tmp_path / "items.jsonl")
    assert (code, result) == (2, None)
    assert printed == f"vagen: {path}, line 2: the line is blank; remove it\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.jsonl"], "half a result is left"


@pytest.mark.parametrize("mode", MODES)
def test_questions_in_the_place_of_responses_are_refused(mode, score, row, tmp_path):
    question = row()
    del question["answer"]
    code, result, error = score([question, question], mode, "--per-item", tmp_path / "items.jsonl")
    assert (code, result) == (2, None)
    assert "responses.jsonl: no line has an answer" in error
    assert not (tmp_path / "items.jsonl").exists()
    code, result, _ = score([question, row("")], mode)
    assert code == 0, "an empty answer is one, and wrong"


def test_the_summary_says_what_its_columns_are(score, row, true_map):
    _, _, summary = score([row(f"{json.dumps(true_map)} A. Yes"), row("B. No", id="translation_1")], "strict")
    assert "maps, isomorphic: agreement with the true map" in summary
    assert "overall, kinds: without translation" in summary
    _, result, summary = score([row("A. Yes"), row("nothing")], "strict")
    assert "no answer has a map" in summary
    overall = summary.splitlines()[1].split()
    assert overall[:3] == ["overall", "2", "0.500"]
    assert overall[-4:] == ["–"] * 4, "figures of maps where no map was asked for"
    assert result["rows"][0]["maps"] is not None, "the file keeps them"


def test_an_unreadable_true_map_is_named(score, row):
    rows = [row(), row(grounded_cogmap='{"a":' * 100_000 + "}" * 100_000)]
    assert score(rows, "official-basic")[0] == 0, "nobody asks for maps"
    for mode in ("official-cogmap", "strict"):
        code, _, printed = score(rows, mode)
        assert code == 2
        assert "responses.jsonl, line 2: grounded_cogmap cannot be read" in printed


def test_files_are_not_written_over_each_other(score, row, tmp_path, write_lines):
    path = write_lines(tmp_path / "result.json", [row()])
    before = path.read_bytes()
    for options in ((), ("--per-item", path)):
        code = score(path if not options else [row()], "strict", *options)[0]
        assert code == 2
    assert path.read_bytes() == before


def test_usage(score, row, tmp_path, capsys, write_lines):
    assert score(tmp_path / "missing.jsonl", "strict")[0] == 2
    for words in (["--mode", "loose"], []):
        assert vagen.cli.main(["score", "mindcube", "x.jsonl", "--out", "y.json", *words]) == 2
    assert "--mode" in capsys.readouterr().err
    code, _, printed = score([row()], "strict", "--baseline-train", write_lines(tmp_path / "t.jsonl", [{"id": "x"}]))
    assert code == 2
    assert "to learn from" in printed
    (tmp_path / "folder").mkdir()
    code, _, printed = score([row()], "strict", "--per-item", tmp_path / "folder")
    assert code == 2
    assert "it is a folder" in printed
