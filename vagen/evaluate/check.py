"""``vagen check``: every cloze in every world and representation against the simulator, before any model is asked.

The truth must score 1, and an answer with one thing changed must not, unless a replay in another world shows that it
is right too. Beside that stand the floors and ceilings that any model will be measured against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vagen.cloze.build import build, check_answerable, write_reward
from vagen.cloze.grammar import ClozeError, Pattern, named
from vagen.cloze.sample import IMPOSSIBLE, LABELS, NO, YES, Sample, simulator
from vagen.cloze.scoring import score
from vagen.cloze.statistics import ceiling, copy_floor, majority_floor, random_floor
from vagen.cloze.truth import true_facts
from vagen.cloze.windows import Strata, changes
from vagen.evaluate.replay import explains
from vagen.evaluate.worldmodel import STRATA, draw_samples
from vagen.progress import Progress
from worlds import Facts, Split, Thing, WorldError
from worlds.text import REPRESENTATIONS, Representation, write_facts


@dataclass(frozen=True)
class CheckRow:
    """One world, cloze and representation.

    Attributes:
        world, cloze, pattern, representation: what was checked.
        n: samples; 0 where the cloze is refused.
        refused: why this world cannot be asked this; "" where it can.
        truths_right: samples whose own answer scores 1; must be ``n``.
        corrupted_right: answers with one thing changed that score 1: another way to the same outcome.
        unexplained: answers with one thing changed whose score a replay contradicts; must be 0.
        effective: share of samples that change what can be seen.
        ceiling, majority, random, copy: what a perfect and a blind predictor reach; None where they do not apply.
    """

    world: str
    cloze: str
    pattern: str
    representation: Representation
    n: int = 0
    refused: str = ""
    truths_right: int = 0
    corrupted_right: int = 0
    unexplained: int = 0
    effective: float | None = None
    ceiling: float | None = None
    majority: float | None = None
    random: float | None = None
    copy: float | None = None

    @property
    def passed(self) -> bool:
        return self.truths_right == self.n and not self.unexplained


def check(
    worlds: Sequence[str],
    clozes: Sequence[str],
    representations: Sequence[Representation] = REPRESENTATIONS,
    n: int = 200,
    seed: int = 1,
    split: Split = "test",
    strata: Strata = STRATA,
) -> list[CheckRow]:
    """Check clozes with ``n`` samples each; all representations are asked about the same windows.

    Raises:
        WorldError, ClozeError: an unknown world, or a cloze that cannot be in any world.
    """
    patterns = {cloze: named(cloze) for cloze in clozes}
    for world in worlds:
        simulator(world)
    rows: list[CheckRow] = []
    with Progress(len(worlds) * len(clozes), "check", "clozes") as progress:
        for world in worlds:
            for cloze, pattern in patterns.items():
                rows += _check_one(world, cloze, pattern, representations, n, seed, split, strata)
                progress.update()
    return rows


def as_json(rows: Sequence[CheckRow]) -> dict[str, Any]:
    """Checked rows as plain data."""
    return {"passed": all(row.passed for row in rows), "rows": [{**asdict(row), "passed": row.passed} for row in rows]}


def table(rows: Sequence[CheckRow]) -> str:
    """Checked rows as a table for a terminal; representations that say the same share a line."""
    width = max(len(row.world) for row in rows) + 2
    head = f"{'world':<{width}}{'cloze':<24}{'n':>5}{'truth':>7}{'changed':>9}{'effective':>11}{'ceiling':>9}"
    lines = [f"{head}{'majority':>10}{'random':>8}{'copy':>7}  representations"]
    merged: dict[CheckRow, list[str]] = {}
    for row in rows:
        merged.setdefault(replace(row, representation="grid"), []).append(row.representation)
    for row, written in merged.items():
        start = f"{row.world:<{width}}{row.cloze:<24}"
        if row.refused:
            lines.append(f"{start}    –  {row.refused}")
            continue
        floors = f"{_share(row.majority):>10}{_share(row.random):>8}{_share(row.copy):>7}"
        shares = f"{row.truths_right / row.n:>7.3f}{row.corrupted_right:>9}{_share(row.effective):>11}"
        mark = "" if row.passed else "  FAILED"
        lines.append(f"{start}{row.n:>5}{shares}{_share(row.ceiling):>9}{floors}  {' '.join(written)}{mark}")
    failed = sum(not row.passed for row in rows)
    asked = sum(row.n for row in rows)
    lines += [
        "truth: share of true answers that score 1, which all must. changed: how many answers with one thing changed",
        "score 1 too; a replay must find each of them right (another way to the same outcome), else the row FAILED.",
        "effective: share of samples in which something visible changes. ceiling, majority, random, copy: what a",
        "perfect and a blind predictor reach.",
        f"{asked:,} samples, {failed} of {len(rows)} rows failed",
    ]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _check_one(
    world: str,
    cloze: str,
    pattern: Pattern,
    representations: Sequence[Representation],
    n: int,
    seed: int,
    split: Split,
    strata: Strata,
) -> Iterator[CheckRow]:
    try:
        check_answerable(cloze, pattern, simulator(world))
        samples = draw_samples(world, cloze, pattern, n, seed, split, representations[0], strata)
    except (ClozeError, WorldError) as error:
        for representation in representations:
            yield CheckRow(world, cloze, str(pattern), representation, refused=str(error).partition(": ")[2])
        return
    floors = [majority_floor(samples), random_floor(samples), copy_floor(samples)]
    majority, random, copy = (floor.value if floor else None for floor in floors)
    top = ceiling(samples)
    for representation in representations:
        asked = [build(cloze, pattern, sample.window, representation) for sample in samples]
        corrupted = [_judged(sample, number) for number, sample in enumerate(asked)]
        yield CheckRow(
            world,
            cloze,
            str(pattern),
            representation,
            n=len(asked),
            truths_right=sum(score(sample, sample.answer).correct for sample in asked),
            corrupted_right=sum(right for right, _ in corrupted),
            unexplained=sum(right != explained for right, explained in corrupted),
            effective=sum(map(changes, asked)) / len(asked) if pattern.dynamics else None,
            ceiling=top,
            majority=majority,
            random=random,
            copy=copy,
        )


def _judged(sample: Sample, number: int) -> tuple[bool, bool]:
    """Whether an answer with one thing changed scores 1, and whether a replay finds it right."""
    changed = _changed(sample, np.random.default_rng([number, 5]))
    return score(sample, changed).correct, explains(sample, changed)


def _changed(sample: Sample, generator: np.random.Generator) -> str:
    """The answer with one thing, word or number changed, so that it is another one and can be read."""
    pattern, world, answer = sample.pattern, sample.world, sample.answer
    if pattern.choices:
        return _another(LABELS[: pattern.choices], answer, generator)
    match pattern.task:
        case "state":
            facts = _corrupted(true_facts(sample), sample, generator)
            return write_facts(facts, world.schema, sample.representation)
        case "actions" | "policy":
            words = answer.split(", ")
            place = int(generator.integers(len(words)))
            words[place] = _another(world.actions, words[place], generator)
            return ", ".join(words)
        case "order":
            words = answer.split()
            one, two = generator.choice(len(words), 2, replace=False)
            words[one], words[two] = words[two], words[one]
            return " ".join(words)
        case "reward":
            return write_reward(float(answer) + float(generator.choice([-1, -0.1, -0.01, 0.01, 0.1, 1])))
        case "termination":
            return _another((YES, NO), answer, generator)
        case _:
            steps = 1 if answer == IMPOSSIBLE else int(answer)
            return _another((IMPOSSIBLE, str(steps + 1), str(abs(steps - 1))), answer, generator)


def _another(words: Sequence[str], word: str, generator: np.random.Generator) -> str:
    return str(generator.choice([other for other in words if other != word]))


def _corrupted(facts: Facts, sample: Sample, generator: np.random.Generator) -> Facts:
    """The facts with one thing moved, taken away or changed, such that the world's schema still allows them."""
    schema = sample.world.schema
    things = sorted(facts.things)
    while True:
        old = things[generator.integers(len(things))]
        x, y = int(generator.integers(schema.width)), int(generator.integers(schema.height))
        details = schema.kinds[old.kind]
        new = Thing(old.kind, x, y, details[generator.integers(len(details))])
        kept = facts.things - {old}
        candidates = [Facts(kept | {new}), Facts(kept), Facts(kept | {replace(new, x=old.x, y=old.y)})]
        changed = candidates[generator.integers(len(candidates))]
        if changed != facts and schema.allows(changed):
            return changed
