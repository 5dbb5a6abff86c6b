"""Responses: what is written is read back, and nothing else is taken for a response."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagen.rollout.responses import STRATEGIES, Response, Tags, describe_format, read_response, write_response

EXAMPLES = {
    "no_think": ("<answer>up</answer>", Response("up")),
    "free_think": ("<think>hm</think><answer>up, left</answer>", Response("up, left", thought="hm")),
    "grounding": (
        "<think><observation>s</observation><reasoning>r</reasoning></think><answer>up</answer>",
        Response("up", observation="s", reasoning="r"),
    ),
    "worldmodeling": (
        "<think><reasoning>r</reasoning><prediction>p</prediction></think><answer>up</answer>",
        Response("up", reasoning="r", prediction="p"),
    ),
    "grounding_worldmodeling": (
        "<think><observation>s</observation><reasoning>r</reasoning><prediction>p</prediction></think>"
        "<answer>up</answer>",
        Response("up", observation="s", reasoning="r", prediction="p"),
    ),
}
PARTS = {
    "no_think": ("answer",),
    "free_think": ("thought", "answer"),
    "grounding": ("observation", "reasoning", "answer"),
    "worldmodeling": ("reasoning", "prediction", "answer"),
    "grounding_worldmodeling": ("observation", "reasoning", "prediction", "answer"),
}
on_every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@on_every_strategy
def test_the_form_is_vagens(strategy):
    text, response = EXAMPLES[strategy]
    assert write_response(response, strategy) == text
    assert read_response(text, strategy) == response


@on_every_strategy
@given(data=st.data())
def test_what_is_written_is_read_back(strategy, data):
    content = st.text(alphabet="ab <>/{}\n#.", max_size=12).map(str.strip)
    response = Response(**{"answer": ""} | {part: data.draw(content) for part in PARTS[strategy]})
    assert read_response(write_response(response, strategy), strategy) == response


@on_every_strategy
def test_white_space_between_parts_does_not_matter(strategy):
    text, response = EXAMPLES[strategy]
    spaced = "\n " + text.replace("><", "> \n<") + " \n"
    assert read_response(spaced, strategy) == response


@on_every_strategy
@pytest.mark.parametrize("junk", ["junk", "<b>", "</answer>", "<answer>up</answer>", "<think></think>", "."])
def test_junk_anywhere_is_an_error_of_form(strategy, junk):
    text, _ = EXAMPLES[strategy]
    assert read_response(junk + text, strategy) is None
    assert read_response(text + junk, strategy) is None
    if strategy != "no_think":
        assert read_response(text.replace("</think>", "</think>" + junk), strategy) is None
    if strategy not in ("no_think", "free_think"):
        assert read_response(text.replace("</think>", junk + "</think>"), strategy) is None


@on_every_strategy
def test_no_strategy_is_taken_for_another(strategy):
    for other in STRATEGIES:
        found = read_response(EXAMPLES[strategy][0], other)
        assert (found is not None) == (other == strategy), f"{strategy} is read as {other}"


@on_every_strategy
def test_parts_must_be_there_in_order_and_once(strategy):
    names = [Tags().of(part) for part in PARTS[strategy] if Tags().of(part)]
    text, _ = EXAMPLES[strategy]
    for name in names:
        opening, closing = f"<{name}>", f"</{name}>"
        start, end = text.index(opening), text.index(closing) + len(closing)
        part = text[start:end]
        assert read_response(text[:start] + text[end:], strategy) is None, f"{name} may be missing"
        assert read_response(text[:start] + part + part + text[end:], strategy) is None, f"{name} may be there twice"
        assert read_response(text.replace(closing, ""), strategy) is None, f"{name} need not end"
    if len(names) > 2:
        swapped = text.replace(names[0], "\0").replace(names[1], names[0]).replace("\0", names[1])
        assert read_response(swapped, strategy) is None, "the order does not matter"


def test_tags_can_be_renamed():
    tags = Tags(think="plan", answer="act")
    text = "<plan>hm</plan><act>up</act>"
    assert write_response(Response("up", thought="hm"), "free_think", tags) == text
    assert read_response(text, "free_think", tags) == Response("up", thought="hm")
    assert read_response(text, "free_think") is None
    assert "<act>" in describe_format("free_think", tags)


@on_every_strategy
def test_agents_are_told_the_form(strategy):
    told = describe_format(strategy)
    for part in PARTS[strategy]:
        assert Tags().of(part) in told
    assert ("prediction" in told) == ("prediction" in PARTS[strategy])


def test_fuzzed_responses_never_raise():
    """20,000 of them, made of what responses are made of."""
    generator = random.Random(0)
    pieces = [f"<{mark}{name}>" for name in vars(Tags()).values() for mark in ("", "/")]
    pieces += ["<think>a</think>", "<answer>up</answer>", "up", "a\n", "<", ">", "</", "\0", "é", " "]
    valid = 0
    for _ in range(20_000):
        text = "".join(generator.choices(pieces, k=generator.randrange(12)))
        valid += sum(read_response(text, strategy) is not None for strategy in STRATEGIES)
    assert valid > 20, "the pieces no longer make responses now and then"


def test_long_responses_take_linear_time():
    for text in (
        "<think>" * 200_000,
        "<think>" + "<reasoning>" * 100_000,
        "<answer>" + "</" * 500_000,
        "x" * 1_000_000,
    ):
        start = time.process_time()
        for strategy in STRATEGIES:
            assert read_response(text, strategy) is None
        assert time.process_time() - start < 2
