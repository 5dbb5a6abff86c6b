"""The study of clozes and reinforcement: arms that differ in clozes alone, costs that count all, honest intervals."""

import importlib.util
import json
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.reinforcement import TINY as REINFORCEMENT
from vagen.config import load

ROOT = Path(__file__).parents[1]
TINY = REINFORCEMENT | {"rl": REINFORCEMENT["rl"] | {"auxiliary": {"weight": 0.5, "rows": 2}}}


@pytest.fixture(scope="module")
def claim():
    spec = importlib.util.spec_from_file_location("claim", ROOT / "scripts" / "claim.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claim"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["claim"]


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "claim.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def curve(claim, *points):
    return tuple(claim.Point(*point) for point in points)


# ---------------------------------------------------------------------------------------------------------------- arms


def test_arms_differ_in_clozes_alone(claim, config, tmp_path):
    made = {arm: claim.configure(config, [], tmp_path, arm, 3)[1] for arm in claim.ARMS}
    clozes = {arm: (made[arm].rl.warmup.clozes, made[arm].rl.auxiliary.weight) for arm in made}
    assert clozes == {"rl": (0, None), "auxiliary": (0, 0.5), "pretraining": (1, None), "both": (1, 0.5)}
    same = []
    for one in made.values():
        values = one.model_dump(mode="json", exclude={"output"})
        del values["rl"]["warmup"]["clozes"], values["rl"]["auxiliary"]["weight"]
        same.append(values)
    assert all(values == same[0] for values in same)
    assert made["rl"].seed == 3
    assert len({claim.digest(one) for one in made.values()}) == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rl.auxiliary.weight=null", "set rl.warmup.steps, rl.warmup.clozes, rl.auxiliary.weight"),
        ("rl.evaluation.every=0", "rl.evaluation.every"),
        ("rl.warmup.behaviour=expert", "shows how to act"),
        ("clozes.weights={policy: 1, inverse_dynamics: 1}", "policy teach how to act"),
        ("rl.rollouts.worlds=[frozenlake-4x4, frozenlake-5x5]", "give one, and a file each"),
        ("rl.warmup.step=1", "did you mean 'rl.warmup.steps'"),
    ],
)
def test_what_would_not_be_a_comparison_is_refused(claim, config, tmp_path, capsys, override, message):
    words = ["--configs", str(config), "--output", str(tmp_path / "out")]
    assert claim.main([*words, f"--{override}"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------- comparing


def test_the_area_is_the_mean_of_the_curve_and_charges_what_came_before(claim):
    points = curve(claim, (100, 5, 0.2), (200, 10, 0.6), (300, 20, 0.6))
    assert claim.area(points, "steps", 300) == pytest.approx((0 * 100 + 0.4 * 100 + 0.6 * 100) / 300)
    assert claim.area(points, "steps", 150) == pytest.approx((0.2 + 0.4) / 2 * 50 / 150)
    assert claim.area(points, "steps", 100) == claim.area(points, "steps", 40) == 0
    assert claim.area(points, "seconds", 20) == pytest.approx((0.4 * 5 + 0.6 * 10) / 20)
    fine = np.linspace(0, 300, 300_001)
    assert claim.area(points, "steps", 300) == pytest.approx(claim.success_at(points, "steps", fine).mean(), abs=1e-5)


def test_means_have_students_interval(claim):
    values = [0.1, 0.4, 0.3, 0.2]
    found = claim.mean(values)
    half = 3.182 * statistics.stdev(values) / 2
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))
    assert (claim.mean([0.5]).low, claim.mean([0.5]).n) == (None, 1)
    assert claim.STUDENT[-1] > 2.13


def test_arms_are_compared_up_to_where_the_first_run_of_a_world_ends(claim):
    """What an arm does after that does not count; differences are those of equal seeds."""
    runs = []
    for world, length in (("a", 100), ("b", 50)):
        for seed, luck in ((0, 0.0), (1, 0.3)):
            for arm, success, more in (("rl", 0.2, 1), ("both", 0.3, 2)):
                ends = (length * more, 10 * length * more)
                points = curve(claim, (0, 0, success + luck), (*ends, success + luck))
                runs.append(claim.Run(world, arm, seed, "", points, {}))
    rows = {(row.axis, row.world, row.arm): row for row in claim.compare(runs)}
    assert rows["steps", "a", "both"].until == 100
    assert rows["seconds", "mean", "both"].until == 750
    for axis in claim.AXES:
        for world in ("a", "b", "mean"):
            row = rows[axis, world, "both"]
            assert row.area.value == pytest.approx(0.45)
            assert (row.gain.value, row.gain.low, row.gain.high) == pytest.approx((0.1, 0.1, 0.1)), "not paired"
            assert row.area.high - row.area.low > 1, "two seeds say little about the mean itself"
            assert row.ahead.value == pytest.approx(0.1)
            assert rows[axis, world, "rl"].gain is rows[axis, world, "rl"].ahead is None
    assert "| +0.100 (+0.100 to +0.100) | 2 |" in claim.table(list(rows.values()))


