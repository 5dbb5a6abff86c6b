"""The real commands: bad input gives one line and exit code 2 and leaves nothing behind; the whole path works."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import vagen.cli
from vagen.cloze.grammar import all_named
from vagen.config import Collect, Config, ConfigError, Tiny, described, load
from vagen.policy import tiny
from vagen.policy.policy import ClozeFormat, Policy
from vagen.rollout.collect import collect
from vagen.train.run import Start, prepare

ROOT = Path(__file__).parents[1]
WORLD = "sokoban-6x6"
SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
ROW_KEYS = {
    *("world", "cloze", "pattern", "input", "representation", "horizon", "n", "accuracy", "ci_low", "ci_high"),
    *("ceiling", "floors", "skill", "field_f1"),
}


def vagen_command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run ``vagen ARGUMENTS`` as a user would, from another folder."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(
        [sys.executable, "-m", "vagen.cli", *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
    )


def tree(folder: Path) -> dict[str, int | None]:
    """Every path below a folder, with the size of files."""
    return {
        str(path.relative_to(folder)): path.stat().st_size if path.is_file() else None for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Models, shards and configurations, good and bad. Commands that are refused must leave it as it is."""
    folder = tmp_path_factory.mktemp("material")
    model, processor = tiny.build(Tiny(**SMALL), [WORLD], 0)
    form = ClozeFormat("grid", False, (WORLD,), ("state_estimation", "inverse_dynamics"))
    Policy("small", model, processor, form).save(folder / "model")
    for name in ("truncated", "pickled", "configless", "formless", "undefined"):
        shutil.copytree(folder / "model", folder / name)
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    (folder / "pickled" / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "pickled" / "pytorch_model.bin")
    (folder / "configless" / "config.json").unlink()
    (folder / "formless" / "cloze_format.json").unlink()
    (folder / "undefined" / "config.json").write_text('{"model_type": "no_such_thing"}')

    small = Collect(worlds=(WORLD,), episodes=12, max_steps=6, shard_size=6)
    collect(small, folder / "data", 0)
    collect(small.model_copy(update={"split": "test"}), folder / "data", 0)
    collect(small.model_copy(update={"worlds": ("frozenlake-8x8",), "episodes": 3}), folder / "data", 0)
    train = folder / "data" / WORLD / "train"
    for name in ("corrupt", "missing", "unlisted", "damaged", "future", "nothing"):
        shutil.copytree(train, folder / "shards" / name)
    shard = folder / "shards" / "corrupt" / "shard-00001.tar"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(bytes(data))
    (folder / "shards" / "missing" / "shard-00001.tar").unlink()
    (folder / "shards" / "unlisted" / "manifest.json").unlink()
    (folder / "shards" / "damaged" / "manifest.json").write_text("{")
    manifest = json.loads((train / "manifest.json").read_text())
    (folder / "shards" / "future" / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    (folder / "shards" / "nothing" / "manifest.json").write_text(json.dumps({**manifest, "shards": []}))
    (folder / "shards" / "empty").mkdir()

    good = {
        "shards": [str(train)],
        "model": {"tiny": SMALL},
        "collect": {"worlds": [WORLD], "episodes": 2},
        "train": {"steps": 1, "rows": 2, "micro_rows": 1},
        "evaluate": {"n": 2, "episodes": 1},
    }  # should bad input be taken, it is soon over
    (folder / "good.yaml").write_text(yaml.safe_dump(good))
    (folder / "broken.yaml").write_text("train: [steps: 3")
    (folder / "list.yaml").write_text("- train\n")
    (folder / "number.yaml").write_text("train:\n  3: 4\n")
    (folder / "bytes.yaml").write_bytes(b"seed: \xff\xfe")
    (folder / "typo.yaml").write_text("train:\n  step: 3\n")
    (folder / "file").write_text("a file where a folder is wanted\n")
    (folder / "card.json").write_text('{"rows": "many"}')
    (folder / "rowless.json").write_text('{"rows": [{}], "split": "test", "seed": 1}')
    (folder / "emptyrun").mkdir()
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "othercard.json").write_text('{"rows": [], "split": "test", "weights": "0123456789abcdef"}')
    (folder / "badrun").mkdir()
    (folder / "badrun" / "report_card.json").write_text('{"rows": []}')
    return folder


