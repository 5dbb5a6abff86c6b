"""Alarms and curves of reinforcement: what should go off does, at the right step, and a sound run is quiet."""

import json
import math

import pytest

from vagen.evaluate.report import write_report
from vagen.evaluate.report.alarms import RULES, alarms
from vagen.evaluate.report.reinforcement import CHARTS, reinforcement_panels

STEPS = 12
SOUND = {
    "success": lambda n: n / STEPS,
    "success/w": lambda n: n / STEPS,
    "entropy": lambda n: 1.0 - 0.05 * n,
    "rollout/formed": lambda n: 0.7 + 0.02 * n,
    "rollout/cut": lambda n: 0.1,
    "rollout/errors": lambda n: 0.0,
    "rollout/response_tokens": lambda n: 9.0,
    "groups/kept": lambda n: 0.5,
    "groups/phantom": lambda n: 0.05 * (n % 2),
    "kl/update": lambda n: 0.01,
    "gap/sampler": lambda n: 1e-7,
    "ratio/first_gap": lambda n: 0.0,
    "grad_norm": lambda n: 0.3 + 0.01 * n,
    "skipped": lambda n: 0.0,
    "mi/mi_sequence": lambda n: 1.0 + 0.02 * n,
    "mi/low": lambda n: 0.5,
    "mi/high": lambda n: 1.5,
    "mi/p_value": lambda n: 0.001,
    "mi/retrieval@1": lambda n: 0.5,
    "mi/chance@1": lambda n: 0.1,
    "eval/success": lambda n: n / STEPS,
    "eval/w/success": lambda n: n / STEPS,
    "eval/w/success_low": lambda n: max(0.0, n / STEPS - 0.1),
    "eval/w/success_high": lambda n: min(1.0, n / STEPS + 0.1),
}


def metrics(**changes) -> list[dict[str, float]]:
    """Of ``STEPS`` sound steps after ten of a warm-up; ``a__b=function`` changes the metric ``a/b``."""
    series = SOUND | {name.replace("__", "/"): of for name, of in changes.items()}
    warm = [{"step": float(step), "loss": 3.0 / step} for step in range(1, 11)]
    return warm + [{"step": 10.0 + n, **{key: of(n) for key, of in series.items()}} for n in range(1, STEPS + 1)]


def late(before: float, after: float):
    """What is sound for six steps, and then not."""
    return lambda n: before if n <= 6 else after


def test_a_sound_run_is_quiet():
    assert alarms(metrics()) == []


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("Template collapse", {"mi__p_value": late(0.001, 0.4)}, "1.14 nats"),
        (
            "Template collapse",
            {"mi__mi_sequence": late(1.2, 0.2), "mi__high": late(1.5, 0.4), "mi__low": late(0.5, 0.1)},
            "0.20 nats about its prompt (95 % interval 0.10 to 0.40), and told 1.20",
        ),
        (
            "Entropy collapse",
            {"entropy": late(1.0, 0.05), "success": lambda n: 0.2},
            "0.05 nats per token, 1 at first",
        ),
        ("Form lost", {"rollout__formed": late(0.9, 0.3)}, "30% of the responses have the form asked for, and 90%"),
        ("Hardly any group teaches", {"groups__kept": late(0.5, 0.0)}, "0%"),
        ("Phantom groups", {"groups__phantom": late(0.0, 0.4)}, "40%"),
        ("Responses are cut", {"rollout__cut": late(0.1, 0.8)}, "80%"),
        ("Large updates", {"kl__update": late(0.01, 0.5)}, "0.5 nats"),
        ("Sampler and trainer differ", {"gap__sampler": late(1e-7, 0.2)}, "0.2 nats"),
        ("First ratios are not 1", {"ratio__first_gap": late(0.0, 1e-4)}, "0.0001 nats"),
        ("Skipped batches", {"skipped": late(0.0, 1.0)}, "not finite"),
        ("Broken episodes", {"rollout__errors": late(0.0, 2.0)}, "2 in a step"),
        (
            "Success lost",
            {
                "eval__w__success": late(0.8, 0.3),
                "eval__w__success_low": late(0.7, 0.2),
                "eval__w__success_high": late(0.9, 0.4),
            },
            "30% in w, and 80% before",
        ),
    ],
)
def test_what_goes_wrong_is_named_with_its_step(name, changes, said):
    [alarm] = alarms(metrics(**changes))
    assert (alarm.name, alarm.step) == (name, 17)
    assert said in alarm.why


def test_every_rule_has_gone_off_above():
    names = {case[0] for mark in test_what_goes_wrong_is_named_with_its_step.pytestmark for case in mark.args[1]}
    assert len(names) == len(RULES)


@pytest.mark.parametrize(
    "changes",
    [
        {"rollout__cut": lambda n: 0.9 if n in (3, 4, 8) else 0.1},
        {"mi__p_value": lambda n: 0.4 if n in (5, 9) else 0.001},
        {"mi__p_value": lambda n: 0.4},
        {"entropy": late(1.0, 0.01), "success": lambda n: 0.95},
        {"eval__w__success_high": lambda n: 1.0},
        {"groups__kept": lambda n: math.nan},
        {"mi__mi_sequence": lambda n: 0.0, "mi__p_value": late(0.6, 0.001)},
    ],
    ids=["short", "one measurement", "never depended", "solved", "wide intervals", "not measured", "rises"],
)
def test_noise_and_what_is_no_fault_are_left_alone(changes):
    assert alarms(metrics(**changes)) == []


def test_charts_show_what_happened_and_leave_out_what_did_not():
    panels = {panel.title: panel for panel in reinforcement_panels(metrics())}
    assert [curve.name for curve in panels["Success, validation"].curves] == ["w"]
    assert panels["Success, validation"].curves[0].band[0] == (11.0, 0.0, pytest.approx(1 / STEPS + 0.1))
    assert panels["What reasoning tells"].curves[0].band
    assert panels["Groups"].curves[0].figure == "50.0 %"
    assert "Critic" not in panels
    assert "Clipped tokens" not in panels, "clip shares were never measured"
    assert [curve.name for curve in panels["Sampler against trainer"].curves] == ["mean"]
    assert panels["Entropy"].curves[0].points[0][0] == 11, "the warm-up has no entropy"
    assert len({chart.title for chart in CHARTS}) == len(CHARTS)


def test_supervised_runs_have_no_such_section(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<section id="reinforcement"' not in page
    assert reinforcement_panels([{"step": 1.0, "loss": 2.0}]) == []


def test_the_page_names_alarms_and_draws_the_warm_up_apart(tmp_path):
    found = metrics(mi__p_value=late(0.001, 0.4))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<b>Template collapse</b> suspected since step 17" in page
    assert "total loss from 3 to 0.3" in page, "the warm-up's losses are the supervised ones"
    assert "Success, validation over training steps: w from" in page
    quiet = [record for record in metrics() if record["step"] < 15]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in quiet))
    assert "No alarm has gone off" in write_report(tmp_path).read_text(encoding="utf-8")
