"""Which samples share a row, and which rows a forward pass: full rows, and the same work for every process.

A plan is a function of the samples of a step and of how many processes there are, so each process makes the whole plan
and takes its part. Knows nothing about models, losses or weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby, repeat

from vagen.policy.chat import Encoded
from vagen.policy.errors import ModelError

Number = int  # of a sample, counted through all groups of a step
_Key = tuple[int, int, bytes | None]  # the node before, a token, and the digest of the image it stands for


@dataclass
class _Part:
    """Samples that stay together: the nodes of their trie, and how many tokens those are."""

    samples: list[Number]
    nodes: set[int]
    tokens: int


@dataclass
class _Trie:
    """Numbers for the nodes of a trie of samples; a run of placeholders is one node.

    Attributes:
        tokens: of each node.
        shows: whether a node is an image.
    """

    numbers: dict[_Key, int] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    shows: list[bool] = field(default_factory=list)

    def path(self, sample: Encoded) -> list[int]:
        """The nodes a sample goes through, from its first token to the last that predicts one."""
        found, before = [], -1
        for token, digest, length in _runs(sample):
            before = self._number((before, token, digest), length)
            found.append(before)
        return found

    def weight(self, nodes: set[int]) -> int:
        return sum(self.tokens[node] for node in nodes)

    def joined(self, one: _Part, two: _Part) -> int:
        """The tokens of two parts together."""
        return one.tokens + self.weight(two.nodes - one.nodes)

    def _number(self, key: _Key, length: int) -> int:
        number = self.numbers.setdefault(key, len(self.tokens))
        if number == len(self.tokens):
            self.tokens.append(length)
            self.shows.append(key[2] is not None)
        return number


def _runs(sample: Encoded) -> Iterator[tuple[int, bytes | None, int]]:
    """(token, digest of its image, how often) along a sample, placeholders of one image in one go."""
    prompt = sample.prompt
    for (token, image), run in groupby(zip(prompt.ids.tolist(), prompt.image_of.tolist(), strict=True)):
        length = sum(1 for _ in run)
        if image >= 0:
            yield token, sample.pictures[image].digest, length
        else:
            yield from repeat((token, None, 1), length)
    yield from ((token, None, 1) for token in sample.answer[:-1].tolist())


def plan(
    groups: Sequence[Sequence[Encoded]], row_tokens: int, micro_rows: int, ranks: int
) -> list[list[list[list[Number]]]]:
    """Spread the samples of a step over rows of at most ``row_tokens`` tokens each.

    Rows are filled evenly: the largest group goes to the row with the fewest tokens (longest processing time first,
    Graham 1969), over the fewest rows that give every process the same number of forward passes. Groups that begin
    with the same images go to the same row as long as that leaves rows even; a group that does not fit into one row is
    divided. Rows of like lengths go through the model together, in all processes.

    Args:
        groups: the samples of each group; numbers count them through.
        micro_rows: rows per forward pass.
        ranks: processes.

    Returns:
        ``plan[rank][pass][row]``, the samples of a row; there may be rows without.

    Raises:
        ModelError: a sample is longer than a row may be.
    """
    trie = _Trie()
    parts = _parts(trie, groups, row_tokens)
    rows = _filled(trie, parts, row_tokens, micro_rows * ranks)
    rows.sort(key=lambda row: -row.tokens)
    result: list[list[list[list[Number]]]] = [[] for _ in range(ranks)]
    for start in range(0, len(rows), micro_rows * ranks):
        passes = [
            [row.samples for row in rows[first : first + micro_rows]]
            for first in range(start, start + micro_rows * ranks, micro_rows)
        ]
        # The longest rows of one pass go to the process that had the shortest of the pass before.
        turned = passes[::-1] if start // (micro_rows * ranks) % 2 else passes
        for rank, own in enumerate(turned):
            result[rank].append(own)
    return result


def _parts(trie: _Trie, groups: Sequence[Sequence[Encoded]], row_tokens: int) -> list[_Part]:
    """Each group as parts that fit into a row, mostly one."""
    parts: list[_Part] = []
    numbers = count()
    for group in groups:
        part: _Part | None = None
        for sample in group:
            nodes = set(trie.path(sample))
            if trie.weight(nodes) > row_tokens:
                raise ModelError(
                    f"a cloze of {trie.weight(nodes)} tokens is too long for a row of train.row_tokens={row_tokens}; "
                    "give rows more tokens, or show fewer or smaller images"
                )
            new = nodes if part is None else nodes - part.nodes
            if part is None or part.tokens + trie.weight(new) > row_tokens:
                part = _Part([], set(), 0)
                parts.append(part)
                new = nodes
            part.samples.append(next(numbers))
            part.nodes |= nodes
            part.tokens += trie.weight(new)
    return parts


def _filled(trie: _Trie, parts: Sequence[_Part], row_tokens: int, multiple: int) -> list[_Part]:
    """Parts in rows, whose number is a multiple of ``multiple``."""
    fewest = max(1, -(-sum(trie.tokens) // (row_tokens * multiple)))
    for passes in count(fewest):
        if (rows := _spread(trie, parts, row_tokens, passes * multiple)) is not None:
            return rows
    raise AssertionError("a row for each part is enough")


def _spread(trie: _Trie, parts: Sequence[_Part], row_tokens: int, number: int) -> list[_Part] | None:
    """Parts in so many rows, all about as full; ``None`` where one of them does not fit.

    A part joins a row that shows its images until that holds what each would if nothing stood in two rows.
    """
    rows = [_Part([], set(), 0) for _ in range(number)]
    even = sum(trie.tokens) / number
    home: dict[int, int] = {}  # the row that an image was last put into
    for part in sorted(parts, key=lambda part: -part.tokens):
        images = [node for node in part.nodes if trie.shows[node]]
        joined = {place: trie.joined(rows[place], part) for place in {home[node] for node in images if node in home}}
        place = min(joined, key=lambda place: (joined[place] - rows[place].tokens, place), default=None)
        if place is None or joined[place] > even:
            place = min(range(number), key=lambda place: (rows[place].tokens, place))
        row, tokens = rows[place], trie.joined(rows[place], part)
        if tokens > row_tokens:
            return None
        rows[place] = _Part([*row.samples, *part.samples], row.nodes | part.nodes, tokens)
        home.update(dict.fromkeys(images, place))
    return rows
