"""The cache that tokens are written into, against numbers in lists."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vagen.policy.memory import SPARE, Memory

ROWS, HEADS, SIZE = 4, 2, 3
rows_of = st.lists(st.integers(0, ROWS - 1), unique=True, min_size=1)


def states(count: int, length: int) -> torch.Tensor:
    return torch.randn(count, HEADS, length, SIZE)


class Plain:
    """What a memory of two layers should hold: by layer, keys or values, and row, a tensor for each column."""

    def __init__(self) -> None:
        self.kept = [[[torch.zeros(HEADS, SIZE)] * 40 * SPARE for _ in range(ROWS)] for _ in range(4)]

    def write(self, number: int, row: int, columns: list[int], written: torch.Tensor) -> None:
        for place, column in enumerate(columns):
            self.kept[number][row][column] = written[:, place]

    def read(self, number: int, rows: list[int], columns: int) -> torch.Tensor:
        return torch.stack([torch.stack(self.kept[number][row][:columns], 1) for row in rows])


def forward(memory: Memory, plain: Plain, rows: list[int], begin: list[int], length: int) -> None:
    """Two layers get tokens for some rows, and see what they should."""
    places = torch.tensor(begin)[:, None] + torch.arange(length)
    columns = max(begin) + length
    memory.aim(rows, places, columns)
    assert memory.get_seq_length() == columns
    for layer in range(2):
        keys, values = states(len(rows), length), states(len(rows), length)
        found = memory.update(keys, values, layer)
        for number, written in enumerate((keys, values)):
            for place, row in enumerate(rows):
                plain.write(2 * layer + number, row, places[place].tolist(), written[place])
            expected = plain.read(2 * layer + number, rows, columns)
            assert torch.equal(found[number], expected), f"layer {layer} sees something else"


@given(st.lists(st.tuples(rows_of, st.integers(1, 2 * SPARE), st.integers(0, 2**32)), min_size=1, max_size=6))
def test_each_row_holds_what_was_written_to_it(passes):
    """Rows of different lengths, some of them at a time, in any order, beyond what there was room for."""
    memory, plain, ends = Memory(ROWS), Plain(), [0] * ROWS
    for rows, length, seed in passes:
        torch.manual_seed(seed % 1000)
        forward(memory, plain, rows, [ends[row] for row in rows], length)
        for row in rows:
            ends[row] += length


@given(st.permutations(range(ROWS)), rows_of, st.data())
def test_rows_are_copied_moved_and_chosen(order, chosen, data):
    memory, plain = Memory(ROWS), Plain()
    forward(memory, plain, list(range(ROWS)), [0] * ROWS, 8)
    source, *targets = data.draw(st.permutations(range(ROWS)))[: data.draw(st.integers(2, ROWS))]
    memory.copy(source, targets, 2, 5)
    for kept in plain.kept:
        for target in targets:
            kept[target][2:5] = kept[source][2:5]
    memory.reorder(order)
    plain.kept = [[kept[row] for row in order] for kept in plain.kept]
    forward(memory, plain, [1, 0], [8, 8], 1)
    columns = [data.draw(st.permutations(range(9)))[:4] for _ in chosen]
    memory.select(torch.tensor(chosen), torch.tensor(columns))
    plain.kept = [
        [
            [kept[row][column] for column in some] + [torch.zeros(HEADS, SIZE)] * 9
            for row, some in zip(chosen, columns, strict=True)
        ]
        for kept in plain.kept
    ]
    assert memory.rows == len(chosen)
    forward(memory, plain, list(range(len(chosen))), [4] * len(chosen), 2)