def test_what_arms_know_in_the_end_is_the_mean_of_their_seeds(claim):
    right = {("a", "rl"): [{"forward": 0.1}, {"forward": 0.3}], ("a", "both"): [{"forward": 0.9}, {"forward": 0.7}]}
    runs = [
        claim.Run(world, arm, seed, "", (), known)
        for (world, arm), seeds in right.items()
        for seed, known in enumerate(seeds)
    ]
    found = claim.knowledge(runs)
    assert [(one.world, one.arm, one.cloze) for one in found] == [("a", "rl", "forward"), ("a", "both", "forward")]
    assert [one.right.value for one in found] == pytest.approx([0.2, 0.8])
    lines = claim.table_of_knowledge(found).splitlines()
    assert lines[0] == "| world | arm | forward |"
    assert lines[3].startswith("| a | both | 0.800 (")


def test_costs_add_up_from_the_metrics(claim, config, tmp_path):
    _, settings = claim.configure(config, [], tmp_path, "rl", 0)
    records = [
        {"step": 1, "processor_seconds": 2.0},
        {"step": 2, "processor_seconds": 2.0, "eval/success": 0.1},
        {"step": 3, "processor_seconds": 3.0, "rollout/steps": 1.5, "rollout/errors": 1.0},
        {"step": 4, "processor_seconds": 3.0, "rollout/steps": 2.0, "rollout/errors": 0.0, "eval/success": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = claim.curve_of(tmp_path, settings)
    assert found == curve(claim, (0, 4, 0.1), (1.5 * 3 + 2.0 * 4, 10, 0.5))


# -------------------------------------------------------------------------------------------------------- as a whole


@pytest.mark.slow
def test_the_study_runs_resumes_and_shows_itself(claim, config, tmp_path, capsys, monkeypatch):
    words = ["--configs", str(config), "--output", str(tmp_path / "out"), "--seeds", "0", "1", "--arms", "rl", "both"]
    assert claim.main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out" / "claim.json")
    lines = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()
    assert [(json.loads(line)["arm"], json.loads(line)["seed"]) for line in lines] == [
        ("rl", 0),
        ("both", 0),
        ("rl", 1),
        ("both", 1),
    ]
    first, both = json.loads(lines[0])["curve"], json.loads(lines[1])["curve"]
    assert len(first) == 3
    assert first[0]["steps"] == both[0]["steps"] > 0, "both collect the same episodes before"
    found = json.loads((tmp_path / "out" / "claim.json").read_text())
    rows = found["rows"]
    assert {(one["arm"], one["cloze"]) for one in found["known"]} == {
        (arm, cloze) for arm in ("rl", "both") for cloze in load(config).clozes.weights
    }
    assert {(row["axis"], row["arm"]) for row in rows} == {
        (a, b) for a in ("steps", "seconds") for b in ("rl", "both")
    }
    assert Image.open(tmp_path / "out" / "claim.png").width > 400
    # The last line lost, as by a kill: its run is there to its end, and nothing is trained again.
    (tmp_path / "out" / "runs.jsonl").write_text("".join(line + "\n" for line in lines[:-1]))
    metrics = (tmp_path / "out" / "frozenlake-4x4" / "both" / "seed-1" / "metrics.jsonl").read_bytes()
    assert claim.main(words) == 0
    assert (tmp_path / "out" / "frozenlake-4x4" / "both" / "seed-1" / "metrics.jsonl").read_bytes() == metrics
    assert (tmp_path / "out" / "runs.jsonl").read_text().splitlines() == lines
    monkeypatch.setattr(claim, "train", lambda config: pytest.fail("trained again"))
    assert claim.main(words) == 0
    assert claim.main([*words, "--train.steps=3"]) == 2
    assert "with other settings" in capsys.readouterr().err


def test_the_quickstart_of_reinforcement_can_be_studied(claim, tmp_path):
    path = ROOT / "configs" / "rl_quickstart.yaml"
    assert load(path).rl is not None
    run, _ = claim.configure(path, ["rl.auxiliary.weight=0.5"], tmp_path, "both", 0)
    assert run.name == "frozenlake-4x4/both/seed-0"
