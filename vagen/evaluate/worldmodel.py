"""The world-model report card: accuracy of every cloze in every world by free generation, beside what it must beat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import vagen
from vagen.cloze.build import build, check_answerable
from vagen.cloze.grammar import Pattern, named, with_history
from vagen.cloze.sample import YES, Sample, UnaskableError, simulator, window_at
from vagen.cloze.scoring import Score, chances, score
from vagen.cloze.statistics import (
    Calibration,
    Proportion,
    calibration,
    ceiling,
    copy_floor,
    divergence,
    majority_floor,
    random_floor,
    skill,
    wilson,
)
from vagen.cloze.windows import Strata, changes, choose_window, event_shares
from vagen.data.places import Place
from vagen.data.shards import read_trajectories
from vagen.mdp import Trajectory
from vagen.policy.batches import draw
from vagen.policy.chat import Chat, Picture
from vagen.policy.constrain import Constrainer
from vagen.policy.generate import Answer, generate_scored
from vagen.policy.likelihood import log_probabilities
from vagen.progress import Progress
from vagen.rollout.agents import MixtureAgent
from vagen.rollout.collect import episode_seeds
from vagen.rollout.episodes import play
from worlds import Facts, Split, WorldError
from worlds.text import Representation

STRATA = Strata(idle=0.1, balance=False)
SIDE_BY_SIDE = 64  # episodes that are played at a time
EPISODE_STEPS = 12  # episodes are played this long to draw windows from
WINDOW_TRIES = 4  # windows of one episode that are tried before the next
EXAMPLES = 4  # samples per row kept in the card, for people to look at


@dataclass(frozen=True)
class Likelihood:
    """How well a model knows the chances of a random world; means over samples.

    Attributes:
        kl: KL(true || model) over what can happen, in nats, with the model's probabilities normalised over it; 0 is
            perfect, whatever the ceiling of the accuracy.
        mass: the model's probability of saying any of what can happen.
    """

    kl: float
    mass: float


@dataclass(frozen=True)
class Row:
    """One row of a report card.

    Attributes:
        world, cloze, pattern: what was asked.
        input: ``image`` if an observation is shown, else ``text``.
        representation: how states are written.
        horizon: transitions the answer spans.
        n: samples.
        accuracy, ci_low, ci_high: share right, and its 95 % Wilson interval.
        ceiling: what a perfect predictor can reach; None if unknown.
        floors: share right of answering without understanding; None where a floor does not apply.
        floor_intervals: (low, high) of each floor.
        skill: (accuracy - best floor) / (ceiling - best floor).
        field_f1: mean F1 per kind of thing, for state answers.
        likelihood: in a random world, the distance of the model's distribution from the true one; else None.
        calibration: how far the probability that the model gives its answers tells which of them are right.
        yes: for terminations, share of samples whose right answer is yes; None for other clozes.
        parsed: share of answers that could be read.
        effective: share of samples whose window changes what can be seen; None for clozes about one moment.
        events: share of samples by the kinds of things their first transition changes, as in "agent box".
        seen_in_training: share of samples whose first transition also occurs in the training shards; None if unknown.
        outcomes: "1" for each sample answered rightly and "0" for each other, in order: what `vagen compare` pairs.
        examples: a few samples with their answers.
    """

    world: str
    cloze: str
    pattern: str
    input: str
    representation: str
    horizon: int
    n: int
    accuracy: float
    ci_low: float
    ci_high: float
    ceiling: float | None
    floors: dict[str, float | None]
    floor_intervals: dict[str, tuple[float, float] | None]
    skill: float | None
    field_f1: dict[str, float]
    likelihood: Likelihood | None
    calibration: Calibration
    yes: float | None
    parsed: float
    effective: float | None
    events: dict[str, float]
    seen_in_training: float | None
    outcomes: str
    examples: list[dict[str, Any]]


def evaluate(
    chat: Chat,
    worlds: Sequence[str],
    clozes: Sequence[str],
    n: int,
    seed: int,
    split: Split = "test",
    batch: int = 128,
    training_shards: Sequence[Path | Place] = (),
    strata: Strata = STRATA,
    constrained: bool = False,
) -> dict[str, Any]:
    """The report card of a policy.

    Args:
        n: samples per world and cloze.
        seed: decides the samples; equal seeds give every model the same questions.
        strata: which windows are asked about.
        training_shards: folders the model was trained on, to report how much of the test they contain.
        constrained: let the model give valid answers only, so that accuracy is about what it knows and not about form.

    Raises:
        WorldError, ClozeError: unknown worlds or clozes, or too few samples to be had.
    """
    patterns = {cloze: named(cloze) for cloze in clozes}
    packages = dict.fromkeys(("torch", "transformers"))
    for world in worlds:
        packages |= dict.fromkeys(simulator(world).packages())  # unknown worlds are refused before all else
    seen = _transitions_of(training_shards)
    constrainer = Constrainer(chat) if constrained else None
    rows = []
    answers = sum(2 if pattern.shows_images else 1 for pattern in patterns.values())  # one with a shuffled image
    with Progress(n * len(worlds) * answers, "evaluate", "answers") as progress:
        for world in worlds:
            drawn = []
            for cloze, pattern in patterns.items():
                form = chat.policy.format
                drawn.append(
                    draw_samples(world, cloze, pattern, n, seed, split, form.representation, strata, form.history)
                )
            asked = _ask(chat, drawn, seed, batch, progress, constrainer)
            rows += [_row(chat, samples, replies, seen) for samples, replies in zip(drawn, asked, strict=True)]
    return {
        "rows": [asdict(row) for row in rows],
        "split": split,
        "model": chat.policy.name,
        "weights": chat.policy.digest,
        "parameters": sum(p.numel() for p in chat.policy.model.parameters()),
        "seed": seed,
        "sampling": asdict(strata),
        "history": chat.policy.format.history,
        "constrained": constrained,
        "versions": {"vagen": vagen.__version__, **{package: version(package) for package in packages}},
    }


def summary(card: dict[str, Any]) -> str:
    """A report card as a table for a terminal."""
    wide, room = (max(len(name), *(len(row[name]) for row in card["rows"])) + 2 for name in ("world", "cloze"))
    heads = f"{'n':>5}{'accuracy':>10}{'95 % interval':>18}{'ECE':>7}  {'best floor':<22}"
    lines = [f"{'world':<{wide}}{'cloze':<{room}}{heads}"]
    for row in card["rows"]:
        floors = {name: value for name, value in row["floors"].items() if value is not None}
        best = max(floors, key=lambda name: floors[name])
        interval = f"{row['ci_low']:.3f} – {row['ci_high']:.3f}"
        lines.append(
            f"{row['world']:<{wide}}{row['cloze']:<{room}}{row['n']:>5}{row['accuracy']:>10.3f}{interval:>18}"
            f"{row['calibration']['ece']:>7.3f}  {floors[best]:.3f} {best}{_remarks(row)}"
        )
    mean = sum(row["accuracy"] for row in card["rows"]) / len(card["rows"])
    return "\n".join([*lines, f"{'mean':<{wide + room + 5}}{mean:>10.3f}"])


def _remarks(row: dict[str, Any]) -> str:
    distance = f", KL {row['likelihood']['kl']:.3f} nats" if row["likelihood"] else ""
    return distance if row["yes"] is None else f"{distance}, {row['yes']:.0%} yes"


def draw_samples(
    world: str,
    cloze: str,
    pattern: Pattern,
    n: int,
    seed: int,
    split: Split,
    representation: Representation,
    strata: Strata = STRATA,
    history: int = 0,
) -> list[Sample]:
    """``n`` samples, each from an episode of its own, as a function of the arguments alone.

    Args:
        history: how many earlier images may come before those of a cloze, where the pattern allows it: any number
            that the episode has, up to this many images besides the last.
    """
    generator = np.random.default_rng([seed, 2])
    check_answerable(cloze, pattern, simulator(world))
    samples = []
    for episode in _episodes(world, n, seed, split):
        if (sample := _sample(episode, cloze, pattern, representation, strata, history, generator)) is not None:
            samples.append(sample)
        if len(samples) == n:
            return samples
    raise WorldError(f"world {world!r}: only {len(samples)} of {n} samples of {cloze!r} found; ask for fewer")


def _sample(
    episode: Trajectory,
    cloze: str,
    pattern: Pattern,
    representation: Representation,
    strata: Strata,
    history: int,
    generator: np.random.Generator,
) -> Sample | None:
    """A sample about an episode; ``None`` where a few tries find none (it is too short, nothing is left to do …)."""
    for _ in range(WINDOW_TRIES):
        start = choose_window(episode, pattern, strata, generator)
        if start is None:
            return None
        shown = _earlier(pattern, start, history, generator)
        asked = with_history(pattern, shown) if shown else pattern
        window = window_at(episode, start - shown, max(1, pattern.length) + shown)
        try:
            return build(cloze, asked, window, representation)
        except UnaskableError:
            continue
    return None


def _earlier(pattern: Pattern, start: int, history: int, generator: np.random.Generator) -> int:
    """How many images come before those of a cloze, as likely as in training but for where an episode begins."""
    most = min(start, history + 1 - len(pattern.images)) if pattern.takes_history else 0
    return int(generator.integers(most + 1)) if most > 0 else 0


class _Episodes:
    """Enough episodes to draw ``n`` windows from, though some are too short; played when first asked for."""

    def __init__(self, world: str, n: int, seed: int, split: Split):
        self._world = world
        self._split: Split = split
        self._seeds = episode_seeds(seed, world, f"evaluate-{split}", 6 * n)
        self._played: list[Trajectory] = []

    def __iter__(self) -> Iterator[Trajectory]:
        for number in range(len(self._seeds)):
            if number == len(self._played):
                seeds = self._seeds[number : number + SIDE_BY_SIDE]
                self._played += play(self._world, MixtureAgent(0.5), seeds, self._split, EPISODE_STEPS)
            yield self._played[number]


#: All clozes of a world are drawn from the same episodes.
_episodes = lru_cache(maxsize=2)(_Episodes)


@dataclass(frozen=True)
class _Replies:
    """To the samples of one cloze.

    Attributes:
        pictures: that each sample was shown.
        answers: to each.
        shuffled: to each with another sample's pictures; ``None`` for clozes without.
    """

    pictures: list[list[Picture]]
    answers: list[Answer]
    shuffled: list[Answer] | None


def _ask(
    chat: Chat,
    drawn: Sequence[Sequence[Sample]],
    seed: int,
    batch: int,
    progress: Progress,
    constrainer: Constrainer | None,
) -> list[_Replies]:
    """Ask all clozes about a world together, for those about the same images share them.

    Clozes with images are asked once more with another sample's: what the model gets right without looking.
    """
    images = iter(draw([sample for samples in drawn for sample in samples]))
    shown = [[next(images) for _ in samples] for samples in drawn]
    asked: list[tuple[Sample, Sequence[Picture]]] = []
    for samples, pictures in zip(drawn, shown, strict=True):
        asked += zip(samples, pictures, strict=True)
        if samples[0].pattern.shows_images:
            generator = np.random.default_rng([seed, 3])
            others = [_another(number, pictures, generator) for number in range(len(samples))]
            asked += zip(samples, others, strict=True)
    samples, pictures = [sample for sample, _ in asked], [pictures for _, pictures in asked]
    answers = iter(_answers(chat, samples, pictures, batch, progress, constrainer))
    return [
        _Replies(
            pictures,
            [next(answers) for _ in samples],
            [next(answers) for _ in samples] if samples[0].pattern.shows_images else None,
        )
        for samples, pictures in zip(drawn, shown, strict=True)
    ]


def _row(chat: Chat, samples: Sequence[Sample], replies: _Replies, seen: set[tuple[Facts, int, Facts]] | None) -> Row:
    pattern, answers = samples[0].pattern, replies.answers
    scores = [score(sample, answer.text) for sample, answer in zip(samples, answers, strict=True)]
    accuracy = _share([s.correct for s in scores])
    shuffled = None
    if replies.shuffled is not None:
        shuffled = _share(
            [score(sample, answer.text).correct for sample, answer in zip(samples, replies.shuffled, strict=True)]
        )
    floors = {
        "majority": majority_floor(samples),
        "copy": copy_floor(samples),
        "random": random_floor(samples),
        "shuffled_image": shuffled,
    }
    top = ceiling(samples)
    return Row(
        world=samples[0].window.world,
        cloze=samples[0].name,
        pattern=str(named(samples[0].name)),
        input="image" if pattern.shows_images else "text",
        representation=samples[0].representation,
        horizon=pattern.horizon,
        n=len(samples),
        accuracy=accuracy.value,
        ci_low=accuracy.low,
        ci_high=accuracy.high,
        ceiling=top,
        floors={name: floor.value if floor else None for name, floor in floors.items()},
        floor_intervals={name: (floor.low, floor.high) if floor else None for name, floor in floors.items()},
        skill=skill(accuracy.value, [floor.value for floor in floors.values() if floor], top),
        field_f1=_mean_f1(scores),
        likelihood=_likelihood(chat, samples, replies.pictures),
        calibration=calibration([confidence(answer) for answer in answers], [s.correct for s in scores]),
        yes=_share([s.answer == YES for s in samples]).value if pattern.task == "termination" else None,
        parsed=float(np.mean([s.parsed for s in scores])),
        effective=float(np.mean([changes(sample) for sample in samples])) if pattern.dynamics else None,
        events=event_shares(samples),
        seen_in_training=None if seen is None else float(np.mean([_first_transition(s) in seen for s in samples])),
        outcomes="".join("1" if s.correct else "0" for s in scores),
        examples=[
            _example(sample, answer.text, result)
            for sample, answer, result in zip(samples[:EXAMPLES], answers, scores, strict=False)
        ],
    )


def _answers(
    chat: Chat,
    samples: Sequence[Sample],
    pictures: Sequence[Sequence[Picture]],
    batch: int,
    progress: Progress,
    constrainer: Constrainer | None,
) -> list[Answer]:
    prompts = [(chat.prompt(sample, shown), shown) for sample, shown in zip(samples, pictures, strict=True)]
    longest: dict[str, int] = {}  # right answer, by cloze
    for sample in samples:
        longest[sample.name] = max(longest.get(sample.name, 0), len(chat.answer_tokens(sample.answer)))
    # Room for half as much again as any right answer: the length must not give the answer away.
    limits = [longest[sample.name] + longest[sample.name] // 2 + 4 for sample in samples]
    automata = None if constrainer is None else [constrainer.for_sample(sample) for sample in samples]
    return generate_scored(chat, prompts, limits, batch, progress.update, automata)


def confidence(answer: Answer) -> float:
    """The probability that a model gave to an answer it wrote, end of its turn included."""
    return math.exp(min(0.0, float(answer.log_probs.sum())))


def _likelihood(chat: Chat, samples: Sequence[Sample], pictures: Sequence[Sequence[Picture]]) -> Likelihood | None:
    if samples[0].world.deterministic or not samples[0].pattern.dynamics:
        return None
    prompts = [(chat.prompt(sample, shown), shown) for sample, shown in zip(samples, pictures, strict=True)]
    true = [chances(sample) for sample in samples]
    said = log_probabilities(chat, prompts, [list(texts) for texts in true])
    found = [divergence(list(texts.values()), list(logs)) for texts, logs in zip(true, said, strict=True)]
    kl, mass = np.mean(found, axis=0)
    return Likelihood(float(kl), float(mass))


def _another(number: int, pictures: Sequence[Sequence[Picture]], generator: np.random.Generator) -> Sequence[Picture]:
    """The images of a random other sample with as many, and other ones wherever a few draws find such.

    Where no other sample has as many, those of any other are repeated.
    """
    own = [picture.digest for picture in pictures[number]]
    others = [shown for other, shown in enumerate(pictures) if other != number]
    alike = [shown for shown in others if len(shown) == len(own)] or others
    found = pictures[number]
    for _ in range(8 if alike else 0):
        shown = alike[int(generator.integers(len(alike)))]
        found = [shown[place % len(shown)] for place in range(len(own))]
        if [picture.digest for picture in found] != own:
            break
    return found


def _share(correct: Sequence[bool]) -> Proportion:
    return wilson(sum(correct), len(correct))


def _mean_f1(scores: Sequence[Score]) -> dict[str, float]:
    kinds = sorted({kind for s in scores for kind in s.field_f1})
    return {kind: float(np.mean([s.field_f1[kind] for s in scores if kind in s.field_f1])) for kind in kinds}


def _first_transition(sample: Sample) -> tuple[Facts, int, Facts]:
    before, after = (sample.world.facts(snapshot) for snapshot in sample.own_window.snapshots[:2])
    return before, sample.own_window.actions[0], after


def _transitions_of(folders: Sequence[Path | Place]) -> set[tuple[Facts, int, Facts]] | None:
    """Every transition in shards, as far as it can be seen; ``None`` without shards."""
    if not folders:
        return None
    seen = set()
    for folder in folders:
        for trajectory in read_trajectories(folder):
            facts = [simulator(trajectory.world).facts(snapshot) for snapshot in trajectory.snapshots]
            seen.update(zip(facts, trajectory.actions, facts[1:], strict=False))
    return seen


def _example(sample: Sample, answer: str, result: Score) -> dict[str, Any]:
    return {
        "images": [dict(snapshot) for snapshot in sample.images],
        "question": sample.question,
        "truth": sample.answer,
        "answer": answer,
        "correct": result.correct,
    }
