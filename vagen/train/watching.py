"""What to watch while reinforcement goes on: numbers of a step, of all processes together.

The measures themselves are those of :mod:`vagen.rl.diagnostics`. Knows nothing about how updates are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vagen.policy.actor import Outputs
from vagen.rl import losses
from vagen.rl.diagnostics import clip_shares, log_prob_gap, pass_at_k
from vagen.train.engine import Engine
from vagen.train.playing import Played, share_of


@dataclass(frozen=True)
class Tokens:
    """The numbers of a micro-batch's targets, (N,) each, on the device.

    They are those of :class:`vagen.train.experience.Measured` and :class:`vagen.train.experience.Target`.
    """

    old: torch.Tensor
    sampled: torch.Tensor
    values: torch.Tensor
    reference: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    weights: torch.Tensor
    value_weights: torch.Tensor


def rollout_metrics(played: Sequence[Played], members: int) -> dict[str, float]:
    """What can be said about a step's episodes, those of all processes."""
    sound = [one for one in played if not one.error]
    responses = max(1, sum(len(one.lengths) for one in sound))
    values = {
        "success": share_of(sound, lambda one: one.success),
        "reward": share_of(sound, lambda one: one.total),
        "rollout/turns": share_of(sound, lambda one: len(one.lengths)),
        "rollout/steps": share_of(sound, lambda one: one.steps),
        "rollout/truncated": share_of(sound, lambda one: one.truncated),
        "rollout/errors": float(len(played) - len(sound)),
        "rollout/response_tokens": sum(sum(one.lengths) for one in sound) / responses,
        "rollout/formed": sum(one.formed for one in sound) / responses,
        "rollout/cut": sum(one.cut for one in sound) / responses,
    }
    for part in ("task", "format", "state_estimation", "transition"):
        values[f"reward/{part}"] = share_of(sound, lambda one, part=part: one.parts[part])
    for world in sorted({one.world for one in sound}):
        values[f"success/{world}"] = share_of([one for one in sound if one.world == world], lambda one: one.success)
    groups = sorted({one.group for one in sound})
    sizes = torch.tensor([sum(one.group == group for one in sound) for group in groups])
    right = torch.tensor([sum(one.success for one in sound if one.group == group) for group in groups])
    if groups and int(sizes.min()) == members > 1:
        values[f"pass@{members}"] = float(pass_at_k(sizes, right, members).mean())
    return values


class Sums:
    """Sums over the parts of updates, means over tokens, and what was largest."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._means: dict[str, float] = {}
        self._largest: dict[str, float] = {}
        self._tokens = 0
        self.first_gap = 0.0  # of the parts so far

    def add(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value

    def sampler(self, own: Tokens) -> None:
        """Note how far the trainer is from the sampler on a part's tokens, which are the sampler's own."""
        gap = log_prob_gap(own.old, own.sampled, torch.ones_like(own.old))
        self._tokens += len(own.old)
        self._mean({"gap/sampler": gap.mean_abs, "gap/sampler_kl": gap.kl}, len(own.old))
        self._largest["gap/sampler_max"] = max(self._largest.get("gap/sampler_max", 0.0), gap.max_abs)

    def policy(self, said: Outputs, own: Tokens, bounds: tuple[float, float, float | None], referenced: bool) -> None:
        """Note how far a part's policy has moved from before the update, and from the reference where there is one."""
        new, count = said.log_probs.detach(), len(said.log_probs)
        everywhere = torch.ones_like(new)
        moved = log_prob_gap(new, own.old, everywhere)
        self.first_gap = max(self.first_gap, moved.max_abs)
        clipped = clip_shares(new, own.old, own.advantages, everywhere, *bounds)
        errors = (own.returns - own.values).square()
        means = {
            "entropy": float(said.entropies.detach().mean()),
            "kl/update": moved.kl,
            "clip/high": clipped.high,
            "clip/low": clipped.low,
            "clip/dual": clipped.dual,
            "advantage/size": float(own.advantages.abs().mean()),
            "values/error": float(errors.mean()),
        }
        if referenced:
            means["kl/reference"] = float(losses.kl(new, own.reference, "k3").mean())
        self._mean(means, count)

    def over_all(self, engine: Engine) -> dict[str, float]:
        """Sums, means and what was largest over all processes; the same names everywhere."""
        gathered = engine.gather((self._sums, self._means, self._largest, self._tokens))
        tokens = sum(count for *_, count in gathered)
        values: dict[str, float] = {}
        for sums, means, largest, _ in gathered:
            for name, value in sums.items():
                values[name] = values.get(name, 0.0) + value
            for name, value in means.items():
                values[name] = values.get(name, 0.0) + value / tokens
            for name, value in largest.items():
                values[name] = max(values.get(name, 0.0), value)
        return values

    def _mean(self, of_tokens: Mapping[str, float], count: int) -> None:
        """Add means over so many tokens."""
        for name, value in of_tokens.items():
            self._means[name] = self._means.get(name, 0.0) + value * count


def largest_of(engine: Engine, value: float) -> float:
    """The largest of what the processes have."""
    return max(engine.gather(value))


class Interval:
    """Means of the steps' metrics between two reports."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def summary(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self._values.items()}
