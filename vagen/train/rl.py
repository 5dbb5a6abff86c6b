"""Training by multi-turn reinforcement: the whole loop in one place.

A step: play groups of episodes, or of answers to clozes or to questions about images, reward them, choose the groups
worth learning from, pack their turns, ask the trainer itself how likely they were, find advantages, and update in one
or several optimizer steps, with clozes about the same episodes beside them. A warm-up of supervised steps may come
first: collect, learn responses with the truth written into them and clozes, then reinforce (the order of SPA, Chen et
al. 2025).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from vagen.cloze.build import check_answerable
from vagen.cloze.grammar import Pattern, named
from vagen.cloze.opposite import opposite_pattern
from vagen.cloze.sample import simulator
from vagen.config import Config, ConfigError, Rl
from vagen.data.examples import SOURCE, read_image
from vagen.data.mixture import weight_at
from vagen.data.stream import Group
from vagen.policy.actor import Outputs, PackedActor, outputs
from vagen.policy.batches import Batcher, weights_of
from vagen.policy.chat import Chat, Encoded, Picture
from vagen.policy.packing import Batch, Row, even_batch, pack
from vagen.policy.policy import Policy, check_path, create
from vagen.rl import filters, losses
from vagen.rollout.demonstrations import demonstrate
from vagen.rollout.rollouts import settings_of
from vagen.train import environment
from vagen.train.answering import Exam, check_lengths, open_exam, play_clozes, play_questions, right_answers
from vagen.train.checkpoints import Best, seed_random
from vagen.train.cloze import Outcome, agree
from vagen.train.collapse import measure_collapse
from vagen.train.engine import Engine, Wrapped, barrier, largest, start_processes
from vagen.train.experience import (
    Episode,
    Floats,
    Measured,
    Micro,
    Target,
    check,
    in_order,
    measured,
    needs_critic,
    plan,
    targets,
    unmeasured,
)
from vagen.train.gradients import by_variance, gradient_metrics, variances
from vagen.train.knowledge import Knowledge
from vagen.train.metrics import Metrics
from vagen.train.objective import Terms, policy_terms
from vagen.train.optimizer import ParameterGroup
from vagen.train.playing import (
    Played,
    Pool,
    collect_pool,
    in_numbers,
    play_worlds,
    sound_ones,
    success_metrics,
    successes,
)
from vagen.train.reporters import start_reporters
from vagen.train.run import Start, check_sizes, cloze_format, latest_model, prepare_output
from vagen.train.schedule import rate_factor
from vagen.train.session import open_run
from vagen.train.signals import StopRequest
from vagen.train.watching import Interval, Sums, Tokens, largest_of, rollout_metrics

SUCCESS = "eval/success"  # the metric whose best checkpoint is kept
LARGEST_FIRST_GAP = 1e-3  # between log-probabilities before and in the first update: more means another computation
GROUPS_COUNTED = 128  # groups of clozes whose answers decide the token weights


@dataclass(frozen=True)
class State:
    """What the loop has to know to go on, besides what the engine knows.

    Attributes:
        empty: steps in a row without a group to learn from.
        skipped: batches in a row that were not finite.
        stale: validations in a row without more success.
    """

    empty: int = 0
    skipped: int = 0
    stale: int = 0


_STATE = TypeAdapter(State)


class DivergenceError(ConfigError):
    """A training that went wrong; the message names the batch."""


def prepare(config: Config, start: Start) -> tuple[Rl, Exam | None]:
    """Check everything that can be wrong with a run's inputs before anything starts; returns what is played.

    Raises:
        ConfigError, DataError, WorldError, ClozeError, ModelError, OutputError, RewardError: what is wrong, and how to
            mend it.
    """
    rl = config.rl
    assert rl is not None, "only for configurations with a section rl"
    worlds = [simulator(world) for world in rl.rollouts.worlds]
    check(rl)
    if config.model.lora.dropout:
        raise ConfigError(
            "model.lora.dropout makes probabilities random, and reinforcement compares them: set it to 0"
        )
    if config.model.lora.rank and rl.warmup.steps and rl.divergence.weight:
        raise ConfigError(
            "rl.divergence stays near the model without adapters, and rl.warmup moves away from it: leave one out, or "
            "merge the adapters after a run of the warm-up alone"
        )
    if rl.diagnostics.gradients and (config.train.zero_stage or not rl.diagnostics.every):
        raise ConfigError(
            "rl.diagnostics.gradients measures whole gradients every rl.diagnostics.every steps: set "
            "train.zero_stage=0 and rl.diagnostics.every"
        )
    exam = open_exam(config, rl)
    if exam is None and (rl.auxiliary.weight is not None or rl.warmup.clozes or rl.source == "clozes"):
        for name, pattern in _patterns(config).items():
            for world in worlds:
                check_answerable(name, pattern, world)
            if rl.rewards.answers == "reciprocal":
                opposite_pattern(pattern)
    if config.model.path is not None:
        check_path(config.model.path)
    else:
        check_sizes(rl.rollouts.worlds, config.model.tiny.image_size, exam.stream if exam else None)
    prepare_output(config, start, exam.stream.digests if exam else {})
    return rl, exam


def train(config: Config, start: Start = "new") -> Outcome:
    """Train as configured, in the folder ``config.output``; as :func:`vagen.train.cloze.train`.

    Raises:
        DivergenceError: batches that are not finite.
        ConfigError: no group of episodes was worth an update for many steps.
    """
    rank, ranks = start_processes()
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest(announce=rank == 0))
        rl, exam = prepare(config, start)
        output = Path(config.output)
        seed_random(config.seed)
        dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
        form = cloze_format(config, rl.rollouts.worlds, () if exam else config.clozes.weights)
        policy = create(config.model, form, config.seed, dtype, exam.stream.words() if exam else ())
        policy.model.train()
        if exam is not None:
            check_lengths(Chat(policy), exam, rl.rollouts.tokens)
        digests = exam.stream.digests if exam else {}
        id, checkpoints = open_run(stack, config, start, digests, rank, ranks)  # what is wrong with a model has shown
        engine, actor = make_engine(config, rl, policy)
        seed_random(config.seed + rank)
        newest, done, best, state = checkpoints.newest(), 0, None, State()
        if newest:
            checkpoints.load(engine, newest)
            done, best = newest.step, newest.best
            state = _STATE.validate_json(checkpoints.state(newest))
        total = rl.warmup.steps + config.train.steps
        metrics = None
        if rank == 0:
            environment.record(output, done, ranks)
            metrics = stack.enter_context(Metrics(output, done, total, start_reporters(config, id, done)))
        learner = Learner(config, rl, exam, engine, actor, policy, rank, ranks)
        learner.collect()
        saved, stopped, ended, interval = done, None, False, Interval()
        for step in range(done + 1, total + 1):
            began, spent = time.perf_counter(), time.process_time()
            values, state = learner.step(step - 1, state)
            values["seconds_per_step"] = time.perf_counter() - began
            values["processor_seconds"] = time.process_time() - spent  # whoever else uses the machine
            interval.add(values)
            if metrics:
                metrics.advance(values.get("loss"))
            stopped = agree(stop)
            measured_now: dict[str, float] = {}
            if learner.due(step) and stopped is None:
                measured_now = learner.evaluate()
                better = best is None or measured_now[SUCCESS] > best.value
                best = Best(step, SUCCESS, measured_now[SUCCESS]) if better else best
                state = replace(state, stale=0 if better else state.stale + 1)
                ended = rl.evaluation.patience is not None and state.stale >= rl.evaluation.patience
            last = step == total or stopped is not None or ended
            if step % config.train.log_every == 0 or last or measured_now:
                if metrics:
                    metrics.report(step, interval.summary() | measured_now)
                interval = Interval()
            if step % config.train.checkpoint_every == 0 or last or (best is not None and best.step == step):
                rows = step * rl.rollouts.groups * rl.rollouts.members
                keep = config.train.keep_checkpoints
                checkpoints.write(engine, policy, step, rows, best, keep, asdict(state))
                saved = step
            if last:
                break
        return Outcome(latest_model(output), saved, stopped)


def make_engine(config: Config, rl: Rl, policy: Policy) -> tuple[Engine, PackedActor]:
    """What updates a policy, with the critic and the reference that the configuration asks for."""
    critic = rl.critic.kind if needs_critic(rl) else "none"
    actor = PackedActor(policy.model, critic, reference=rl.divergence.weight > 0, isolated=rl.critic.isolated)
    groups = ()
    if critic != "none":
        groups = (ParameterGroup(actor.critic_parameters(), False, config.optimizer.lr * rl.critic.lr, 0.0),)
    factor = partial(_rate_factor, config, rl)
    wrapped = Wrapped(actor, groups)
    return Engine(policy.model, config.train, config.optimizer, 0, wrapped=wrapped, factor=factor), actor


def _rate_factor(config: Config, rl: Rl, update: int) -> float:
    """The learning rate of an optimizer step relative to the peak: level in the warm-up, then as configured."""
    if update < rl.warmup.steps:
        return rl.warmup.lr
    updates = config.train.steps * rl.policy.epochs * rl.policy.minibatches
    return rate_factor(config.optimizer, updates, update - rl.warmup.steps)


def _patterns(config: Config) -> Mapping[str, Pattern]:
    return {name: named(name) for name in config.clozes.weights}


# ------------------------------------------------------------------------------------------------------------ learning


@dataclass(frozen=True)
class _Part:
    """A micro-batch of an update, and the tensors its loss needs.

    Attributes:
        kind: ``policy``: responses and their targets; ``labels``: answers that are known, weighed by their batch's
            weights times ``scale``; ``nothing``: what keeps the processes together.
        micro: for ``policy``, the turns in it.
        scale: for ``labels``.
        gated: for ``labels``, by how far the policy is behind.
    """

    kind: Literal["policy", "labels", "nothing"]
    batch: Batch
    micro: Micro | None = None
    scale: float = 0.0
    gated: bool = False


class Learner:
    """Plays, and learns from what was played."""

    def __init__(
        self,
        config: Config,
        rl: Rl,
        exam: Exam | None,
        engine: Engine,
        actor: PackedActor,
        policy: Policy,
        rank: int,
        ranks: int,
    ):
        self.config, self.rl, self.engine, self.rank, self.ranks = config, rl, engine, rank, ranks
        self._exam, self._actor = exam, actor
        self._names = (SOURCE,) if exam else rl.rollouts.worlds
        self.chat = Chat(policy)
        self._nothing = self._empty_batch()
        self._pool: Pool | None = None
        self._batcher: Batcher | None = None
        self._knowledge = Knowledge(self.chat, rl.rollouts.strategy, rl.diagnostics.turns)

    # ------------------------------------------------------------------------------------------------------ warming up

    def collect(self) -> None:
        """Collect what the warm-up and the clozes need, where anything does."""
        rl = self.rl
        known = rl.auxiliary.weight is not None or rl.warmup.clozes
        if self._exam is not None:
            stream = self._exam.stream
            self._batcher = self._make_batcher(map(stream.whole_group, range(GROUPS_COUNTED)), stream.cells)
        elif rl.warmup.steps or known or rl.source == "clozes":
            with self.engine.gathered():
                if self.rank == 0:
                    collect_pool(self.config, rl, self.chat)
                barrier()
            self._pool = Pool(self.config, rl)
            if known:
                cells = [(world, cloze) for world in rl.rollouts.worlds for cloze in self._pool.patterns]
                self._batcher = self._make_batcher(self._pool.groups(GROUPS_COUNTED), cells)

    def _make_batcher(self, groups: Iterable[Group], cells: Sequence[tuple[str, str]]) -> Batcher:
        """What packs known answers; ``groups`` decide the weights of their tokens."""
        return Batcher(self.chat, weights_of(self.chat, groups, self.config.train.balance), cells)

    def step(self, step: int, state: State) -> tuple[dict[str, float], State]:
        """Step ``step``, from 0: of the warm-up, or of what follows it."""
        if step < self.rl.warmup.steps:
            return self._warm_up(step), state
        return self._reinforce(step - self.rl.warmup.steps, state)

    def _warm_up(self, step: int) -> dict[str, float]:
        """Learn right responses, and clozes about other episodes than they are of."""
        own = range(self.rank, self.rl.warmup.rows, self.ranks)
        sums = Sums()
        parts = self._evened(self._right_outputs(step, own) if self._exam else self._demonstrated(step, own))
        norm = self.engine.update([part.batch for part in parts], partial(self._loss, parts, {}, sums, True))
        if not math.isfinite(norm):
            raise DivergenceError(f"step {step} of the warm-up: a gradient is not finite; lower rl.warmup.lr")
        found = sums.over_all(self.engine)
        self.engine.stopwatch.take()
        return {"loss": found.get("labels", 0.0), "grad_norm": norm, "lr": self.engine.lr}

    def _demonstrated(self, step: int, own: Sequence[int]) -> list[_Part]:
        """The responses of collected episodes, with the truth in them, and clozes about others."""
        assert self._pool is not None, "collected before the first step"
        warmup = self.rl.warmup
        parts: list[_Part] = []
        if warmup.responses:
            settings = settings_of(self.chat, self.rl.rollouts)
            rows = [pack(demonstrate(self.chat, self._pool.episode(step, row), settings)) for row in own]
            batches = [even_batch(self.chat, chunk) for chunk in self._chunks(rows)]
            parts += self._labelled(batches, warmup.responses)
        if warmup.clozes:
            parts += self._asked([self._pool.group(step, row, 0.0) for row in own], warmup.clozes)
        return parts

    def _right_outputs(self, step: int, own: Sequence[int]) -> list[_Part]:
        """The right outputs to questions about images."""
        assert self._exam is not None, "there are questions"
        warmup = self.rl.warmup
        groups = [self._exam.stream.group(step * warmup.rows + row) for row in own]
        return self._asked(groups, warmup.responses)

    def _asked(self, groups: Sequence[Group], weight: float, gated: bool = False) -> list[_Part]:
        """Groups whose answers are known."""
        assert self._batcher is not None, "made where answers are known"
        return self._labelled([self._batcher.batch(chunk) for chunk in self._chunks(groups)], weight, gated)

    # ----------------------------------------------------------------------------------------------------- reinforcing

    def _reinforce(self, step: int, state: State) -> tuple[dict[str, float], State]:
        if step == 0:
            self.engine.copy(self._actor.twins())  # the reference is what reinforcement begins with
        began = time.perf_counter()
        with self.engine.gathered():
            episodes = self._play(step)
        values = {"seconds/rollout": time.perf_counter() - began}
        played = sorted(
            (one for part in self.engine.gather([in_numbers(e) for e in episodes]) for one in part),
            key=lambda one: one.number,
        )
        values |= rollout_metrics(played, self.rl.rollouts.members)
        kept, chosen = choose_groups(sound_ones(played, step, announce=self.rank == 0), self.rl)
        values |= chosen
        try:
            state = replace(state, empty=filters.count_empty(state.empty, len(kept)))
        except filters.NothingToLearnError as error:
            raise ConfigError(str(error)) from None
        if not kept:
            return values, state
        if self._diagnosed(step):
            values |= self._diagnose(episodes)
        own = [episode for episode in episodes if episode.group in kept and not episode.rollout.error]
        chunks = chunks_of(kept, self.rl.policy.minibatches)
        values, state = self._update(step, own, chunks, episodes, values, state)
        return values | {f"seconds/{name}": spent for name, spent in self.engine.stopwatch.take().items()}, state

    def _play(self, step: int) -> list[Episode]:
        if self._exam is not None:
            return play_questions(self.chat, self.config, self.rl, self._exam.stream, step, self.rank, self.ranks)
        if self.rl.source == "worlds":
            return play_worlds(self.chat, self.config, self.rl, step, self.rank, self.ranks)
        assert self._pool is not None, "collected before the first step"
        progress = step / self.config.train.steps
        return play_clozes(self.chat, self.config, self.rl, self._pool, step, progress, self.rank, self.ranks)

    def _update(
        self,
        step: int,
        own: list[Episode],
        chunks: list[list[int]],
        episodes: list[Episode],
        values: dict[str, float],
        state: State,
    ) -> tuple[dict[str, float], State]:
        """The optimizer steps of a step."""
        plans = [self._planned([e for e in own if e.group in chunk]) for chunk in chunks]
        measuring = self.rl.policy.old == "measured"
        numbers = self._measure(own, plans) if measuring else unmeasured(own)
        everyone = sorted((one for part in self.engine.gather(numbers) for one in part), key=lambda one: one.number)
        if not all(np.isfinite(one.old).all() and np.isfinite(one.values).all() for one in everyone):
            skipped = self._diverged(step, "probabilities or values before the update", everyone, state)
            return values | {"skipped": 1.0}, skipped
        wanted = targets(everyone, self.rl, chunks)
        of_number = {one.number: one for one in everyone}
        if self.rl.diagnostics.gradients and self._diagnosed(step):
            values |= self._gradients(own, of_number)
        scale = filters.loss_scale(sum(map(len, chunks)) / self.rl.rollouts.groups, self.rl.filter.scale)
        generator = np.random.default_rng([self.config.seed, step, 8])
        learning = step >= self.rl.critic.warmup or not needs_critic(self.rl)
        self._actor.isolated = self.rl.critic.isolated or not learning
        first = measuring
        for epoch in range(self.rl.policy.epochs):
            sums = Sums()
            for place in generator.permutation(len(chunks)).tolist():
                parts = [_Part("policy", micro.batch, micro) for micro in plans[place]]
                update = (step * self.rl.policy.epochs + epoch) * self.rl.policy.minibatches + place
                if learning:
                    parts += self._auxiliary(step, update, episodes, values["success"])
                parts = self._evened(parts)
                tokens = {
                    number: self._tokens(part.micro, of_number, wanted, scale)
                    for number, part in enumerate(parts)
                    if part.micro is not None
                }
                norm = self.engine.update(
                    [part.batch for part in parts], partial(self._loss, parts, tokens, sums, learning)
                )
                if not math.isfinite(norm):
                    return values | {"skipped": 1.0}, self._diverged(step, "a gradient", everyone, state)
                if first:
                    gap = largest_of(self.engine, sums.first_gap)
                    values["ratio/first_gap"] = gap
                    if gap > LARGEST_FIRST_GAP:
                        raise DivergenceError(
                            f"the first update of step {step} computes other probabilities than were recorded before "
                            f"it (by up to {gap:.2g} nats): something in the model is random; turn dropout off"
                        )
                    first = False
                values["grad_norm"] = norm
            found = sums.over_all(self.engine)
            if self.rl.policy.target_kl is not None and found.get("kl/update", 0.0) > self.rl.policy.target_kl:
                break
        values |= found | {"lr": self.engine.lr, "epochs": float(epoch + 1), "skipped": 0.0}
        return values, replace(state, skipped=0)

    def _planned(self, episodes: list[Episode]) -> list[Micro]:
        """This process's part of an optimizer step; as many micro-batches as every other process has."""
        micros = plan(self.chat, episodes, self.config.train.micro_rows, self.rl.row_tokens)
        return micros + [Micro(self._nothing, ())] * (largest(len(micros)) - len(micros))

    def _measure(self, episodes: list[Episode], plans: list[list[Micro]]) -> list[Measured]:
        """Ask the trainer itself, in the very batches of the update."""
        micros = [micro for chunk in plans for micro in chunk]
        found: list[NDArray[np.float32]] = []
        for micro in micros:
            said = outputs(self.engine.outputs(micro.batch))
            reference = said.log_probs
            if self.rl.divergence.weight:
                reference = self.engine.outputs(micro.batch, reference=True)[0]
            found.append(torch.stack([said.log_probs, said.values, reference]).float().cpu().numpy())
        real = [(micro, numbers) for micro, numbers in zip(micros, found, strict=True) if micro.turns]
        return measured(episodes, [micro for micro, _ in real], [numbers for _, numbers in real])

    def _tokens(
        self,
        micro: Micro,
        numbers: Mapping[int, Measured],
        wanted: Mapping[int, Target],
        scale: float,
    ) -> Tokens | None:
        """The numbers of a micro-batch's targets."""
        if not micro.turns:
            return None

        episodes = {number for number, _ in micro.turns}
        lengths = {number: numbers[number].lengths for number in episodes}

        def ordered(of_episode: Mapping[int, Floats]) -> torch.Tensor:
            return in_order(dict(of_episode), lengths, micro).to(self.engine.device)

        return Tokens(
            *(
                ordered({n: getattr(numbers[n], name) for n in episodes})
                for name in ("old", "sampled", "values", "reference")
            ),
            *(ordered({n: getattr(wanted[n], name) for n in episodes}) for name in ("advantages", "returns")),
            weights=ordered({n: wanted[n].weights * np.float32(scale) for n in episodes}),
            value_weights=ordered({n: wanted[n].value_weights for n in episodes}),
        )

    def _auxiliary(self, step: int, update: int, episodes: list[Episode], success: float) -> list[_Part]:
        """Clozes about episodes of the step, or the right outputs to its questions, whether or not groups were kept.

        Args:
            success: share of the step's episodes.
        """
        settings = self.rl.auxiliary
        progress = step / self.config.train.steps
        weight = 0.0 if settings.weight is None else weight_at(settings.weight, progress)
        if settings.adaptive:
            weight *= 1 - success
        if not weight:
            return []
        groups: list[Group] = []
        order = np.random.default_rng([self.config.seed, update, 9]).permutation(self.rl.rollouts.groups)
        for row in range(settings.rows):
            group = int(order[row % len(order)])
            if group % self.ranks != self.rank:
                continue
            if self._exam is not None:
                groups.append(self._exam.stream.group(step * self.rl.rollouts.groups + group))
            else:
                assert self._pool is not None, "collected before the first step"
                played = [e.rollout for e in episodes if e.group == group and not e.rollout.error]
                theirs = [one for one in played if len(one.trajectory)]
                if theirs and (asked := self._pool.about(theirs, settings.unsure, update, row, progress)) is not None:
                    groups.append(asked)
        return self._asked(groups, weight, settings.gate == "sigmoid")

    def _labelled(self, batches: list[Batch], weight: float, gated: bool = False) -> list[_Part]:
        """Batches of known answers, whose mean loss over all processes counts ``weight`` times."""
        own = sum(float(batch.weights.sum(dtype=torch.float64)) for batch in batches)
        total = float(self.engine.sum(torch.tensor([own], dtype=torch.float64)))
        return [_Part("labels", batch, scale=weight / max(total, 1e-12), gated=gated) for batch in batches]

    def _evened(self, parts: list[_Part]) -> list[_Part]:
        """As many parts as any process has."""
        return parts + [_Part("nothing", self._nothing)] * (max(1, largest(len(parts))) - len(parts))

    def _chunks(self, items: Sequence[Any]) -> Iterator[Any]:
        size = self.config.train.micro_rows
        return (items[start : start + size] for start in range(0, len(items), size))

    # ---------------------------------------------------------------------------------------------------------- losses

    def _loss(
        self,
        parts: Sequence[_Part],
        tokens: Mapping[int, Tokens | None],
        sums: Sums,
        learning: bool,
        number: int,
        stacked: torch.Tensor,
    ) -> torch.Tensor:
        """What the outputs of a part add to the loss of the update."""
        part, said = parts[number], outputs(stacked)
        own = tokens.get(number)
        if part.kind == "labels":
            return self._label_loss(part, said, sums)
        if own is None:
            return stacked.sum() * 0.0
        own = self._known(said, own)
        sums.sampler(own)
        loss = self._policy_loss(said, own, sums) if learning else stacked.sum() * 0.0
        if needs_critic(self.rl):
            settings = self.rl.critic
            of_values = losses.value_loss(said.values, own.values, own.returns, settings.clip)
            value = (own.value_weights * of_values).sum()
            sums.add("loss/value", float(value.detach()))
            loss = loss + settings.weight * value
        return loss

    def _known(self, said: Outputs, own: Tokens) -> Tokens:
        """The numbers of a part, with the update's own probabilities where none were measured before it."""
        return replace(own, old=said.log_probs.detach()) if self.rl.policy.old == "own" else own

    def _label_loss(self, part: _Part, said: Outputs, sums: Sums) -> torch.Tensor:
        weights = part.batch.weights.to(said.log_probs.device) * part.scale
        if part.gated:
            weights = weights * losses.sigmoid_gate(-said.log_probs, self.rl.auxiliary.sharpness)
        loss = -(weights * said.log_probs).sum()
        sums.add("labels", float(loss.detach()))
        return loss

    def _policy_loss(self, said: Outputs, own: Tokens, sums: Sums) -> torch.Tensor:
        divergence = self.rl.divergence
        terms = policy_terms(said, own, self.rl)
        sums.add("loss", float(terms.task.detach()))
        if terms.divergence is not None:
            sums.add("loss/divergence", float(terms.divergence.detach()) / divergence.weight)
        sums.policy(said, own, self.rl.policy.bounds, referenced=bool(divergence.weight))
        return terms.sum()

    # ------------------------------------------------------------------------------------------------------- measuring

    def due(self, step: int) -> bool:
        """Whether the policy is to be measured after a step, counted from 1 over everything."""
        every, since = self.rl.evaluation.every, step - self.rl.warmup.steps
        return bool(every) and since >= 0 and since % every == 0

    def evaluate(self) -> dict[str, float]:
        """Success in validation episodes, or with validation questions."""
        began = time.perf_counter()
        with self.engine.gathered():
            if self._exam is not None:
                own = [right_answers(self.chat, self.rl, self._exam.held_out[self.rank :: self.ranks])]
            else:
                own = successes(self.chat, self.rl, self.rank, self.ranks)
        counts = self.engine.sum(torch.tensor(own, dtype=torch.float64)).long().tolist()
        values = success_metrics(self._names, [(right, total) for right, total in counts])
        return values | {"eval/seconds": time.perf_counter() - began}

    def _diagnosed(self, step: int) -> bool:
        return bool(self.rl.diagnostics.every) and step % self.rl.diagnostics.every == 0

    def _gradients(self, own: list[Episode], numbers: Mapping[int, Measured]) -> Mapping[str, float]:
        """Norms of the gradients that buckets of groups would give, each by itself."""
        everyone = list(numbers.values())
        spread = variances(everyone)
        buckets = by_variance(spread)
        wanted = targets(everyone, self.rl, buckets)
        norms = []
        for bucket in buckets:
            micros = self._planned([episode for episode in own if episode.group in bucket])
            tokens = [self._tokens(micro, numbers, wanted, scale=1.0) for micro in micros]
            norms.append(self.engine.gradient_norms([micro.batch for micro in micros], partial(self._terms, tokens)))
        means = [sum(spread[group] for group in bucket) / len(bucket) for bucket in buckets]
        return gradient_metrics(norms, means)

    def _terms(self, tokens: Sequence[Tokens | None], number: int, stacked: torch.Tensor) -> Terms:
        said, own = outputs(stacked), tokens[number]
        if own is None:
            return Terms(stacked.sum() * 0.0, None, None)
        return policy_terms(said, self._known(said, own), self.rl)

    def _diagnose(self, episodes: list[Episode]) -> dict[str, float]:
        """Whether reasoning still depends on what was seen, and states are known, by the first process's episodes."""
        own: dict[str, float] = {}
        with self.engine.gathered():
            if self.rank == 0:
                played = [episode.rollout for episode in episodes]
                turns = [turn for rollout in played for turn in rollout.turns]
                own = measure_collapse(self.chat, turns, self.rl.diagnostics.turns) | self._knowledge.measure(played)
        return self.engine.gather(own)[0]

    def _diverged(self, step: int, what: str, everyone: Sequence[Measured], state: State) -> State:
        """Note a batch that was skipped.

        Raises:
            DivergenceError: it is to end the training.
        """
        skipped = state.skipped + 1
        groups = sorted({one.group for one in everyone})
        names = self._names
        named = ", ".join(f"{group} ({names[group % len(names)]})" for group in groups[:4])
        message = f"step {step}: {what} of the batch of groups {named}{', …' * (len(groups) > 4)} is not finite"
        if self.rl.guard.action == "stop" or skipped >= self.rl.guard.most:
            raise DivergenceError(f"{message}; lower optimizer.lr, or go on from a checkpoint with --resume")
        if self.rank == 0:
            print(f"vagen: skipped: {message}", flush=True)
        return replace(state, skipped=skipped)

    def _empty_batch(self) -> Batch:
        """A batch with an image and nothing to predict: what a process computes that has nothing left to do."""
        if self._exam is not None:
            frame = read_image(self._exam.stream.first_image())
        else:
            frame, _ = simulator(self.rl.rollouts.worlds[0]).reset(seed=0, options={"split": "train"})
        picture = Picture.of(frame)
        asked = Encoded(self.chat.ask("", [picture]), self.chat.answer_tokens("?"), (picture,))
        row: Row = pack([asked]).without_targets()
        return even_batch(self.chat, [row])


