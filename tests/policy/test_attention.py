"""Which implementation is chosen where, and that masks of packed rows say the same in each form."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from vagen.config import Tiny
from vagen.policy import attention, tiny
from vagen.policy.attention import (
    FLASH,
    attention_mask,
    attention_of,
    check_packable,
    choose_attention,
    packed_attention,
    set_attention,
)
from vagen.policy.errors import ModelError
from vagen.policy.packing import PackedLoss

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def model(flash=True, sdpa=True, flex=True, dtype=torch.bfloat16, head=64):
    text = SimpleNamespace(head_dim=head, hidden_size=256, num_attention_heads=4)
    return SimpleNamespace(
        _supports_flash_attn=flash,
        _supports_sdpa=sdpa,
        _supports_flex_attn=flex,
        dtype=dtype,
        config=SimpleNamespace(get_text_config=lambda: text),
    )


@pytest.fixture
def installed(monkeypatch):
    """``installed(names)``: these flash attention implementations are to be had on CUDA."""

    def install(*names: str) -> None:
        monkeypatch.setattr(attention, "installed_flash", lambda device: names if device.type == "cuda" else ())

    install(*FLASH)
    return install


def test_generation_takes_the_best_flash_attention(installed):
    assert choose_attention("auto", CUDA, model(), packed=False) == "flash_attention_4"
    installed("flash_attention_2")
    assert choose_attention("auto", CUDA, model(), packed=False) == "flash_attention_2"
    installed()
    assert choose_attention("auto", CUDA, model(), packed=False) == "sdpa"


@pytest.mark.parametrize(
    ("device", "options", "packed", "expected"),
    [
        (CUDA, {"flash": False}, False, "sdpa"),
        (CUDA, {"dtype": torch.float32}, False, "sdpa"),  # its kernels are for half precision
        (CPU, {}, False, "trie_sdpa"),
        (CPU, {"sdpa": False}, False, "eager"),
        (CUDA, {"flash": False, "sdpa": False}, False, "eager"),
        (CUDA, {}, True, "flex_attention"),
        (CUDA, {"dtype": torch.float32}, True, "flex_attention"),
        (CUDA, {"flex": False}, True, "sdpa"),
        (CUDA, {"head": 8}, True, "sdpa"),
        (CUDA, {"head": None, "flex": True}, True, "flex_attention"),
        (CPU, {}, True, "trie_sdpa"),  # FlexAttention has no backward on CPUs
        (CPU, {"sdpa": False}, True, "eager"),
    ],
)
def test_auto(installed, device, options, packed, expected):
    assert choose_attention("auto", device, model(**options), packed) == expected


@pytest.mark.parametrize("name", ["sdpa", "eager", "trie_sdpa"])
def test_plain_names_are_taken_at_their_word(name, installed):
    for packed in (True, False):
        assert choose_attention(name, CUDA, model(), packed) == name


@pytest.mark.parametrize(
    ("name", "device", "packed", "complaint"),
    [
        ("flash_attention_2", CUDA, True, "causal"),
        ("flash_attention_2", CPU, False, "not to be had"),
        ("flex_attention", CPU, True, "not to be had"),
    ],
)
def test_names_that_cannot_be_had_are_refused(name, device, packed, complaint, installed):
    with pytest.raises(ModelError, match=complaint):
        choose_attention(name, device, model(), packed)
    assert choose_attention("flash_attention_3", CUDA, model(), packed=False) == "flash_attention_3"


def test_without_cuda_nothing_is_installed():
    assert attention.installed_flash(CPU) == ()


# --------------------------------------------------------------------------------------------------------------- masks


@st.composite
def parents_of(draw):
    """A forest laid out depth first: a token's parent is the token before it, an ancestor of that, or none."""
    parents = [-1]
    for column in range(1, draw(st.integers(1, 40))):
        above = [column - 1]
        while above[-1] >= 0:
            above.append(parents[above[-1]])
        parents.append(draw(st.sampled_from(above)))
    return parents


