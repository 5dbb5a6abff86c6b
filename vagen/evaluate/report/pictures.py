"""Images of states, as parts of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vagen.cloze.sample import simulator
from vagen.evaluate.report.inputs import ReportError
from worlds import Snapshot, WorldError, is_available


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def pictures_of(world: str, snapshots: Sequence[Snapshot], pixels: int, file: Path) -> list[Picture]:
    """Images of states, enlarged without smoothing; none where the world is unknown here."""
    if not snapshots or not is_available(world):
        return []
    try:
        frames = simulator(world).render_states(snapshots)
    except (WorldError, LookupError, TypeError, ValueError) as error:
        raise ReportError(f"{file} is damaged: a state of world {world!r} cannot be drawn: {error!r}") from None
    height, width = frames.shape[1:3]
    factor = max(1, round(pixels / width))
    size = (width * factor, height * factor)
    return [_picture(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST)) for frame in frames]


def _picture(image: Image.Image) -> Picture:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return Picture(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", *image.size)
