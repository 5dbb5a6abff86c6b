"""The page as a whole: what its template lays out, and the file it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

import vagen
from vagen.evaluate.report.agents import AgentsView, agents_view
from vagen.evaluate.report.alarms import Alarm, alarms
from vagen.evaluate.report.card import CardView, SeedsView, card_view, seeds_view
from vagen.evaluate.report.charts import Panel
from vagen.evaluate.report.curves import loss_panels
from vagen.evaluate.report.inputs import AGENTS, CARD, MADE_BY, Results, read_results
from vagen.evaluate.report.reinforcement import reinforced, reinforcement_panels
from vagen.evaluate.report.samples import WorldSamples, sample_views
from vagen.evaluate.report.stats import Stat, headline_stats
from vagen.evaluate.report.sweeps import calibration_panels, horizon_panels
from vagen.evaluate.report.wording import percent
from vagen.files import write_text_atomically

PAGE = "report.html"


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run's folder, from whatever results lie there, and return its path.

    Raises:
        ReportError: the folder has no results, or one of them is damaged.
    """
    page = _page(run)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vagen.evaluate.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": percent, "count": "{:,}".format}
    output = run / PAGE
    write_text_atomically(output, environment.get_template("page.html.jinja").render(page=page) + "\n")
    return output


@dataclass(frozen=True)
class Page:
    """Everything the template lays out. ``None`` and empty parts are left out."""

    title: str
    model: str
    summary: str
    stats: list[Stat]
    card: CardView | None
    seeds: SeedsView | None
    horizons: list[Panel]
    calibration: list[Panel]
    panels: list[Panel]
    reinforcement: list[Panel]
    alarms: list[Alarm]
    samples: list[WorldSamples]
    agents: AgentsView | None
    facts: list[tuple[str, str]]
    versions: dict[str, str]
    config: str
    missing: list[tuple[str, str]]


def _page(run: Path) -> Page:
    results = read_results(run)
    card, config = results.card, results.config or {}
    return Page(
        title=run.resolve().name,
        model=card.model if card else _configured_model(config),
        summary=_summary(results),
        stats=headline_stats(results),
        card=card_view(card, results.seeds) if card else None,
        seeds=seeds_view(card, config, results.seeds) if results.seeds else None,
        horizons=horizon_panels(card.rows) if card else [],
        calibration=calibration_panels(card.rows) if card else [],
        panels=loss_panels([record for record in results.metrics if "success" not in record]),
        reinforcement=reinforcement_panels(results.metrics),
        alarms=alarms(results.metrics) if reinforced(results.metrics) else [],
        samples=sample_views(card.rows, run / CARD) if card else [],
        agents=agents_view(results.agents, run / AGENTS) if results.agents else None,
        facts=_facts(results),
        versions={"vagen (this page)": vagen.__version__, **(card.versions if card else {})},
        config=results.config_text,
        missing=[(name, command) for name, command in MADE_BY.items() if not (run / name).is_file()],
    )


def _configured_model(config: Mapping[str, Any]) -> str:
    model = config.get("model")
    return str(model.get("path") or "") if isinstance(model, dict) else ""


def _summary(results: Results) -> str:
    rows = results.card.rows if results.card else results.agents.rows if results.agents else []
    names = list(dict.fromkeys(row.world for row in rows))
    worlds = f" of {_listed(names)}" if names else ""
    return (
        "How well a vision-language model understands the worlds it acts in: it is shown images and actions"
        f"{worlds}, and asked to fill in the missing link of the Markov decision process, exactly."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _facts(results: Results) -> list[tuple[str, str]]:
    """Seeds, splits and sizes, as (what, value)."""
    facts = []
    if results.config is not None and "seed" in results.config:
        facts.append(("Training seed", str(results.config["seed"])))
    if results.card:
        facts += [("Test split", results.card.split), ("Test seed", str(results.card.seed))]
    if results.agents and results.agents.split is not None:
        facts += [("Episodes’ split", results.agents.split), ("Episodes’ seed", str(results.agents.seed))]
    if results.metrics and "sharing" in results.metrics[-1]:
        facts.append(("Tokens saved by packing", f"× {results.metrics[-1]['sharing']:.2f}"))
    return facts
