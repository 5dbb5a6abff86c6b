"""The tiny default policies: real ``transformers`` architectures with random weights, sized for two CPU cores.

What makes a model this small learn (initial weights, rotary base, whole-word tokens) is explained where it is set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from vagen.cloze.sample import IMPOSSIBLE, LABELS, NO, YES
from vagen.config import Tiny
from vagen.policy.processors import Qwen2_5_VLProcessor, Qwen3VLProcessor
from worlds import make

PAD, END, USER, ASSISTANT, SYSTEM = "<pad>", "<end_of_utterance>", "<|user|>", "<|assistant|>", "<|system|>"
CONTEXT = 4096  # longest sequence in tokens

# A word with the space and the marks before it (glyphs such as ">G" are one), a single digit (numbers are never
# merged), a run of marks, or a single white space.
_PIECES = r" ?[^\sA-Za-z0-9]*[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s"

_QUESTION_WORDS = (
    "state",
    "action",
    "best",
    "reward",
    "end",
    "steps",
    "image",
    "images",
    "order",
    "mission",
    "holding",
)

_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] != 'user' %}<end_of_utterance>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _template(config: Tiny, image: str) -> str:
    """The chat template, with what stands for an image.

    Numbers are written as in "image 2", with the space before them: the same token, to be found by it.
    """
    return _TEMPLATE.replace("IMAGE", f" {{{{ loop.index }}}}{image}" if config.number_images else image)


def build(config: Tiny, worlds: Iterable[str], seed: int, more_words: Iterable[str] = ()) -> tuple[Any, Any]:
    """A tiny model and its processor, whose tokenizer knows the words of ``worlds`` as whole tokens.

    Deterministic by ``seed``.

    Args:
        more_words: other words that are to be whole tokens, as far as the vocabulary has room.
    """
    make_model = {"idefics3": _idefics3, "llava": _llava, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}[
        config.architecture
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known = dict.fromkeys([*words(worlds), *config.words, *more_words])
        model, processor = make_model(config, list(known))
        _spread_positions(model, config.position_std)
    # Greedy by default; the model says itself where answers end.
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = processor.tokenizer.convert_tokens_to_ids(END)
    model.generation_config.pad_token_id = processor.tokenizer.convert_tokens_to_ids(PAD)
    return model, processor


def _spread_positions(model: PreTrainedModel, std: float) -> None:
    """Draw the vision tower's position embeddings anew, wider.

    Patch embeddings sum over all pixels of a patch and come out an order of magnitude larger than positions drawn with
    the same deviation; evened out, the model learns where things are in a fraction of the steps.
    """
    for name, embedding in model.named_modules():
        if isinstance(embedding, torch.nn.Embedding) and name.endswith(("position_embedding", "pos_embed")):
            torch.nn.init.normal_(embedding.weight, std=std)


def words(worlds: Iterable[str]) -> list[str]:
    """Everything clozes about ``worlds`` are written with, in a fixed order."""
    found: dict[str, None] = dict.fromkeys([*"0123456789", *_QUESTION_WORDS, *":?.,;'", YES, NO, IMPOSSIBLE, *LABELS])
    for world in map(make, worlds):
        found |= dict.fromkeys(word for action in world.actions for word in action.split())
        found |= dict.fromkeys(world.schema.glyphs.values())
        for kind, details in world.schema.kinds.items():
            found |= dict.fromkeys([kind, *(word for detail in details for word in detail.split())])
    return list(found)


def tokenizer(vocabulary: Iterable[str], special: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that writes any text and has each word of ``vocabulary`` as one token.

    A word gets a token for its form after a space and for its form at the start of a line.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys([PAD, END, USER, ASSISTANT, SYSTEM, *special]))
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([f"{word}\n {word}" for word in vocabulary], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=special[2:],
        padding_side="left",
        model_max_length=CONTEXT,
    )
    fast.clean_up_tokenization_spaces = False
    return fast


def _text_config(config: Tiny, tokens: PreTrainedTokenizerFast) -> dict[str, Any]:
    heads = config.hidden_size // config.head_size
    return {
        "vocab_size": len(tokens),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.expansion * config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": config.head_size,
        "initializer_range": config.init_std,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokens.eos_token_id,
        "tie_word_embeddings": False,
    }


def _idefics3(config: Tiny, vocabulary: list[str]) -> tuple[Any, Any]:
    image = "<image>"
    tokens = tokenizer(vocabulary, ["<fake_token_around_image>", "<global-img>", image], config.vocabulary)
    size = {"longest_edge": config.image_size}
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(do_image_splitting=False, size=size, max_image_size=size),
        tokens,
        image_seq_len=(config.image_size // config.patch_size // config.merge) ** 2,
        chat_template=_template(config, image),
    )
    model = Idefics3ForConditionalGeneration(
        Idefics3Config(
            image_token_id=tokens.convert_tokens_to_ids(image),
            scale_factor=config.merge,
            tie_word_embeddings=False,
            initializer_range=config.init_std,  # pyright: ignore[reportCallIssue]
            text_config={**_text_config(config, tokens), "model_type": "llama", "rope_parameters": _rope(config)},
            vision_config=_tower_config(config),
        )
    )
    return model, processor


def _tower_config(config: Tiny) -> dict[str, Any]:
    """A vision tower of SigLIP's and CLIP's kind."""
    return {
        "hidden_size": config.vision_hidden_size,
        "intermediate_size": 2 * config.vision_hidden_size,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_hidden_size // config.head_size,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "initializer_range": config.init_std,
    }


def _llava(config: Tiny, vocabulary: list[str]) -> tuple[Any, Any]:
    image = "<image>"
    tokens = tokenizer(vocabulary, [image], config.vocabulary)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(
            size={"shortest_edge": config.image_size},
            crop_size={"height": config.image_size, "width": config.image_size},
        ),
        tokens,
        patch_size=config.patch_size,
        vision_feature_select_strategy="default",  # which leaves out CLIP's class token ...
        num_additional_image_tokens=1,  # ... and expects it to be counted
        chat_template=_template(config, image),
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            image_token_index=tokens.convert_tokens_to_ids(image),
            image_seq_length=(config.image_size // config.patch_size) ** 2,
            vision_feature_layer=-1,
            tie_word_embeddings=False,
            initializer_range=config.init_std,  # pyright: ignore[reportCallIssue]
            text_config={**_text_config(config, tokens), "model_type": "llama", "rope_parameters": _rope(config)},
            vision_config={**_tower_config(config), "model_type": "clip_vision_model"},
        )
    )
    return model, processor


def _qwen_tokenizer(config: Tiny, vocabulary: list[str]) -> tuple[PreTrainedTokenizerFast, dict[str, int], str]:
    """A tokenizer with Qwen's marks, their ids by the names that configurations give them, and an image's marks."""
    start, image, end, video = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"
    tokens = tokenizer(vocabulary, [start, image, end, video], config.vocabulary)
    names = ("vision_start_token_id", "image_token_id", "vision_end_token_id", "video_token_id")
    marks = (start, image, end, video)
    ids = {name: int(tokens.vocab[mark]) for name, mark in zip(names, marks, strict=True)}
    return tokens, ids, start + image + end


def _qwen_images(config: Tiny) -> Qwen2VLImageProcessorPil:
    pixels = config.image_size**2
    return Qwen2VLImageProcessorPil(
        patch_size=config.patch_size,
        merge_size=config.merge,
        temporal_patch_size=2,
        size={"shortest_edge": pixels, "longest_edge": pixels},
    )


def _rope(config: Tiny, sections: bool = False) -> dict[str, Any]:
    """Rotary positions; with sections, half of the pairs for time, a quarter each for height and width."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if sections:
        quarter = config.head_size // 8
        rope["mrope_section"] = [2 * quarter, quarter, quarter]
    return rope