def ancestors(parents: list[int]) -> np.ndarray:
    mask = np.eye(len(parents), dtype=bool)
    for column, parent in enumerate(parents):
        if parent >= 0:
            mask[column] |= mask[parent]
    return mask


def ends_of(mask: np.ndarray) -> np.ndarray:
    return np.array([1 + np.flatnonzero(mask[:, column]).max() for column in range(len(mask))])


@given(forests=st.lists(parents_of(), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_every_form_of_a_mask_is_the_relation_of_ancestors(forests):
    """For FlexAttention too, whose mask is checked on the CPU: it is what its kernels would be given."""
    length = max(map(len, forests))
    ends, expected = np.zeros((len(forests), length), dtype=np.int64), np.zeros((len(forests), length, length), bool)
    for row, parents in enumerate(forests):
        mask = ancestors([*parents, *[-1] * (length - len(parents))])
        ends[row], expected[row] = ends_of(mask), mask
    tensor = torch.from_numpy(ends)
    assert np.array_equal(attention_mask(tensor, "sdpa", torch.float32)[:, 0].numpy(), expected)
    added = attention_mask(tensor, "eager", torch.float32)[:, 0]
    assert np.array_equal((added == 0).numpy(), expected)
    assert (added[~torch.from_numpy(expected)] < -1e30).all()
    blocks = attention_mask(tensor, "flex_attention", torch.float32)
    assert blocks.shape == (len(forests), 1, length, length)
    dense = create_mask(blocks.mask_mod, len(forests), 1, length, length, device="cpu")
    assert np.array_equal(dense[:, 0].numpy(), expected)


SMALL = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}


def test_implementations_are_set_and_put_back(architecture, monkeypatch):
    small, _ = tiny.build(Tiny(architecture=architecture, **SMALL), ("sokoban-6x6",), 0)
    set_attention(small, "eager")
    assert attention_of(small) == "eager"
    with packed_attention(small):
        assert attention_of(small) == "eager", "eager attention takes any mask"
    small.config.get_text_config()._attn_implementation = "flash_attention_2"  # as if it were installed
    monkeypatch.setattr(attention, "set_attention", lambda model, name: seen.append(name))
    seen = []
    with packed_attention(small):
        assert seen == ["trie_sdpa"]
    assert seen == ["trie_sdpa", "flash_attention_2"]


@pytest.mark.parametrize("name", ["flex_attention", "trie_sdpa"])
def test_attention_for_packed_rows_is_for_the_language_model_alone(name):
    small, _ = tiny.build(Tiny(**SMALL), ("sokoban-6x6",), 0)
    set_attention(small, name)
    assert small.config.text_config._attn_implementation == name
    assert small.config.vision_config._attn_implementation == "sdpa"


# ------------------------------------------------------------------------------------------------------------ refusals


def test_tiny_models_can_be_packed(architecture):
    check_packable(tiny.build(Tiny(architecture=architecture, **SMALL), ("sokoban-6x6",), 0)[0])


TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16, "num_attention_heads": 2}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: Gemma3ForConditionalGeneration(Gemma3Config(text_config={**TEXT}, vision_config=VISION)),
            "Gemma3.*cannot train on packed rows",
        ),
        (
            lambda: PaliGemmaForConditionalGeneration(PaliGemmaConfig(vision_config={**VISION, "projection_dim": 16})),
            "PaliGemma.*cannot train on packed rows",
        ),
        (
            lambda: MllamaForConditionalGeneration(MllamaConfig()),
            "Mllama.*cannot train on packed rows",
        ),
    ],
)
def test_models_that_would_compute_something_else_are_refused(make, complaint):
    with torch.device("meta"):
        other = make()
    with pytest.raises(ModelError, match=complaint):
        PackedLoss(other)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ],
)
def test_settings_that_packing_cannot_allow_for_are_refused(change, complaint):
    small, _ = tiny.build(Tiny(**SMALL), ("sokoban-6x6",), 0)
    for name, value in change.items():
        setattr(small.config.text_config, name, value)
    with pytest.raises(ModelError, match=complaint):
        check_packable(small)
