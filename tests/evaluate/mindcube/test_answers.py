"""Letters are read by the official rules, each tried by itself and all against a second reading of them."""

import random
import re

import pytest

from vagen.evaluate.mindcube.answers import extract_letter

RULES = {
    "a letter with a full stop, anywhere, the last": [
        ("C. Door", "C"),
        ("A. Cup or B. Door", "B"),
        ("<answer>D. Door</answer> but see image B.", "B"),
        ("ABLE.", "E"),
        ("**A.**", "A"),
        ("A.B.C", "B"),
        ("A .", "A"),  # by a later rule: a letter and a space at the start of a line
        ("<Answer>my answer is A</Answer> or so. B.", "B"),
    ],
    "inside the first <Answer>": [
        ("<Answer>B</Answer>", "B"),
        ("<Answer>C", "C"),
        ("<Answer>\nC\n", "C"),
        ("<Answer>My answer is A, not B</Answer>", "A"),
        ("<Answer>my answer is A, my answer is D</Answer>", "D"),
        ("<Answer>The answer is A, not B</Answer>", "A"),
        ("<Answer>the answer is A, my answer is B</Answer>", "B"),
        ("<Answer>A or B</Answer>", "B"),
        ("<Answer>AB</Answer><Answer>C</Answer>", "C"),
        ("<Answer>none <b>A</b></Answer>", "A"),
        ("<answer>A</answer>\nB", "B"),
        ("<Answer></Answer>\nB", "B"),
        ("<Answer>A</Answer>\nB", "A"),
    ],
    "at the start of a line": [
        ("B", "B"),
        ("B and more", "B"),
        ("why\nB\n", "B"),
        ("Answer: C", "C"),
        ("A\nB", "A"),  # the line break belongs to the first match, so the second line has none before it
        ("A\n\nB", "B"),
        ("A: yes", "A"),  # not by this rule: no white space follows
        ("x\nA robot", "A"),
        (" A", "A"),
    ],
    "in quotes or asterisks": [('say "C" or D', "C"), ("*A* then *B* D", "B"), ("*A", "A")],
    "after Answer": [
        ("the Answer is: x, Answer B", "B"),
        ("Answer:\n\n C!", "C"),
        ("x Answer:D", "D"),
        ("Answer B2", None),
    ],
    "my answer is": [("well, my answer is Anna", "A"), ("My answer is Bob (my answer is Dan) xA", "D")],
    "answer is": [("so the answer is Edam xA", "E"), ("answer is A answer is B2", "B")],
    "the first alone in the lowest line": [
        ("so B or C\nnothing", "B"),
        ("it is (A)\nor (B), (C)\n", "B"),
        ("A1 B_ xC", None),
        ("it's-A", "A"),
    ],
    "nothing": [
        ("a", None),
        ("<answer>b</answer>", None),
        ("F", None),
        ("答案是B", None),
        ("", None),
        (" \n ", None),
        (None, None),
        (7, None),
        (["A."], None),
    ],
}
CASES = [(rule, text, letter) for rule, cases in RULES.items() for text, letter in cases]


@pytest.mark.parametrize(("rule", "text", "letter"), CASES)
def test_each_rule(rule, text, letter):
    assert extract_letter(text) == letter, rule


def by_hand(text: str) -> str | None:
    """The rules of the specification one after the other, the simplest way."""
    letter = "([A-E])"

    def last(where: str, *patterns: str) -> str | None:
        found = [re.findall(pattern.replace("X", letter), where) for pattern in patterns]
        return next((matches[-1] for matches in found if matches), None)

    if anywhere := last(text, r"X\."):
        return anywhere
    if tag := re.search(r"<Answer>(.*?)(?:<|$)", text, re.DOTALL):
        section = tag.group(1)
        if inside := last(section, "[Mm]y answer is X", "[Tt]he answer is X", r"(?:Answer: )?X\.", r"\bX\b"):
            return inside
    whole = last(
        text,
        r"(?:^|\n)(?:Answer: )?X(?:\.|$|\s)",
        r"[\*\"]X[\*\"]",
        r"\bAnswer:?\s*X\b",
        "[Mm]y answer is X",
        "answer is X",
    )
    if whole:
        return whole
    for line in reversed(text.split("\n")):
        if match := re.search(r"\b([A-E])\b", line):
            return match.group(1)
    return None


PIECES = [
    *("A", "B", "E", "F", "a", ".", "<", ">", "\n", " ", "*", '"', "_", "ä", "\r", "\t", "\x1c", "\u2028", "1", ":"),
    *("<Answer>", "Answer", "Answer:", "my answer is ", "My answer is ", "The answer is ", "answer is ", "</Answer>"),
]


def test_the_rules_together():
    generator = random.Random(1)
    for _ in range(30_000):
        text = "".join(generator.choices(PIECES, k=generator.randint(0, 12)))
        assert extract_letter(text) == by_hand(text), repr(text)
