"""``vagen eval reorder``: putting a shuffled episode in order, in the form of ENACT (Wang et al. 2025).

*Forward*: the first image, the actions in order and the later images shuffled; the answer says which shuffled image
came first, second … *Inverse*: the images in order and the actions shuffled. Steps that change nothing visible are
left out, as nobody could place them. An answer is right if it is the order that happened, or one that the simulator
accepts: the same pixels in every place, or actions that lead through the same states.

Files of ENACT's own questions are read and scored as well; what is accepted beside the true order is then not known.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vagen.cloze.build import build
from vagen.cloze.grammar import named
from vagen.cloze.sample import Sample, UnaskableError, simulator, window_at
from vagen.cloze.scoring import accepted_answers
from vagen.cloze.statistics import Proportion, wilson
from vagen.cloze.truth import is_order
from vagen.files import atomic_folder, write_text_atomically
from vagen.mdp import Trajectory
from vagen.policy.chat import Chat, Picture
from vagen.policy.generate import generate
from vagen.progress import Progress
from vagen.rollout.agents import MixtureAgent
from vagen.rollout.collect import episode_seeds
from vagen.rollout.episodes import play
from worlds import Split, WorldError

Direction = Literal["forward", "inverse"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
SHORTEST, LONGEST = 3, 10  # images of a question
EPISODE_STEPS = 40  # episodes are played this long: many steps change nothing
EPISODES_PER_QUESTION = 20  # tried before it is said that a world has too few long ones
QUESTIONS = "questions.jsonl"


class ReorderError(ValueError):
    """Questions that cannot be asked or scored; the message names the file and the line."""


class Row(BaseModel):
    """A line of ENACT's files. ``gt_answer[i]`` is the shuffled place, from 1, of what came i-th."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    type: Annotated[str, Field(pattern=r"^(forward|inverse)_world_modeling_\d+_steps$")]
    key_frame_ids: list[int | str]
    images: list[str]
    question: str
    options: list[str] = []
    gt_answer: list[int]

    @property
    def direction(self) -> Direction:
        return "forward" if self.type.startswith("forward") else "inverse"

    @property
    def length(self) -> int:
        """Images of the episode: one more than there are things to order."""
        return len(self.gt_answer) + 1


@dataclass(frozen=True)
class Item:
    """A question about one of our worlds: the line that asks it, and the cloze that knows what is right."""

    row: Row
    sample: Sample

    def accepts(self, answer: Sequence[int]) -> bool:
        """Whether the simulator takes an order (shuffled places from 1)."""
        return is_order(self.sample, [place - 1 for place in answer])


@dataclass(frozen=True)
class Verdict:
    """What one answer is worth: the true order; that or one that the simulator accepts; share of places that match."""

    exact: bool
    accepted: bool
    pairwise: float
    parsed: bool


@dataclass(frozen=True)
class CardRow:
    """One world, direction and length.

    Attributes:
        world, direction, length: what was asked; ``length`` counts images.
        n: questions.
        exact, accepted: shares with their 95 % Wilson intervals; ``accepted`` counts what the simulator takes too.
        pairwise: mean share of places that hold what came there.
        parsed: share of answers that could be read; the others are wrong.
        chance_accepted, chance_pairwise: what a random order reaches; None for questions that came from a file.
    """

    world: str
    direction: Direction
    length: int
    n: int
    exact: Proportion
    accepted: Proportion
    pairwise: float
    parsed: float
    chance_accepted: float | None
    chance_pairwise: float


# ---------------------------------------------------------------------------------------------------------- questions


def draw_items(world: str, direction: Direction, length: int, n: int, seed: int, split: Split = "test") -> list[Item]:
    """``n`` questions about a world, each from an episode of its own, as a function of the arguments alone.

    Raises:
        WorldError: the world is unknown, random, or has too few long episodes.
    """
    if not simulator(world).deterministic:
        raise WorldError(f"world {world!r} is random: what comes after what cannot be told from the actions")
    cloze = f"reorder_{'observations' if direction == 'forward' else 'actions'}@{length - 1}"
    pattern = named(cloze)
    generator = np.random.default_rng([seed, length])
    seeds = episode_seeds(seed, world, f"reorder-{direction}-{length}-{split}", EPISODES_PER_QUESTION * n)
    items: list[Item] = []
    for episode in play(world, MixtureAgent(0.5), seeds, split, EPISODE_STEPS):
        visible = without_idle_steps(episode)
        if len(visible) < length - 1:
            continue
        start = int(generator.integers(len(visible) - length + 2))
        try:
            sample = build(cloze, pattern, window_at(visible, start, length - 1), "grid")
        except UnaskableError:
            continue
        items.append(Item(_row(sample, direction, start), sample))
        if len(items) == n:
            return items
    raise WorldError(f"world {world!r}: only {len(items)} of {n} episodes have {length} different images in a row")


