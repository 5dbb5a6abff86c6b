"""What an agent writes in one turn: five strategies of reasoning, as in VAGEN, written and read here and nowhere else.

==========================  ============================================================================
``no_think``                ``<answer>…</answer>``
``free_think``              ``<think>…</think><answer>…</answer>``
``grounding``               ``<think><observation>…</observation><reasoning>…</reasoning></think><answer>…``
``worldmodeling``           ``<think><reasoning>…</reasoning><prediction>…</prediction></think><answer>…``
``grounding_worldmodeling`` all three inside ``<think>``
==========================  ============================================================================

A response must be the whole text: anything before, between or after its parts is an error of format, and so is a tag
inside a part. Knows nothing about worlds: parts are text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from vagen.config import Strategy as Strategy

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Part = Literal["thought", "observation", "reasoning", "prediction", "answer"]

_INSIDE: Mapping[Strategy, tuple[Part, ...]] = {  # the parts inside <think>; "thought" is free text without tags
    "no_think": (),
    "free_think": ("thought",),
    "grounding": ("observation", "reasoning"),
    "worldmodeling": ("reasoning", "prediction"),
    "grounding_worldmodeling": ("observation", "reasoning", "prediction"),
}


@dataclass(frozen=True)
class Tags:
    """Names of the tags; some models reserve ``think`` for themselves."""

    think: str = "think"
    answer: str = "answer"
    observation: str = "observation"
    reasoning: str = "reasoning"
    prediction: str = "prediction"

    def of(self, part: Part) -> str:
        """The name of a part's tag; "" for free thought, which has none of its own."""
        return "" if part == "thought" else getattr(self, part)


@dataclass(frozen=True)
class Response:
    """The parts of a response, without white space around them; ``None`` where the strategy has no such part."""

    answer: str
    thought: str | None = None
    observation: str | None = None
    reasoning: str | None = None
    prediction: str | None = None

    def part(self, part: Part) -> str:
        """A part's text, "" where it is missing."""
        return getattr(self, part) or ""


def writes_states(strategy: Strategy) -> bool:
    """Whether responses of a strategy describe states."""
    return bool({"observation", "prediction"} & set(_INSIDE[strategy]))


def write_response(response: Response, strategy: Strategy, tags: Tags = Tags()) -> str:
    """The canonical text of a response."""
    inside = "".join(_wrapped(tags.of(part), response.part(part)) for part in _INSIDE[strategy])
    think = _wrapped(tags.think, inside) if strategy != "no_think" else ""
    return think + _wrapped(tags.answer, response.answer)


def read_response(text: str, strategy: Strategy, tags: Tags = Tags()) -> Response | None:
    """The parts of a text, or ``None`` where it is not exactly one response of the strategy. Takes linear time."""
    marks = [f"<{mark}{name}>" for name in vars(tags).values() for mark in ("", "/")]
    parts: dict[str, str] = {}
    rest = text.strip()
    if strategy != "no_think":
        taken = _take(rest, tags.think)
        if taken is None:
            return None
        inside, rest = taken[0].strip(), taken[1].lstrip()
        for part in _INSIDE[strategy]:
            if part == "thought":
                parts[part], inside = inside, ""
                continue
            taken = _take(inside, tags.of(part))
            if taken is None:
                return None
            parts[part], inside = taken[0], taken[1].lstrip()
        if inside:
            return None
    taken = _take(rest, tags.answer)
    if taken is None or taken[1].strip():
        return None
    parts["answer"] = taken[0]
    if any(mark in value for value in parts.values() for mark in marks):
        return None
    return Response(**{name: value.strip() for name, value in parts.items()})


def describe_format(strategy: Strategy, tags: Tags = Tags()) -> str:
    """What an agent is told about the form of its responses."""
    shown = Response(answer="…", thought="…", observation="…", reasoning="…", prediction="…")
    meanings = [f"{tags.of(part)}: {_MEANINGS[part]}" for part in (*_INSIDE[strategy], "answer") if tags.of(part)]
    return f"Respond with {write_response(shown, strategy, tags)} and nothing else. {'; '.join(meanings)}."


_MEANINGS: Mapping[Part, str] = {
    "observation": "the state that the image shows, in the notation of states",
    "reasoning": "why you act as you do",
    "prediction": "the state after your actions, in the same notation",
    "answer": "your actions, separated by commas",
}


def _wrapped(tag: str, text: str) -> str:
    return f"<{tag}>{text}</{tag}>" if tag else text


def _take(text: str, tag: str) -> tuple[str, str] | None:
    """What stands between a tag that the text begins with and its end, and what follows."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if not text.startswith(opening):
        return None
    end = text.find(closing, len(opening))
    return None if end < 0 else (text[len(opening) : end], text[end + len(closing) :])
