"""What a stream asks about: the kinds of events among its clozes, and how often a world has ended.

Sampling decides this (``clozes.sampling``), and it is not what happens in episodes. Counted over the first groups.
"""

from __future__ import annotations

from collections import defaultdict

from vagen.cloze.sample import YES, Sample
from vagen.cloze.windows import event_shares
from vagen.data.stream import ClozeStream

GROUPS_COUNTED = 128
KINDS_NAMED = 8  # of the kinds of change; a room where anything may come into view has more than a hundred


def asked(stream: ClozeStream, groups: int = GROUPS_COUNTED) -> list[str]:
    """A line per world: shares of its clozes about transitions by what the first one changes; of ends, those of yes.

    Actions that are imagined count as those taken do. Worlds that do not come up in the groups are left out.
    """
    of_world: defaultdict[str, list[Sample]] = defaultdict(list)
    for number in range(groups):
        for sample in stream.group(number).samples:
            of_world[sample.window.world].append(sample)
    return [f"{world}: {_shares(of_world[world])}" for world in stream.worlds if world in of_world]


def _shares(samples: list[Sample]) -> str:
    about_change = [sample for sample in samples if len(sample.window)]
    ends = [sample.answer == YES for sample in samples if sample.pattern.task == "termination"]
    parts = []
    if about_change:
        shares = sorted(event_shares(about_change).items(), key=lambda pair: -pair[1])
        named = [f"{kinds or 'nothing visible'} {share:.0%}" for kinds, share in shares[:KINDS_NAMED]]
        if rest := shares[KINDS_NAMED:]:
            named.append(f"{len(rest)} others {sum(share for _, share in rest):.0%}")
        parts.append(f"changes {', '.join(named)}")
    if ends:
        parts.append(f"termination {sum(ends) / len(ends):.0%} yes")
    return "; ".join(parts) or "no transitions"
