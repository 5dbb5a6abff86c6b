"""The HTML page of a run: complete, self-contained, valid, safe and the same every time."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from pydantic import TypeAdapter

import worlds
from vagen.evaluate.report import ReportError, write_report
from vagen.evaluate.report.curves import loss_panels
from vagen.evaluate.report.inputs import Row
from vagen.evaluate.report.samples import compare
from vagen.evaluate.report.sweeps import calibration_panels, horizon_panels
from worlds.text import write_facts

VOID = {"meta", "img", "br", "link", "input", "hr"}
WORLDS = ("sokoban-6x6", "frozenlake-6x6")


class Checker(HTMLParser):
    """Collects what a browser would complain about or load."""

    def __init__(self):
        super().__init__()
        self.open, self.errors, self.ids, self.images, self.loads, self.tags = [], [], [], [], [], []

    def handle_startendtag(self, tag, attrs):
        self._attributes(tag, dict(attrs))

    def handle_starttag(self, tag, attrs):
        self._attributes(tag, dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()}")

    def _attributes(self, tag, attributes):
        self.tags.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.images.append(attributes)
        self.loads += [attributes[name] for name in ("src", "href") if name in attributes]


def check(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.errors
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids)
    return checker


def row(world="sokoban-6x6", cloze="state_estimation", accuracy=0.873, **changes):
    return {
        "world": world,
        "cloze": cloze,
        "pattern": "o0 -> s0",
        "input": "image",
        "representation": "grid",
        "horizon": 0,
        "n": 200,
        "accuracy": accuracy,
        "ci_low": accuracy - 0.05,
        "ci_high": accuracy + 0.04,
        "ceiling": 1.0,
        "floors": {"majority": 0.04, "copy": None, "random": 0.01, "shuffled_image": 0.02},
        "floor_intervals": {"majority": [0.02, 0.08], "copy": None, "random": [0, 0.02], "shuffled_image": [0, 0.03]},
        "skill": 0.868,
        "field_f1": {"agent": 0.99},
        "parsed": 1.0,
        "effective": None,
        "seen_in_training": 0.123,
        "examples": [],
        **changes,
    }


def examples(world_id):
    """Two right answers, a wrong one with one wrong word, and another right one, about real states."""
    world = worlds.make(world_id)
    found = []
    for seed in range(4):
        world.reset(seed=seed)
        state = world.state()
        truth = write_facts(state.facts, world.schema, "grid")
        answer = truth if seed != 2 else truth.replace(truth.split()[0], "WRONG", 1)
        found.append(
            {"images": [dict(state.snapshot)], "question": "state 0?", "truth": truth, "answer": answer}
            | {"correct": seed != 2}
        )
    return found


def episode(world_id):
    world = worlds.make(world_id)
    world.reset(seed=3)
    snapshots, actions = [dict(world.state().snapshot)], [0, 1, 2]
    for action in actions:
        world.step(action)
        snapshots.append(dict(world.state().snapshot))
    return {"snapshots": snapshots, "actions": actions}


def agent_row(world, agent, success):
    return {
        "world": world,
        "agent": agent,
        "n": 50,
        "success": success,
        "ci_low": max(0, success - 0.1),
        "ci_high": min(1, success + 0.1),
        "mean_return": 0.5,
        "mean_steps": 6.5,
        "example": episode(world),
    }


CARD = {
    "rows": [
        row(world, cloze, 0.611 + 0.1 * i + 0.05 * j, pattern=pattern, examples=examples(world))
        for i, world in enumerate(WORLDS)
        for j, (cloze, pattern) in enumerate(
            {"state_estimation": "o0 -> s0", "forward_dynamics": "o0 a0 -> s1"}.items()
        )
    ],
    "split": "test",
    "model": "tiny-model",
    "seed": 1,
    "versions": {"torch": "2.99"},
}
METRICS = [
    {
        "step": step,
        "loss": 2.0 / step,
        "lr": 1e-3,
        "seconds_per_step": 0.5,
        "clozes_per_second": 300.0,
        "sharing": 1.67,
        **{f"loss/{w}/{c}": 1.0 / step for w in WORLDS for c in ("state_estimation", "forward_dynamics")},
    }
    for step in (100, 200, 300)
]
AGENTS = {
    "rows": [agent_row(w, a, s) for w in WORLDS for a, s in (("random", 0.1), ("expert", 1.0), ("tiny-model", 0.642))],
    "split": "test",
    "seed": 1,
}
SEEDS = [
    {"seed": 7, "mean_accuracy": 0.654, "rows": [{k: CARD["rows"][0][k] for k in ("world", "cloze", "accuracy")}]}
]


@pytest.fixture
def run(tmp_path):
    write(tmp_path, card=CARD, metrics=METRICS, agents=AGENTS, seeds=SEEDS, config="seed: 3\ntrain:\n  steps: 300\n")
    return tmp_path


def write(folder, card=None, metrics=None, agents=None, seeds=None, config=None):
    for name, value in (("report_card.json", card), ("agents.json", agents), ("seeds.json", seeds)):
        if value is not None:
            (folder / name).write_text(json.dumps(value))
    if metrics is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    if config is not None:
        (folder / "config.yaml").write_text(config)


def report(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_shows_every_result(run):
    page = report(run)
    for entry in CARD["rows"]:
        assert f"<b>{100 * entry['accuracy']:.1f}</b>" in page
    for text in ("tiny-model", "64.2", "65.4", "2 min 30 s", "45 k", "steps: 300", "2.99", "× 1.67", "12.3", "99.0"):
        assert text in page
    for section in ("card", "seeds", "curves", "samples", "agents", "made"):
        assert f'<section id="{section}"' in page


def test_the_page_is_valid_and_loads_nothing(run):
    page = report(run)
    checker = check(page)
    assert "http" not in page
    assert "@import" not in page
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in checker.loads)
    assert not {"script", "link", "iframe"} & set(checker.tags)


def test_images_decode_to_enlarged_frames_and_have_alternatives(run):
    images = check(report(run)).images
    assert len(images) == 4 * 2 + 2 * 4  # two samples per row, four frames per episode
    for image in images:
        assert image["alt"]
        png = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert png.size == (int(image["width"]), int(image["height"]))
        assert png.width in (96, 144)


def test_a_sample_shows_the_very_pixels_of_its_state(run):
    world = worlds.make(WORLDS[0])
    frame = world.render_states([CARD["rows"][0]["examples"][0]["images"][0]])[0]
    source = check(report(run)).images[0]["src"]
    shown = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert shown.resize((48, 48), Image.Resampling.NEAREST).tobytes() == Image.fromarray(frame).tobytes()


def test_a_wrong_example_is_shown_with_its_wrong_words_marked(run):
    page = report(run)
    assert page.count('<mark class="off">WRONG</mark>') == len(CARD["rows"])
    assert page.count("✗ wrong") == page.count("✓ right") == len(CARD["rows"])


def test_another_right_answer_is_not_marked_as_wrong(tmp_path):
    example = {"images": [], "question": "action 0?", "truth": "left", "answer": "right", "correct": True}
    write(tmp_path, card=CARD | {"rows": [row(examples=[example])]})
    page = report(tmp_path)
    assert "another right answer" in page
    assert 'class="off"' not in page


def test_the_page_follows_the_theme_in_its_charts(run):
    charts = re.findall(r'<svg class="chart".*?</svg>', report(run), re.S)
    assert len(charts) == 1 + len(WORLDS)
    for chart in charts:
        assert "var(--series-" in chart
        assert not re.search(r"#0[1-4]0[0-9a-f]{3}", chart), "a stand-in colour was left"
        assert "<text" in chart, "text must stay text"


SWEEP = [
    row(cloze="forward_dynamics", pattern="o0 a0 -> s1", accuracy=0.9),
    row(cloze="rollout", pattern="o0 a0 a1 a2 -> s3", accuracy=0.6),
    row(cloze="rollout@2", pattern="o0 a0 a1 -> s2", accuracy=0.75),
    row(cloze="inverse_dynamics", pattern="o0 o1 -> a0", accuracy=0.5),
    row(cloze="retrodiction", pattern="a0 o1 -> s0", accuracy=0.5),
    row("frozenlake-6x6", cloze="rollout@2", pattern="o0 a0 a1 -> s2", accuracy=0.4),
]
CALIBRATION = {
    "ece": 0.123,
    "bins": [{"confidence": 0.25, "accuracy": 0.5, "n": 10}, {"confidence": 0.95, "accuracy": 0.875, "n": 190}],
}


def test_a_family_at_several_lengths_is_a_curve_over_them(tmp_path):
    rows = TypeAdapter(list[Row]).validate_python(SWEEP)
    (panel,) = horizon_panels(rows)
    assert panel.title == "sokoban-6x6"
    (curve,) = panel.curves
    assert (curve.name, curve.points) == ("rollout", [(1, 0.9), (2, 0.75), (3, 0.6)])
    assert curve.figure == "60.0 %"
    write(tmp_path, card=CARD | {"rows": SWEEP})
    page = report(tmp_path)
    check(page)
    assert '<section id="horizons"' in page
    assert "rollout 1: 90.0 %, 2: 75.0 %, 3: 60.0 %" in page, "who does not see the chart is not told what it shows"
    assert horizon_panels(rows[3:]) == []


def test_calibration_is_drawn_where_the_card_has_it(tmp_path):
    rows = [row(calibration=CALIBRATION), row("frozenlake-6x6"), row(cloze="termination", yes=0.5)]
    (panel,) = calibration_panels(TypeAdapter(list[Row]).validate_python(rows))
    assert [curve.points for curve in panel.curves] == [[(0.25, 0.5), (0.95, 0.875)]]
    write(tmp_path, card=CARD | {"rows": rows})
    page = report(tmp_path)
    check(page)
    assert '<section id="calibration"' in page
    assert "12.3 %" in page
    assert re.search(r"right answer is yes</dt><dd>50.0<", page)
    write(tmp_path, card=CARD)
    assert '<section id="calibration"' not in report(tmp_path)


def test_worlds_whose_names_have_parts_have_their_own_curves():
    names = ("minigrid/Fetch-5x5-N2-v0", "minigrid/Empty-5x5-v0/partial", "sokoban-6x6")
    metrics = [{"step": 1, "loss": 1.0, **{f"loss/{name}/o0 a0 -> s1": 0.5 for name in names}}]
    assert [panel.title for panel in loss_panels(metrics)] == ["All worlds", *names]


def test_the_same_run_gives_the_same_bytes(run):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_what_others_wrote_is_escaped(tmp_path):
    evil = "<script>alert('x')</script>"
    example = {
        "images": [{"x": 1}],
        "question": evil,
        "truth": f"{evil} a",
        "answer": f"{evil} \x00b",
        "correct": False,
    }
    card = CARD | {"rows": [row(evil, evil, examples=[example], floors={evil: 0.1})], "model": evil}
    metrics = [{"step": 1, "loss": 1.0, f"loss/{evil}/x": 1.0, "loss/a/" + evil: 0.5}]
    agents = {"rows": [{**agent_row(WORLDS[0], evil, 0.5), "world": evil}]}
    write(tmp_path, card, metrics, agents, config=f"note: {evil}\n")
    page = report(tmp_path)
    assert "script" not in check(page).tags
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x00" not in page
    assert "cannot be drawn" in page


@pytest.mark.parametrize(
    "part",
    [
        {"card": CARD},
        {"metrics": METRICS},
        {"agents": AGENTS},
        {"seeds": SEEDS},
        {"config": "seed: 1\n"},
        {"metrics": []},
    ],
)
def test_any_result_alone_makes_a_page(tmp_path, part):
    write(tmp_path, **part)
    check(report(tmp_path))


def test_unknown_values_show_as_dashes(tmp_path):
    lone = row(ceiling=None, skill=None, floors={"majority": None}, seen_in_training=None)
    write(tmp_path, card=CARD | {"rows": [lone]})
    page = report(tmp_path)
    assert 'data-label="skill">–<' in page
    assert 'data-label="majority">–<' in page


def test_a_resumed_run_counts_repeated_steps_once(tmp_path):
    again = [{**METRICS[1], "loss": 0.125}, METRICS[2]]
    write(tmp_path, metrics=METRICS + again)
    page = report(tmp_path)
    assert "2 min 30 s" in page
    assert "300 steps" in page


def test_a_diverged_run_still_has_a_page(tmp_path):
    write(tmp_path, metrics=[*METRICS, {**METRICS[0], "step": 400, "loss": float("nan"), f"loss/{WORLDS[0]}/x": 0.0}])
    check(report(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", '{"step": 1, "loss": 1}\n{"step": 2, "lo', r"metrics\.jsonl, line 2 is damaged"),
        (
            "metrics.jsonl",
            '{"step": 1, "loss": 1}\n{"loss": 1}\n',
            r"metrics\.jsonl, line 2 is damaged: it has no step",
        ),
        ("metrics.jsonl", '{"step": 1, "loss": "much"}\n', r"metrics\.jsonl, line 1 is damaged: loss"),
        ("report_card.json", '{"rows":\n [}', r"report_card\.json, line 2 is damaged"),
        ("report_card.json", '{"rows": [], "split": "test", "seed": 1}', r"report_card\.json is damaged: rows"),
        ("report_card.json", json.dumps(CARD | {"rows": [row(accuracy=1.2)]}), r"damaged: rows\.0\.accuracy"),
        ("report_card.json", json.dumps(CARD | {"model": "\ud800"}), r"report_card\.json, line 1 is damaged"),
        ("agents.json", "[]", r"agents\.json is damaged"),
        ("seeds.json", '[{"seed": 1}]', r"seeds\.json is damaged: 0\.mean_accuracy"),
        ("config.yaml", "a: 1\nb: [", r"config\.yaml, line \d is damaged"),
        ("config.yaml", "- a", r"config\.yaml, line 1 is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ReportError, match=message) as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_damaged_states_and_episodes_are_named(tmp_path):
    write(tmp_path, card=CARD | {"rows": [row(examples=[{**examples(WORLDS[0])[0], "images": [{"steps": 1}]}])]})
    with pytest.raises(ReportError, match=r"report_card\.json is damaged: a state of world 'sokoban-6x6'"):
        write_report(tmp_path)
    (tmp_path / "report_card.json").unlink()
    for change in ({"actions": [0]}, {"actions": [0, 1, 99]}):
        write(tmp_path, agents={"rows": [{**AGENTS["rows"][0], "example": episode(WORLDS[0]) | change}]})
        with pytest.raises(ReportError, match=r"agents\.json is damaged: an episode of world 'sokoban-6x6'"):
            write_report(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ReportError, match="holds no results"):
        write_report(tmp_path)
    with pytest.raises(ReportError, match="is no folder"):
        write_report(tmp_path / "nowhere")


def test_compare_marks_one_wrong_cell_of_a_board():
    truth, answer = compare("# a #\n# b #", "# a #\n# c #")
    assert [token.text for token in truth if token.wrong] == ["b"]
    assert [token.text for token in answer if token.wrong] == ["c"]
    assert "".join(token.text for token in answer) == "# a #\n# c #"


def test_compare_aligns_texts_of_other_shapes():
    truth, answer = compare("left, forward, right", "left, right")
    assert [token.text for token in truth if token.wrong] == ["forward,"]
    assert not [token.text for token in answer if token.wrong]
    assert compare("left", "") == ([type(truth[0])("left", True)], [])
