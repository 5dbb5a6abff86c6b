"""Signs in the metrics of reinforcement that something is going wrong, often before the reward shows it.

An alarm is a suspicion, with the step and the numbers it rests on. Thresholds are deliberately blunt, and what is
noisy must last: an alarm that goes off in every run is read in none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vagen.evaluate.report.inputs import Points, Record, points

LASTING = 3  # reports in a row


@dataclass(frozen=True)
class Alarm:
    """``name``: what is suspected; ``step``: since when; ``why``: the numbers, and what to look at."""

    name: str
    step: float
    why: str


def alarms(metrics: Sequence[Record]) -> list[Alarm]:
    """Everything suspicious in the metrics of a run, the earliest first."""
    found = [alarm for rule in RULES if (alarm := rule(metrics)) is not None]
    return sorted(found, key=lambda alarm: alarm.step)


def _lasting(found: Points, wrong: Callable[[float], bool], reports: int = LASTING) -> tuple[float, float] | None:
    """Where something begins to be wrong for so many reports in a row, and its value then."""
    for place in range(len(found) - reports + 1):
        if all(wrong(value) for _, value in found[place : place + reports]):
            return found[place]
    return None


def _template_collapse(metrics: Sequence[Record]) -> Alarm | None:
    """Reasoning once depended on its prompt and no longer does, though it may be as diverse as ever (RAGEN-2).

    That is: twice in a row its mutual information with the prompt is no more than chance would give, or the whole
    interval lies below half of what it was.
    """
    best, before = 0.0, None
    for record in metrics:
        if "mi/mi_sequence" not in record:
            continue
        told = record["mi/mi_sequence"]
        if not best or (record["mi/p_value"] <= 0.05 and record["mi/high"] >= best / 2):
            best = max(best, told if record["mi/p_value"] <= 0.05 else 0.0)
            before = None
        elif before is not None:
            why = (
                f"a reasoning tells {before['mi/mi_sequence']:.2f} nats about its prompt (95 % interval "
                f"{before['mi/low']:.2f} to {before['mi/high']:.2f}), and told {best:.2f}"
            )
            return Alarm("Template collapse", before["step"], f"{why}; read some responses, and filter groups")
        else:
            before = record
    return None


def _entropy_collapse(metrics: Sequence[Record]) -> Alarm | None:
    """The policy hardly tries anything any more, and does not succeed either."""
    found, success = points(metrics, "entropy"), dict(points(metrics, "success"))
    if not found:
        return None
    start = sum(value for _, value in found[:LASTING]) / len(found[:LASTING])
    low = _lasting(found, lambda value: value < start / 10)
    if low is None or success.get(low[0], 0.0) > 0.9:
        return None
    why = f"{low[1]:.3g} nats per token, {start:.3g} at first, and {success.get(low[0], 0.0):.0%} success"
    return Alarm("Entropy collapse", low[0], f"{why}; raise clip_high or policy.entropy, lower policy.positive")


def _form_lost(metrics: Sequence[Record]) -> Alarm | None:
    found = points(metrics, "rollout/formed")
    for place, (_, best) in enumerate(found):
        if best >= 0.5 and (lost := _lasting(found[place + 1 :], lambda value, best=best: value < best / 2)):
            why = f"{lost[1]:.0%} of the responses have the form asked for, and {best:.0%} had"
            return Alarm("Form lost", lost[0], f"{why}; lower the learning rate, or pay for the form")
    return None


def _success_lost(metrics: Sequence[Record]) -> Alarm | None:
    """Validation success is below what it was, by more than both 95 % intervals allow."""
    worlds = sorted({key for record in metrics for key in record if key.endswith("/success_high")})
    lost = []
    for high in worlds:
        name = high.removesuffix("_high")
        best = (0.0, 0.0)  # lower bound, value
        for record in metrics:
            if high in record and record[high] < best[0]:
                world = name.removeprefix("eval/").removesuffix("/success")
                why = f"{record[name]:.0%} in {world}, and {best[1]:.0%} before, whose intervals do not meet"
                lost.append(Alarm("Success lost", record["step"], f"{why}; the best checkpoint is kept"))
                break
            if high in record:
                best = max(best, (record[f"{name}_low"], record[name]))
    return min(lost, key=lambda alarm: alarm.step, default=None)


@dataclass(frozen=True)
class _Beyond:
    """A rule: a metric lies beyond a bound for so many reports in a row; ``what`` is formatted with its value."""

    key: str
    name: str
    what: str
    most: float = math.inf
    least: float = -math.inf
    reports: int = LASTING

    def __call__(self, metrics: Sequence[Record]) -> Alarm | None:
        found = _lasting(points(metrics, self.key), lambda x: x > self.most or x < self.least, self.reports)
        return None if found is None else Alarm(self.name, found[0], self.what.format(found[1]))


#: What is looked for. Adding an alarm is one entry.
RULES: tuple[Callable[[Sequence[Record]], Alarm | None], ...] = (
    _template_collapse,
    _entropy_collapse,
    _form_lost,
    _success_lost,
    _Beyond(
        "groups/kept",
        "Hardly any group teaches",
        "{:.0%} of the groups are learned from; choose worlds in which some episodes succeed, or larger groups",
        least=0.1,
    ),
    _Beyond(
        "groups/phantom",
        "Phantom groups",
        "{:.0%} of the groups differ in form alone; leave filter.outcome_gate on",
        most=0.25,
    ),
    _Beyond("rollout/cut", "Responses are cut", "{:.0%} of them; raise rollouts.tokens, or ask for less", most=0.5),
    _Beyond(
        "kl/update",
        "Large updates",
        "a step moves the policy by {:.2g} nats per token; lower the learning rate or policy.epochs",
        most=0.1,
    ),
    _Beyond(
        "gap/sampler",
        "Sampler and trainer differ",
        "by {:.2g} nats per token; set policy.sampler_cap, and look for what they compute differently",
        most=0.05,
        reports=1,
    ),
    _Beyond(
        "ratio/first_gap",
        "First ratios are not 1",
        "they are off by up to {:.2g} nats: something in the model is random",
        most=0.0,
        reports=1,
    ),
    _Beyond("skipped", "Skipped batches", "they were not finite; the log names them", most=0.0, reports=1),
    _Beyond(
        "rollout/errors",
        "Broken episodes",
        "{:.3g} in a step were broken off by errors of their worlds; the log names the first",
        most=0.0,
        reports=1,
    ),
)
