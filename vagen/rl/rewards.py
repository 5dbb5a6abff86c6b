"""What a turn earns, part by part; world-model rewards are computed from the simulator, never by a judge.

Most of a board never changes, and a policy that describes just that would be paid for nothing. So a description is
paid for the errors it avoids against a *template*, which knows only what needs no looking: for the present state, the
things that are there in most states of the world; for the next state, the present one. The reward is the skill score

    max(0, 1 - |said △ truth| / |template △ truth|)        (Murphy 1988, equation 4, with counts of wrong things)

which is 1 for the truth and 0 for the template, for anything worse, and for what cannot be read. Where the template is
right (nothing changes) there is nothing to earn. Knows nothing about tensors or policies.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from vagen.cloze.sample import simulator
from vagen.rollout.responses import Response
from worlds import Facts, Snapshot, World
from worlds.text import Representation, read_facts

TEMPLATE_STATES = 512  # states of the training split that a world's template is the majority of
TEMPLATE_STEPS = 8  # random steps into each episode


class RewardError(ValueError):
    """Rewards that would teach the wrong thing; the message says which weight to change."""


@dataclass(frozen=True)
class RewardWeights:
    """How much each part counts; a weight of 0 turns a part off.

    Attributes:
        task: times what the world pays.
        format: paid for each turn whose response has its form.
        state_estimation: paid for each turn, times how well ``<observation>`` describes the state before.
        transition: paid for each turn, times how well ``<prediction>`` describes the state after.
    """

    task: float = 1.0
    format: float = 0.0
    state_estimation: float = 0.0
    transition: float = 0.0


@dataclass(frozen=True)
class TurnReward:
    """What one turn earned, weighted; parts are logged apart. ``None``: there was nothing to earn or to say."""

    task: float
    format: float
    state_estimation: float | None
    transition: float | None

    @property
    def total(self) -> float:
        return self.task + self.format + (self.state_estimation or 0.0) + (self.transition or 0.0)


def turn_reward(
    world: World,
    response: Response | None,
    before: Snapshot,
    after: Snapshot,
    paid: float,
    weights: RewardWeights,
    representation: Representation,
) -> TurnReward:
    """The reward of a turn.

    Args:
        response: the parts of what was written; ``None`` where its form was wrong.
        before, after: the states before and after the turn's actions.
        paid: what the world paid for them.
    """
    seen = foretold = None
    if weights.state_estimation:  # what is not paid for is not worked out either
        gain = _gain(world, response, "observation", world.facts(before), template(world.id), representation)
        seen = None if gain is None else weights.state_estimation * gain
    if weights.transition:
        gain = _gain(world, response, "prediction", world.facts(after), world.facts(before), representation)
        foretold = None if gain is None else weights.transition * gain
    return TurnReward(weights.task * paid, weights.format * (response is not None), seen, foretold)


def skill_score(said: Facts | None, truth: Facts, known: Facts) -> float | None:
    """The share of the template's errors that a description avoids, in [0, 1].

    Args:
        said: what was written; ``None`` where it is no state.
        truth: what is so.
        known: the template.

    Returns:
        ``None`` where the template is right and there is nothing to earn.
    """
    reference = len(known.things ^ truth.things)
    if not reference:
        return None
    return 0.0 if said is None else max(0.0, 1 - len(said.things ^ truth.things) / reference)


def _gain(
    world: World, response: Response | None, part: str, truth: Facts, known: Facts, representation: Representation
) -> float | None:
    text = getattr(response, part, None)
    said = None if text is None else read_facts(text, world.schema, representation)
    return skill_score(said, truth, known)


@lru_cache(maxsize=64)
def template(world_id: str) -> Facts:
    """The things that are there in more than half of a world's states; a function of the world alone."""
    world = simulator(world_id)
    generator = random.Random(0)
    counts: Counter = Counter()
    for seed in range(TEMPLATE_STATES):
        world.reset(seed=seed, options={"split": "train"})
        for _ in range(generator.randrange(TEMPLATE_STEPS + 1)):
            world.step(generator.randrange(len(world.actions)))  # type: ignore[arg-type]
        counts.update(world.state().facts.things)
    return Facts(frozenset(thing for thing, count in counts.items() if 2 * count > TEMPLATE_STATES))


def answer_reward(formed: bool, correct: bool, agreement: float | None, weights: RewardWeights) -> TurnReward:
    """The reward of an answer to a cloze, or to a question about a scene: correctness, form and cognitive map.

    A map describes the state of a scene, so it is paid by the weight of ``state_estimation``, and only in an output
    that has its form. For its agreement take a measure that charges missing names: else a map of two things would be
    paid like a whole one.

    Args:
        formed: whether the output has the form that was asked for.
        correct: whether the answer is right.
        agreement: of the map with the true one, in [0, 1]; ``None`` where none was asked for.

    Raises:
        RewardError: the agreement is out of range.
    """
    if agreement is not None and not 0 <= agreement <= 1:
        raise RewardError(f"a map agrees by {agreement}: give a share between 0 and 1")
    described = None if agreement is None else weights.state_estimation * agreement * formed
    return TurnReward(weights.task * correct, weights.format * formed, described, None)


def check_budget(weights: RewardWeights, turns: int, success: float, most: float = 0.5) -> None:
    """Refuse weights under which describing could pay more than a part of what success pays.

    In VAGEN's own later measurements failed trajectories earned up to 2.25 from descriptions alone.

    Args:
        turns: of the longest episode.
        success: what the world pays for success.
        most: the share of it that all descriptions and forms of an episode together must stay below.

    Raises:
        RewardError: says how much could be earned, and what would do.
    """
    auxiliary = turns * (weights.format + weights.state_estimation + weights.transition)
    limit = most * weights.task * success
    if auxiliary >= limit and auxiliary > 0:
        raise RewardError(
            f"format, state_estimation and transition rewards can add up to {auxiliary:g} over {turns} turns, and "
            f"success pays {weights.task * success:g}: keep them below {limit:g}, by weights less than "
            f"{limit / auxiliary:.3g} times as large"
        )


def means(rewards: Sequence[TurnReward]) -> Mapping[str, float]:
    """Mean of each part over the turns that could earn it, for the log; parts that none could earn are left out."""
    parts = {
        "task": [r.task for r in rewards],
        "format": [r.format for r in rewards],
        "state_estimation": [r.state_estimation for r in rewards if r.state_estimation is not None],
        "transition": [r.transition for r in rewards if r.transition is not None],
    }
    return {name: fmean(values) for name, values in parts.items() if values}
