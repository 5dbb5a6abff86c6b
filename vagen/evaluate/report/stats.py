"""The headline numbers of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from vagen.evaluate.report.agents import acting_agent, agent_names
from vagen.evaluate.report.card import best_floor, headline_rows
from vagen.evaluate.report.inputs import Agents, Card, Record, Results
from vagen.evaluate.report.wording import brief, duration, percent, percent_range, plural


@dataclass(frozen=True)
class Stat:
    """A headline number."""

    label: str
    value: str
    note: str


def headline_stats(results: Results) -> list[Stat]:
    """As many of the headline numbers as the results allow."""
    stats = []
    if results.card:
        stats += _card_stats(results.card)
    if results.agents:
        stats.append(_success_stat(results.agents))
    stats += _validation_stats(results.metrics)
    stats += _training_stats(results.metrics)
    if results.card and results.card.parameters:
        stats.append(Stat("Parameters", brief(results.card.parameters), f"{results.card.parameters:,}"))
    return stats


def _card_stats(card: Card) -> list[Stat]:
    rows = headline_rows(card)
    accuracies = [row.accuracy for row in rows]
    floors = [best_floor(row.floors) for row in rows]
    each = {row.n for row in rows}
    of_all = "" if len(rows) == len(card.rows) else " with images"
    n = f"{min(each):,} per row" if len(each) == 1 else f"{min(each):,} – {max(each):,} per row"
    return [
        Stat(
            "Mean accuracy",
            f"{percent(fmean(accuracies))} %",
            f"{percent_range(accuracies)} over {plural(len(rows), 'row')}{of_all}",
        ),
        Stat("Mean best floor", f"{percent(fmean(floors))} %", f"{percent_range(floors)}; without understanding"),
        Stat("Test samples", f"{sum(row.n for row in rows):,}", n),
    ]


def _success_stat(agents: Agents) -> Stat:
    acting = acting_agent(agents)
    means = {name: fmean(r.success for r in agents.rows if r.agent == name) for name in agent_names(agents)}
    others = ", ".join(f"{name} {percent(mean)}" for name, mean in means.items() if name != acting)
    return Stat("Task success", f"{percent(means[acting])} %", others or acting)


def _validation_stats(metrics: Sequence[Record]) -> list[Stat]:
    """The best success in validation while training, and the last."""
    measured = [record for record in metrics if "eval/success" in record]
    if not measured:
        return []
    best = max(measured, key=lambda record: record["eval/success"])
    note = f"step {best['step']:,.0f}; at the end {percent(measured[-1]['eval/success'])}"
    return [Stat("Best validation success", f"{percent(best['eval/success'])} %", note)]


def _training_stats(metrics: Sequence[Record]) -> list[Stat]:
    if not metrics:
        return []
    spans = zip([0.0, *(record["step"] for record in metrics)], metrics, strict=False)
    lengths = [(record["step"] - before, record) for before, record in spans]
    steps = f"{metrics[-1]['step']:,.0f} steps"
    if not all("seconds_per_step" in record for record in metrics):
        return [Stat("Training", steps, "duration not recorded")]
    times = [(n * record["seconds_per_step"], record) for n, record in lengths]
    seconds = sum(time for time, _ in times)
    stats = [Stat("Training time", duration(seconds), steps)]
    if seconds > 0 and all("clozes_per_second" in record for record in metrics):
        seen = sum(time * record["clozes_per_second"] for time, record in times)
        stats.append(Stat("Clozes seen", brief(seen), f"{seen / seconds:,.0f} per second"))
    return stats
