"""Packed rows compute what one sequence per sample computes, checked against the models' stock forward."""

from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from vagen.cloze.build import build
from vagen.cloze.grammar import NAMED, ClozeError, named, with_history
from vagen.cloze.sample import imagined, simulator, window_at
from vagen.config import Model, Tiny
from vagen.policy import attention
from vagen.policy.attention import set_attention
from vagen.policy.batches import draw
from vagen.policy.chat import Chat, Encoded, Picture, Prompt
from vagen.policy.packing import PackedLoss, collate, distinct_pictures, pack
from vagen.policy.planning import plan
from vagen.policy.policy import ClozeFormat, create

MIXED_WORLDS = ("minigrid-rooms-6x6", "sokoban-6x6", "frozenlake-6x6")


class _NoRounding(TorchFunctionMode):
    """Leaves float64 tensors alone where models would round to float32 (in norms, before the loss)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            if func is torch.Tensor.to and (torch.float32 in args[1:] or kwargs.get("dtype") == torch.float32):
                return args[0]
        return func(*args, **kwargs)


@contextmanager
def exactly(model):
    """No rounding, and no gradients left behind."""
    model.zero_grad()
    with _NoRounding():
        yield
    model.zero_grad()


def encode(chat, pairs):
    return [chat.encode(sample, pictures) for sample, pictures in pairs]


def batch_of(chat, rows):
    """Rows of encoded samples as one batch with all weights 1."""
    packed = [pack(row) for row in rows]
    ones = [np.ones(len(row.targets)) for row in packed]
    cells = [np.zeros(len(row.targets), dtype=np.int64) for row in packed]
    images = chat.image_tensors(distinct_pictures(packed))
    batch = collate(packed, ones, cells, images, chat.tokenizer.pad_token_id)
    return batch.to(torch.device("cpu"), chat.policy.model.dtype)


def packed_losses(chat, rows):
    """One tensor of target losses per sample of each row."""
    losses = PackedLoss(chat.policy.model)(batch_of(chat, rows))
    return list(losses.split([len(sample.answer) for row in rows for sample in row]))


def stock_losses(chat, stock_inputs, sample, pictures):
    """Losses of the tokens of the assistant's turn, from the logits of the stock forward over that sample alone."""
    prompt = stock_inputs(chat, sample, pictures)["input_ids"].shape[1]
    inputs = stock_inputs(chat, sample, pictures, answer=sample.answer)
    labels = inputs["input_ids"].clone()
    labels[:, :prompt] = -100
    output = chat.policy.model(**inputs, labels=labels)
    chosen = torch.log_softmax(output.logits[0, prompt - 1 : -1], -1)
    losses = -chosen.gather(1, inputs["input_ids"][0, prompt:, None])[:, 0]
    assert abs(output.loss.item() / losses.mean().item() - 1) < 1e-6, "the reference is not the model's own loss"
    return losses


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def rows_of_everything(chat, every_cloze, with_pictures):
    """Four rows: all named clozes of three worlds, and a row without any image."""
    rows = [with_pictures(every_cloze(world)) for world in MIXED_WORLDS]
    window = every_cloze("frozenlake-6x6")[0].window
    # The same prompt with other answers: only the last token of the prompt and what follows differ.
    state, pictures = rows[2][0]
    rows[2] += [(replace(state, answer=answer), pictures) for answer in ("left", "left, right", "wall")]
    # A prompt that begins another prompt's text, and the same sample twice.
    rows[2].append(rows[2][1])
    text = [build(name, named(name), w, "grid") for name in NAMED if "text" in name for w in imagined(window)]
    rows.append(with_pictures(text))
    # The same image in both places.
    still = replace(window, snapshots=(window.snapshots[0],) * len(window.snapshots))
    rows[0] += with_pictures([build("inverse_dynamics", named("inverse_dynamics"), still, "grid")])
    return rows


def test_packed_losses_and_gradients_are_those_of_one_sequence_per_sample(
    architecture, make_chat, every_cloze, with_pictures, stock_inputs
):
    chat = make_chat(architecture)
    rows = rows_of_everything(chat, every_cloze, with_pictures)
    pairs = [pair for row in rows for pair in row]
    assert {len(pictures) for _, pictures in pairs} == {0, 1, 2, 4, 5}, "the test no longer mixes numbers of images"
    compare(chat, stock_inputs, rows)


HISTORY = 3  # of the windows of four images


