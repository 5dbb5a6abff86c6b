"""The configurations of real models: built without memory, counted, compared with DeepSpeed, trained as tiny twins."""

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from PIL import Image

import worlds
from vagen.config import Config, ConfigError, Model, load
from vagen.policy.attention import check_packable, choose_attention
from vagen.policy.errors import ModelError
from vagen.policy.parts import part_of
from vagen.policy.policy import adjust_images, create
from vagen.policy.policy import load as load_policy
from vagen.train.engine import _deepspeed_config
from vagen.train.optimizer import parameter_groups
from vagen.train.run import latest_model, micro_batches

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("cloze_*_*.yaml"))
BOARD_TOKENS = {"idefics3": 81, "qwen2_5_vl": 36, "qwen3_vl": 36}  # of a board of 6 x 6 tiles


@pytest.fixture(scope="module")
def memory(script) -> ModuleType:
    return script("memory")


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request) -> Config:
    return load(request.param)


@pytest.fixture
def checkpoint(config, memory) -> dict:
    """What is known of the configuration's checkpoint."""
    return memory.checkpoints()[config.model.path]


def test_every_configuration_is_in_the_table_of_memory(memory):
    assert sorted(memory.CONFIGS) == [path.name for path in CONFIGS]


# --------------------------------------------------------------------------------------------------------- the models


def test_parameters_are_those_of_the_checkpoint(config, checkpoint, memory):
    assert memory.total_parameters(config) == checkpoint["parameters"]


def test_the_real_size_can_be_trained_on_packed_rows(config, checkpoint, memory):
    """Every part learns at its own rate, and every parameter is in one group."""
    model = memory.build(config.model.path)
    check_packable(model)
    on_gpus = {"idefics3": "flex_attention"}.get(checkpoint["config"]["model_type"], "sdpa")
    assert choose_attention("auto", torch.device("cuda"), model, packed=True) == on_gpus
    groups = parameter_groups(model, config.optimizer)
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    rates = {id(parameter): group.lr / config.optimizer.lr for group in groups for parameter in group.parameters}
    found = {part_of(name): rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == pytest.approx({"vision": 0.2, "projector": 1.0, "language": 1.0})


def test_adapters_are_counted_by_hand(config, checkpoint, memory):
    """Rank r adds r * (inputs + outputs) to each linear layer of the language model."""
    text = checkpoint["config"]["text_config"]
    hidden, wide, heads = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]
    head = text.get("head_dim", hidden // heads)
    queries, keys = heads * head, text["num_key_value_heads"] * head
    sides = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + wide)
    assert memory.trained(config, 16) == text["num_hidden_layers"] * 16 * sides
    assert memory.trained(config, 0) == checkpoint["parameters"]


def test_boards_are_drawn_to_the_measure_of_the_model(config, checkpoint):
    """Pixels reach the vision tower as they were drawn, in few tokens."""
    images = getattr(transformers, checkpoint["images"]["type"])(**checkpoint["images"]["settings"])
    processor = SimpleNamespace(image_processor=images)
    adjust_images(processor, config.model.images)
    kind = checkpoint["config"]["model_type"]
    for id in config.collect.worlds:
        world = worlds.make(id)
        world.reset(seed=0)
        frame = world.render()
        seen = processor.image_processor([Image.fromarray(frame)], return_tensors="np")
        if kind == "idefics3":
            expected = (frame.astype(np.float64) / 255 - 0.5) / 0.5
            assert seen["pixel_values"].shape == (1, 1, 3, *frame.shape[:2])
            assert seen["pixel_values"][0, 0] == pytest.approx(expected.transpose(2, 0, 1), abs=1e-5)
            patches = frame.shape[0] // checkpoint["config"]["vision_config"]["patch_size"]
            assert patches**2 // checkpoint["config"]["scale_factor"] ** 2 == BOARD_TOKENS[kind]
        else:
            grid = seen["image_grid_thw"][0]
            assert (grid[1:] * images.patch_size).tolist() == list(frame.shape[:2]), "the frame was resized"
            assert grid.prod() // images.merge_size**2 == BOARD_TOKENS[kind]


# ---------------------------------------------------------------------------------------------------------- DeepSpeed


