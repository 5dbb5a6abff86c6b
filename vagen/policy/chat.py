"""Prompts: the only place that knows chat templates.

A sample becomes the tokens of its prompt (images as placeholders) and the tokens of its answer; only the latter are
trained. Images come first, so that clozes about the same images share a prefix. Free conversations, with images of any
sizes, become prompts the same way.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vagen.cloze.build import describe_notation
from vagen.cloze.sample import Sample
from vagen.data.examples import Example
from vagen.data.stream import recall
from vagen.policy.policy import ModelError, Policy
from worlds import Frame

PROMPTS_KEPT, ANSWERS_KEPT = 8192, 65536


@dataclass(frozen=True)
class Picture:
    """An image with a digest of its pixels: equal digests are equal images."""

    pixels: Frame
    digest: bytes

    @classmethod
    def of(cls, pixels: Frame) -> Picture:
        return cls(pixels, hashlib.blake2b(pixels.tobytes(), digest_size=12, key=str(pixels.shape).encode()).digest())


@dataclass(frozen=True)
class Prompt:
    """The tokens of a prompt.

    Attributes:
        ids: (L,) token ids, each image expanded to its placeholders.
        positions: (P, L) position ids; P is 1, or 3 for models with multimodal rotary positions.
        image_of: (L,) which image (0, 1, …) a placeholder stands for, -1 elsewhere.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    image_of: NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """A sample as tokens: ``prompt``, then ``answer`` (A,) which ends with the token that ends a turn."""

    prompt: Prompt
    answer: NDArray[np.int64]
    pictures: tuple[Picture, ...]