def draw_cells(
    worlds: Sequence[str], lengths: Sequence[int], n: int, seed: int, split: Split
) -> list[tuple[str, list[Item]]]:
    """``n`` questions for each world, direction and length, with their world."""
    return [
        (world, draw_items(world, direction, length, n, seed, split))
        for world in worlds
        for direction in DIRECTIONS
        for length in lengths
    ]


def without_idle_steps(episode: Trajectory) -> Trajectory:
    """The episode without the steps after which everything looks as before."""
    facts = [simulator(episode.world).facts(snapshot) for snapshot in episode.snapshots]
    kept = [time for time in range(len(episode)) if facts[time] != facts[time + 1]]
    return replace(
        episode,
        snapshots=(episode.snapshots[0], *(episode.snapshots[time + 1] for time in kept)),
        actions=tuple(episode.actions[time] for time in kept),
        rewards=tuple(episode.rewards[time] for time in kept),
    )


def _row(sample: Sample, direction: Direction, start: int) -> Row:
    window = sample.window
    content = json.dumps([window.world, window.seed, start, direction, len(window)]).encode()
    digest = hashlib.sha256(content).hexdigest()[:8]
    kind = f"{direction}_world_modeling_{len(window) + 1}_steps"
    order = [label + 1 for label in np.argsort(sample.order).tolist()]
    return Row(
        id=f"{kind}_{digest}",
        type=kind,
        key_frame_ids=list(range(start, start + len(window) + 1)),
        images=[f"images/{kind}_{digest}/{number}.png" for number in range(len(window) + 1)],
        question=_question(sample, direction),
        gt_answer=order,
    )


def _question(sample: Sample, direction: Direction) -> str:
    words = sample.world.actions
    actions = [words[action] for action in sample.window.actions]
    count = len(actions)
    rules = sample.world.rules
    if direction == "forward":
        told = "; ".join(f"{number}. {action}" for number, action in enumerate(actions, start=1))
        what = (
            f"The first image shows the start. These {count} actions follow, in this order: {told}. The other {count} "
            f"images, numbered 1 to {count} as they are shown, were taken after the actions, in another order. "
            "Which of them was taken after the first action, which after the second, and so on?"
        )
    else:
        shuffled = [actions[number] for number in sample.order]
        told = "; ".join(f"{number}. {action}" for number, action in enumerate(shuffled, start=1))
        what = (
            f"The {count + 1} images are in order of time, with one action between each and the next. The {count} "
            f"actions, in another order, are: {told}. Which action came first, which second, and so on?"
        )
    example = list(range(count, 0, -1))
    return f"{rules} {what} Answer with the {count} numbers in order of time in square brackets, such as {example}."


def shown(item: Item) -> list[Picture]:
    """The images of a question, in the order in which they are shown."""
    return [Picture.of(frame) for frame in item.sample.world.render_states(item.sample.images)]


def write_questions(items: Sequence[Item], folder: Path, overwrite: bool = False) -> Path:
    """Questions and images as a folder of ENACT's format; returns the file of questions.

    Args:
        overwrite: replace a folder of questions.

    Raises:
        OutputError: the folder cannot be written to, or is taken.
    """
    with atomic_folder(folder, QUESTIONS, overwrite) as temporary:
        for item in items:
            for name, picture in zip(item.row.images, shown(item), strict=True):
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.pixels).save(path)
        lines = "".join(item.row.model_dump_json() + "\n" for item in items)
        write_text_atomically(temporary / QUESTIONS, lines)
    return folder / QUESTIONS


