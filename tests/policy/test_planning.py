"""Plans: every sample in one row, no row too long, the same work everywhere, and the same plan for everyone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagen.policy.chat import Encoded, Picture, Prompt
from vagen.policy.errors import ModelError
from vagen.policy.packing import pack
from vagen.policy.planning import plan

IMAGE = 99
PICTURES = [Picture.of(np.full((2, 2, 3), shade, np.uint8)) for shade in range(6)]
SIZES = (3, 5, 2, 7, 4, 6)  # placeholders


def sample(shown: list[int], question: list[int], answer: list[int]) -> Encoded:
    """A prompt of images and words."""
    ids, image_of = [1], [-1]
    for number, picture in enumerate(shown):
        ids += [IMAGE] * SIZES[picture]
        image_of += [number] * SIZES[picture]
    ids += question
    image_of += [-1] * len(question)
    positions = np.arange(len(ids))[None]
    prompt = Prompt(np.array(ids), positions, np.array(image_of))
    return Encoded(prompt, np.array(answer), tuple(PICTURES[picture] for picture in shown))


words = st.lists(st.integers(2, 4), min_size=1, max_size=5)
samples = st.builds(sample, st.lists(st.integers(0, 5), max_size=3), words, words)
groups_of_samples = st.lists(st.lists(samples, min_size=1, max_size=5), min_size=1, max_size=8)
LONGEST = 1 + 3 * 7 + 5 + 4  # tokens a sample can have


def tokens(groups, row: list[int]) -> int:
    flat = [sample for group in groups for sample in group]
    return len(pack([flat[number] for number in row]).ids) if row else 0


@given(
    groups=groups_of_samples,
    row_tokens=st.integers(LONGEST, 4 * LONGEST),
    micro_rows=st.integers(1, 3),
    ranks=st.integers(1, 3),
)
def test_every_sample_is_in_one_row_and_no_row_is_too_long(groups, row_tokens, micro_rows, ranks):
    made = plan(groups, row_tokens, micro_rows, ranks)
    rows = [row for own in made for passes in own for row in passes]
    assert sorted(number for row in rows for number in row) == list(range(sum(map(len, groups))))
    assert max(tokens(groups, row) for row in rows) <= row_tokens
    assert len(made) == ranks
    assert len({len(own) for own in made}) == 1, "processes take different numbers of forward passes"
    assert all(len(passes) == micro_rows for own in made for passes in own)
    assert plan(groups, row_tokens, micro_rows, ranks) == made


@given(groups=groups_of_samples)
def test_rows_that_hold_everything_are_as_few_as_can_be(groups):
    [[[row]]] = plan(groups, 10**6, 1, 1)
    assert sorted(row) == list(range(sum(map(len, groups))))


def test_rows_are_filled_and_processes_do_the_same_amount_of_work():
    """120 different groups: the fewest rows that fit, hardly any of them emptier than others."""
    generator = np.random.default_rng(0)
    groups = [
        [
            sample([number % 6], [2 + number // 6, *generator.integers(2, 5, 1 + number % 7).tolist()], [2] * length)
            for length in generator.integers(1, 9, 3)
        ]
        for number in range(120)
    ]
    for ranks in (1, 2, 4):
        made = plan(groups, 200, 2, ranks)
        totals = [sum(tokens(groups, row) for passes in own for row in passes) for own in made]
        rows = sum(len(passes) for own in made for passes in own)
        assert max(totals) / min(totals) < 1.05, f"{ranks} processes compute {totals} tokens"
        assert rows <= -(-sum(totals) // (200 * 2 * ranks)) * 2 * ranks + 2 * ranks, "there are more rows than needed"
        for own in made:
            for passes in own:
                lengths = [tokens(groups, row) for row in passes]
                assert max(lengths) <= 1.15 * min(lengths), f"a pass is padded from {lengths}"


def test_groups_that_begin_with_the_same_image_share_a_row():
    """Groups 0 and 4 are about the first image, 1 and 5 about the second; apart, each image would be there twice."""
    groups = [[sample([number % 4], [2, number // 4], [2])] for number in range(8)]
    made = plan(groups, 24, 1, 2)
    rows = [row for own in made for passes in own for row in passes]
    for number in range(4):
        assert any({number, number + 4} <= set(row) for row in rows), f"{rows} part equal images"


def test_a_group_too_long_for_a_row_is_divided():
    questions = [sample([3], [2, word, word, word], [2]) for word in range(2, 8)]
    whole = len(pack(questions).ids)
    made = plan([questions], whole - 1, 1, 1)
    assert sorted(len(row) for [row] in made[0]) == [1, 5]


def test_a_sample_too_long_for_a_row_is_refused():
    with pytest.raises(ModelError, match=r"a cloze of 12 tokens is too long for a row of train.row_tokens=11; give"):
        plan([[sample([0], [2], [2])], [sample([3], [2, 3], [2, 2, 2])]], 11, 1, 1)


def test_fewer_samples_than_rows_leave_rows_empty():
    made = plan([[sample([0], [2], [2])]], 100, 2, 2)
    assert sorted(len(row) for own in made for passes in own for row in passes) == [0, 0, 0, 1]
