"""The benchmarks at tiny sizes: what their lines say, that what is compared is the same, and what they count.

No test here looks at how fast anything was.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vagen.policy.packing import work_of
from vagen.policy.work import Cost

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"
FIELDS = {"what", "peer", "ours", "theirs", "ratio", "ratio_spread", "bound", "target", "machine", "versions"}


@pytest.fixture(scope="module")
def bench():
    """``bench("score")``: a benchmark's module."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(SCRIPTS))


def run(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=SCRIPTS.parents[1], check=False)


def lines_of(done: subprocess.CompletedProcess) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(line: dict) -> None:
    assert line.keys() >= FIELDS
    low, high = line["ratio_spread"]
    assert 0 < low <= line["ratio"] <= high
    assert line["ours"] > 0
    assert line["theirs"] > 0
    assert line["bound"] is None or line["bound"] > 0
    assert line["versions"].keys() >= {"python"}
    assert line["machine"]


# ----------------------------------------------------------------------------------------------------------- measuring


def test_a_ratio_is_that_of_rounds_not_of_medians(bench):
    """A machine that slows down for a round slows both ways: only what was measured together is compared."""
    line = bench("measure").comparison("w", "p", [10, 2, 30], [5, 1, 3], ("torch",), bound=4.0)
    check(line)
    assert (line["ours"], line["theirs"]) == (10, 3)
    assert (line["ratio"], line["ratio_spread"]) == (2, [2, 10])
    assert line["bound"] == 0.5, "the share of the bound that was reached"
    assert line["versions"]["torch"] == torch.__version__


def test_ways_take_turns(bench):
    turns = []
    ways = {name: lambda name=name: turns.append(name) or 3 for name in "ab"}
    found = bench("measure").rates(ways, rounds=4, seconds=0.0, warm=False)
    assert turns == [*"abababab"]
    assert {name: len(speeds) for name, speeds in found.items()} == {"a": 4, "b": 4}
    assert all(speed > 0 for speeds in found.values() for speed in speeds)


# ------------------------------------------------------------------------------------------------------------- scripts


def test_score(bench, capsys, monkeypatch):
    command = ["--sizes", "small", "--layouts", "single", "--clozes", "6", "--trajectories", "1", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["score", *command, "--cores", "1"])
    bench("score").main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["peer"] for line in lines] == ["plain_generate", "plain_generate_batched"] * 2
    assert [("free" in line["what"], "constrained" in line["what"]) for line in lines] == [(True, False)] * 2 + [
        (False, True)
    ] * 2
    for line in lines:
        check(line)


def test_score_refuses_to_compare_different_answers(bench):
    with pytest.raises(SystemExit, match=r"'b'.*'c' by plain"):
        bench("score").check_alike({"ours": ["a", "b"], "plain": ["a", "c"]})


@pytest.mark.slow
def test_cloze_train():
    command = ["--sizes", "small", "--clozes", "4", "--rounds", "2", "--cores", "1", "--peers", "own_unpacked"]
    lines = lines_of(run("cloze_train", *command))
    assert [line["layout"] for line in lines] == ["history", "single"]
    for line in lines:
        check(line)
        assert line["peer"] == "own_unpacked"
        assert line["sharing_bound"] > 1
        assert line["target"] is None, "targets are for 16 clozes"
        assert line["peak_bytes"].keys() == {"ours", "theirs"}
        assert min(line["peak_bytes"].values()) > 0


def test_clozes_after_a_history_see_only_what_came_before(bench):
    """By turns after each of the four frames, which all differ; and none comes twice."""
    clozes = bench("clozes")
    for window in clozes.trajectories(3):
        asked = clozes.history(window, 64)
        assert [len(sample.images) for sample in asked.samples[:8]] == [1, 2, 3, 4] * 2
        assert len({(sample.question, len(sample.images)) for sample in asked.samples}) == 64, "a cloze comes twice"
        for sample, pictures in zip(asked.samples, asked.pictures, strict=True):
            assert sample.images == window.snapshots[: len(sample.images)], (
                f"{sample.name} is not shown what came before"
            )
            assert len({picture.digest for picture in pictures}) == len(pictures), "two frames look alike"