def read_questions(path: Path) -> list[Row]:
    """The rows of a file in ENACT's format.

    Raises:
        ReorderError: it cannot be read, or a line is no question.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReorderError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    rows = [_checked(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise ReorderError(f"{path} holds no questions")
    return rows


_ROW = TypeAdapter(Row)


def _checked(line: str, where: str) -> Row:
    try:
        row = _ROW.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        raise ReorderError(f"{where}: {key}: {first['msg']}; give questions in ENACT's format") from None
    if sorted(row.gt_answer) != list(range(1, len(row.gt_answer) + 1)) or not row.gt_answer:
        raise ReorderError(f"{where}: gt_answer {row.gt_answer} is no order of 1 to {len(row.gt_answer)}")
    if len(row.images) != row.length:
        raise ReorderError(
            f"{where}: {len(row.images)} images for an order of {len(row.gt_answer)}; expected one more"
        )
    return row


# -------------------------------------------------------------------------------------------------------------- score

_ANSWER = re.compile(r"\[[\d\s,]+\]")
MOST_TEXT = 1_000_000  # of an answer; longer ones are read from their end


def read_order(text: str, count: int) -> tuple[int, ...] | None:
    """The last list in square brackets, if it is an order of 1 to ``count``."""
    found = _ANSWER.findall(text[-MOST_TEXT:])
    if not found:
        return None
    numbers = tuple(int(word) for word in re.findall(r"\d{1,4}", found[-1]))
    return numbers if sorted(numbers) == list(range(1, count + 1)) else None


def judge(row: Row, answer: str, item: Item | None = None) -> Verdict:
    """Score an answer; ``item`` knows what else than the true order is right."""
    order = read_order(answer, len(row.gt_answer))
    if order is None:
        return Verdict(False, False, 0.0, False)
    exact = list(order) == row.gt_answer
    matches = sum(one == two for one, two in zip(order, row.gt_answer, strict=True))
    accepted = exact or (item is not None and item.accepts(order))
    return Verdict(exact, accepted, matches / len(order), True)


def card_row(
    world: str, rows: Sequence[Row], verdicts: Sequence[Verdict], items: Sequence[Item] | None = None
) -> CardRow:
    """The figures of one world, direction and length."""
    n, count = len(rows), len(rows[0].gt_answer)
    chance = None
    if items is not None and count <= 6:  # 720 orders
        orders = float(np.prod(np.arange(1, count + 1)))
        chance = sum(len(accepted_answers(item.sample)) / orders for item in items) / n
    return CardRow(
        world,
        rows[0].direction,
        rows[0].length,
        n,
        wilson(sum(v.exact for v in verdicts), n),
        wilson(sum(v.accepted for v in verdicts), n),
        float(np.mean([v.pairwise for v in verdicts])),
        float(np.mean([v.parsed for v in verdicts])),
        chance,
        1 / count,  # each place of a random order holds the right thing one time in ``count``
    )


# ---------------------------------------------------------------------------------------------------------------- ask


def evaluate(
    chat: Chat,
    worlds: Sequence[str],
    lengths: Sequence[int],
    n: int,
    seed: int,
    split: Split,
    batch: int,
    max_new_tokens: int,
) -> list[CardRow]:
    """Ask a model ``n`` questions per world, direction and length.

    Raises:
        WorldError: an unknown or random world, or one with too few long episodes.
    """
    cells = draw_cells(worlds, lengths, n, seed, split)
    rows = []
    with Progress(n * len(cells), "reorder", "questions") as progress:
        for world, items in cells:
            pictures = [shown(item) for item in items]
            prompts = [(chat.ask(item.row.question, p), p) for item, p in zip(items, pictures, strict=True)]
            answers = generate(chat, prompts, max_new_tokens, batch, progress.update)
            verdicts = [judge(item.row, answer, item) for item, answer in zip(items, answers, strict=True)]
            rows.append(card_row(world, [item.row for item in items], verdicts, items))
    return rows


def evaluate_file(chat: Chat, questions: Path, images: Path, batch: int, max_new_tokens: int) -> list[CardRow]:
    """Ask a model the questions of a file in ENACT's format; image paths start in ``images``.

    Raises:
        ReorderError: a line is no question, or images are missing (all of them are named).
    """
    rows = read_questions(questions)
    missing = [name for row in rows for name in row.images if not (images / name).is_file()]
    if missing:
        raise ReorderError(f"{len(missing)} images are missing below {images}: {', '.join(dict.fromkeys(missing))}")
    verdicts = []
    with Progress(len(rows), "reorder", "questions") as progress:
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            pictures = [[_picture(images / name) for name in row.images] for row in chosen]
            prompts = [(chat.ask(row.question, p), p) for row, p in zip(chosen, pictures, strict=True)]
            answers = generate(chat, prompts, max_new_tokens, batch, progress.update)
            verdicts += [judge(row, answer) for row, answer in zip(chosen, answers, strict=True)]
    return list(_by_kind(questions.stem, rows, verdicts))


def _picture(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            return Picture.of(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ReorderError(f"cannot read image {path}: {error}") from None


def _by_kind(name: str, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> Iterator[CardRow]:
    for kind in sorted({(row.direction, row.length) for row in rows}):
        chosen = [number for number, row in enumerate(rows) if (row.direction, row.length) == kind]
        yield card_row(name, [rows[i] for i in chosen], [verdicts[i] for i in chosen])


def as_json(rows: Iterable[CardRow], model: str) -> dict[str, Any]:
    """A reordering card as plain data."""
    return {"model": model, "rows": [asdict(row) for row in rows]}


def table(rows: Sequence[CardRow]) -> str:
    """A reordering card as a table for a terminal."""
    width = max(len(row.world) for row in rows) + 2
    head = f"{'world':<{width}}{'direction':<10}{'to order':>10}{'n':>6}{'exact':>8}{'accepted (chance)':>19}"
    lines = [f"{head}{'95 % interval':>18}{'pairwise (chance)':>19}{'parsed':>8}"]
    for row in rows:
        what = f"{row.length - 1} {'images' if row.direction == 'forward' else 'actions'}"
        chance = "–" if row.chance_accepted is None else f"{row.chance_accepted:.3f}"
        interval = f"{row.accepted.low:.3f} – {row.accepted.high:.3f}"
        lines.append(
            f"{row.world:<{width}}{row.direction:<10}{what:>10}{row.n:>6}{row.exact.value:>8.3f}"
            f"{f'{row.accepted.value:.3f} ({chance})':>19}{interval:>18}"
            f"{f'{row.pairwise:.3f} ({row.chance_pairwise:.3f})':>19}{row.parsed:>8.3f}"
        )
    return "\n".join(lines)