def histories(window, with_pictures):
    """Every cloze that takes a history after each image of a window, and those that do not, alone."""
    found = []
    for name in NAMED:
        pattern = named(name)
        times = range(HISTORY + 2 - len(pattern.images)) if pattern.takes_history else (0,)
        for earlier in times:
            asked = with_history(pattern, earlier) if pattern.takes_history else pattern
            if asked.length <= len(window):
                with suppress(ClozeError):
                    found.append(build(name, asked, window_at(window, 0, asked.length), "grid"))
    assert {sample.pattern.history for sample in found} == set(range(HISTORY + 1))
    return with_pictures(found)


def compare(chat, stock_inputs, rows, exact=True):
    """Losses and the global gradient of packed rows against the stock forward over each sample alone.

    Not ``exact``: as models round in norms and before the loss.
    """
    loss_tolerance, gradient_tolerance = (1e-10, 1e-8) if exact else (1e-5, 1e-5)
    model = chat.policy.model
    pairs = [pair for row in rows for pair in row]
    with exactly(model) if exact else nullcontext():
        expected = [stock_losses(chat, stock_inputs, sample, pictures) for sample, pictures in pairs]
        # Weights that differ make a mix-up between samples visible in the gradient too.
        scales = torch.linspace(0.5, 2.0, len(pairs), dtype=torch.float64)
        sum(scale * losses.sum() for scale, losses in zip(scales, expected, strict=True)).backward()
        reference = gradient(model).clone()
        model.zero_grad()
        actual = packed_losses(chat, [encode(chat, row) for row in rows])
        sum(scale * losses.sum() for scale, losses in zip(scales, actual, strict=True)).backward()
        ours = gradient(model)
        for (sample, _), ours_of, theirs in zip(pairs, actual, expected, strict=True):
            error = (ours_of - theirs).abs().max().item()
            assert error < loss_tolerance, f"{sample.pattern}: a packed loss is off by {error:.1e}"
        norms = ours.norm(), reference.norm()
        assert abs(norms[0] / norms[1] - 1) < gradient_tolerance, f"gradient norms are {norms[0]} and {norms[1]}"
        difference = ((ours - reference).norm() / reference.norm()).item()
        assert difference < gradient_tolerance, f"the packed gradient differs by {difference:.1e} of its norm"


def test_clozes_after_a_history_have_the_losses_and_gradients_they_have_alone(
    architecture, make_chat, windows, with_pictures, stock_inputs
):
    chat = make_chat(architecture)
    window = windows["sokoban-6x6"][0]
    still = replace(window, snapshots=(window.snapshots[0], *window.snapshots[:3]))  # an image repeats
    rows = [histories(window, with_pictures), histories(windows["frozenlake-6x6"][0], with_pictures)[::3]]
    rows[1] += with_pictures([build("x", with_history(named("inverse_dynamics"), 2), still, "grid")])
    compare(chat, stock_inputs, rows)
    row = pack(encode(chat, rows[0]))
    frames = [picture.digest for picture in draw([named_last(window)])[0]]
    for shown, digest in enumerate(frames, start=1):
        own = [c for c, image in enumerate(row.image_of) if image >= 0 and row.pictures[image].digest == digest]
        depths = [row.mask[column].sum() for column in own if images_before(row, column) == frames[:shown]]
        assert depths.count(min(depths)) == 1, f"image {shown} of the history stands in the row more than once"


def images_before(row, column):
    """Which images a token sees, in order, its own included."""
    return [digest for digest, _ in groupby(row.pictures[i].digest for i in row.image_of[row.mask[column]] if i >= 0)]


def named_last(window):
    """The cloze that shows all images of a window, in order."""
    return build("inverse_dynamics", with_history(named("inverse_dynamics"), HISTORY - 1), window, "grid")


