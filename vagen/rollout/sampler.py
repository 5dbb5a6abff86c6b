"""Episodes of a model, many side by side: a plain sampler that reads its whole prompt again in every turn.

Tokens that were sampled are kept as they are and never written anew. An episode is a function of the policy, the seed
of its world and its number in its group alone, not of what is played beside it. Knows nothing about rewards other than
the world's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList, SuppressTokensLogitsProcessor

from vagen.cloze.build import describe_notation
from vagen.config import Rollouts
from vagen.data.frames import frame_hash
from vagen.data.shards import provenance
from vagen.mdp import Trajectory
from vagen.policy.chat import Chat, Picture, Prompt
from vagen.policy.generate import Answer, _answer, _inputs, _LogProbs
from vagen.rollout.responses import Response, describe_format, read_response
from vagen.rollout.turns import Rollout, Turn
from worlds import Frame, Snapshot, Split, World, make
from worlds.text import read_actions

Asked = tuple[Prompt, Sequence[Picture]]


@dataclass(frozen=True)
class Context:
    """What came before a turn, as tokens; the next turn's prompt begins with it where turns are one conversation."""

    ids: NDArray[np.int64]
    pictures: tuple[Picture, ...]


class Prompts:
    """Turns of one policy about one world, as tokens."""

    def __init__(self, chat: Chat, world: World, settings: Rollouts):
        self.chat, self.world, self.settings = chat, world, settings
        self._end = min(chat.end_tokens & {chat.tokenizer.eos_token_id} or chat.end_tokens)
        self._opening = self._rendered([*self._system(), self._user()])
        self._bridge = self._between()
        self._tokens: dict[tuple[str, tuple[int, ...]], NDArray[np.int64]] = {}  # of a text with an image of a shape

    def prompt(self, frame: Frame, before: Context | None) -> Asked:
        """The prompt of a turn in which ``frame`` is seen."""
        picture = Picture.of(frame)
        if before is None or self.settings.context == "no_concat":
            ids, pictures = self._expanded(self._opening, frame), (picture,)
        else:
            ids = np.concatenate([before.ids, self._expanded(self._bridge, frame)])
            pictures = (*before.pictures, picture)
        image_of = self.chat._images_of(ids, [Image.fromarray(picture.pixels) for picture in pictures])
        inputs: Any = {}
        if hasattr(self.chat.policy.model.model, "get_rope_index"):
            inputs = self.chat.image_tensors(pictures)
        positions = self.chat._positions(torch.from_numpy(ids)[None], image_of, inputs).numpy()
        return Prompt(ids, positions, image_of), pictures

    def after(self, asked: Asked, response: NDArray[np.int64]) -> Context:
        """What the next turn begins with; the end of a turn that was cut is written for it, and not trained."""
        prompt, pictures = asked
        end = [] if int(response[-1]) in self.chat.end_tokens else [self._end]
        return Context(np.concatenate([prompt.ids, response, np.asarray(end, dtype=np.int64)]), tuple(pictures))

    def _system(self) -> list[dict[str, Any]]:
        if not self.chat.policy.format.explain:
            return []
        notation = describe_notation(self.world, self.chat.policy.format.representation)
        text = f"{self.world.rules} {notation} {describe_format(self.settings.strategy)}"
        return [{"role": "system", "content": [{"type": "text", "text": text}]}]

    @staticmethod
    def _user() -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image"}]}

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        return self.chat._render(messages)

    def _between(self) -> str:
        """What the template writes from the end of a response to where the next one begins."""
        question: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        reply = {"role": "assistant", "content": [{"type": "text", "text": "answer"}]}
        whole = self._rendered([question, reply, self._user()])
        end = self.chat.tokenizer.decode([self._end])
        start = whole.index("answer") + len("answer")
        return whole[whole.index(end, start) + len(end) :] if end in whole[start:] else whole[start:]

    def _expanded(self, text: str, frame: Frame) -> NDArray[np.int64]:
        key = (text, frame.shape)
        if key not in self._tokens:
            image = Image.fromarray(frame)
            inputs = self.chat.policy.processor(
                text=[text], images=[[image]], return_tensors="pt", add_special_tokens=False
            )
            self._tokens[key] = inputs["input_ids"][0].numpy()
        return self._tokens[key]


class Talk:
    """Turns about one world that somebody else played, as prompts."""

    def __init__(self, chat: Chat, world: World, settings: Rollouts):
        self._prompts = Prompts(chat, world, settings)
        self._context: Context | None = None
        self._asked: Asked | None = None

    def prompt(self, frame: Frame, snapshot: Snapshot) -> Asked:
        """The prompt of the next turn, in which ``frame`` is seen of a state."""
        self._asked = self._prompts.prompt(frame, self._context)
        return self._asked

    def respond(self, response: NDArray[np.int64]) -> None:
        """What was written in it."""
        assert self._asked is not None, "prompts come before responses"
        self._context = self._prompts.after(self._asked, response)


@dataclass
class _Playing:
    """One episode while it is played."""

    world: World
    prompts: Prompts
    seed: int
    group: int
    generator: np.random.Generator
    frame: Frame
    snapshots: list[Snapshot]
    success: bool
    hash: str
    noise_seeds: tuple[int, ...]
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    context: Context | None = None


