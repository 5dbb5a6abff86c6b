"""Vision towers in one go give what they give image by image."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from vagen.config import Model, Tiny
from vagen.policy import tiny, towers
from vagen.policy.chat import Chat
from vagen.policy.policy import ClozeFormat, create, load
from vagen.policy.towers import BATCHED, batch_tower, batched_attention

WORLDS = ("sokoban-6x6",)
SIZES = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 2}


def built(family: str) -> torch.nn.Module:
    model, _ = tiny.build(Tiny(architecture=family, merge=2, **SIZES), WORLDS, 0)
    return model.to(torch.float64).eval()


def patches(model, grids):
    vision = model.config.vision_config
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    generator = torch.Generator().manual_seed(7)
    return torch.randn(int(torch.tensor(grids).prod(1).sum()), width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [4], [3, 5, 3, 1, 5], [1, 2]])
def test_attention_within_sequences_is_that_of_each_alone(lengths):
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(3, 1, 2, sum(lengths), 8, generator=generator, dtype=torch.float64).requires_grad_()
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    output, weights = batched_attention(torch.nn.Module(), *parts, None, cu_seq_lens_q=bounds, scaling=0.3)
    assert weights is None
    alone = [scaled_dot_product_attention(*part, scale=0.3) for part in parts.split(lengths, dim=3)]
    expected = torch.cat(alone, dim=2).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-14)
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((o * weight).sum(), parts)[0] for o in (output, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "grids", [[[1, 6, 6]] * 3, [[1, 6, 6], [1, 4, 8], [1, 6, 6], [1, 2, 2]], [[1, 20, 12], [1, 6, 6]]]
)
def test_towers_that_loop_run_in_one_go(family, grids, monkeypatch):
    """Images of one size and of several, some of several windows: the same outputs and gradients, fewer calls."""
    model = built(family)
    pixels, grid = patches(model, grids), torch.tensor(grids)

    def outputs():
        model.zero_grad()
        result = model.model.visual(pixels, grid)
        result.pooler_output.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.model.visual.parameters() if p.grad is not None])
        return result.pooler_output.detach(), gradient

    expected, gradient = outputs()
    assert batch_tower(model)
    assert model.config.vision_config._attn_implementation == BATCHED
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return scaled_dot_product_attention(*args, **kwargs)

    monkeypatch.setattr(towers, "scaled_dot_product_attention", counted)
    actual, ours = outputs()
    assert (actual - expected).abs().max() < 1e-12
    assert ((ours - gradient).norm() / gradient.norm()) < 1e-12
    if grids == [[1, 6, 6]] * 3 and family == "qwen3_vl":
        assert len(calls) == 2, "there is more than one call per layer"


@pytest.mark.parametrize("family", ["idefics3", "llava"])
def test_towers_that_do_not_loop_stay_as_they_are(family):
    model = built(family) if family == "idefics3" else tiny.build(Tiny(architecture=family, **SIZES), WORLDS, 0)[0]
    assert not batch_tower(model)
    assert model.config.vision_config._attn_implementation == "sdpa"


def test_a_tower_that_would_give_something_else_goes_on_looping(monkeypatch):
    model = built("qwen3_vl")
    alike = towers._alike
    monkeypatch.setattr(towers, "_alike", lambda *args: alike(*args) * 1.001)
    assert not batch_tower(model)
    assert model.config.vision_config._attn_implementation == "sdpa"


def test_a_tower_of_other_patches_goes_on_looping():
    model = built("qwen3_vl")
    model.config.vision_config.patch_size *= 3
    assert not batch_tower(model)
    assert model.config.vision_config._attn_implementation == "sdpa"


def test_models_to_train_and_to_ask_run_batched_and_are_saved_as_stock(tmp_path):
    form = ClozeFormat("grid", False, WORLDS, ("policy",))
    policy = create(Model(tiny=Tiny(architecture="qwen3_vl", **SIZES)), form, 0)
    assert policy.model.config.vision_config._attn_implementation == BATCHED
    policy.save(tmp_path / "model")
    assert "vagen" not in (tmp_path / "model" / "config.json").read_text()
    assert load(str(tmp_path / "model")).model.config.vision_config._attn_implementation == BATCHED


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_answers_are_those_of_the_loop(family, every_cloze, with_pictures, make_chat, stock_inputs):
    """Through the whole model: logits of a sample with several images."""
    chat: Chat = make_chat(family)
    sample, pictures = max(with_pictures(every_cloze("sokoban-6x6")), key=lambda pair: len(pair[1]))
    inputs = stock_inputs(chat, sample, pictures)
    with torch.no_grad():
        expected = chat.policy.model(**inputs).logits
        assert batch_tower(chat.policy.model)
        try:
            actual = chat.policy.model(**inputs).logits
        finally:
            chat.policy.model.config.vision_config._attn_implementation = "sdpa"
    assert (actual - expected).abs().max() < 1e-5