def test_an_image_of_a_history_matters_to_what_comes_after_it_only(architecture, make_chat, windows, with_pictures):
    """The second of four images is another: clozes asked before it keep their losses, all others do not."""
    chat = make_chat(architecture)
    pairs = histories(windows["sokoban-6x6"][0], with_pictures)
    pairs = [(sample, pictures) for sample, pictures in pairs if sample.pattern.takes_history]
    other = draw([build("state_estimation", named("state_estimation"), windows["sokoban-6x6"][3], "grid")])[0][0]
    swapped = []
    for sample, pictures in pairs:
        changed = sample.pattern.images[-1].time > 0  # else the second image is an option to choose
        swapped.append((sample, [pictures[0], other, *pictures[2:]] if changed else pictures))
    with exactly(chat.policy.model), torch.no_grad():
        before, after = (packed_losses(chat, [encode(chat, part)]) for part in (pairs, swapped))
    for (sample, _), one, two in zip(pairs, before, after, strict=True):
        change = (one - two).abs().max().item()
        concerned = sample.pattern.images[-1].time > 0
        assert (change > 1e-6) == concerned, f"{sample.pattern}: losses moved by {change:.1e}"
    assert {s.pattern.images[-1].time for s, _ in pairs} == set(range(HISTORY + 1))


