"""The Markov decision process as data: what happened, exactly, without pixels or text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worlds import Snapshot, Split


@dataclass(frozen=True)
class Transition:
    """One step ``(s, a, r, s', done)``.

    Attributes:
        before: snapshot of the state in which the agent acted.
        action: action number, an index into the world's ``actions``.
        reward: what the world paid for the step.
        after: snapshot of the state the step led to.
        terminated: the world ended here (goal, hole, lava …).
        truncated: time ran out here.
    """

    before: Snapshot
    action: int
    reward: float
    after: Snapshot
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Trajectory:
    """One episode, or a window of one.

    Attributes:
        world: registered id of the world.
        split: the split its layout belongs to.
        seed: what the world was reset with.
        behaviour: who acted, e.g. ``random``, ``expert``, ``mixture(0.5)``.
        snapshots: T + 1 states, ``snapshots[t]`` is before action t.
        actions: T action numbers.
        rewards: T rewards.
        terminated: the last step ended the world.
        truncated: the last step ran out of time.
        success: the world's own verdict at the end.
        frame_hash: digest of the rendered frame of ``snapshots[0]``, to notice a renderer that draws differently.
        provenance: versions of what made it.
        noise_seeds: seeds of the noise that was put on the episode; () without noise.
        frames: of worlds that cannot draw a state again: what ``snapshots[t]`` looked like, as lossless WebP. Empty
            for all others. May end before the snapshots do, where what follows is imagined.
    """

    world: str
    split: Split
    seed: int
    behaviour: str
    snapshots: tuple[Snapshot, ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]
    terminated: bool = False
    truncated: bool = False
    success: bool = False
    frame_hash: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    noise_seeds: tuple[int, ...] = ()
    frames: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        """The number of transitions."""
        return len(self.actions)

    def transition(self, t: int) -> Transition:
        last = t == len(self) - 1
        return Transition(
            self.snapshots[t],
            self.actions[t],
            self.rewards[t],
            self.snapshots[t + 1],
            self.terminated and last,
            self.truncated and last,
        )
