"""The parts of a vision-language model, by the names that the families of transformers give their parameters."""

from __future__ import annotations

from typing import Literal, get_args

Part = Literal["vision", "projector", "language"]
PARTS: tuple[Part, ...] = get_args(Part)

_PROJECTORS = {"connector", "multi_modal_projector", "merger", "deepstack_merger_list", "image_newline"}
_TOWERS = {"visual", "vision_tower", "vision_model"}


def part_of(parameter: str) -> Part:
    """The part that a parameter belongs to: the tower without what follows it, the projector, or the rest."""
    words = set(parameter.split("."))
    if words & _PROJECTORS:  # first: in the Qwen families the projector lies within the vision tower
        return "projector"
    return "vision" if words & _TOWERS else "language"