@pytest.mark.parametrize(
    ("family", "checkpointing"), [("idefics3", True), ("llava", False), ("qwen2_5_vl", True), ("qwen3_vl", False)]
)
def test_adapters_and_checkpointing_change_nothing_about_that(
    family, checkpointing, windows, with_pictures, stock_inputs
):
    """What checkpointing computes again is out of reach of the help that keeps float64."""
    form = ClozeFormat("grid", False, MIXED_WORLDS, tuple(NAMED), HISTORY)
    sizes = {"hidden_size": 32, "layers": 2, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
    config = Model(tiny=Tiny(architecture=family, **sizes), lora={"rank": 3}, gradient_checkpointing=checkpointing)
    policy = create(config, form, 0, torch.float64)
    for name, parameter in policy.model.named_parameters():
        if ".lora_B" in name:  # which begin at zero: nothing would come through them
            torch.nn.init.normal_(parameter, std=0.1)
    chat = Chat(replace(policy, model=policy.model.train()))
    pairs = histories(windows["sokoban-6x6"][0], with_pictures)
    compare(chat, stock_inputs, [pairs[::3], pairs[1::6]], exact=not checkpointing)
    assert all(".lora_" in name for name, p in policy.model.named_parameters() if p.grad is not None)


def test_the_whole_plan_has_the_losses_of_its_samples(make_chat, windows, with_pictures):
    """Groups over rows of a few tokens, for two processes: each loss is what it is alone."""
    chat = make_chat("qwen2_5_vl")
    groups = [encode(chat, histories(window, with_pictures)[::3]) for window in windows["sokoban-6x6"][:4]]
    flat = [sample for group in groups for sample in group]
    made = plan(groups, 2 * max(len(s.prompt.ids) + len(s.answer) for s in flat), 2, 2)
    with exactly(chat.policy.model), torch.no_grad():
        alone = packed_losses(chat, [[sample] for sample in flat])
        for own in made:
            for passes in own:
                rows = [row for row in passes if row]
                losses = packed_losses(chat, [[flat[number] for number in row] for row in rows])
                for number, ours in zip([number for row in rows for number in row], losses, strict=True):
                    assert (ours - alone[number]).abs().max() < 1e-10, f"sample {number} has another loss in its row"


def test_work_is_counted_as_in_the_masks(make_chat, every_cloze, with_pictures):
    chat = make_chat("idefics3")
    rows = [pack(encode(chat, with_pictures(every_cloze(world)))) for world in MIXED_WORLDS]
    batch = collate(rows, [row.targets * 1.0 for row in rows], [row.targets for row in rows], {}, 0)
    assert batch.work.tokens == sum(len(row.ids) for row in rows)
    assert batch.work.pairs == sum(int(row.mask.sum()) for row in rows)
    assert batch.work.targets == batch.alone.targets == len(batch.targets)
    images = len(distinct_pictures(rows))
    assert (batch.work.placeholders, batch.work.squares) == (36 * images, 36**2 * images)
    samples = [s for world in MIXED_WORLDS for s in encode(chat, with_pictures(every_cloze(world)))]
    lengths = [len(s.prompt.ids) + len(s.answer) - 1 for s in samples]
    assert batch.alone.tokens == sum(lengths)
    assert batch.alone.pairs == sum(np.tril(np.ones((length, length))).sum() for length in lengths)
    assert batch.alone.placeholders == 36 * sum(len(s.pictures) for s in samples)


def test_losses_in_single_precision_agree_as_well_as_rounding_allows(
    architecture, make_chat, every_cloze, with_pictures, stock_inputs
):
    """Without the help that keeps float64: what training really computes, `PackedLoss` unpatched."""
    chat = make_chat(architecture)
    pairs = with_pictures(every_cloze("sokoban-6x6"))
    with torch.no_grad():
        actual = packed_losses(chat, [encode(chat, pairs)])
        for (sample, pictures), ours in zip(pairs, actual, strict=True):
            theirs = stock_losses(chat, stock_inputs, sample, pictures)
            assert (ours - theirs).abs().max() < 2e-5, f"losses of {sample.name} differ by more than rounding"


def test_an_image_matters_to_its_own_clozes_only(architecture, make_chat, windows, with_pictures):
    """Images that are swapped keep every token id; only clozes that show the image may notice."""
    chat = make_chat(architecture)
    window = windows["frozenlake-6x6"][0]
    names = ["state_estimation", "forward_dynamics", "inverse_dynamics", "policy", "text_forward_dynamics"]
    pairs = with_pictures([build(name, named(name), window, "grid") for name in names])
    other = draw([build("state_estimation", named("state_estimation"), windows["frozenlake-6x6"][3], "grid")])[0][0]
    shown = {name: pictures for name, (_, pictures) in zip(names, pairs, strict=True)}
    assert other.digest not in {picture.digest for picture in shown["inverse_dynamics"]}

    def losses(swap: bytes | None):
        swapped = [(s, [other if p.digest == swap else p for p in pictures]) for s, pictures in pairs]
        with exactly(chat.policy.model), torch.no_grad():
            return dict(zip(names, packed_losses(chat, [encode(chat, swapped)]), strict=True))

    before = losses(None)
    for place, digest in enumerate(picture.digest for picture in shown["inverse_dynamics"]):
        after = losses(digest)
        for name in names:
            change = (after[name] - before[name]).abs().max().item()
            concerned = any(picture.digest == digest for picture in shown[name])
            assert (change > 1e-6) == concerned, f"image {place} swapped: losses of {name} moved by {change:.1e}"


def test_prompts_with_equal_tokens_and_other_images_stay_apart(
    architecture, make_chat, windows, with_pictures, stock_inputs
):
    """Six windows, one question: placeholders have the same ids, so only digests keep the images apart."""
    chat = make_chat(architecture)
    pattern = named("inverse_dynamics")
    pairs = with_pictures([build("inverse_dynamics", pattern, w, "grid") for w in windows["minigrid-rooms-6x6"]])
    encoded = encode(chat, pairs)
    assert len({tuple(sample.prompt.ids.tolist()) for sample in encoded}) == 1, "the test wants equal token ids"
    with exactly(chat.policy.model), torch.no_grad():
        for (sample, pictures), ours in zip(pairs, packed_losses(chat, [encoded]), strict=True):
            theirs = stock_losses(chat, stock_inputs, sample, pictures)
            assert (ours - theirs).abs().max() < 1e-10, "a cloze was answered from another cloze's image"


def test_packing_saves_tokens_and_draws_each_shared_image_once(make_chat, every_cloze, with_pictures, windows):
    chat = make_chat("idefics3")
    samples = [
        build("forward_dynamics", named("forward_dynamics"), w, "grid")
        for w in imagined(window_at(windows["sokoban-6x6"][0], 0, 1))
    ]
    row = pack(encode(chat, with_pictures(samples)))
    assert row.unpacked == sum(len(s.prompt.ids) + len(s.answer) - 1 for s in encode(chat, with_pictures(samples)))
    assert len(row.pictures) == 1, "clozes about one image do not share it"
    assert len(row.ids) < 0.7 * row.unpacked, f"{len(row.ids)} tokens for {row.unpacked}: nothing was saved"
    pairs = with_pictures(every_cloze("sokoban-6x6"))
    everything = pack(encode(chat, pairs))
    assert len(everything.ids) < everything.unpacked
    shown = {picture.digest for _, pictures in pairs for picture in pictures}
    assert len(everything.pictures) == len(shown), "each image is there once, wherever it stands"


def test_the_vision_tower_sees_each_image_of_a_batch_once(architecture, make_chat, every_cloze, with_pictures):
    """In rows of different windows of one world, and where images stand after each other in several orders."""
    chat = make_chat(architecture)
    pairs = with_pictures(every_cloze("sokoban-6x6"))
    turned = [(sample, pictures[::-1]) for sample, pictures in pairs if len(pictures) == 2]
    rows = [encode(chat, part) for part in (pairs, turned, with_pictures(every_cloze("sokoban-6x6", 1)))]
    places = sum(len({p.digest for p in sample.pictures}) for row in rows for sample in row)
    distinct = {picture.digest for row in rows for sample in row for picture in sample.pictures}
    assert len(distinct) < places, "the test wants images that repeat"
    seen = []
    base = chat.policy.model.model
    names = {"visual": "hidden_states", "vision_tower": "pixel_values", "vision_model": "pixel_values"}
    tower, argument = next((getattr(base, name), key) for name, key in names.items() if hasattr(base, name))
    hook = tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs[argument]), with_kwargs=True
    )
    try:
        packed_losses(chat, rows)
    finally:
        hook.remove()
    [pixels] = seen
    per_image = 36 if architecture.startswith("qwen") else 1  # Qwen's towers take patches, 6 x 6 to an image
    assert len(pixels) == per_image * len(distinct)


