"""Frames as bytes, for worlds that cannot draw a state again: lossless WebP, and one digest per frame.

Most worlds need none of this: they draw a frame from its snapshot, faster than any image format is decoded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vagen.cloze.sample import Sample, simulator
from vagen.mdp import Trajectory
from worlds import Frame, Snapshot

DRAWN_TOGETHER = 1 << 20  # bytes of frames: more no longer fit into the processor's caches


class FrameError(ValueError):
    """Bytes that are no frame."""


def frame_hash(frame: NDArray[np.uint8]) -> str:
    """A digest of a frame's shape and pixels."""
    return hashlib.blake2b(frame.tobytes(), digest_size=8, key=str(frame.shape).encode()).hexdigest()


def encode_frame(frame: Frame) -> bytes:
    """A frame (H, W, 3) as lossless WebP, by the fastest settings: they cost few bytes on drawn images."""
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "WEBP", lossless=True, quality=0, method=0)
    return buffer.getvalue()


def decode_frame(data: bytes) -> Frame:
    """The frame (H, W, 3) that :func:`encode_frame` wrote.

    Raises:
        FrameError: the bytes are no WebP image.
    """
    try:
        with Image.open(BytesIO(data), formats=["WEBP"]) as image:
            return np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise FrameError(f"no WebP image ({error})") from None


def frames_of(trajectory: Trajectory) -> NDArray[np.uint8]:
    """All frames of a trajectory, (T + 1, H, W, 3): the stored ones, and the rest drawn."""
    world = simulator(trajectory.world)
    if not trajectory.frames:
        return world.render_states(trajectory.snapshots)
    stored = np.stack([decode_frame(data) for data in trajectory.frames])
    rest = trajectory.snapshots[len(stored) :]
    return np.concatenate([stored, world.render_states(rest)]) if rest else stored


def frames_of_each(trajectories: Iterable[Trajectory]) -> Iterator[NDArray[np.uint8]]:
    """:func:`frames_of` each trajectory, drawn for some of them in one go, which takes less time for small frames."""
    for world, theirs in groupby(trajectories, key=lambda trajectory: trajectory.world):
        for some in _filled(theirs, DRAWN_TOGETHER // math.prod(simulator(world).observation_space.shape or ())):
            if any(trajectory.frames for trajectory in some):
                yield from map(frames_of, some)
                continue
            drawn = simulator(world).render_states([state for trajectory in some for state in trajectory.snapshots])
            end = 0
            for trajectory in some:
                start, end = end, end + len(trajectory.snapshots)
                yield drawn[start:end]


def _filled(trajectories: Iterable[Trajectory], frames: int) -> Iterator[list[Trajectory]]:
    """As many trajectories as have at most so many frames together, or one."""
    some: list[Trajectory] = []
    count = 0
    for trajectory in trajectories:
        if some and count + len(trajectory.snapshots) > frames:
            yield some
            some, count = [], 0
        some.append(trajectory)
        count += len(trajectory.snapshots)
    if some:
        yield some


def draw_images(world: str, samples: Iterable[Sample]) -> dict[int, Frame]:
    """The frames of all images of samples about one world, by the ``id`` of their snapshots.

    Snapshots that are the same object are drawn once, all in one go; stored frames are decoded instead.
    """
    wanted: dict[int, Snapshot] = {}
    stored: dict[int, bytes] = {}
    for sample in samples:
        wanted |= {id(snapshot): snapshot for snapshot in sample.images}
        stored |= _stored(sample.window)
    frames = {key: decode_frame(stored[key]) for key in wanted.keys() & stored.keys()}
    missing = [key for key in wanted if key not in frames]
    if missing:
        drawn: Sequence[Frame] = list(simulator(world).render_states([wanted[key] for key in missing]))
        frames |= dict(zip(missing, drawn, strict=True))
    return frames


def _stored(window: Trajectory) -> dict[int, bytes]:
    return {id(snapshot): data for snapshot, data in zip(window.snapshots, window.frames, strict=False)}
