"""What reinforcement without episodes plays: answers to clozes or to questions about images, as episodes of one turn.

An answer earns what exact scoring says of it: clozes by the simulator, questions by their truth, in form, letter and
cognitive map. Clozes about transitions may be paid by the policy itself instead: a state by how likely the policy
finds the action that led there, an action by how likely it finds what followed. All is a function of the
configuration, the step and the policy, as in :mod:`vagen.train.playing`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from vagen.cloze.opposite import opposite
from vagen.cloze.sample import Sample
from vagen.cloze.scoring import score
from vagen.config import Config, ConfigError, Rl
from vagen.data.examples import SOURCE, Example, spread
from vagen.data.places import DataError
from vagen.data.questions import QuestionStream, read_file
from vagen.data.stream import Group
from vagen.mdp import Trajectory
from vagen.mindcube.outputs import Worth, worth
from vagen.mindcube.prompts import TASKS, Task
from vagen.policy.batches import encode_all
from vagen.policy.chat import Chat
from vagen.policy.generate import generate
from vagen.policy.likelihood import log_probabilities
from vagen.rl.rewards import RewardWeights, TurnReward, answer_reward
from vagen.rollout.engine import respond
from vagen.rollout.responses import Response
from vagen.rollout.sampling import Sampling
from vagen.rollout.turns import Rollout, Turn
from vagen.train.experience import Episode, reward_weights
from vagen.train.playing import Pool, sampler

T = TypeVar("T", Sample, Example)


@dataclass(frozen=True)
class Verdict:
    """What an answer came to.

    Attributes:
        about: the window or scene that was asked about, with its success.
        formed: the answer has the form that was asked for.
        earned: its reward.
    """

    about: Trajectory
    formed: bool
    earned: TurnReward


def play_clozes(
    chat: Chat, config: Config, rl: Rl, pool: Pool, step: int, progress: float, rank: int, ranks: int
) -> list[Episode]:
    """This process's answers to clozes about collected episodes."""
    asked = {
        group: _one_of(pool.group(step, group, progress), config.seed, step, group)
        for group in range(rank, rl.rollouts.groups, ranks)
    }
    judge = partial(_by_simulator, reward_weights(rl))
    if rl.rewards.answers == "reciprocal":
        judge = partial(_by_opposites, chat, reward_weights(rl))
    return _answered(chat, config, rl, step, asked, judge)


def play_questions(
    chat: Chat, config: Config, rl: Rl, stream: QuestionStream, step: int, rank: int, ranks: int
) -> list[Episode]:
    """This process's answers to questions about images; every group of a step is about other images."""
    settings = rl.rollouts
    asked = {
        group: _one_of(stream.group(step * settings.groups + group), config.seed, step, group)
        for group in range(rank, settings.groups, ranks)
    }
    return _answered(chat, config, rl, step, asked, partial(_by_truth, reward_weights(rl)))


def right_answers(chat: Chat, rl: Rl, examples: Sequence[Example]) -> tuple[int, int]:
    """How many questions are answered rightly, greedily and in the form asked for, and how many there are."""
    prompts = [(encoded.prompt, encoded.pictures) for encoded in encode_all(chat, examples)]
    texts = generate(chat, prompts, rl.rollouts.tokens, rl.rollouts.batch)
    found = [judged(example, text) for example, text in zip(examples, texts, strict=True)]
    return sum(one.right for one in found), len(found)


def judged(example: Example, text: str) -> Worth:
    """What an output is worth as the answer to a question that :func:`open_exam` has read."""
    return worth(text, json.loads(example.line), _task(example))


@dataclass(frozen=True)
class Exam:
    """The questions of a run, each of which can be judged.

    Attributes:
        stream: those to learn from.
        held_out: those to be measured by, from all over their files.
    """

    stream: QuestionStream
    held_out: tuple[Example, ...]


def open_exam(config: Config, rl: Rl) -> Exam | None:
    """The questions of a run that learns from questions; ``None`` for other runs.

    Raises:
        DataError: there are none, or one cannot be judged; names it.
        ConfigError: a key asks for what questions do not have.
    """
    if rl.source != "questions":
        return None
    if not config.questions.files:
        raise DataError("rl.source=questions, and there are none: set questions.files to files of `vagen spatial`")
    if rl.evaluation.every and not rl.evaluation.files:
        raise ConfigError("rl.evaluation.files: name questions to measure by, or set rl.evaluation.every=0")
    if rl.warmup.clozes:
        raise ConfigError("rl.warmup.clozes asks about episodes, and rl.source=questions plays none: leave it out")
    held_out = [example for file in rl.evaluation.files for example in read_file(config.questions, file)]
    exam = Exam(QuestionStream(config.questions, config.seed), tuple(spread(held_out, rl.evaluation.episodes)))
    for example in (*exam.stream.examples, *exam.held_out):
        check_judged(example)
    return exam


def check_judged(example: Example) -> None:
    """Refuse a question whose own output would not be paid.

    Raises:
        DataError: it has no truth to be judged by, or another one than its output.
    """
    row = json.loads(example.line)
    where = f"question {row.get('id', example.question[:40])!r}"
    if example.task not in TASKS:
        raise DataError(f"{where}: task {example.task!r} has no exact reward: choose among {', '.join(TASKS)}")
    if missing := [name for name in ("question", "gt_answer") if not isinstance(row.get(name), str)]:
        raise DataError(f"{where}: no {missing[0]} to judge answers by; give a file of `vagen spatial --tasks …`")
    try:
        own = judged(example, example.answer)
    except ValueError as error:
        raise DataError(str(error)) from None
    if not own.right:
        raise DataError(f"{where}: its grounded_output is not the right output of task {example.task}")


