"""Configuration: every key is known, every value fits, and what is refused says what to do."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vagen.cloze.grammar import ClozeError, named
from vagen.config import Config, ConfigError, Section, described, environment, load, save, shipped
from vagen.rl.advantages import ESTIMATORS
from vagen.rl.filters import STRATEGIES
from worlds import is_available, registered

PROMPTS = {
    "mindcube.yaml",
    "spatial_prompts.yaml",
}  # wordings, not configurations of runs; lmms_eval/ holds tasks of that harness
CONFIGS = sorted(path for path in (Path(__file__).parents[1] / "configs").glob("*.yaml") if path.name not in PROMPTS)


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def get(config: Config, key: str):
    value = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


# ----------------------------------------------------------------------------------------------------------- reading


def test_without_a_file_everything_has_a_default():
    assert load(None) == Config()


def test_a_file_sets_what_it_names(tmp_path):
    path = write(tmp_path, "seed: 7\ntrain:\n  steps: 5\nclozes:\n  weights: {policy: 2, 'o0 a0 -> s1': 0.5}\n")
    config = load(path)
    assert config.seed == 7
    assert config.train.steps == 5
    assert config.train.rows == Config().train.rows
    assert config.clozes.weights == {"policy": 2.0, "o0 a0 -> s1": 0.5}
    assert list(config.clozes.weights) == ["policy", "o0 a0 -> s1"], "the order of clozes is lost"
    assert load(str(path)) == config


def test_an_empty_file_is_all_defaults(tmp_path):
    assert load(write(tmp_path, "")) == load(write(tmp_path, "# nothing\n")) == Config()


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.steps=100", "train.steps", 100),
        ("--train.steps=100", "train.steps", 100),
        ("optimizer.lr=1e-4", "optimizer.lr", 1e-4),  # YAML 1.1 takes it for text
        ("optimizer.lr=0.0001", "optimizer.lr", 1e-4),
        ("clozes.imagined=false", "clozes.imagined", False),
        ("collect.worlds=[a, b]", "collect.worlds", ("a", "b")),
        ("collect.worlds=a", "collect.worlds", ("a",)),
        ("shards=data", "shards", ("data",)),
        ("output=runs/a=b", "output", "runs/a=b"),
        ("output='2024'", "output", "2024"),
        ("model.path=null", "model.path", None),
        ("model.tiny.layers=1", "model.tiny.layers", 1),
        ("clozes.weights.policy=3", "clozes.weights", {"policy": 3.0}),
        ("clozes.weights.o0 a0 -> s1=3", "clozes.weights", {"o0 a0 -> s1": 3.0}),
        ("train={steps: 4}", "train.steps", 4),
    ],
)
def test_overrides(override, key, value):
    assert get(load(None, [override]), key) == value


def test_overrides_go_over_the_file_and_later_ones_over_earlier(tmp_path):
    path = write(tmp_path, "train: {steps: 5, rows: 8}\n")
    config = load(path, ["train.steps=6", "--train.steps=7"])
    assert (config.train.steps, config.train.rows) == (7, 8)
    assert load(path).train.steps == 5


def test_configurations_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3


# ----------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.step", "train.steps"),
        ("sed", "seed"),
        ("trian.steps", "train"),
        ("optimizer.learning_rate", "optimizer"),
        ("model.tiny.hiddensize", "model.tiny.hidden_size"),
        ("steps", "train.steps"),
        ("collect.world", "collect.worlds"),
        ("clozes.weight", "clozes.weights"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(tmp_path, key, nearest):
    with pytest.raises(ConfigError) as from_override:
        load(None, [f"{key}=1"])
    text: object = 1
    for part in reversed(key.split(".")):
        text = {part: text}
    path = write(tmp_path, yaml.safe_dump(text))
    with pytest.raises(ConfigError) as from_file:
        load(path)
    for caught, origin in ((from_override, "defaults"), (from_file, str(path))):
        message = str(caught.value)
        wrong = key if key != "trian.steps" else "trian"
        assert f"unknown configuration key {wrong!r}" in message
        assert f"did you mean '{nearest}" in message, message
        assert origin in message


def test_unknown_keys_like_no_other_are_refused():
    with pytest.raises(ConfigError, match=r"unknown configuration key 'xyzzyqq'"):
        load(None, ["xyzzyqq=1"])


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=many",
        "train.steps=0",
        "train.steps=-1",
        "train.steps=1.5",
        "train.steps=",
        "train.steps=[1]",
        "train.rows=0",
        "train.workers=-1",
        "train.balance=1.01",
        "train.balance=.nan",
        "train.zero_stage=7",
        "train.precision=fp16",
        "train.offload.optimizer=perhaps",
        "train.validation.every=-1",
        "train.report_to=mlflow",
        "optimizer.name=sgd",
        "optimizer.schedule=step",
        "optimizer.rates.vision=0",
        "train=3",
        "train=",
        "optimizer.lr=0",
        "optimizer.lr=-1e-3",
        "optimizer.lr=.nan",
        "optimizer.lr=fast",
        "optimizer.betas=[0.9]",
        "optimizer.betas=0.9",
        "collect.worlds=[1]",
        "collect.behaviour=greedy",
        "collect.epsilon=1.5",
        "collect.split=dev",
        "collect.shard_size=0",
        "clozes.weights=[policy]",
        "clozes.weights.policy=heavy",
        "clozes.weights.policy=-1",
        "clozes.weights.policy=.nan",
        "clozes.representation=xml",
        "clozes.imagined=perhaps",
        "model.attention=flash",
        "model.tiny.layers=two",
        "evaluate.n=0",
        "seed=~",
        "seed=one",
        "shards=3",
        "output=3",
        "output=",
    ],
)
def test_values_that_do_not_fit_are_refused(override):
    with pytest.raises(ConfigError) as caught:
        load(None, [override])
    key, _, value = override.partition("=")
    message = str(caught.value)
    assert f"configuration key '{key}" in message, f"the message does not name the key: {message}"
    if value.isalpha():
        assert repr(value) in message, f"the message does not say what was given: {message}"
    assert "\n" not in message


NONSENSE = [
    "seed=-1",
    "evaluate.seed=-1",
    "clozes.weights={}",
    "clozes.weights.policy=.inf",
    "optimizer.lr=.inf",
    "optimizer.betas=[2, 3]",
    "optimizer.betas=[-1, 0.9]",
    "collect.worlds=[]",
    "evaluate.clozes=[]",
    "model.tiny.hidden_size=0",
    "model.tiny.hidden_size=-96",
    "model.tiny.head_size=0",
    "model.tiny.patch_size=0",
    "model.tiny.merge=0",
    "model.tiny.layers=0",
    "model.tiny.vocabulary=0",
    "model.tiny.init_std=-1",
    "model.tiny.rope_theta=0",
]


@pytest.mark.parametrize("override", NONSENSE)
def test_values_that_mean_nothing_are_refused(override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load(None, [override])


@pytest.mark.parametrize("override", ["", "--", "=", "=3", "--=3", "seed", "--seed", "train.steps"])
def test_overrides_without_key_or_value_are_refused(override):
    with pytest.raises(ConfigError, match=r"write --section\.key=value"):
        load(None, [override])


@pytest.mark.parametrize("override", ["seed.x=1", "train.steps.x=1", "model.path.a.b=1"])
def test_overrides_below_a_value_are_refused(tmp_path, override):
    path = write(tmp_path, "seed: 1\ntrain: {steps: 2}\nmodel: {path: x}\n")
    with pytest.raises(ConfigError, match=r"is a value, not a section"):
        load(path, [override])


@pytest.mark.parametrize("text", ["seed=[", "seed={a", "seed='", "seed=&", "seed=a: b: c", "seed=\x00", "seed=!!py/x"])
def test_overrides_that_are_not_yaml_are_refused(text):
    with pytest.raises(ConfigError, match=r"is not a YAML value"):
        load(None, [text])


@pytest.mark.parametrize("value", ["2024-02-30", "2024-13-01", "0x_", "0b_", "9" * 5000])
def test_values_that_yaml_cannot_make_are_refused(tmp_path, value):
    with pytest.raises(ConfigError):
        load(None, [f"output={value}"])
    with pytest.raises(ConfigError):
        load(write(tmp_path, f"output: {value}\n"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: [1", "is not YAML"),
        ("seed: 1\n\ttrain: 2", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("!!python/object/apply:os.mkdir [owned]", "is not YAML"),
        (b"seed: \x00", "is not YAML"),
        (b"seed: \xff", "cannot read configuration"),
        ("- 1\n- 2", "must be a mapping"),
        ("text", "must be a mapping"),
        ("3", "must be a mapping"),
        ("1: 2", "configuration key"),
        ("{[1]: 2}", "is not YAML"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path, monkeypatch, text, reason):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("owned").exists(), "a configuration was executed"


def test_files_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=rf"cannot read configuration {tmp_path}/none\.yaml: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=rf"cannot read configuration {tmp_path}: Is a directory"):
        load(tmp_path)


KEYS = st.lists(
    st.sampled_from([*(key.name for key in described()), "x", "", "weights.policy"]), min_size=1, max_size=2
)
VALUES = st.text(max_size=12) | st.sampled_from(["1", "0.5", "[a]", "{a: 1}", "null", "true", "&a [*a]", "x: 1"])


@settings(max_examples=300)
@given(KEYS.map(".".join), VALUES)
def test_no_override_raises_anything_but_a_config_error(key, value):
    try:
        config = load(None, [f"{key}={value}"])
    except ConfigError:
        return
    assert isinstance(config, Config)


# -------------------------------------------------------------------------------------------------------- round trip

CHANGED = [
    "seed=3",
    "output='2024'",
    "shards=[a b, 'c: d', 'on']",
    "optimizer.lr=1.0e-07",
    "optimizer.betas=[0.1, 0.2]",
    "collect.worlds=[x]",
    "model.path=~/models/ü",
    "clozes.weights={policy: 1, 'o0 -> s0': 0.1}",
    "model.tiny.init_std=0.30000000000000004",
]


def test_what_is_saved_is_loaded_again(tmp_path):
    for config in (Config(), load(None, CHANGED), load(shipped("quickstart.yaml"))):
        path = tmp_path / "new" / "config.yaml"
        save(config, path)
        assert load(path) == config
        assert list(yaml.safe_load(path.read_text())) == list(Config.model_fields), "the order of keys is lost"


@given(
    st.integers(0, 2**63),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.floats(0, allow_infinity=False, exclude_min=True),
)
def test_any_seed_text_and_number_is_loaded_again(tmp_path_factory, seed, output, lr):
    config = Config.model_validate({"seed": seed, "output": output, "optimizer": {"lr": lr}})
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    save(config, path)
    assert load(path) == config


def test_known_keys_are_all_that_can_be_written():
    keys = [key.name for key in described()]
    assert len(keys) == len(set(keys))
    assert {"seed", "train", "train.steps", "model.tiny.hidden_size", "clozes.weights"} <= set(keys)

    def written(value, prefix=""):
        for name, inner in value.items():
            yield prefix + name
            if isinstance(getattr_path(prefix + name), Section):
                yield from written(inner, f"{prefix}{name}.")

    def getattr_path(key):
        return get(whole, key)

    whole = Config.model_validate({"rl": {"rollouts": {"worlds": ["sokoban-6x6"]}}})
    assert set(written(whole.model_dump())) == set(keys)


# ---------------------------------------------------------------------------------------------------- shipped configs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path):
    config = load(path)
    assert config != Config(), "it says nothing"
    for cloze in (*config.clozes.weights, *config.evaluate.clozes):
        named(cloze)
    assert all(is_available(world) for world in config.collect.worlds)
    if config.rl is not None:
        assert all(is_available(world) for world in config.rl.rollouts.worlds)
    assert config.train.rows % config.train.micro_rows == 0
    assert config.train.steps > config.optimizer.warmup_steps


def test_the_quickstart_is_shipped():
    config = load(shipped("quickstart.yaml"))
    assert len(config.collect.worlds) >= 3
    assert set(config.evaluate.clozes) <= set(config.clozes.weights), "it measures what it does not train"
    assert shipped("quickstart.yaml") in CONFIGS
    with pytest.raises(ConfigError, match=r"no shipped configuration 'none\.yaml'"):
        shipped("none.yaml")


def test_default_clozes_and_worlds_exist():
    for cloze in (*Config().clozes.weights, *Config().evaluate.clozes):
        try:
            named(cloze)
        except ClozeError as error:
            pytest.fail(str(error))
    assert set(Config().collect.worlds) <= set(registered())


def test_child_processes_do_not_spin(monkeypatch):
    monkeypatch.setenv("SOME_VARIABLE", "kept")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert environment({"RANK": "1"}) == {**environment(), "RANK": "1"}
    assert environment()["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment()["SOME_VARIABLE"] == "kept"


@pytest.mark.parametrize(
    ("key", "names"), [("rl.advantage.estimator", ESTIMATORS), ("rl.filter.strategy", STRATEGIES)]
)
def test_names_from_registries_are_told_with_their_key(key, names):
    meaning = next(known.meaning for known in described() if known.name == key)
    assert [name for name in names if name not in re.split(r"[\s,;]+", meaning)] == []


def test_every_key_says_what_it_means_beside_its_choices():
    silent = [key.name for key in described() if re.fullmatch(r"(\S+( or \S+)*)?", key.meaning)]
    assert silent == []


def test_shipped_configurations_are_found_from_anywhere(tmp_path, monkeypatch):
    """As `configs/NAME`, unless a file of that name is there."""
    monkeypatch.chdir(tmp_path)
    assert load("configs/rl_sokoban.yaml") == load(shipped("rl_sokoban.yaml"))
    with pytest.raises(ConfigError, match=r"cannot read configuration configs/none\.yaml"):
        load("configs/none.yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "rl_sokoban.yaml").write_text("seed: 77\n")
    assert load("configs/rl_sokoban.yaml").seed == 77