def _qwen_vision(config: Tiny) -> dict[str, Any]:
    return {
        "depth": config.vision_layers,
        "hidden_size": config.vision_hidden_size,
        "intermediate_size": 2 * config.vision_hidden_size,
        "num_heads": config.vision_hidden_size // config.head_size,
        "patch_size": config.patch_size,
        "spatial_merge_size": config.merge,
        "temporal_patch_size": 2,
        "out_hidden_size": config.hidden_size,
        "initializer_range": config.init_std,
    }


def _qwen2_5_vl(config: Tiny, vocabulary: list[str]) -> tuple[Any, Any]:
    tokens, ids, marks = _qwen_tokenizer(config, vocabulary)
    processor = Qwen2_5_VLProcessor(_qwen_images(config), tokens, chat_template=_template(config, marks))
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            **ids,
            tie_word_embeddings=False,
            initializer_range=config.init_std,  # pyright: ignore[reportCallIssue]
            text_config={**_text_config(config, tokens), "rope_parameters": _rope(config, sections=True)},
            vision_config={
                **_qwen_vision(config),
                "window_size": 2 * config.patch_size * config.merge,
                "fullatt_block_indexes": [config.vision_layers - 1],
            },
        )
    )
    return model, processor


def _qwen3_vl(config: Tiny, vocabulary: list[str]) -> tuple[Any, Any]:
    tokens, ids, marks = _qwen_tokenizer(config, vocabulary)
    processor = Qwen3VLProcessor(_qwen_images(config), tokens, chat_template=_template(config, marks))
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            **ids,
            tie_word_embeddings=False,
            initializer_range=config.init_std,  # pyright: ignore[reportCallIssue]
            text_config={**_text_config(config, tokens), "rope_parameters": _rope(config, sections=True)},
            vision_config={
                **_qwen_vision(config),
                "num_position_embeddings": (config.image_size // config.patch_size) ** 2,
                "deepstack_visual_indexes": [0],
            },
        )
    )
    return model, processor