@pytest.mark.parametrize("layout", ["history", "single"])
def test_packed_and_unpacked_training_take_the_same_steps(bench, layout):
    """Starting from the same weights, the same updates on the same clozes: what is compared is the same training."""
    clozes, train = bench("clozes"), bench("train_step")
    asked = [clozes.LAYOUTS[layout](window, 12).samples for window in clozes.trajectories(2)]
    assert len({(s.question, repr(s.images)) for some in asked for s in some}) == 24, "a cloze comes twice"
    losses = {}
    for way in ("packed", "unpacked"):
        chat = clozes.make_chat("small")
        chat.policy.model.double()
        stepper = train.Stepper(chat, way, 3)
        losses[way] = []
        for _ in range(3):
            losses[way].append(stepper.loss(asked))
            assert stepper.step(asked) == 24
    assert losses["packed"][0] > losses["packed"][-1], "nothing is learned"
    np.testing.assert_allclose(losses["packed"], losses["unpacked"], rtol=1e-9)


def test_steps_of_reinforcement_on_other_prompts_are_not_compared(bench):
    rl_step = bench("rl_step")
    rl_step.check_alike({"ours": 81, "trl": 81})
    with pytest.raises(SystemExit, match=r"'ours': 81, 'trl': 80"):
        rl_step.check_alike({"ours": 81, "trl": 80})


@pytest.mark.slow
def test_our_step_of_reinforcement(bench):
    """A process that plays and learns whenever it is asked, and says how long its prompts are."""
    arguments = ["--size=small", "--groups=2", "--members=2", "--tokens=4"]
    with bench("worker").Worker(sys.executable, "rl_ours.py", arguments, 1) as ours:
        assert [ours(), ours()] == [4, 4], "responses of a step"
        assert 64 < ours.about["prompt_tokens"] < 128, "an image of 64 tokens and little else"
        assert ours.peak > 0


@pytest.mark.slow
def test_render():
    command = ["--batch", "2", "--seconds", "0.01", "--rounds", "2", "--peers", "minigrid", "pasting", "memory_copy"]
    lines = lines_of(run("render", *command))
    assert [line["peer"] for line in lines] == ["minigrid"] * 3 + ["pasting"] + ["memory_copy"] * 2
    for line in lines:
        check(line)
        assert (line["bound"] is None) == (line["peer"] != "memory_copy")


def test_rooms_are_written_as_gym_sokoban_has_them(bench):
    """A wall around every room, one player, and as many boxes as targets."""
    render = bench("render")
    world = render.worlds.make(render.SOKOBAN)
    for snapshot in render.states(world, 12):
        room = np.array(render.room(world, snapshot))
        assert room.shape == (8, 8)
        assert {*room[0], *room[-1], *room[:, 0], *room[:, -1]} == {0}
        assert np.isin(room, (5, 6)).sum() == 1
        assert np.isin(room, (3, 4)).sum() == np.isin(room, (2, 3, 6)).sum() == 2


@pytest.mark.slow
def test_data():
    for line in lines_of(run("data", "--worlds", "sokoban-6x6", "--episodes", "4", "--rounds", "2")):
        check(line)
        assert line["peer"] == "stored_images"


