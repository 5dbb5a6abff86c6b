"""Adapters train little, change nothing at first, and merge into plain models; frozen parts stay as they are."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from vagen.config import Lora, Model, Tiny
from vagen.export import export
from vagen.policy.adapters import ADAPTER
from vagen.policy.batches import encode_all
from vagen.policy.chat import Chat
from vagen.policy.packing import PackedLoss, collate, distinct_pictures, pack
from vagen.policy.parts import part_of
from vagen.policy.policy import ClozeFormat, ModelError, Policy, create, load

peft = pytest.importorskip("peft")

WORLDS = ("sokoban-6x6",)
SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
FORM = ClozeFormat("grid", False, WORLDS, ("policy",))


def made(architecture: str = "idefics3", **model) -> Policy:
    return create(Model(tiny=Tiny(architecture=architecture, **SMALL), **model), FORM, 0)


def trained(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p for name, p in policy.model.named_parameters() if p.requires_grad}


def loss_of(policy: Policy, samples) -> torch.Tensor:
    chat = Chat(policy)
    row = pack(encode_all(chat, samples))
    images = chat.image_tensors(distinct_pictures([row]))
    batch = collate([row], [row.targets * 0.0 + 1], [row.sample], images, 0)
    return PackedLoss(policy.model)(batch.to(policy.device, policy.model.dtype)).sum()


def step(policy: Policy, samples) -> None:
    """One large step of gradient descent, twice: the first moves only B, which begins at zero."""
    for _ in range(2):
        loss_of(policy, samples).backward()
        for parameter in trained(policy).values():
            parameter.data -= 0.5 * torch.nn.functional.normalize(parameter.grad, dim=None)
            parameter.grad = None


def test_adapters_change_nothing_at_first_and_are_all_that_is_trained(architecture, every_cloze):
    samples = every_cloze("sokoban-6x6")
    plain = made(architecture)
    adapted = made(architecture, lora={"rank": 4, "alpha": 8})
    assert torch.equal(loss_of(plain, samples), loss_of(adapted, samples)), "adapters that begin at zero do something"
    names = trained(adapted)
    assert names
    assert all(".lora_" in name for name in names), "a weight of the base model is trained"
    assert all(part_of(name) == "language" for name in names)
    assert len(names) == 2 * 7 * SMALL["layers"], "seven linear layers of each layer get two matrices each"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_merged_folders_answer_as_the_adapted_model_did(architecture, every_cloze, tmp_path, checkpointing):
    """Trained with dropout, a module in full beside them, saved, and loaded by stock transformers without peft."""
    samples = every_cloze("sokoban-6x6")
    lora = {"rank": 3, "alpha": 12, "dropout": 0.1, "train_fully": ["lm_head"]}
    policy = made(architecture, lora=lora, gradient_checkpointing=checkpointing)
    assert any("lm_head" in name for name in trained(policy))
    before = loss_of(policy, samples)
    policy.model.train()
    step(policy, samples)
    policy.model.eval()
    after = loss_of(policy, samples).item()
    assert abs(after - before.item()) > 0.1, "training changed nothing: nothing is tested"
    policy.save(tmp_path / "model")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert not any("lora" in name for name in stock.state_dict())
    reloaded = load(str(tmp_path / "model"))
    assert loss_of(reloaded, samples).item() == pytest.approx(after, rel=1e-5)
    saved = load_file(tmp_path / "model" / ADAPTER / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") for name in saved)


def test_adapters_alone_go_back_on_their_base_model(every_cloze, tmp_path):
    samples = every_cloze("sokoban-6x6")
    made().save(tmp_path / "base")
    policy = create(Model(path=str(tmp_path / "base"), lora=Lora(rank=2, train_fully=("lm_head",))), FORM, 0)
    step(policy, samples)
    after = loss_of(policy, samples).item()
    policy.save(tmp_path / "model")
    whole = export(tmp_path / "model", tmp_path / "whole")
    assert not (whole / ADAPTER).exists(), "a plain export holds the adapters twice"
    alone = export(tmp_path / "model", tmp_path / "alone", adapter_only=True)
    assert {path.name for path in alone.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not (alone / "config.json").exists()
    # by peft itself
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, str(alone)).merge_and_unload()
    for name, tensor in AutoModelForImageTextToText.from_pretrained(whole).state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    # by ours, and merged again by an export of the adapters
    assert loss_of(load(str(alone), form=FORM), samples).item() == pytest.approx(after, rel=1e-5)
    again = export(alone, tmp_path / "again")
    assert loss_of(load(str(again), form=FORM), samples).item() == pytest.approx(after, rel=1e-5)


def test_adapters_of_a_model_that_is_kept_nowhere_are_not_exported_alone(tmp_path):
    made(lora={"rank": 2}).save(tmp_path / "model")
    with pytest.raises(ModelError, match="kept nowhere"):
        export(tmp_path / "model", tmp_path / "alone", adapter_only=True)
    made().save(tmp_path / "plain")
    with pytest.raises(ModelError, match="no adapters"):
        export(tmp_path / "plain", tmp_path / "alone", adapter_only=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text(json.dumps({"r": 2}))
    with pytest.raises(ModelError, match="base_model_name_or_path"):
        load(str(tmp_path / "broken"))


@pytest.mark.parametrize("part", ["vision", "projector", "language"])
def test_frozen_parts_get_no_gradient_and_the_others_the_one_they_had(architecture, part, every_cloze):
    samples = every_cloze("sokoban-6x6")
    policy, free = made(architecture, freeze=[part]), made(architecture)
    frozen = {name for name in free.model.state_dict() if part_of(name) == part}
    assert frozen, f"{architecture} has no {part}"
    for one in (policy, free):
        loss_of(one, samples).backward()
    others = dict(free.model.named_parameters())
    for name, parameter in policy.model.named_parameters():
        assert (parameter.requires_grad is False) == (name in frozen)
        if name in frozen:
            assert parameter.grad is None, f"{name} is frozen and has a gradient"
        elif others[name].grad is not None:
            assert torch.allclose(parameter.grad, others[name].grad, atol=1e-6), f"freezing {part} changed {name}"


def test_gradient_checkpointing_changes_no_gradient(architecture, every_cloze):
    samples = every_cloze("sokoban-6x6")
    gradients = []
    for checkpointing in (False, True):
        policy = made(architecture, gradient_checkpointing=checkpointing)
        policy.model.train()
        assert policy.model.is_activation_checkpointing is checkpointing
        loss_of(policy, samples).backward()
        gradients.append({n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"lora": {"rank": 2, "targets": ".*q_porj"}}, "q_porj.*near it.*q_proj"),
        ({"lora": {"rank": 2, "targets": "("}}, "no regular expression"),
        ({"lora": {"rank": 2, "targets": ".*embed_tokens"}}, "Embedding"),
        ({"lora": {"rank": 2, "train_fully": ["lm_haed"]}}, "lm_haed.*lm_head"),
        ({"freeze": ["visoin"]}, "visoin.*vision"),
        ({"freeze": ["vision", "projector", "language"]}, "nothing is left"),
    ],
)
def test_names_that_fit_nothing_are_refused_with_those_near_them(model, complaint):
    with pytest.raises(ModelError, match=complaint) as refused:
        made(**model)
    assert "\n" not in str(refused.value)
