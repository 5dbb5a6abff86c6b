"""Prompts: the only place that knows chat templates.

A sample becomes the tokens of its prompt (images as placeholders) and the tokens of its answer; only the latter are
trained. Images come first, so that clozes about the same images share a prefix. Free conversations, with images of any
sizes, become prompts the same way. Conversations of several turns are joined from tokens, so that what a model wrote
is never written anew.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vagen.cloze.build import describe_notation
from vagen.cloze.sample import Sample
from vagen.data.examples import Example
from vagen.data.stream import recall, remember
from vagen.policy.policy import ModelError, Policy, best_device, load
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

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(images,) how many placeholders each image has."""
        return np.bincount(self.image_of[self.image_of >= 0])

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """(L,) which of its image's placeholders each one is, whatever stands between them; 0 elsewhere."""
        places = np.zeros(len(self.image_of), dtype=np.int64)
        for image, size in enumerate(self.sizes):
            places[self.image_of == image] = np.arange(size)
        return places


@dataclass(frozen=True)
class Encoded:
    """A sample as tokens: ``prompt``, then ``answer`` (A,) which ends with the token that ends a turn."""

    prompt: Prompt
    answer: NDArray[np.int64]
    pictures: tuple[Picture, ...]


_BLANK = Picture.of(np.zeros((64, 64, 3), np.uint8))