def check_lengths(chat: Chat, exam: Exam, tokens: int) -> None:
    """Refuse questions whose right outputs are too long to be written.

    Raises:
        ConfigError: an output to learn has more than ``tokens`` tokens.
    """
    lengths = [len(chat.answer_tokens(example.answer)) for example in exam.stream.examples]
    if too_long := sum(length > tokens for length in lengths):
        raise ConfigError(
            f"{too_long} of {len(lengths)} right outputs have more than rl.rollouts.tokens={tokens} tokens, and could "
            f"never be paid: raise it to {max(lengths)}"
        )


def _task(example: Example) -> Task:
    return next(task for task in TASKS if task == example.task)


def _one_of(group: Group[T], *seed: int) -> T:
    """One sample of a group, drawn by the weights."""
    reached = np.cumsum(group.weights)
    drawn = np.random.default_rng([*seed, 6]).random() * reached[-1]
    return group.samples[int(np.searchsorted(reached, drawn, side="right"))]


def _by_simulator(weights: RewardWeights, answers: Sequence[tuple[Sample, str]]) -> list[Verdict]:
    """What answers to clozes came to, paid by whether they are right."""
    verdicts = []
    for sample, text in answers:
        found = score(sample, text)
        window = replace(sample.window, success=found.correct, terminated=True, truncated=False)
        verdicts.append(Verdict(window, found.parsed, answer_reward(found.parsed, found.correct, None, weights)))
    return verdicts


def _by_opposites(chat: Chat, weights: RewardWeights, answers: Sequence[tuple[Sample, str]]) -> list[Verdict]:
    """The same, paid by the policy itself (SWIRL): forward and inverse models reward each other."""
    paid = (weights.task * likely for likely in opposite_likelihoods(chat, answers))
    verdicts = _by_simulator(weights, answers)
    return [replace(v, earned=replace(v.earned, task=task)) for v, task in zip(verdicts, paid, strict=True)]


def opposite_likelihoods(chat: Chat, answers: Sequence[tuple[Sample, str]]) -> list[float]:
    """The mean log-probability per token, in nats, of the answer to the opposite of each cloze.

    That of an answer which cannot be read, or says what cannot be, is that of a blind guess among all tokens; no
    other is less.
    """
    opposites = {(id(sample), text): opposite(sample, text) for sample, text in answers}
    asked = {key: sample for key, sample in opposites.items() if sample is not None}
    prompts = [(one.prompt, one.pictures) for one in encode_all(chat, list(asked.values()))]
    sums = log_probabilities(chat, prompts, [[sample.answer] for sample in asked.values()])
    guess = -math.log(len(chat.tokenizer))
    found = dict.fromkeys(opposites, guess)
    for (key, sample), (total,) in zip(asked.items(), sums, strict=True):
        found[key] = max(guess, float(total) / len(chat.answer_tokens(sample.answer)))
    return [found[id(sample), text] for sample, text in answers]


def _by_truth(weights: RewardWeights, answers: Sequence[tuple[Example, str]]) -> list[Verdict]:
    """What answers to questions came to."""
    verdicts = []
    for example, text in answers:
        found = judged(example, text)
        scene = Trajectory(SOURCE, "train", 0, "policy", (), (), (), terminated=True, success=found.correct)
        earned = answer_reward(found.formed, found.correct, found.map, weights)
        verdicts.append(Verdict(scene, found.formed, earned))
    return verdicts


def _answered(
    chat: Chat,
    config: Config,
    rl: Rl,
    step: int,
    asked: Mapping[int, T],
    judge: Callable[[Sequence[tuple[T, str]]], list[Verdict]],
) -> list[Episode]:
    """The members of each group: sampled answers to what it is asked, by the number of the group."""
    settings = rl.rollouts
    encoded = dict(zip(asked, encode_all(chat, list(asked.values())), strict=True))
    numbers = [group * settings.members + member for group in asked for member in range(settings.members)]
    of_number = [encoded[number // settings.members] for number in numbers]
    prompts = [(one.prompt, one.pictures) for one in of_number]
    generators = [np.random.default_rng([config.seed, step, number, 7]) for number in numbers]
    sampling = Sampling(settings.temperature, max_tokens=settings.tokens)
    answers = respond(sampler(chat, rl, len(prompts)), prompts, generators, sampling)
    texts = [chat.decode(sampled.tokens.tolist()) for sampled in answers]
    verdicts = judge([(asked[number // settings.members], text) for number, text in zip(numbers, texts, strict=True)])
    episodes = []
    for number, (prompt, pictures), sampled, text, found in zip(
        numbers, prompts, answers, texts, verdicts, strict=True
    ):
        group = number // settings.members
        parsed, paid = Response(text) if found.formed else None, found.earned.task
        turn = Turn(prompt, pictures, sampled.tokens, sampled.log_probs, text, parsed, (), 0, paid, sampled.cut)
        episodes.append(Episode(number, group, Rollout(found.about, group, (turn,)), (found.earned,)))
    return episodes