# ------------------------------------------------------------------------------------------------------------ choosing


def choose_groups(played: Sequence[Played], rl: Rl) -> tuple[list[int], dict[str, float]]:
    """The groups to learn from, in order, and what there is to say about the choice."""
    if not played:
        return [], {"groups/kept": 0.0}
    settings = rl.filter
    groups = torch.tensor([one.group for one in played])
    outcomes = torch.tensor([one.outcome for one in played], dtype=torch.float64)
    forms = torch.tensor([one.total - one.outcome for one in played], dtype=torch.float64)
    kind, ddof = ("variance", 0) if settings.strategy == "vagen" else (settings.score, 1)
    gate = filters.outcome_gate(outcomes, forms, groups, kind, ddof)
    scores = gate.scores
    if settings.rewards == "outcome":
        scores = filters.group_scores(outcomes, groups, kind, ddof)
    elif not settings.outcome_gate:
        scores = filters.group_scores(outcomes + forms, groups, kind, ddof)
    kept = filters.select_groups(
        scores, settings.strategy, settings.value, settings.mode, settings.largest, settings.include_zero
    )
    ids = torch.unique(groups)
    return ids[kept].tolist(), {
        "groups/kept": len(kept) / len(ids),
        "groups/phantom": float(gate.phantom.double().mean()),
        "groups/equal": float((gate.scores <= filters.ZERO).double().mean()),
        "groups/variance_mean": gate.variance_mean,
        "groups/variance_ratio": gate.variance_ratio,
    }


def chunks_of(groups: Sequence[int], number: int) -> list[list[int]]:
    """Groups in so many parts of nearly equal size, or in as many as there are groups."""
    return [part.tolist() for part in np.array_split(np.asarray(groups), min(number, len(groups)))]