def test_a_step_on_a_gpu_needs_one(bench, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_step"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench("gpu_step").main() == 2
    said = capsys.readouterr()
    assert not said.out
    assert len(said.err.splitlines()) == 1
    assert "CUDA" in said.err


@pytest.fixture(scope="module")
def small() -> dict:
    """The 3B architecture with everything small."""
    return {
        "text_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 64,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "image_token_id": 60,
        "vision_start_token_id": 61,
        "vision_end_token_id": 62,
        "video_token_id": 63,
        "tie_word_embeddings": True,
    }


def test_both_steps_on_a_gpu_are_the_same_training(bench, small):
    """On the CPU and small: the packed row and the stock forward have the same losses, step after step."""
    gpu = bench("gpu_step")
    clozes = gpu.random_clozes(small, 128, 3)
    losses = {}
    for way in ("packed", "stock"):
        torch.manual_seed(0)
        model = gpu.random_model(small, torch.device("cpu"), torch.float64)
        update = torch.optim.SGD(model.parameters(), lr=0.1)
        row, batch = gpu.packed_batch(small, clozes)
        inputs = gpu.stock_inputs(small, clozes)
        assert abs(len(row.ids) - 128) < 16, "the row is not as long as it was to be"
        if way == "packed":
            losses[way] = [gpu.packed_step(model, batch.to(model.device, model.dtype), update) for _ in range(3)]
        else:
            inputs = [
                {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in one.items()} for one in inputs
            ]
            losses[way] = [gpu.stock_step(model, inputs, update) for _ in range(3)]
    assert losses["packed"][0] != pytest.approx(losses["packed"][-1], rel=1e-4), "nothing is learned"
    # Norms and rotary angles are computed in single precision whatever the weights are.
    np.testing.assert_allclose(losses["packed"], losses["stock"], rtol=1e-6)


def test_operations_by_formula_are_those_that_torch_counts(bench, small):
    line = bench("gpu_step").count(small, 128, 4)
    assert line["language_by_formula"] == pytest.approx(line["language_counted"], rel=1e-6)
    assert line["sharing_bound"] == pytest.approx(line["separate"] / line["packed"], abs=1e-3)
    assert 1 < line["sharing_bound"] < 4, "four clozes cannot save more than three quarters"


def test_operations_of_a_batch_add_up(bench):
    """Of separate sequences: the sum over sequences; and rows that share nothing save nothing."""
    clozes, train = bench("clozes"), bench("train_step")
    chat = clozes.make_chat("small")
    [asked] = [clozes.single(window, 8).samples for window in clozes.trajectories(1)]
    cost = Cost.of(chat.policy.model)
    assert min(vars(cost).values()) > 0, f"a part of the model was not found: {cost}"
    rows = train.unpacked_rows(chat, [asked])
    alone = [cost.operations(work_of([row])) for row in rows]
    assert cost.operations(work_of(rows)) == sum(alone)
    packed = cost.operations(work_of(train.packed_rows(chat, [asked])))
    assert max(alone) < packed < sum(alone)


# --------------------------------------------------------------------------------------------------------------- table


def made_line(**values) -> dict:
    line = {"what": "w", "peer": "p", "ours": 1234.5, "theirs": 0.125, "ratio": 9.87, "ratio_spread": [9.1, 10.2]}
    return {
        **line,
        "bound": None,
        "target": None,
        "target_share": None,
        "machine": "m",
        "versions": {"python": "3"},
        **values,
    }


def test_the_table_has_a_row_for_each_comparison(bench, tmp_path):
    lines = [
        made_line(),
        made_line(peer="q", bound=0.914, target=9.0, target_share=0.8),
        made_line(target=20.0),
        made_line(bound=0.6, target_share=0.8),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"what": "operations"}])), encoding="utf-8")
    module = bench("table")
    assert module.read(tmp_path) == [{"benchmark": "a", **line} for line in lines]
    rows = module.table(lines).splitlines()
    assert rows[2] == "| w | p | 1,234 | 0.125 | **9.87×** | 9.1 – 10.2 |  |  |"
    assert rows[3].endswith("| ≥ 9× | 91% (≥ 80%) |")
    assert rows[4].endswith("| ≥ 20×, **short by 50.7%** |  |")
    assert rows[5].endswith("|  | 60% (≥ 80%, **short by 25.0%**) |")
    assert rows[7] == "1 of 3 comparisons with a target reach it."
    assert rows[-1] == "m. python 3."


def test_the_summary_has_a_row_for_each_peer_of_a_benchmark(bench, tmp_path):
    lines = [made_line(target=9.0), made_line(target=20.0), made_line(peer="q", bound=0.5, target_share=0.8)]
    (tmp_path / "3-score.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (tmp_path / "2-growth.jsonl").write_text(json.dumps(made_line()), encoding="utf-8")  # is drawn, not summed up
    module = bench("table")
    rows = module.summary(module.read(tmp_path)).splitlines()
    subject = module.SUBJECTS["score"]
    assert rows[2] == f"| {subject} | p | 2 | **9.87×** | ≥ 20×, ≥ 9× | 1 of 2 |  |"
    assert rows[3] == f"| {subject} | q | 1 | **9.87×** | ≥ 80% of the bound | 0 of 1 | 50 % |"
    assert rows[4:] == ["", "m. python 3."]


def test_growth_is_drawn_where_it_was_measured(bench, tmp_path):
    module = bench("table")
    about = {"size": "tiny", "layout": "history", "sharing_bound": 5.0, "peak_bytes": {"ours": 2**20, "theirs": 2**21}}
    one = made_line(clozes=4, **about)
    assert not module.plot_growth([one, made_line()], tmp_path / "growth.png")
    assert module.plot_growth([one, made_line(clozes=16, **about)], tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_table_without_lines_says_what_to_do(tmp_path):
    done = run("table", str(tmp_path))
    assert done.returncode == 1
    assert "all.sh" in done.stderr