def test_images_cut_into_parts(make_chat, every_cloze, with_pictures, stock_inputs):
    """As SmolVLM's processor does by default: marks of rows and columns stand between placeholders of one image."""
    chat = make_chat("idefics3")
    whole = chat.policy.processor
    parts = type(whole.image_processor)(
        do_image_splitting=True, size={"longest_edge": 96}, max_image_size={"longest_edge": 48}
    )
    processor = type(whole)(parts, whole.tokenizer, image_seq_len=36, chat_template=whole.chat_template)
    chat = Chat(replace(chat.policy, processor=processor))
    pairs = with_pictures(every_cloze("sokoban-6x6"))
    assert {len(pictures) for _, pictures in pairs} >= {0, 1, 2}
    encoded = encode(chat, pairs)
    assert (np.bincount(encoded[0].prompt.image_of + 1)[1:] == 5 * 36).all(), "four parts and the whole image"
    with exactly(chat.policy.model), torch.no_grad():
        for (sample, pictures), ours in zip(pairs, packed_losses(chat, [encoded]), strict=True):
            theirs = stock_losses(chat, stock_inputs, sample, pictures)
            assert (ours - theirs).abs().max() < 1e-10, f"{sample.name}: losses with cut images differ"


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_images_that_the_processor_resizes(family, make_chat, every_cloze, stock_inputs):
    """Qwen's processors resize to multiples of their patches, so placeholders follow from the resized image."""
    chat = make_chat(family, merge=2)
    processor = chat.policy.processor
    processor.image_processor.size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    generator = np.random.default_rng(0)
    samples = [sample for sample in every_cloze("sokoban-6x6") if sample.images]
    for height, width, tokens in ((50, 37, 3 * 2), (9, 64, 1 * 4), (100, 90, 4 * 3)):
        frames = [Picture.of(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(5)]
        pairs = [(sample, frames[: len(sample.images)]) for sample in samples]
        encoded = encode(chat, pairs)
        assert (encoded[0].prompt.image_of == 0).sum() == tokens, f"{height} x {width} is not {tokens} tokens"
        with exactly(chat.policy.model), torch.no_grad():
            for (sample, pictures), ours in zip(pairs, packed_losses(chat, [encoded]), strict=True):
                theirs = stock_losses(chat, stock_inputs, sample, pictures)
                assert (ours - theirs).abs().max() < 1e-10, f"{sample.name}: losses at {height} x {width} differ"


@pytest.mark.parametrize("other", ["eager", "sdpa"])
def test_implementations_of_attention_compute_the_same(other, architecture, make_chat, every_cloze, with_pictures):
    chat = make_chat(architecture)
    chosen = attention.attention_of(chat.policy.model)
    encoded = [encode(chat, with_pictures(every_cloze(world))) for world in MIXED_WORLDS]
    with torch.no_grad():
        expected = torch.cat(packed_losses(chat, encoded))
        set_attention(chat.policy.model, other)
        try:
            actual = torch.cat(packed_losses(chat, encoded))
        finally:
            set_attention(chat.policy.model, chosen)
    assert (actual - expected).abs().max() < 1e-5


def test_packed_rows_never_meet_flash_attention(make_chat, every_cloze, with_pictures, monkeypatch):
    """A model that generates with flash attention is asked for likelihoods too, and goes on generating with it."""
    chat = make_chat("idefics3")
    encoded = encode(chat, with_pictures(every_cloze("sokoban-6x6")))
    expected = torch.cat(packed_losses(chat, [encoded]))
    text = chat.policy.model.config.get_text_config()
    monkeypatch.setattr(attention, "set_attention", lambda _, name: setattr(text, "_attn_implementation", name))
    monkeypatch.setattr(text, "_attn_implementation", "flash_attention_2")
    assert torch.equal(torch.cat(packed_losses(chat, [encoded])), expected)
    assert text._attn_implementation == "flash_attention_2"


def test_padding_in_a_batch_changes_no_loss(architecture, make_chat, every_cloze, with_pictures):
    chat = make_chat(architecture)
    everything = every_cloze("minigrid-rooms-6x6")
    rows = [encode(chat, with_pictures(part)) for part in (everything, everything[:1], everything[-1:])]
    assert len({len(pack(row).ids) for row in rows}) == 3, "the test wants rows of different lengths"
    with exactly(chat.policy.model), torch.no_grad():
        together = packed_losses(chat, rows)
        alone = [loss for row in rows for loss in packed_losses(chat, [row])]
    for number, (one, other) in enumerate(zip(together, alone, strict=True)):
        assert torch.isfinite(one).all(), f"sample {number}: padding made a loss that is no number"
        assert (one - other).abs().max() < 1e-10, f"sample {number}: a longer row beside it changed its loss"


def test_a_batch_points_every_target_at_its_weight_and_cell(make_chat, every_cloze, with_pictures):
    """Weights and cells follow their targets through collation, in any order of rows."""
    chat = make_chat("idefics3")
    packed = [pack(encode(chat, with_pictures(every_cloze(world)))) for world in MIXED_WORLDS]
    for order in ([0, 1, 2], [2, 0, 1]):
        rows = [packed[i] for i in order]
        weights = [row.targets * 2.0 + 1 for row in rows]
        cells = [row.sample + 100 for row in rows]
        batch = collate(rows, weights, cells, {}, chat.tokenizer.pad_token_id)
        length = batch.ids.shape[1]
        assert torch.equal(batch.weights, (batch.targets * 2.0 + 1).float())
        assert batch.samples == sum(int(row.sample.max()) + 1 for row in rows)
        assert batch.unpacked == sum(row.unpacked for row in rows)
        start = 0
        for number, row in enumerate(rows):
            stop = start + len(row.targets)
            assert (batch.sources[start:stop] // length == number).all(), "a target points into another row"
            assert torch.equal(batch.sources[start:stop] % length, torch.from_numpy(row.sources))
            assert torch.equal(batch.cells[start:stop], torch.from_numpy(cells[number]))
            start = stop


# ------------------------------------------------------------------------------------------- tries against brute force

IMAGE, MARK = 9, 8  # a placeholder token, and one that stands between placeholders of one image
SIZES = (2, 3, 1)  # placeholders of each picture
PICTURES = [Picture.of(np.full((1, 1, 3), value, dtype=np.uint8)) for value in range(3)]


@st.composite
def encoded_samples(draw_from):
    """Prompts over three tokens and up to two images, so that many share a beginning."""
    samples = []
    for _ in range(draw_from(st.integers(1, 6))):
        ids, image_of, pictures = [], [], []
        for part in draw_from(st.lists(st.sampled_from(["t0", "t1", "i0", "i1", "i2"]), min_size=1, max_size=4)):
            if part[0] == "t":
                ids.append(int(part[1]))
                image_of.append(-1)
            else:
                size = SIZES[int(part[1])]
                ids += [IMAGE, *[MARK, IMAGE] * (size - 1)]  # as models do that cut images into parts
                image_of += [len(pictures), *[-1, len(pictures)] * (size - 1)]
                pictures.append(PICTURES[int(part[1])])
        ids.append(2)  # the turn of the assistant begins
        image_of.append(-1)
        answer = draw_from(st.lists(st.integers(0, 2), min_size=1, max_size=4))
        planes = np.stack([np.arange(len(ids)), 3 * np.arange(len(ids)) // 2])
        prompt = Prompt(np.array(ids), planes, np.array(image_of))
        samples.append(Encoded(prompt, np.array(answer), tuple(pictures)))
    return samples


def full_sequence(sample):
    """What a sample would be alone: (token, position, digest of its image) of everything the model reads."""
    prompt = sample.prompt
    digests = [sample.pictures[i].digest if i >= 0 else None for i in prompt.image_of]
    sequence = list(zip(prompt.ids.tolist(), map(tuple, prompt.positions.T.tolist()), digests, strict=True))
    follows = int(prompt.positions.max()) + 1
    return sequence + [(t, (follows + n,) * 2, None) for n, t in enumerate(sample.answer[:-1].tolist())]


@given(samples=encoded_samples())
def test_every_target_sees_its_own_sequence_and_nothing_else(samples):
    row = pack(samples)
    sequences = [full_sequence(sample) for sample in samples]
    # A token of the trie is a distinct beginning of a sequence; images count as different tokens.
    beginnings = {
        tuple((t, d) for t, _, d in sequence[: n + 1]) for sequence in sequences for n in range(len(sequence))
    }
    assert len(row.ids) == len(beginnings), "the row is not the smallest trie of its samples"
    assert row.unpacked == sum(map(len, sequences))
    digests = [row.pictures[image].digest if image >= 0 else None for image in row.image_of]
    assert [digest is not None for digest in digests] == [token == IMAGE for token in row.ids]
    assert len({picture.digest for picture in row.pictures}) == len(row.pictures), "an image is kept twice"
    target = 0
    for number, (sample, sequence) in enumerate(zip(samples, sequences, strict=True)):
        for place, token in enumerate(sample.answer.tolist()):
            assert row.sample[target] == number
            assert row.targets[target] == token
            seen = np.flatnonzero(row.mask[row.sources[target]])
            actual = [(int(row.ids[c]), tuple(row.positions[:, c].tolist()), digests[c]) for c in seen]
            assert actual == sequence[: len(sample.prompt.ids) + place], "a target sees another sequence than its own"
            target += 1
    assert target == len(row.targets)


@given(rows=st.lists(encoded_samples(), min_size=1, max_size=3))
def test_every_placeholder_gets_the_output_of_its_own_image(rows):
    """The vision tower sees each image once, and what it makes of it stands wherever the image stands, in order."""
    packed = [pack(row) for row in rows]
    pictures = distinct_pictures(packed)
    assert len({picture.digest for picture in pictures}) == len(pictures)
    number_of = {picture.digest: number for number, picture in enumerate(PICTURES)}
    shown = [number_of[picture.digest] for picture in pictures]
    outputs = [(number, place) for number in shown for place in range(SIZES[number])]
    batch = collate(packed, [row.targets * 1.0 for row in packed], [row.targets for row in packed], {}, 0)
    given_to = iter([outputs[feature] for feature in batch.features.tolist()])
    for row, ids in zip(packed, batch.ids, strict=True):
        for column in np.flatnonzero(ids.numpy() == IMAGE):
            # The placeholder's own sequence: its ancestors, whose number of placeholders of this image is its place.
            picture, place = next(given_to)
            seen = [c for c in np.flatnonzero(row.mask[column]) if row.image_of[c] >= 0]
            run = [row.pictures[row.image_of[c]].digest for c in seen]
            assert run[-1] == PICTURES[picture].digest
            alone = [c for c in seen if row.pictures[row.image_of[c]].digest == run[-1]]
            assert place == (len(alone) - 1) % SIZES[picture], "outputs of an image are mixed up"
    assert next(given_to, None) is None


@given(samples=encoded_samples())
def test_a_row_depends_on_its_samples_not_on_their_order_or_repetition(samples):
    row, twice = pack(samples), pack([*samples, *samples])
    assert np.array_equal(row.ids, twice.ids), "repeated samples are not shared"
    assert np.array_equal(row.mask, twice.mask)
    turned = pack(samples[::-1])
    assert sorted(turned.ids.tolist()) == sorted(row.ids.tolist())
    assert sorted(turned.mask.sum(1).tolist()) == sorted(row.mask.sum(1).tolist())


def test_worlds_of_the_fixtures_can_be_told_apart(windows):
    """The tests above rest on windows that show different boards."""
    for world, found in windows.items():
        assert len(found) == 6
        assert len({simulator(world).facts(w.snapshots[0]) for w in found}) == 6, f"{world}: windows repeat"


@pytest.mark.parametrize("stray", [PICTURES[0].pixels, PICTURES[1].pixels])
def test_pictures_are_equal_exactly_where_pixels_are(stray):
    assert Picture.of(stray.copy()).digest == Picture.of(stray).digest
    assert Picture.of(stray + 1).digest != Picture.of(stray).digest
    flat, tall = np.zeros((1, 4, 3), np.uint8), np.zeros((4, 1, 3), np.uint8)
    assert Picture.of(flat).digest != Picture.of(tall).digest, "the shape is part of an image"
