"""``vagen quickstart``: the whole path in one command, from worlds to a report and a folder others can load."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vagen.cloze.build import check_answerable
from vagen.cloze.grammar import named
from vagen.cloze.sample import simulator
from vagen.cloze.windows import Strata
from vagen.config import Config, ConfigError, save
from vagen.evaluate import agent, worldmodel
from vagen.evaluate.report import write_report
from vagen.export import export
from vagen.files import ensure_folder, write_json
from vagen.policy.chat import open_chat
from vagen.rollout.agents import Agent, ExpertAgent, ModelAgent, RandomAgent
from vagen.rollout.collect import collect
from vagen.train.launch import run_processes
from vagen.train.run import micro_batches

AGENT_STEPS = 30  # an episode of the model is cut here: one that has not arrived by then walks in circles


def quickstart(config: Config, processes: int) -> Path:
    """Collect, train, evaluate, export and report into ``config.output``; returns the report card.

    Raises:
        ConfigError, WorldError, ClozeError, OutputError: inputs that cannot be used, before any work is done.
    """
    for cloze in (*config.clozes.weights, *config.evaluate.clozes):
        for world in config.collect.worlds:
            check_answerable(cloze, named(cloze), simulator(world))
    micro_batches(config.train, processes)
    output = ensure_folder(Path(config.output))
    timings: dict[str, float] = {}
    with _stage("collect", timings):
        collected = collect(config.collect, output / "data", config.seed, overwrite=True)
        shards = tuple(map(str, collected))
    config = config.model_copy(update={"shards": shards})
    with _stage("train", timings):
        save(config, output / "config.yaml")
        if code := run_processes(processes, ["--config", str(output / "config.yaml"), "--overwrite"]):
            raise ConfigError(f"training failed with exit code {code}; the lines above say why")
    with _stage("export", timings):
        exported = export(output, output / "export", overwrite=True)
    chat = open_chat(str(exported))
    with _stage("evaluate", timings):
        evaluation = config.evaluate
        card = worldmodel.evaluate(
            chat,
            config.collect.worlds,
            evaluation.clozes,
            evaluation.n,
            evaluation.seed,
            batch=evaluation.batch,
            training_shards=[Path(folder) for folder in shards],
            strata=Strata(evaluation.sampling.idle, evaluation.sampling.balance),
        )
        write_json(output / "report_card.json", card)
        agents: list[Agent] = [RandomAgent(), ExpertAgent(), ModelAgent(chat, evaluation.batch)]
        played = agent.evaluate(
            agents, config.collect.worlds, evaluation.episodes, evaluation.seed, "test", AGENT_STEPS
        )
        write_json(output / "agents.json", played)
    with _stage("report", timings):
        export(output, output / "export", output / "report_card.json", overwrite=True)
        write_json(output / "timings.json", timings)
        report = write_report(output)
    print(worldmodel.summary(card), file=sys.stderr)
    print(f"report: {report}\nmodel:  {exported}", file=sys.stderr)
    return output / "report_card.json"


@contextmanager
def _stage(name: str, timings: dict[str, float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    timings[name] = round(time.perf_counter() - began, 1)
    print(f"quickstart: {name} took {timings[name]:.0f} s", file=sys.stderr, flush=True)