@pytest.mark.parametrize("ranks", [1, 8, 64])
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.zero_stage=3", "train.offload.parameters=true", "train.offload.optimizer=true"),
        ("train.zero_stage=1", "train.offload.optimizer=true"),
        ("model.lora.rank=16", "train.zero_stage=0"),
    ],
    ids=["as it is", "ZeRO 3 with offload", "ZeRO 1 with offload", "LoRA"],
)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_deepspeed_understands_its_configuration(process_group, path, ranks, overrides):
    config = load(path, overrides)
    accumulation = micro_batches(config.train, ranks)
    parsed = DeepSpeedConfig(
        _deepspeed_config(config.train, config.optimizer, ranks, accumulation),
        mpu=SimpleNamespace(get_data_parallel_world_size=lambda: ranks),
    )
    assert parsed.world_size == ranks
    assert parsed.train_batch_size == config.train.rows == 64
    assert (parsed.train_micro_batch_size_per_gpu, parsed.gradient_accumulation_steps) == (1, 64 // ranks)
    assert parsed.bfloat16_config.enabled
    assert parsed.gradient_clipping == config.optimizer.clip
    zero = parsed.zero_config
    assert int(zero.stage) == config.train.zero_stage
    assert (zero.offload_optimizer is not None) == config.train.offload.optimizer
    assert (zero.offload_param is not None) == config.train.offload.parameters


def test_more_processes_than_rows_are_refused(config):
    with pytest.raises(ConfigError, match=r"train\.rows=64"):
        micro_batches(config.train, 48)


# ------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_memory_is_what_deepspeed_estimates(memory, gpus):
    """Of states; what it counts at the moment of the update."""
    size, node = 3_754_622_976, min(gpus, 8)

    def states(stage: int, offload: bool = False) -> int:
        need = memory.needed(size, size, 0, memory.Setting(gpus, stage, offload))
        return need.total - need.buffers

    places = dict(num_gpus_per_node=node, num_nodes=gpus // node)
    assert states(2) == pytest.approx(estimate_zero2_model_states_mem_needs(size, cpu_offload=False, **places)[1])
    assert states(2, True) == estimate_zero2_model_states_mem_needs(size, cpu_offload=True, **places)[1]
    largest = 311_164_928  # parameters of the token embeddings
    theirs = estimate_zero3_model_states_mem_needs(size, largest, cpu_offload=False, **places)[1]
    # It counts the gathered layer in and, of the spread weights and gradients in bf16, only one.
    assert states(3) == pytest.approx(theirs - 4 * largest + 2 * size / gpus)
    assert states(0) == 20 * size


def test_activations_are_what_a_model_keeps(memory):
    """One layer more costs its input, whatever its width; a wider one more while it goes backward."""
    config = load(ROOT / "configs" / "cloze_qwen2_5_vl_3b.yaml")
    sizes = memory.checkpoints()[config.model.path]["config"]["text_config"]
    kept = memory.activations(config)
    inputs = sizes["num_hidden_layers"] * memory.TOKENS * sizes["hidden_size"] * 2
    assert inputs < kept < 4 * inputs
    # By hand: at least what its matrices multiply, at most seven times that in single precision.
    multiplied = memory.TOKENS * 2 * (4 * sizes["hidden_size"] + 3 * sizes["intermediate_size"])
    models = [memory.build(config.model.path, layers, memory.FUSED) for layers in (1, 2)]
    one, two = (memory._kept(model, lambda model=model: memory._read(model)) for model in models)
    assert multiplied < two - one < 3 * multiplied


def test_the_documented_table_is_what_the_script_prints(memory):
    page = (ROOT / "docs" / "real-models.md").read_text(encoding="utf-8")
    assert memory.table() in page, "run python scripts/memory.py and put what it prints into docs/real-models.md"


# -------------------------------------------------------------------------------------------------------------- twins


def test_a_tiny_twin_trains_as_configured(config, checkpoint, run, by_hand, values, tmp_path, read_metrics):
    """The family, the clozes, the optimizer and the way to train of the configuration, at another size."""
    tiny = values(tmp_path)["model"]["tiny"] | {"architecture": checkpoint["config"]["model_type"]}
    given = config.model_dump(mode="json")
    changes = {
        "model": {"tiny": tiny, "gradient_checkpointing": config.model.gradient_checkpointing},
        "clozes": {**given["clozes"], "imagined": 0},
        "optimizer": given["optimizer"],
        "train": {**given["train"], "steps": 2, "rows": 1, "workers": 0, "log_every": 1, "validation": {"every": 0}},
    }
    output = run(**changes)
    expected = by_hand(Config.model_validate(values(tmp_path, **changes)))
    losses = [record["loss"] for record in read_metrics(output)]
    assert losses == pytest.approx(expected.losses, abs=0.03), "not what plain torch makes of it in single precision"
    assert load_policy(str(latest_model(output))).model.dtype == torch.bfloat16


@pytest.fixture(scope="module")
def folder(run, values, tmp_path_factory) -> Path:
    """A model folder of a tiny Qwen."""
    tiny = values(tmp_path_factory.mktemp("unused"))["model"]["tiny"] | {"architecture": "qwen3_vl"}
    return latest_model(run(model={"tiny": tiny}, train={"steps": 1}))


def test_settings_of_images_are_used_and_saved(folder, tmp_path):
    size = {"shortest_edge": 24 * 24, "longest_edge": 32 * 32}
    policy = create(Model(path=str(folder), images={"size": size}), load_policy(str(folder)).format, 0)
    policy.save(tmp_path / "saved")
    frame = Image.fromarray(np.zeros((48, 48, 3), np.uint8))
    for images in (policy.processor.image_processor, load_policy(str(tmp_path / "saved")).processor.image_processor):
        grid = images([frame], return_tensors="np")["image_grid_thw"][0]
        assert (grid[1:] * images.patch_size).tolist() == [32, 32]
    untouched = load_policy(str(folder)).processor.image_processor([frame], return_tensors="np")["image_grid_thw"][0]
    assert (untouched[1:] * policy.processor.image_processor.patch_size).tolist() == [48, 48]


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        ({"sise": {}}, "did you mean 'size'"),
        ({"zzzz": 1}, "has no setting 'zzzz'; it has"),
        ({"size": {"tallest": 3}}, "does not take"),
    ],
)
def test_settings_of_images_that_are_none_are_refused(folder, images, complaint):
    with pytest.raises(ModelError, match=complaint) as caught:
        create(Model(path=str(folder), images=images), load_policy(str(folder)).format, 0)
    assert str(caught.value).count("\n") == 0


def test_the_tiny_model_takes_no_settings_of_images(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"model": {"images": {"size": 3}}}))
    with pytest.raises(ConfigError, match=r"see tiny\.image_size"):
        load(path)
