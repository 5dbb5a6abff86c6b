"""Constrained answers always parse; languages hold what their parsers read, and answers are among them."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList

from vagen.cloze.scoring import score
from vagen.policy.constrain import Automaton, ConstrainedLogits, Constrainer, Vocabulary
from vagen.policy.errors import ModelError
from vagen.policy.generate import generate
from vagen.policy.languages import Choices, GridStates, JsonStates, Language, Lists, NaturalStates, Numbers, orders
from worlds import BoardSchema, make, registered
from worlds.text import REPRESENTATIONS, read_facts, write_facts

STATES = {"grid": GridStates, "natural": NaturalStates, "json": JsonStates}


def texts(language: Language) -> set[str]:
    """All of a small language."""
    found, stack = set(), [(language.start, "")]
    while stack:
        state, text = stack.pop()
        if language.may_end(state):
            found.add(text)
        stack += [(after, text + segment) for segment, after in language.segments(state).items()]
    return found


def wander(language: Language, choose, hurry: int = 60) -> str:
    """A text of a language, going on at random; it ends where it may once it is long."""
    state, text = language.start, ""
    for step in range(100_000):
        segments = language.segments(state)
        if language.may_end(state) and (not segments or choose(8) == 0 or step > hurry):
            return text
        closing = [s for s in segments if step > hurry and s.endswith("}")]
        segment = closing[0] if closing else sorted(segments)[choose(len(segments))]
        state, text = segments[segment], text + segment
    raise AssertionError("a text without end")


# ----------------------------------------------------------------------------------------------------------- languages


def test_small_languages_by_hand():
    assert texts(Choices(("yes", "no"))) == {"yes", "no"}
    assert texts(Lists(("up", "go on"), 2)) == {"up, up", "up, go on", "go on, up", "go on, go on"}
    assert texts(orders("ABC")) == {" ".join(order) for order in permutations("ABC")}
    numbers = texts(Numbers(decimals=1, signed=True))
    assert {"0", "-1", "0.9", "-12.5", "9999"} <= numbers
    assert not numbers & {"", "-", ".5", "1.", "1.25", "12345"}
    assert all(abs(float(number)) < 10_000 for number in numbers)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_states_of_a_small_board_are_exactly_those_that_can_be_written(representation):
    """Every set of things on a 2 x 2 board whose cells can be: none missing, none too many, each once."""
    contents = [(), (("box", ""), ("goal", "")), (("goal", ""),), (("agent", "east"),), (("agent", "west"),)]
    schema = BoardSchema(
        2, 2, {"agent": ("east", "west"), "goal": ("",), "box": ("",)}, dict(zip(contents, ".*gew", strict=True))
    )
    language = STATES[representation](schema)
    found = texts(language)
    facts = {text: read_facts(text, schema, representation) for text in found}
    assert all(fact is not None for fact in facts.values()), "a text that does not parse"
    assert len(set(facts.values())) == len(found), "a state in two ways"
    empty = 1 if representation == "natural" else 0  # a board without things has no text there
    assert len(found) == 5**4 - empty
    assert all(write_facts(fact, schema, representation) == text for text, fact in facts.items())
    assert max(map(len, found)) <= language.longest


@pytest.mark.parametrize("representation", ["natural", "json"])
def test_cells_that_must_not_stay_as_they_are_are_filled(representation):
    """A box is only ever on a goal or under a lid, and both are written after it; no cell is empty."""
    contents = [(("box", ""), ("goal", "")), (("box", ""), ("lid", "")), (("goal", ""),)]
    schema = BoardSchema(2, 1, {"box": ("",), "goal": ("",), "lid": ("",)}, dict(zip(contents, "*+g", strict=True)))
    found = texts(STATES[representation](schema))
    assert len(found) == 9
    assert all(read_facts(text, schema, representation) is not None for text in found)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_texts_of_every_world_parse(data):
    world = data.draw(st.sampled_from(registered()))
    representation = data.draw(st.sampled_from(REPRESENTATIONS))
    schema = make(world).schema
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    language = STATES[representation](schema)
    text = wander(language, lambda n: int(generator.integers(n)))
    assert read_facts(text, schema, representation) is not None, f"{world}: {text!r} does not parse"
    assert len(text) <= language.longest


# ------------------------------------------------------------------------------------------------------------ automata


def read(automaton: Automaton, tokens: list[int]) -> bool:
    """Whether an automaton allows a sequence of tokens."""
    position = automaton.start
    for token in tokens:
        if token not in automaton.allowed(position):
            return False
        position = automaton.advance(position, token)
    return position is None


def test_right_answers_are_allowed_and_others_are_not(make_chat, every_cloze):
    chat = make_chat("idefics3")
    constrainer = Constrainer(chat)
    for world in ("sokoban-6x6", "minigrid-rooms-6x6"):
        for representation in REPRESENTATIONS:
            for sample in every_cloze(world, 0, representation):
                tokens = chat.answer_tokens(sample.answer).tolist()
                automaton = constrainer.for_sample(sample)
                what = f"{sample.name} in {world} ({representation})"
                assert read(automaton, tokens), f"{what}: the right answer is ruled out"
                assert len(tokens) <= automaton.longest, what
                assert not read(automaton, tokens[:-1]), f"{what}: an answer without an end"
                if sample.pattern.task not in ("reward", "budget"):  # two digits make a number
                    assert not read(automaton, [tokens[0], *tokens]), f"{what}: a word too many"
                assert not read(automaton, tokens[-1:]), f"{what}: an empty answer"


def test_allowed_tokens_are_those_whose_text_goes_on(make_chat):
    """Against trying every token of the vocabulary on every beginning of every text."""
    chat = make_chat("idefics3")
    language = Lists(("left", "turn left", "lift"), 2)
    automaton = Constrainer(chat).automaton(language)
    valid = texts(language)
    written = {token: chat.tokenizer.decode([token]) for token in automaton.vocabulary.texts}
    reached = {automaton.start: ""}
    stack = [automaton.start]
    while stack:
        position = stack.pop()
        text = reached[position]
        expected = {t for t, more in written.items() if any(v.startswith(text + more) for v in valid)}
        if text in valid:
            expected |= set(automaton.ends)
        assert set(automaton.allowed(position).tolist()) == expected, f"after {text!r}"
        for token in expected - set(automaton.ends):
            after = automaton.advance(position, token)
            if after not in reached:
                reached[after] = text + written[token]
                stack.append(after)
    assert len(reached) > 20


def test_a_lead_of_the_template_comes_before_the_answer(make_chat):
    chat = make_chat("idefics3")
    automaton = Automaton(Choices(("left",)), Vocabulary(chat.tokenizer), [chat.tokenizer.eos_token_id], " ")
    end = chat.tokenizer.eos_token_id
    for text, allowed in ((" left", True), ("left", False), ("  left", False)):
        assert read(automaton, [*chat.tokenizer(text, add_special_tokens=False)["input_ids"], end]) is allowed, text


def test_answers_that_the_tokenizer_cannot_write_are_an_error(make_chat):
    chat = make_chat("idefics3")
    vocabulary = Vocabulary(chat.tokenizer)
    vocabulary.root.children.pop("y")
    automaton = Automaton(Choices(("yes",)), vocabulary, [chat.tokenizer.eos_token_id])
    with pytest.raises(ModelError, match="no token"):
        automaton.allowed(automaton.start)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_answers_of_an_untrained_model_always_parse(
    architecture, make_chat, every_cloze, with_pictures, representation
):
    chat = make_chat(architecture, representation=representation)
    constrainer = Constrainer(chat)
    pairs = with_pictures(
        [s for world in ("sokoban-6x6", "frozenlake-6x6") for s in every_cloze(world, 1, representation)[:8]]
    )
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in pairs]
    automata = [constrainer.for_sample(sample) for sample, _ in pairs]
    if representation != "grid":  # texts about things can be long: some of them
        prompts, automata, pairs = prompts[:4], automata[:4], pairs[:4]
    free = generate(chat, prompts, 20)
    answers = generate(chat, prompts, 1, automata=automata)
    parsed = [score(sample, answer).parsed for (sample, _), answer in zip(pairs, answers, strict=True)]
    assert all(parsed), f"does not parse: {answers[parsed.index(False)]!r}"
    assert not all(score(sample, answer).parsed for (sample, _), answer in zip(pairs, free, strict=True))


def test_the_processor_works_with_beams(make_chat, every_cloze, with_pictures, stock_inputs):
    """Beams are reordered between steps; every one of them stays in the language."""
    chat = make_chat("idefics3")
    sample, pictures = with_pictures([s for s in every_cloze("sokoban-6x6") if s.name == "plan_inference"])[0]
    prompt = chat.prompt(sample, pictures)
    automaton = Constrainer(chat).for_sample(sample)
    output = chat.policy.model.generate(
        **stock_inputs(chat, sample, pictures),
        max_new_tokens=automaton.longest,
        num_beams=3,
        num_return_sequences=3,
        do_sample=False,
        eos_token_id=sorted(chat.end_tokens),
        pad_token_id=chat.tokenizer.pad_token_id,
        logits_processor=LogitsProcessorList([ConstrainedLogits([automaton], len(prompt.ids))]),
    )
    answers = [chat.decode(row) for row in output[:, len(prompt.ids) :].tolist()]
    assert len(set(answers)) > 1, "all beams say the same: nothing is tested"
    assert all(score(sample, answer).parsed for answer in answers), answers


def test_a_language_of_one_text_is_written_whatever_the_model_wants(make_chat, every_cloze, with_pictures):
    chat = make_chat("qwen3_vl")
    sample, pictures = with_pictures(every_cloze("sokoban-6x6"))[0]
    automaton = Constrainer(chat).automaton(Choices((sample.answer,)))
    assert generate(chat, [(chat.prompt(sample, pictures), pictures)], 1, automata=[automaton]) == [sample.answer]
