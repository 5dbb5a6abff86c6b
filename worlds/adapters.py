"""Any other gymnasium environment as a world, known by its pictures only.

Nothing is known about such an environment's state but how to get there: a snapshot is the seed of the episode and the
actions so far, and restoring one plays them again. Two states count as alike if their pictures are equal, pixel for
pixel, which is all that the facts of these worlds tell. So actions, rewards, terminations and pictures can be asked
for, and states cannot. Drawing a state again takes playing up to it; trajectories therefore carry their frames.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from operator import index as as_integer
from typing import Any, ClassVar, SupportsIndex

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from PIL import Image

from worlds.core import (
    MAX_LAYOUT_TRIES,
    BoardSchema,
    Facts,
    Frame,
    Snapshot,
    State,
    Thing,
    World,
    WorldError,
    layout_seeds,
    wanted_split,
)

FRAMES_KEPT = 256  # pictures of states drawn before
_SCHEMA = BoardSchema(1, 1, {"picture": ("",)}, {(): "."})


class GymWorld(World):
    """A gymnasium environment with discrete actions that renders ``rgb_array``.

    ``success`` is what the environment's ``info`` says under ``success`` or ``is_success``, and false where it says
    nothing. The layout that decides the split is the first picture of an episode, for want of better knowledge.

    Args:
        id: the name under which it is registered.
        env_id: the environment's own id.
        actions: words for its actions, by number.
        rules: what a person must know to act and to read the picture.
        size: side of the picture in px, to which it is averaged; as the environment draws it by default.
        max_steps: where episodes are cut; by default where the environment cuts them.
        deterministic: claims that what an action does follows from the state. Off, dynamics are not asked.
        visible_reward: claims that the pictures before and after determine the reward. Off, rewards are not asked.
        kwargs: for the environment.
    """

    renders_from_state: ClassVar[bool] = False
    knows_state: ClassVar[bool] = False
    fully_visible = False
    has_solver = False
    schema = _SCHEMA

    def __init__(
        self,
        id: str,
        env_id: str,
        actions: Sequence[str],
        rules: str,
        size: int | None = None,
        max_steps: int | None = None,
        deterministic: bool = True,
        visible_reward: bool = True,
        **kwargs: Any,
    ) -> None:
        try:
            self._env = gymnasium.make(env_id, render_mode="rgb_array", disable_env_checker=True, **kwargs)
        except gymnasium.error.Error as error:
            raise WorldError(f"world {id}: cannot make {env_id} ({error})") from None
        space = self._env.action_space
        if not isinstance(space, Discrete) or space.start != 0 or space.n != len(actions):
            raise WorldError(f"world {id}: {env_id} has actions {space}, which {len(actions)} words cannot name")
        self.id = id
        self.actions = tuple(actions)
        self.rules = rules
        self.deterministic = deterministic
        self.visible_reward = visible_reward
        spec = self._env.spec
        self.max_steps = max_steps or (spec.max_episode_steps if spec is not None else None) or 1000
        self.action_space = Discrete(len(self.actions))
        self._size = size
        self._kept: OrderedDict[tuple[int, tuple[int, ...]], Frame] = OrderedDict()
        self._begin(0)
        self.observation_space = Box(0, 255, self._frame.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        split = wanted_split(options)
        for layout_seed in layout_seeds(self.np_random):
            self._begin(layout_seed)
            if split is None or self.split(self._snapshot()) == split:
                return self._frame, {"success": self._success}
        raise WorldError(
            f"world {self.id}: no first picture of split {split!r} in {MAX_LAYOUT_TRIES} tries; "
            "it has too few to be split"
        )

    def step(self, action: SupportsIndex) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        number = as_integer(action)
        if not 0 <= number < len(self.actions):
            raise WorldError(f"world {self.id}: action {number} is not one of 0 to {len(self.actions) - 1}")
        reward = self._play(number)
        truncated = self._truncated or len(self._taken) >= self.max_steps
        return self._frame, reward, self._terminated, truncated, {"success": self._success}

    @property
    def terminated(self) -> bool:
        return self._terminated

    def state(self) -> State:
        snapshot = self._snapshot()
        return State(snapshot, self.facts(snapshot))

    def restore(self, snapshot: Snapshot) -> None:
        """Play up to a state.

        Raises:
            WorldError: the environment then shows another picture: it does not repeat itself.
        """
        actions = list(snapshot["actions"])
        if snapshot["seed"] != self._seed or actions[: len(self._taken)] != self._taken:
            self._begin(snapshot["seed"])
        for action in actions[len(self._taken) :]:
            self._play(action)
        if (found := _digest(self._frame)) != snapshot["picture"]:
            raise WorldError(
                f"world {self.id}: seed {snapshot['seed']} and {len(actions)} actions lead to picture {found}, where "
                f"{snapshot['picture']} was seen: the environment does not repeat itself, or is another version"
            )

    def render(self) -> Frame:  # type: ignore[override]
        return self._frame

    def render_states(self, snapshots: Sequence[Snapshot]) -> NDArray[np.uint8]:
        """Played again up to each state, which is slow: trajectories carry frames for that reason."""
        present = self._snapshot()
        frames = np.stack([self._frame_of(snapshot) for snapshot in snapshots])  # (B, H, W, 3)
        self.restore(present)
        return frames

    def layout(self, snapshot: Snapshot) -> Any:
        return {"picture": snapshot["start"]}

    def facts(self, snapshot: Snapshot) -> Facts:
        return Facts(frozenset({Thing("picture", 0, 0, snapshot["picture"])}))

    def optimal_actions(self, snapshot: Snapshot) -> tuple[int, ...]:
        return ()

    def steps_to_go(self, snapshot: Snapshot) -> int | None:
        raise WorldError(f"world {self.id} has no solver")

    def realise(self, facts: Facts, like: Snapshot) -> Snapshot | None:
        return None

    def packages(self) -> tuple[str, ...]:
        module = type(self._env.unwrapped).__module__.split(".")[0]
        return tuple(sorted({"gymnasium", "numpy", "pillow", *packages_distributions().get(module, ())}))

    def close(self) -> None:
        self._env.close()

    def _begin(self, seed: int) -> None:
        _, info = self._env.reset(seed=seed)
        self._seed = seed
        self._taken: list[int] = []
        self._terminated = self._truncated = False
        self._success = _success(info)
        self._frame = self._draw()
        self._start = _digest(self._frame)

    def _play(self, action: int) -> float:
        """One step, or none where the episode has ended; returns the reward.

        Every step is drawn: in some environments drawing leaves traces in what is drawn later.
        """
        self._taken.append(action)
        if self._terminated:
            return 0.0
        _, reward, self._terminated, self._truncated, info = self._env.step(action)
        self._success = _success(info)
        self._frame = self._draw()
        return float(reward)

    def _snapshot(self) -> dict[str, Any]:
        picture = _digest(self._frame)
        return {"seed": self._seed, "start": self._start, "actions": list(self._taken), "picture": picture}

    def _draw(self) -> Frame:
        frame = np.asarray(self._env.render(), np.uint8)  # (H, W, 3)
        if self._size is None:
            return frame
        resized = Image.fromarray(frame).resize((self._size, self._size), Image.Resampling.BOX)
        return np.asarray(resized, np.uint8)

    def _frame_of(self, snapshot: Snapshot) -> Frame:
        key = snapshot["seed"], tuple(snapshot["actions"])
        if key not in self._kept:
            self.restore(snapshot)
            self._kept[key] = self._frame
            if len(self._kept) > FRAMES_KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]


def _success(info: dict[str, Any]) -> bool:
    return bool(info.get("success", info.get("is_success", False)))


def _digest(frame: Frame) -> str:
    return hashlib.blake2b(frame.tobytes(), digest_size=8).hexdigest()