class Chat:
    """Turns samples into tokens for one policy. Keeps recent prompts, which repeat a lot."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.tokenizer = policy.processor.tokenizer
        self.image_token = int(_image_token(policy))
        self.pad: int = self.tokenizer.pad_token_id or 0
        self.end_tokens = _end_tokens(policy)
        self._prompts: OrderedDict[tuple, Prompt] = OrderedDict()
        self._heads: OrderedDict[tuple, Prompt] = OrderedDict()
        self._answers: OrderedDict[str, NDArray[np.int64]] = OrderedDict()
        self._placeholders: dict[tuple[int, int], int] = {}

    def messages(self, sample: Sample, answer: str | None = None) -> list[dict[str, Any]]:
        """The conversation of a sample in the form of ``transformers`` chat templates."""
        return conversation(sample, self.policy.format.explain, answer)

    def encode(self, sample: Sample | Example, pictures: Sequence[Picture]) -> Encoded:
        """The tokens of a sample whose images are ``pictures``, in order."""
        prompt = self.ask(sample.question, pictures) if isinstance(sample, Example) else self.prompt(sample, pictures)
        return Encoded(prompt, self.answer_tokens(sample.answer), tuple(pictures))

    def read_ahead(self, samples: Sequence[tuple[Sample, Sequence[Picture]]]) -> None:
        """Read those prompts with images that are not known yet all at once, which takes less time than one by one."""
        new = {key: pair for pair in samples if pair[1] and (key := self._key(*pair)) not in self._prompts}
        if not new or not self._reads_in_parts:
            return
        texts = self._render_all([self.messages(sample) for sample, _ in new.values()])
        parts = [text.rpartition(self._image_mark) for text in texts]
        tails = self.tokenizer([tail for _, _, tail in parts], add_special_tokens=False)["input_ids"]
        for (key, (_, pictures)), (head, mark, _), ids in zip(new.items(), parts, tails, strict=True):
            prompt = _read_on(self._head(head + mark, pictures, continues=False), ids)
            remember(self._prompts, key, prompt, PROMPTS_KEPT)

    def prompt(self, sample: Sample, pictures: Sequence[Picture]) -> Prompt:
        """The tokens of a sample's prompt, up to where the answer begins."""
        return recall(
            self._prompts,
            self._key(sample, pictures),
            lambda: self._make_prompt(self._render(self.messages(sample)), pictures),
            PROMPTS_KEPT,
        )

    def _key(self, sample: Sample, pictures: Sequence[Picture]) -> tuple:
        """What decides a sample's prompt."""
        key: tuple = (sample.question, _shapes(pictures))
        return (*key, sample.window.world, sample.representation) if self.policy.format.explain else key

    def forget(self) -> None:
        """Forget the prompts of samples, so that those that repeat in a measurement are read again."""
        self._prompts.clear()

    def ask(self, question: str, pictures: Sequence[Picture]) -> Prompt:
        """The tokens of a conversation that shows images of any sizes and asks a free question about them.

        Raises:
            ModelError: the question contains what stands for an image.
        """
        self._check_no_image(question)
        key = (None, question, _shapes(pictures))
        messages = [_message("user", question, len(pictures))]
        return recall(self._prompts, key, lambda: self._make_prompt(self._render(messages), pictures), PROMPTS_KEPT)

    def opening(self, system: str, text: str, pictures: Sequence[Picture]) -> Prompt:
        """The tokens of a conversation's beginning, up to where the model's first turn begins.

        Args:
            system: the system message; "" for none.
            text: what the user says after showing the pictures.

        Raises:
            ModelError: a text contains what stands for an image.
        """
        self._check_no_image(system, text)
        key = ("opening", system, text, _shapes(pictures))
        return recall(self._prompts, key, lambda: self._make_opening(system, text, pictures), PROMPTS_KEPT)

    def follow_up(self, text: str, pictures: Sequence[Picture]) -> Prompt:
        """The tokens from the end of one turn of the model's to the beginning of its next, with the user's in between.

        The first one is the mark that ends a turn, which the model usually wrote itself; see :func:`join`.

        Raises:
            ModelError: the text contains what stands for an image, or the template knows no further turns.
        """
        self._check_no_image(text)
        key = ("follow up", text, _shapes(pictures))
        return recall(self._prompts, key, lambda: self._make_follow_up(text, pictures), PROMPTS_KEPT)

    @cached_property
    def banned(self) -> tuple[int, ...]:
        """Tokens that a model must not write: those that stand for images and videos, or mark where they are."""
        marks = ("video_token_id", "vision_start_token_id", "vision_end_token_id")
        config = self.policy.model.config
        named = {token for mark in marks if (token := getattr(config, mark, None)) is not None}
        shown = set(self.opening("", "?", [_BLANK]).ids.tolist())
        around = (shown - set(self.opening("", "?", []).ids.tolist())) & set(self.tokenizer.added_tokens_decoder)
        return tuple(sorted({self.image_token, *named, *around} - self.end_tokens))

    def unexpanded(self, prompt: Prompt) -> NDArray[np.int64]:
        """The tokens of a prompt with one placeholder for each image, for engines that expand them themselves.

        Raises:
            ModelError: the processor puts more in an image's place than its placeholder repeated.
        """
        if not self._only_repeats:
            raise ModelError(f"{self.policy.name} marks images by more than a repeated placeholder")
        return _once_per_image(prompt)

    def transcript(self, ids: Sequence[int]) -> str:
        """Sampled tokens as text, every mark among them included, but without the end of the turn."""
        kept = list(ids[:-1]) if len(ids) and ids[-1] in self.end_tokens else list(ids)
        return self.tokenizer.decode(kept, skip_special_tokens=False)

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
        return self._render_all([messages])[0]

    def _render_all(self, conversations: list[list[dict[str, Any]]]) -> list[str]:
        """Conversations as text, which all end with the user or all with the model."""
        return self.policy.processor.apply_chat_template(
            conversations, tokenize=False, add_generation_prompt=conversations[0][-1]["role"] == "user"
        )

    def _check_no_image(self, *texts: str) -> None:
        if any(self._image_mark in text for text in texts):
            raise ModelError(f"a question contains {self._image_mark!r}, which {self.policy.name} takes for an image")

    @cached_property
    def _image_mark(self) -> str:
        """What stands for an image in a rendered conversation."""
        return str(self.tokenizer.convert_ids_to_tokens(self.image_token))

    @cached_property
    def _only_repeats(self) -> bool:
        """Whether expanding a prompt does nothing but repeat the placeholders."""
        text = self._render([_message("user", "?", 1)])
        written = self.tokenizer(text, add_special_tokens=not self._begins(text))["input_ids"]
        return _once_per_image(self.opening("", "?", [_BLANK])).tolist() == written

    def _make_opening(self, system: str, text: str, pictures: Sequence[Picture]) -> Prompt:
        messages = [_message("system", system)] if system else []
        return self._make_prompt(self._render([*messages, _message("user", text, len(pictures))]), pictures)

    def _make_follow_up(self, text: str, pictures: Sequence[Picture]) -> Prompt:
        before, whole = self._turn("answer", [_message("user", text, len(pictures))])
        after = whole[whole.index("answer", len(before)) + len("answer") :].lstrip()
        marks = [str(self.tokenizer.convert_ids_to_tokens(token)) for token in sorted(self.end_tokens)]
        if not after.startswith(tuple(marks)):  # templates such as LLaVA's write no mark: the model still does
            after = self._end_mark() + after
        prompt = self._make_prompt(after, pictures, continues=True)
        if prompt.ids[0] not in self.end_tokens:
            raise ModelError(f"the tokenizer of {self.policy.name} does not read {after[:20]!r} as the end of a turn")
        return prompt

    def _make_prompt(self, text: str, pictures: Sequence[Picture], continues: bool = False) -> Prompt:
        """The tokens of a rendered conversation, or of one that continues another.

        What it has up to its last image is read once for all conversations that begin so with images of these sizes:
        the processor takes much longer for images, of which it needs nothing but their sizes, than for text.
        """
        head, mark, tail = text.rpartition(self._image_mark)
        if not (mark and self._reads_in_parts):
            return self._read(text, pictures, continues)
        return _read_on(self._head(head + mark, pictures, continues), self._tokens(tail))

    def _head(self, text: str, pictures: Sequence[Picture], continues: bool) -> Prompt:
        """What conversations begin with, up to their last image."""
        key = (text, continues, _shapes(pictures))
        return recall(self._heads, key, lambda: self._read(text, pictures, continues), PROMPTS_KEPT)

    def _tokens(self, text: str) -> list[int]:
        """Of text that other text stands before."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @cached_property
    def _reads_in_parts(self) -> bool:
        """Whether the text after an image gives the same tokens wherever it stands; not all tokenizers do that."""
        for question in ("?", " ?"):
            text = self._render([_message("user", question, 1)])
            head, mark, tail = text.rpartition(self._image_mark)
            parts = _read_on(self._read(head + mark, [_BLANK]), self._tokens(tail)) if mark else None
            whole = self._read(text, [_BLANK])
            if parts is None or not all(
                np.array_equal(*pair) for pair in zip(_arrays(parts), _arrays(whole), strict=True)
            ):
                return False
        return True

    def _read(self, text: str, pictures: Sequence[Picture], continues: bool = False) -> Prompt:
        """The tokens of a text with images, by the processor.

        A beginning-of-sequence token is put before a conversation that has none.
        """
        images = [Image.fromarray(picture.pixels) for picture in pictures]
        inputs = self.policy.processor(
            text=[text],
            images=[images] if images else None,
            return_tensors="pt",
            return_mm_token_type_ids=True,
            add_special_tokens=not (continues or self._begins(text)),
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
        # Templates such as LLaVA's write no mark after a turn; their models learned to end with the tokenizer's.
        end = self.tokenizer.convert_tokens_to_ids(self._end_mark())
        return np.asarray([*self._continuation(before, whole.rstrip()), end], dtype=np.int64)

    def _end_mark(self) -> str:
        if self.tokenizer.eos_token is None:
            raise ModelError(f"{self.policy.name} has no end-of-sequence token: its answers would never end")
        return self.tokenizer.eos_token

    def _turn(self, answer: str, then: Sequence[dict[str, Any]] = ()) -> tuple[str, str]:
        """A short conversation up to where the answer begins, and with it and what comes then."""
        question = _message("user", "?")
        before, whole = self._render([question]), self._render([question, _message("assistant", answer), *then])
        if not whole.startswith(before):
            raise ModelError(f"the chat template of {self.policy.name} rewrites the prompt once it is answered")
        return before, whole

    def _continuation(self, before: str, whole: str) -> list[int]:
        """The tokens of ``whole`` after those of its beginning; alone, the first word may be spelt otherwise."""
        first, ids = self._tokens(before), self._tokens(whole)
        return ids[len(first) :] if ids[: len(first)] == first else self._tokens(whole[len(before) :])

    def _begins(self, text: str) -> bool:
        """Whether a rendered conversation opens with the beginning-of-sequence token, so that none is to be added."""
        bos = self.tokenizer.bos_token
        return bos is not None and text.startswith(bos)


def open_chat(model: str) -> Chat:
    """A policy, a folder or an id of the Hub, on the best device there is, to be asked."""
    policy = load(model)
    policy.model.to(best_device())
    return Chat(policy)


def conversation(sample: Sample, explain: bool, answer: str | None = None) -> list[dict[str, Any]]:
    """A sample in the form of ``transformers`` chat templates: the images, the question, and the answer if given.

    Args:
        explain: put the world's rules and the notation into a system message.
    """
    messages = [_message("user", sample.question, len(sample.images))]
    if explain:
        system = f"{sample.world.rules} {describe_notation(sample.world, sample.representation)}"
        messages.insert(0, _message("system", system))
    if answer is not None:
        messages.append(_message("assistant", answer))
    return messages


def join(prompt: Prompt, response: NDArray[np.int64], follow_up: Prompt, ended: bool) -> Prompt:
    """The prompt of a conversation's next turn: exactly the tokens that were read and written, and what follows.

    Args:
        response: (A,) the tokens written after ``prompt``.
        follow_up: of :meth:`Chat.follow_up`; its images come after those of ``prompt``.
        ended: whether the response's last token is the mark that ends a turn; else it gets that of ``follow_up``.
    """
    rest = slice(1 if ended else 0, None)
    begun = int(prompt.positions.max()) + 1  # the position of the response's first token
    written = np.broadcast_to(np.arange(begun, begun + len(response)), (len(prompt.positions), len(response)))
    follows = follow_up.positions[:, rest] - int(follow_up.positions[0, rest][0]) + begun + len(response)
    seen = int(prompt.image_of.max(initial=-1)) + 1
    images = np.where(follow_up.image_of >= 0, follow_up.image_of + seen, -1)[rest]
    return Prompt(
        np.concatenate([prompt.ids, response, follow_up.ids[rest]]),
        np.concatenate([prompt.positions, written, follows], axis=1),
        np.concatenate([prompt.image_of, np.full(len(response), -1, dtype=np.int64), images]),
    )


def _read_on(head: Prompt, tokens: Sequence[int]) -> Prompt:
    """A prompt with more text behind it."""
    ids = np.asarray(tokens, dtype=np.int64)
    after = int(head.positions.max()) + 1 + np.broadcast_to(np.arange(len(ids)), (len(head.positions), len(ids)))
    return Prompt(
        np.concatenate([head.ids, ids]),
        np.concatenate([head.positions, after], axis=1),
        np.concatenate([head.image_of, np.full(len(ids), -1, dtype=np.int64)]),
    )


def told_apart(prompt: Prompt, pictures: Sequence[Picture]) -> NDArray[np.int64]:
    """(L,) numbers that are equal where tokens are, and where placeholders stand for the same image."""
    shown = prompt.image_of >= 0
    numbers = np.array([-1 - int.from_bytes(picture.digest[:7], "big") for picture in pictures], np.int64)
    keys = prompt.ids.copy()
    keys[shown] = numbers[prompt.image_of[shown]]
    return keys


def common_start(one: NDArray[Any], other: NDArray[Any]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length


def _message(role: str, text: str, images: int = 0) -> dict[str, Any]:
    """A message in the form of chat templates, its images first."""
    return {"role": role, "content": [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]}


def _arrays(prompt: Prompt) -> tuple[NDArray[np.int64], ...]:
    return prompt.ids, prompt.positions, prompt.image_of


def _once_per_image(prompt: Prompt) -> NDArray[np.int64]:
    before = np.concatenate([[-1], prompt.image_of[:-1]])
    return prompt.ids[(prompt.image_of < 0) | (prompt.image_of != before)]


def _shapes(pictures: Sequence[Picture]) -> tuple[tuple[int, ...], ...]:
    return tuple(picture.pixels.shape for picture in pictures)


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
