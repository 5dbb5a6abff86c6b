"""Numbers as the page words them."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float | None) -> str:
    """A share as a percentage, without the sign; a dash for an unknown one."""
    return "–" if share is None else f"{100 * share:.1f}".replace("-", "−")


def percent_range(shares: Sequence[float]) -> str:
    return f"{percent(min(shares))} – {percent(max(shares))}"


def plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def brief(number: float) -> str:
    """A large number in three digits: 161 k, 0.52 M."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size * 0.1 and number >= 1e4:
            return f"{number / size:.3g}{letter}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{seconds:.0f} s"