def rollout(
    chat: Chat,
    world_id: str,
    seeds: Sequence[int],
    groups: Sequence[int],
    settings: Rollouts,
    split: Split = "train",
    temperature: float = 1.0,
) -> Iterator[Rollout]:
    """Play one episode per seed, and yield them in that order.

    Args:
        groups: the group of each episode; equal ones have equal seeds. Episodes of a group differ by their number in
            it.
        temperature: 0 for the most probable token.
    """
    members: dict[int, int] = {}
    numbers = []
    for group in groups:
        numbers.append(members.setdefault(group, 0))
        members[group] += 1
    versions = provenance(world_id)
    prompts = Prompts(chat, make(world_id), settings)
    worlds = [make(world_id) for _ in range(min(settings.batch, len(seeds)))]
    for start in range(0, len(seeds), settings.batch):
        stop = start + settings.batch
        chosen = zip(worlds, seeds[start:stop], groups[start:stop], numbers[start:stop], strict=False)
        episodes = [_begin(prompts, split, *one) for one in chosen]
        for _ in range(settings.turns):
            live = [episode for episode in episodes if not (episode.terminated or episode.truncated)]
            if live:
                _turn(chat, live, settings, temperature)
        for episode in episodes:
            yield Rollout(
                Trajectory(
                    world_id,
                    split,
                    episode.seed,
                    chat.policy.name,
                    tuple(episode.snapshots),
                    tuple(episode.actions),
                    tuple(episode.rewards),
                    episode.terminated,
                    not episode.terminated,
                    episode.success,
                    episode.hash,
                    versions,
                    episode.noise_seeds,
                ),
                episode.group,
                tuple(episode.turns),
            )


def _begin(prompts: Prompts, split: Split, world: World, seed: int, group: int, number: int) -> _Playing:
    frame, info = world.reset(seed=seed, options={"split": split})
    return _Playing(
        world=world,
        prompts=prompts,
        seed=seed,
        group=group,
        generator=np.random.default_rng([seed, number, 2]),
        frame=frame,
        snapshots=[world.state().snapshot],
        success=bool(info["success"]),
        hash=frame_hash(frame),
        noise_seeds=world.noise_seeds,
    )


def _turn(chat: Chat, live: Sequence[_Playing], settings: Rollouts, temperature: float) -> None:
    asked = [episode.prompts.prompt(episode.frame, episode.context) for episode in live]
    answers = sample(chat, asked, [episode.generator for episode in live], settings.tokens, temperature)
    for episode, own, answer in zip(live, asked, answers, strict=True):
        parsed = read_response(answer.text, settings.strategy)
        actions, steps, paid = _act(episode, parsed, settings.actions)
        cut = int(answer.tokens[-1]) not in chat.end_tokens
        episode.turns.append(
            Turn(*own, answer.tokens, answer.log_probs, answer.text, parsed, actions, steps, paid, cut)  # type: ignore[arg-type]
        )
        episode.context = episode.prompts.after(own, answer.tokens)


def _act(episode: _Playing, parsed: Response | None, most: int) -> tuple[tuple[int, ...], int, float]:
    """Carry out a response's actions; returns those that were, the steps before them, and what they earned."""
    steps, paid = len(episode.actions), 0.0
    actions = None if parsed is None else read_actions(parsed.answer, episode.world.actions)
    for action in (actions or ())[:most]:
        if episode.terminated or episode.truncated:
            break
        episode.frame, reward, terminated, truncated, info = episode.world.step(action)  # type: ignore[arg-type]
        episode.actions.append(action)
        episode.rewards.append(float(reward))
        episode.snapshots.append(episode.world.state().snapshot)
        episode.terminated, episode.success = bool(terminated), bool(info["success"])
        episode.truncated = not terminated and bool(truncated)
        paid += float(reward)
    return tuple(episode.actions[steps:]), steps, paid


@torch.inference_mode()
def sample(
    chat: Chat,
    prompts: Sequence[Asked],
    generators: Sequence[np.random.Generator],
    most: int,
    temperature: float = 1.0,
) -> list[Answer]:
    """A response to each prompt, with the log-probability of each token at temperature 1 over the whole vocabulary."""
    model = chat.policy.model
    was_training = model.training
    model.eval()
    inputs = _inputs(chat, prompts)
    length = inputs["input_ids"].shape[1]
    recorder = _LogProbs()
    processors: list[LogitsProcessor] = [
        recorder,
        SuppressTokensLogitsProcessor([chat.image_token], device=str(chat.policy.device)),
    ]
    if temperature:
        processors.append(_Gumbel(generators, temperature))
    output = model.generate(
        **inputs,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=most,
        eos_token_id=sorted(chat.end_tokens),
        pad_token_id=chat.tokenizer.pad_token_id or 0,
        logits_processor=LogitsProcessorList(processors),
    )
    model.train(was_training)
    tokens, log_probs = output[:, length:].cpu().numpy(), recorder.finish(output)
    return [_answer(chat, row, logs) for row, logs in zip(tokens, log_probs, strict=True)]


class _Gumbel(LogitsProcessor):
    """Makes the largest logit a sample of the distribution (Gumbel 1954), each row by its own generator."""

    def __init__(self, generators: Sequence[np.random.Generator], temperature: float):
        self._generators, self._temperature = generators, temperature

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        noise = np.stack([generator.gumbel(size=scores.shape[1]) for generator in self._generators])
        return scores.float() / self._temperature + torch.from_numpy(noise).to(scores.device)  # type: ignore[return-value]
