"""Rollouts between the steps of training: the whole model is there, whatever is spread over processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from vagen.config import Config, environment
from vagen.data.stream import ClozeStream
from vagen.policy.batches import Batcher, answer_weights
from vagen.policy.chat import Chat
from vagen.policy.policy import create
from vagen.rollout.cached import CachedEngine
from vagen.rollout.rollouts import Settings, rollout
from vagen.rollout.sampling import Sampling
from vagen.train.ranks import free_port
from vagen.train.run import cloze_format

ROOT = Path(__file__).parents[2]
# Rank 1 plays longer episodes, and more of them; between the rollouts both train.
WORKER = """
import json, sys
from pathlib import Path
from vagen.config import Config
from vagen.data.stream import ClozeStream
from vagen.policy.batches import Batcher, answer_weights
from vagen.policy.chat import Chat
from vagen.policy.policy import create
from vagen.rollout.cached import CachedEngine
from vagen.rollout.rollouts import Settings, rollout
from vagen.rollout.sampling import Sampling
from vagen.train.engine import Engine, start_processes, stop_processes
from vagen.train.run import cloze_format

config = Config.model_validate_json(Path(sys.argv[1]).read_text())
rank, ranks = start_processes()
stream = ClozeStream(config.shards, config.clozes, config.seed, config.mixture)
policy = create(config.model, cloze_format(config, stream.worlds, stream.patterns), config.seed)
chat = Chat(policy)
cells = [(world, cloze) for world in stream.worlds for cloze in stream.patterns]
batcher = Batcher(chat, answer_weights(chat, stream, config.train.balance), cells)
engine = Engine(policy.model, config.train, config.optimizer, len(cells))
writer = CachedEngine(chat, 2, engine.gathered)
settings = Settings("no_think", max_turns=2 + 3 * rank, sampling=Sampling(max_tokens=5))
found = []
for step in range(2):
    seeds = range(10 * rank, 10 * rank + 2 + rank)
    for played in rollout(writer, "sokoban-6x6", seeds, seeds, settings):
        found += [[turn.response.tolist(), turn.log_probs.tolist()] for turn in played.turns]
    groups = stream.share(step, config.train.rows, rank, ranks)
    engine.step([batcher.batch(groups)])
Path(f"{sys.argv[2]}-{rank}.json").write_text(json.dumps(found))
stop_processes()
"""


def play(configuration: Path, output: Path) -> list[list]:
    """The responses and log-probabilities of each of two processes."""
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", WORKER, str(configuration), str(output)]
    children = [
        subprocess.Popen(command, cwd=ROOT, env=environment(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
        for rank in range(2)
    ]
    try:
        codes = [child.wait(timeout=500) for child in children]
    finally:
        for child in children:
            child.kill()
    assert codes == [0, 0]
    return [json.loads(Path(f"{output}-{rank}.json").read_text()) for rank in range(2)]


def test_the_whole_model_is_there_for_rollouts(process_group, values, tmp_path):
    """ZeRO 3 in one process, before and after a step of training, against a copy that was never spread."""
    from vagen.train.engine import Engine

    config = Config.model_validate(values(tmp_path / "unused", train={"zero_stage": 3}))
    stream = ClozeStream(config.shards, config.clozes, config.seed, config.mixture)
    with mock.patch.dict(os.environ, process_group):
        form = cloze_format(config, stream.worlds, stream.patterns)
        policy, whole = (create(config.model, form, config.seed) for _ in range(2))
        chat = Chat(policy)
        cells = [(world, cloze) for world in stream.worlds for cloze in stream.patterns]
        batcher = Batcher(chat, answer_weights(chat, stream, config.train.balance), cells)
        engine = Engine(policy.model, config.train, config.optimizer, len(cells))
        spread = CachedEngine(chat, 2, engine.gathered)
        before = responses(spread)
        assert before == pytest.approx(responses(CachedEngine(Chat(whole), 2)), abs=1e-5)
        groups = stream.share(0, config.train.rows, 0, 1)
        engine.step([batcher.batch(groups[:2]), batcher.batch(groups[2:])])
        whole.model.load_state_dict(engine.model_state())
        after = responses(spread)
    assert after == pytest.approx(responses(CachedEngine(Chat(whole), 2)), abs=1e-5)
    assert after != before, "training changed nothing"


def responses(engine: CachedEngine) -> list[float]:
    """The tokens and log-probabilities of a few episodes, one after the other."""
    settings = Settings("no_think", max_turns=2, sampling=Sampling(max_tokens=4))
    played = rollout(engine, "sokoban-6x6", range(3), range(3), settings)
    turns = [turn for episode in played for turn in episode.turns]
    return [number for turn in turns for numbers in (turn.response, turn.log_probs) for number in numbers.tolist()]


@pytest.mark.slow
def test_rollouts_of_spread_models_are_those_of_whole_ones(values, tmp_path):
    """ZeRO 3 against ZeRO 2 in two processes with unequal episodes, before and after a step of training."""
    found = {}
    for stage in (2, 3):
        configuration = tmp_path / f"{stage}.json"
        changed = values(tmp_path / "unused", train={"zero_stage": stage})
        configuration.write_text(json.dumps(changed))
        found[stage] = play(configuration, tmp_path / f"zero{stage}")
    for whole, spread in zip(found[2], found[3], strict=True):
        assert len(whole) == len(spread)
        for (tokens, log_probs), (same_tokens, same_log_probs) in zip(whole, spread, strict=True):
            assert tokens == same_tokens
            np.testing.assert_allclose(log_probs, same_log_probs, rtol=0, atol=1e-4)
    assert len(found[2][1]) > 2 * len(found[2][0]), "the processes have as much to do"
    for own in found[2]:
        half = len(own) // 2
        assert own[:half] != own[half:], "training changed nothing"