def refused(arguments: str, complaint: str):
    """A command line (``@name`` is a path in the material, ``_`` a space within a word), and part of its message."""
    return pytest.param(arguments, complaint, id=(arguments or "nothing").replace("@", ""))


REFUSED = [
    # the command line itself
    refused("", "VERB"),
    refused("evaluate", "invalid choice"),
    refused("eval", "WHAT"),
    refused("worlds --verbose", "unrecognised arguments: --verbose"),
    refused("export @model", "--output"),
    refused("eval worldmodel", "--model"),
    refused("eval worldmodel --model @model --nn 3", "unrecognised arguments: --nn 3"),
    refused("eval worldmodel --model @model --n some", "--n"),
    refused("train --config @good.yaml stray", "stray"),
    refused("train --config @good.yaml --train.steps", "--section.key=value"),
    # worlds
    refused("worlds --draw sokoban-7x7 --output sheet.png", "sokoban-6x6"),
    refused("collect --worlds sokoban-7x7", "sokoban-6x6"),
    refused("collect --worlds sokoban-6x6 sokoban-7x7 --collect.episodes=2", "sokoban-7x7"),
    refused("eval worldmodel --model @model --worlds frozenlake-5x5 --n 2", "frozenlake-"),
    refused("eval agent --worlds frozenlake-5x5 --n 2", "frozenlake-"),
    # configuration
    refused("train --config nowhere.yaml", "nowhere.yaml"),
    refused("train --config @data", "data"),
    refused("train --config @broken.yaml", "not YAML"),
    refused("train --config @list.yaml", "mapping"),
    refused("train --config @number.yaml", "number.yaml"),
    refused("train --config @bytes.yaml", "bytes.yaml"),
    refused("train --config @typo.yaml", "train.steps"),
    refused("train --config @good.yaml --train.lr=1", "lr"),
    refused("train --config @good.yaml --trian.steps=1", "train"),
    refused("train --config @good.yaml --train.steps=0", "train.steps"),
    refused("train --config @good.yaml --train.steps=many", "train.steps"),
    refused("train --config @good.yaml --train.steps=[", "YAML"),
    refused("train --config @good.yaml --seed.x=1", "seed"),
    refused("train --config @good.yaml --train.precision=fp8", "train.precision"),
    refused("train --config @good.yaml --optimizer.lr=.nan", "optimizer.lr"),
    refused("train --config @good.yaml --train.rows=6 --train.micro_rows=4 --processes 2", "train.rows=6"),
    refused("train --config @good.yaml --model.tiny.image_size=50", "image_size"),
    refused("train --config @good.yaml --model.tiny.head_size=33", "hidden_size"),
    refused("train --config @good.yaml --seed=-1", "seed"),
    refused("collect --seed=-1 --collect.episodes=2", "seed"),
    refused("collect --collect.episodes=0", "collect.episodes"),
    refused("collect --collect.epsilon=1.5", "collect.epsilon"),
    refused("collect --collect.behaviour=lazy", "collect.behaviour"),
    refused("collect --split tests", "--split"),
    refused("collect --collect.worlds=[]", "worlds"),
    refused("collect --worlds sokoban-6x6 --collect.episodes=2 --output @data", "--overwrite"),
    refused("config train.stepss", "vagen config"),
    refused("quickstart --config @good.yaml --tran.steps=3", "train"),
    refused("quickstart --config @good.yaml --collect.worlds=[sokoban-7x7]", "sokoban-6x6"),
    refused("quickstart --config nowhere.yaml", "nowhere.yaml"),
    # clozes
    refused("train --config @good.yaml --clozes.weights={forward_dinamics:_1}", "forward_dynamics"),
    refused("train --config @good.yaml --clozes.weights={o0_->_r0:_1}", "r0"),
    refused("train --config @good.yaml --clozes.weights={o0_->_s1:_1}", "a0"),
    refused("train --config @good.yaml --clozes.weights={}", "weights"),
    refused("train --config @good.yaml --clozes.weights={policy:_0}", "weights"),
    refused("eval worldmodel --model @model --clozes state_estimation policie --n 2", "policy"),
    refused("eval worldmodel --model @model --clozes o0_a1_->_s1 --n 2", "a0"),
    refused("eval worldmodel --model @model --clozes o0_->_z0 --n 2", "z0"),
    # shards
    refused("train --config @good.yaml --shards=[]", "shards"),
    refused("train --config @good.yaml --shards=[nowhere]", "nowhere"),
    refused("train --config @good.yaml --shards=[@shards/empty]", "collect"),
    refused("train --config @good.yaml --shards=[@shards/unlisted]", "collect"),
    refused("train --config @good.yaml --shards=[@shards/missing]", "shard-00001.tar"),
    refused("train --config @good.yaml --shards=[@shards/damaged]", "damaged"),
    refused("train --config @good.yaml --shards=[@shards/future]", "99"),
    refused("train --config @good.yaml --shards=[@shards/nothing]", "no trajectories"),
    refused("train --config @good.yaml --shards=[@data/sokoban-6x6/test]", "train split"),
    refused("train --config @good.yaml --shards=[@data/frozenlake-8x8/train]", "image_size"),
    refused("train --config @good.yaml --mixture={frozenlake-4x4:_2}", "frozenlake-4x4"),
    refused("inspect --config @good.yaml --shards=[@shards/corrupt]", "corrupt"),
    refused("inspect --config @good.yaml --number -1", "--number"),
    refused("eval worldmodel --model @model --n 2 --training-shards nowhere", "nowhere"),
    refused("eval worldmodel --model @model --n 2 --training-shards @shards/corrupt", "corrupt"),
    # models
    refused("eval worldmodel --model ./nowhere --n 2", "nowhere"),
    refused("eval worldmodel --model no/where/here --n 2", "no model folder no/where/here"),
    refused("eval worldmodel --model @run --n 2", "no checkpoint"),
    refused("eval worldmodel --model @configless --n 2", "config.json"),
    refused("eval worldmodel --model @undefined --n 2", "no_such_thing"),
    refused("eval worldmodel --model @truncated --n 2", "truncated"),
    refused("eval worldmodel --model @pickled --n 2", "safetensors"),
    refused("eval worldmodel --model @formless --n 2", "--worlds"),
    refused("eval agent --model @truncated --n 2", "truncated"),
    refused("eval agent --n 2", "--worlds"),
    # numbers
    refused("eval worldmodel --model @model --n 0", "--n"),
    refused("eval worldmodel --model @model --n -3", "--n"),
    refused("eval worldmodel --model @model --n 2 --batch 0", "--batch"),
    refused("eval worldmodel --model @model --n 2 --seed -1", "--seed"),
    refused("eval worldmodel --model @model --n 2 --split tests", "--split"),
    refused("eval worldmodel --model @model --n 2 --representation morse", "--representation"),
    refused("eval agent --worlds sokoban-6x6 --n 0", "--n"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --max-steps 0", "--max-steps"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --seed -1", "--seed"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --strategy no_think", "--model"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --strategy guess", "--strategy"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --context all", "--context"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --context concat", "--context is a setting of whole conversations"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --max-new-tokens 9", "give --strategy"),
    refused("eval agent --model @model --n 2 --strategy no_think --window 3", "--context window"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --window 0", "--window"),
    refused("train --config @good.yaml --processes 0", "--processes"),
    refused("train --config @good.yaml --processes -2", "--processes"),
    refused("quickstart --config @good.yaml --processes -2", "--processes"),
    # outputs; as root permissions do not bind, so a file stands where a folder is wanted
    refused("collect --worlds sokoban-6x6 --collect.episodes=2 --output @file/data", "file"),
    refused("train --config @good.yaml --output=@file/run", "file"),
    refused("quickstart --config @good.yaml --output=@file/run", "file"),
    refused("worlds --draw sokoban-6x6 --output @file/sheet.png", "file"),
    refused("inspect --config @good.yaml --output @file/images", "file"),
    refused("eval worldmodel --model @model --n 2 --out @file/card.json", "file"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --out @file/agents.json", "file"),
    refused("eval agent --worlds sokoban-6x6 --n 2 --out @emptyrun", "emptyrun"),
    refused("export @model --output @file/export", "file"),
    refused("export @model --output @file", "file"),
    refused("export @model --output @data", "data"),
    # exports and reports
    refused("export nowhere --output export", "nowhere"),
    refused("export @emptyrun --output export", "checkpoint"),
    refused("export @truncated --output export", "damaged"),
    refused("export @pickled --output export", "safetensors"),
    refused("export @model --output export --card nowhere.json", "nowhere.json"),
    refused("export @model --output export --card @file", "file"),
    refused("export @model --output export --card @card.json", "card.json"),
    refused("export @model --output export --card @rowless.json", "rowless.json"),
    refused("export @model --output export --card @othercard.json", "other weights"),
    refused("eval checkpoints @emptyrun --n 2", "keep_checkpoints"),
    refused("eval checkpoints nowhere --n 2", "keep_checkpoints"),
    refused("eval reorder --model @model --lengths 2 --n 2", "3 to 10"),
    refused("eval reorder --worlds sokoban-6x6 --n 2", "--model"),
    refused("eval reorder --write q --n 2", "--worlds"),
    refused("eval reorder --worlds sokoban-7x7 --n 2 --write q", "sokoban-6x6"),
    refused("eval reorder --model @model --worlds sokoban-6x6 --write q", "--model changes nothing beside --write"),
    refused("eval reorder --worlds sokoban-6x6 --images q --write q", "--images changes nothing beside --write"),
    refused("eval reorder --model @model --questions q --worlds sokoban-6x6", "--worlds changes nothing"),
    refused("eval reorder --model @model --questions q --lengths 3", "--lengths changes nothing"),
    refused("eval reorder --model @model --questions q --n 5", "--n changes nothing beside --questions"),
    refused("eval reorder --worlds sokoban-6x6 --overwrite", "--overwrite replaces the folder of --write"),
    refused("eval reorder --worlds sokoban-6x6 --write q --out r.json", "--out changes nothing beside --write"),
    refused("eval reorder --model @model --images q", "--images is the folder of the images of --questions"),
    refused("eval reorder --model @model --questions nowhere.jsonl", "nowhere.jsonl"),
    refused("eval reorder --worlds sokoban-6x6 --n 2 --write @data", "data"),
    refused("check --worlds sokoban-7x7 --n 2", "sokoban-6x6"),
    refused("check --worlds sokoban-6x6 --clozes polici --n 2", "policy"),
    refused("check --worlds sokoban-6x6 --n 2 --out @file/check.json", "file"),
    refused("compare nowhere.json @card.json", "nowhere.json"),
    refused("compare @card.json @card.json", "card.json"),
    refused("report nowhere", "nowhere"),
    refused("report @emptyrun", "emptyrun"),
    refused("report @badrun", "report_card.json"),
]


def words(arguments: str, material: Path) -> list[str]:
    return [word.replace("_->_", " -> ").replace(":_", ": ").replace("o0_a1", "o0 a1").replace("@", f"{material}/")
            for word in arguments.split()]  # fmt: skip


@pytest.fixture
def nothing_starts(monkeypatch) -> None:
    """Bad input must be noticed before a process trains or others are started; should it not be, nothing happens."""

    def train(config: Config, start: Start, _: object):
        prepare(config, 1, start)  # where training itself looks first
        raise AssertionError("the bad input was taken: training began")

    def run_processes(*_):
        raise AssertionError("the bad input was taken: processes were started")

    for name, functions in {
        "vagen.train.cloze": {"train": train},
        "vagen.train.launch": {"run_processes": run_processes, "launched": lambda: False},
    }.items():
        stub = ModuleType(name)
        vars(stub).update(functions)
        monkeypatch.setitem(sys.modules, name, stub)


def check_refused(code: int, out: str, err: str, complaint: str, bars: bool = False) -> None:
    """``bars``: whether progress bars are forgiven, which are off only if the command line was imported first."""
    assert code == 2, f"exit code {code}:\n{err[-2000:]}"
    lines = [line for line in err.splitlines() if not (bars and (line.startswith("Loading weights:") or not line))]
    assert len(lines) == 1, f"{len(lines)} lines instead of one:\n{err[-3000:]}"
    assert lines[0].startswith("vagen: ")
    assert complaint in lines[0], f"the message does not say {complaint!r}: {lines[0]}"
    assert out == ""


@pytest.mark.parametrize(("arguments", "complaint"), REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(
    material, tmp_path, monkeypatch, capsys, nothing_starts, arguments, complaint
):
    monkeypatch.chdir(tmp_path)
    before = tree(material)
    code = vagen.cli.main(words(arguments, material))
    printed = capsys.readouterr()
    check_refused(code, printed.out, printed.err, complaint, bars=True)
    assert tree(tmp_path) == {}, "something was written although the command was refused"
    assert tree(material) == before, "something existing was changed although the command was refused"


LATE = [
    refused("train --config @good.yaml --output=@file/run", "file"),
    refused("train --config @good.yaml --shards=[@shards/corrupt]", "corrupt"),
    refused("train --config @good.yaml --model.path=./nowhere", "nowhere"),
    refused("train --config @good.yaml --model.path=@truncated", "truncated"),
    refused("train --config @good.yaml --train.rows=6 --train.micro_rows=4", "train.rows=6"),
    refused("train --config @good.yaml --resume --output=@emptyrun", "checkpoint"),
    refused("train --config @good.yaml --output=@run", "--overwrite"),
    refused("train --config @good.yaml --shards @data/sokoban-6x6/train nowhere", "nowhere"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "complaint"), LATE)
def test_bad_input_that_only_training_notices(material, tmp_path, arguments, complaint):
    """As a user runs it: not even the end of a process group that was joined may add a line."""
    before = tree(material)
    done = vagen_command(*words(arguments, material), cwd=tmp_path)
    check_refused(done.returncode, done.stdout, done.stderr, complaint)
    files = [path for path, size in tree(tmp_path).items() if size is not None]
    assert not files, f"{files} were written although the command was refused"
    assert tree(material) == before, "something existing was changed although the command was refused"


@pytest.mark.parametrize(
    ("given_words", "overrides"),
    [
        ("--seed=3 --output out", ["--seed=3", "--output=out"]),
        ("--shards one two,three", ['--shards=["one", "two,three"]']),
        ("--optimizer.betas 0.9 0.95 --seed 1", ["--optimizer.betas=[0.9, 0.95]", "--seed=1"]),
    ],
)
def test_options_with_several_values_take_them_space_separated(given_words, overrides):
    assert vagen.cli._overrides(given_words.split(), allowed=True) == overrides


@given(override=st.text(alphabet="trains.steps=-0[]{}:é \n'", max_size=30))
def test_overrides_are_taken_or_refused_never_a_crash(override):
    with suppress(ConfigError):
        assert load(None, [override]) == load(None, [override])


# --------------------------------------------------------------------------------------------------------- happy paths


def test_help_answers_without_loading_torch(tmp_path):
    code = "import sys, vagen.cli; vagen.cli.main(sys.argv[1:])"
    script = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {code}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for verb, expected in (([], "quickstart"), (["eval", "worldmodel"], "--representation"), (["train"], "--resume")):
        command = [sys.executable, "-c", script, *verb, "--help"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0
        assert expected in done.stdout
        assert done.stderr.split() == ["False"], f"`vagen {' '.join(verb)} --help` loads torch: it takes seconds"


def every_command(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for choice in group.choices.values():
            yield from every_command(choice)


@pytest.mark.parametrize("parser", list(every_command(vagen.cli.parser())), ids=lambda parser: parser.prog)
def test_help_explains_every_option_and_says_its_default(parser):
    for action in parser._actions:
        assert action.help, f"{parser.prog} {action.option_strings or action.dest} has no help"
        if action.option_strings and action.nargs != 0 and action.default not in (None, []):
            shown = parser._get_formatter()._expand_help(action)
            assert f"default: {action.default}" in shown, f"{action.option_strings} does not say its default: {shown}"


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit, match=r"\A0\Z"):
        vagen.cli.main(["--version"])
    assert capsys.readouterr().out == f"vagen {vagen.__version__}\n"


def test_clozes_and_configuration_keys_are_listed(capsys):
    assert vagen.cli.main(["clozes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(all_named())
    assert all(pattern in line for pattern, line in zip(all_named().values(), lines[1:], strict=True))
    assert any("rollout@k" in line for line in lines)
    assert vagen.cli.main(["config"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [key.name for key in described()]
    for line in listed:
        name, _, rest = line.partition(" ")
        key = next(key for key in described() if key.name == name)
        if key.default:
            rest_of_section = []
            if name == "rl.rollouts.worlds":  # has a default where no world is played
                rest_of_section = ["rl.source=questions", "rl.rollouts.groups=8"]
            elif name.startswith("rl."):
                rest_of_section = ["rl.rollouts.worlds=[frozenlake-4x4]"]
            with_it = load(None, [*rest_of_section, f"{name}={key.default}"])
            assert with_it == load(None, rest_of_section), f"not the default: {line}"
        assert key.default in rest
        assert key.meaning in rest
    assert vagen.cli.main(["config", "optimizer.rates", "seed"]) == 0
    chosen = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in chosen] == ["seed", "optimizer.rates"] + [
        f"optimizer.rates.{part}" for part in ("vision", "projector", "language")
    ]


def test_listings_may_be_cut_short(tmp_path):
    """As by ``vagen config | head``: the reader goes away, and nobody complains."""
    code = "import sys, vagen.cli; sys.exit(vagen.cli.main(['config']))"
    reader, writer = os.pipe()
    os.close(reader)
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


SEVERAL = """
import json, sys
from vagen.cli import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    print(f"\\x1e{code}", flush=True)
"""


def several(commands: list[list[str]], cwd: Path) -> list[list[str]]:
    """Commands one after another in one process, for starting it takes seconds; returns the lines each printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SEVERAL.replace("\\\\", "\\"), json.dumps(commands)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=600)
    parts = done.stdout.split("\x1e")
    codes = [part.splitlines()[0] for part in parts[1:]]
    assert (done.returncode, codes) == (0, ["0"] * len(commands)), f"{codes} of {commands}\n{done.stderr[-3000:]}"
    bodies = [parts[0], *("\n".join(part.splitlines()[1:]) for part in parts[1:-1])]
    return [body.strip().splitlines() for body in bodies]


CONFIG = {
    "seed": 3,
    "output": "run",
    "model": {"tiny": SMALL},
    "shards": [f"data/{WORLD}/train", "data/frozenlake-6x6/train"],
    "clozes": {"explain": False, "weights": {"state_estimation": 1, "inverse_dynamics": 2, "policy": 1}},
    "train": {"steps": 3, "rows": 2, "micro_rows": 2, "log_every": 1},
    "collect": {"worlds": [WORLD, "frozenlake-6x6"], "episodes": 10, "max_steps": 6},
    "evaluate": {"n": 4, "episodes": 2, "clozes": ["state_estimation", "inverse_dynamics"]},
}


@pytest.fixture(scope="module")
def journey(tmp_path_factory) -> tuple[Path, list[list[str]]]:
    """Everything a user would do with a small model, in order; and what each command printed."""
    home = tmp_path_factory.mktemp("home")
    (home / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    collected = several([["worlds"], ["worlds", "--draw", WORLD], ["collect", "--config", "config.yaml"]], home)
    trained = vagen_command("train", "--config", "config.yaml", "--optimizer.lr", "1e-3", cwd=home)
    assert trained.returncode == 0, trained.stderr[-3000:]
    ask = ["--model", "run/export", "--n", "4"]
    rest = [
        ["inspect", "--config", "config.yaml", "--number", "1", "--output", "images"],
        ["export", "run", "--output", "run/export"],
        ["eval", "worldmodel", *ask, "--out", "run/report_card.json", "--training-shards", *CONFIG["shards"]],
        ["eval", "worldmodel", *ask, "--out", "again.json", "--training-shards", *CONFIG["shards"]],
        [
            *("eval", "worldmodel", *ask, "--out", "other.json", "--seed", "2", "--n", "3", "--worlds", WORLD),
            *("--clozes", "text_forward_dynamics", "o0 a0 -> s1", "--split", "val", "--representation", "natural"),
        ],
        ["eval", "agent", *ask, "--out", "run/agents.json", "--max-steps", "5"],
        ["eval", "agent", "--n", "2", "--worlds", WORLD, "--out", "baselines.json"],
        ["export", "run", "--output", "run/export", "--overwrite", "--card", "run/report_card.json"],
        ["report", "run"],
        ["compare", "run/report_card.json", "again.json"],
        ["eval", "worldmodel", "--model", "run", *ask[2:], "--worlds", WORLD, "--out", "newest.json"],
    ]
    return home, [*collected, trained.stdout.strip().splitlines(), *several(rest, home)]


def test_every_command_prints_the_path_of_its_result_last(journey):
    home, printed = journey
    last = [lines[-1] for lines in printed]
    assert WORLD in "\n".join(printed[0]), "`vagen worlds` does not list a world"
    assert last[1] == "worlds.png"
    assert printed[2] == [f"data/{world}/train/manifest.json" for world in CONFIG["collect"]["worlds"]]
    assert last[3] == "run/checkpoints/step-000003/model"
    assert last[5:] == [
        *("run/export", "run/report_card.json", "again.json", "other.json", "run/agents.json", "baselines.json"),
        *("run/export", "run/report.html", "comparison.json", "newest.json"),
    ]
    for path in [*printed[2], last[1], last[3], *last[5:]]:
        assert (home / path).exists(), f"{path} was printed and is not there"


def test_report_cards_keep_their_contract(journey):
    home, _ = journey
    card = json.loads((home / "run" / "report_card.json").read_text())
    assert {"rows", "split", "model", "seed", "versions"} <= card.keys()
    assert (card["split"], card["seed"]) == ("test", 1)
    assert {"vagen", "torch", "transformers"} <= card["versions"].keys()
    cells = [(row["world"], row["cloze"]) for row in card["rows"]]
    trained = json.loads((home / "run" / "export" / "cloze_format.json").read_text())
    assert cells == [(w, c) for w in CONFIG["collect"]["worlds"] for c in CONFIG["clozes"]["weights"]]
    assert (trained["worlds"], trained["clozes"]) == (CONFIG["collect"]["worlds"], list(CONFIG["clozes"]["weights"]))
    for row in card["rows"]:
        assert row.keys() >= ROW_KEYS
        assert row["n"] == 4
        assert row["floors"].keys() == {"majority", "copy", "random", "shuffled_image"}
        assert 0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1
        assert row["representation"] == "grid"
        assert row["input"] == "image"
        assert row["seen_in_training"] is not None


def test_a_run_stands_for_its_newest_checkpoint(journey):
    home, _ = journey
    card, by_run = (json.loads((home / name).read_text()) for name in ("run/report_card.json", "newest.json"))
    assert by_run["model"] == "run/step-000003"
    assert by_run["weights"] == card["weights"]
    assert [row["outcomes"] for row in by_run["rows"]] == [
        row["outcomes"] for row in card["rows"] if row["world"] == WORLD
    ]


def test_the_same_seed_gives_the_same_card(journey):
    home, _ = journey
    first, again, other = (
        json.loads((home / name).read_text()) for name in ("run/report_card.json", "again.json", "other.json")
    )
    assert first == again
    assert (other["split"], other["seed"]) == ("val", 2)
    assert [(row["cloze"], row["input"], row["n"]) for row in other["rows"]] == [
        ("text_forward_dynamics", "text", 3),
        ("o0 a0 -> s1", "image", 3),
    ]
    assert {row["representation"] for row in other["rows"]} == {"natural"}, "--representation was not heeded"


def test_agents_are_compared_on_the_same_footing(journey):
    home, _ = journey
    result = json.loads((home / "run" / "agents.json").read_text())
    assert [(row["world"], row["agent"]) for row in result["rows"]] == [
        (world, agent) for world in CONFIG["collect"]["worlds"] for agent in ("random", "expert", "export")
    ]
    for row in result["rows"]:
        assert row["n"] == 4
        assert 0 <= row["ci_low"] <= row["success"] <= row["ci_high"] <= 1
        assert row["mean_steps"] <= 5
    baselines = json.loads((home / "baselines.json").read_text())
    assert [row["agent"] for row in baselines["rows"]] == ["random", "expert"]


def test_inspect_shows_what_is_trained(journey):
    home, printed = journey
    text = "\n".join(printed[4])
    assert "group 1" in text
    assert "state_estimation  o0 -> s0" in text
    assert "trained" in text
    assert "<end_of_utterance>" in text
    images = sorted((home / "images").iterdir())
    assert images, "no image was written"
    from PIL import Image

    assert Image.open(images[0]).size == (48, 48)


def test_the_configuration_of_a_run_is_kept(journey):
    home, _ = journey
    kept = load(home / "run" / "config.yaml")
    assert kept.optimizer.lr == 1e-3, "an override is missing from the saved configuration"
    assert kept == load(home / "config.yaml", ["optimizer.lr=1e-3"]).model_copy(update={"shards": kept.shards})


def test_a_run_of_one_sample_is_possible(journey, tmp_path):
    """`--n 1`: there is no other sample whose image could be shown."""
    home, _ = journey
    arguments = ["eval", "worldmodel", "--model", str(home / "run" / "export"), "--n", "1", "--worlds", WORLD]
    assert vagen.cli.main([*arguments, "--out", str(tmp_path / "card.json")]) == 0
    rows = json.loads((tmp_path / "card.json").read_text())["rows"]
    assert [row["n"] for row in rows] == [1, 1, 1]


# ------------------------------------------------------------------------------------------------------ from the wheel


@pytest.mark.slow
def test_quickstart_from_an_installed_wheel(tmp_path):
    """Built, installed beside the packages of this environment, and run in an empty folder."""
    source = tmp_path / "source"
    parts = ("vagen", "worlds", "configs", "pyproject.toml", "README.md", "LICENSE", ".gitignore")
    for name in parts:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", tmp_path / "wheels", source]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    ours = Path(torch.__file__).parents[1]
    (site / "packages_of_the_tests.pth").write_text(f"{ours}\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"HF_HUB_OFFLINE": "1", "PATH": f"{python.parent}:/usr/bin:/bin"}
    where = [python, "-c", "import vagen, worlds; print(vagen.__file__, worlds.__file__)"]
    found = subprocess.run(where, env=environment, cwd=home, capture_output=True, text=True, check=True).stdout.split()
    assert all(str(site) in path for path in found), f"not from the wheel: {found}"
    command = [
        *(python.with_name("vagen"), "quickstart", "--processes", "2"),
        *("--collect.episodes=20", "--train.steps=4", "--train.rows=4", "--train.micro_rows=2"),
        *("--evaluate.n=4", "--evaluate.episodes=2", "--model.tiny.hidden_size=32", "--model.tiny.layers=2"),
        *("--model.tiny.vision_hidden_size=32", "--model.tiny.vision_layers=1", "--model.tiny.head_size=16"),
    ]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    output = home / "outputs" / "quickstart"
    assert done.stdout.splitlines()[-1] == "outputs/quickstart/report_card.json"
    assert sorted(path.name for path in home.iterdir()) == ["outputs"], "something was written elsewhere"
    for name in (
        "report_card.json",
        "report.html",
        "export/config.json",
        "export/model.safetensors",
        "export/README.md",
    ):
        assert (output / name).is_file(), f"outputs/quickstart/{name} is missing"
    card = json.loads((output / "report_card.json").read_text())
    assert len(card["rows"]) == 9, "three worlds and three clozes"
    assert all(row["n"] == 4 for row in card["rows"])
    assert "minigrid-rooms-6x6" in (output / "report.html").read_text()