class Chat:
    """Turns samples into tokens for one policy. Keeps recent prompts, which repeat a lot."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.tokenizer = policy.processor.tokenizer
        self.image_token = int(_image_token(policy))
        self.end_tokens = _end_tokens(policy)
        self._prompts: OrderedDict[tuple, Prompt] = OrderedDict()
        self._answers: OrderedDict[str, NDArray[np.int64]] = OrderedDict()
        self._placeholders: dict[tuple[int, int], int] = {}

    def messages(self, sample: Sample, answer: str | None = None) -> list[dict[str, Any]]:
        """The conversation of a sample in the form of ``transformers`` chat templates."""
        return conversation(sample, self.policy.format.explain, answer)

    def encode(self, sample: Sample | Example, pictures: Sequence[Picture]) -> Encoded:
        """The tokens of a sample whose images are ``pictures``, in order."""
        prompt = self.ask(sample.question, pictures) if isinstance(sample, Example) else self.prompt(sample, pictures)
        return Encoded(prompt, self.answer_tokens(sample.answer), tuple(pictures))

    def prompt(self, sample: Sample, pictures: Sequence[Picture]) -> Prompt:
        """The tokens of a sample's prompt, up to where the answer begins."""
        shapes = tuple(picture.pixels.shape for picture in pictures)
        key: tuple = (sample.question, shapes)
        if self.policy.format.explain:
            key += (sample.window.world, sample.representation)
        return recall(
            self._prompts, key, lambda: self._make_prompt(self._render(self.messages(sample)), pictures), PROMPTS_KEPT
        )

    def ask(self, question: str, pictures: Sequence[Picture]) -> Prompt:
        """The tokens of a conversation that shows images of any sizes and asks a free question about them.

        Raises:
            ModelError: the question contains what stands for an image.
        """
        token = self.tokenizer.convert_ids_to_tokens(self.image_token)
        if token in question:
            raise ModelError(f"a question contains {token!r}, which {self.policy.name} takes for an image")
        content: list[dict[str, Any]] = [{"type": "image"} for _ in pictures]
        content.append({"type": "text", "text": question})
        messages = [{"role": "user", "content": content}]
        key = (None, question, tuple(picture.pixels.shape for picture in pictures))
        return recall(self._prompts, key, lambda: self._make_prompt(self._render(messages), pictures), PROMPTS_KEPT)

    def answer_tokens(self, answer: str) -> NDArray[np.int64]:
        """The tokens of an answer and of the end of its turn, exactly as generation would have to produce them."""
        return recall(self._answers, answer, lambda: self._make_answer(answer), ANSWERS_KEPT)

    def answer_lead(self) -> str:
        """What the template writes between the opening of the model's turn and its answer, such as a space."""
        before, whole = self._turn("answer")
        return whole[len(before) : whole.index("answer", len(before))]

    def decode(self, ids: Sequence[int]) -> str:
        """Generated tokens as text, up to the end of the turn."""
        kept = []
        for token in ids:
            if token in self.end_tokens:
                break
            kept.append(token)
        return self.tokenizer.decode(kept, skip_special_tokens=True).strip()

    def image_tensors(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """What the vision tower needs for ``pictures``, in the order of their placeholders."""
        if not pictures:
            return {}
        images = [Image.fromarray(picture.pixels) for picture in pictures]
        features = self.policy.processor.image_processor(images, return_tensors="pt")
        tensors = {name: features[name] for name in features if isinstance(features[name], torch.Tensor)}
        return {name: _as_one_row(name, tensor) for name, tensor in tensors.items()}

    def _render(self, messages: list[dict[str, Any]]) -> str:
        return self.policy.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=messages[-1]["role"] == "user"
        )

    def _make_prompt(self, text: str, pictures: Sequence[Picture]) -> Prompt:
        images = [Image.fromarray(picture.pixels) for picture in pictures]
        inputs = self.policy.processor(
            text=[text],
            images=[images] if images else None,
            return_tensors="pt",
            return_mm_token_type_ids=True,
            add_special_tokens=not self._begins(text),
        )
        ids = inputs["input_ids"]
        image_of = self._images_of(ids[0].numpy(), images)
        return Prompt(ids[0].numpy(), self._positions(ids, image_of, inputs).numpy(), image_of)

    def _images_of(self, ids: NDArray[np.int64], images: Sequence[Image.Image]) -> NDArray[np.int64]:
        """Which image each placeholder stands for."""
        places = np.flatnonzero(ids == self.image_token)
        if len({image.size for image in images}) > 1:
            counts = [self._placeholders_of(image.size) for image in images]
        else:
            counts = [len(places) // max(1, len(images))] * len(images)
        if sum(counts) != len(places):
            raise ModelError(f"{self.policy.name} makes {len(places)} placeholders of {len(images)} images")
        result = np.full(len(ids), -1, dtype=np.int64)
        result[places] = np.repeat(np.arange(len(images)), np.asarray(counts, dtype=np.int64))
        return result

    def _placeholders_of(self, size: tuple[int, int]) -> int:
        """How many placeholders an image of a size (width, height) gets; nothing else decides that."""
        if size not in self._placeholders:
            text = self._render([{"role": "user", "content": [{"type": "image"}]}])
            inputs = self.policy.processor(text=[text], images=[[Image.new("RGB", size)]], return_tensors="pt")
            self._placeholders[size] = int((inputs["input_ids"] == self.image_token).sum())
        return self._placeholders[size]

    def _positions(self, ids: torch.Tensor, image_of: NDArray[np.int64], inputs: Any) -> torch.Tensor:
        """Position ids (P, L) as the model itself would count them for this prompt alone."""
        base = self.policy.model.model
        if not hasattr(base, "get_rope_index"):
            return torch.arange(ids.shape[1])[None]
        types = torch.from_numpy((image_of >= 0).astype(np.int32))[None]
        positions, _ = base.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=inputs.get("image_grid_thw"))
        return positions[:, 0]

    def _make_answer(self, answer: str) -> NDArray[np.int64]:
        before, whole = self._turn(answer)
        ids = self._continuation(before, whole)
        ends = [place for place, token in enumerate(ids) if token in self.end_tokens]
        if ends:
            return np.asarray(ids[: ends[0] + 1], dtype=np.int64)
        if self.tokenizer.eos_token_id is None:
            raise ModelError(f"{self.policy.name} has no end-of-sequence token: its answers would never end")
        # Templates such as LLaVA's write no mark after a turn; their models learned to end with the tokenizer's.
        return np.asarray([*self._continuation(before, whole.rstrip()), self.tokenizer.eos_token_id], dtype=np.int64)

    def _turn(self, answer: str) -> tuple[str, str]:
        """A short conversation up to where the answer begins, and with it."""
        question: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        before, whole = self._render(question), self._render([*question, reply])
        if not whole.startswith(before):
            raise ModelError(f"the chat template of {self.policy.name} rewrites the prompt once it is answered")
        return before, whole

    def _continuation(self, before: str, whole: str) -> list[int]:
        """The tokens of ``whole`` after those of its beginning; alone, the first word may be spelt otherwise."""
        first, ids = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, whole))
        if ids[: len(first)] == first:
            return ids[len(first) :]
        return self.tokenizer(whole[len(before) :], add_special_tokens=False)["input_ids"]

    def _begins(self, text: str) -> bool:
        """Whether a rendered conversation opens with the beginning-of-sequence token, so that none is to be added."""
        bos = self.tokenizer.bos_token
        return bos is not None and text.startswith(bos)


def conversation(sample: Sample, explain: bool, answer: str | None = None) -> list[dict[str, Any]]:
    """A sample in the form of ``transformers`` chat templates: the images, the question, and the answer if given.

    Args:
        explain: put the world's rules and the notation into a system message.
    """
    content: list[dict[str, Any]] = [{"type": "image"} for _ in sample.images]
    content.append({"type": "text", "text": sample.question})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if explain:
        system = f"{sample.world.rules} {describe_notation(sample.world, sample.representation)}"
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def _as_one_row(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Image tensors that are batched per conversation, (B, n, …), as one conversation (1, B·n, …)."""
    batched = {"pixel_values": 5, "pixel_attention_mask": 4}
    return tensor.flatten(0, 1)[None] if tensor.ndim == batched.get(name) else tensor


def _image_token(policy: Policy) -> int:
    for place in (policy.model.config, policy.processor):
        for name in ("image_token_id", "image_token_index"):
            if (token := getattr(place, name, None)) is not None:
                return token
    raise ModelError(f"{policy.name} has no image token: it is no model that reads images")


def _end_tokens(policy: Policy) -> frozenset[int]:
    """Every token that ends a turn: the tokenizer's end of sequence and those of the generation config."""
    generation = policy.model.generation_config
    listed = generation.eos_token_id if generation is not None else None
    tokens = listed if isinstance(listed, list) else [listed]
    return frozenset(t for t in [*tokens, policy.processor.tokenizer.eos_token_id] if t is not None)
