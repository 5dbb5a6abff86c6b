"""Answers without looking: questions taken apart, the letter, and naive Bayes against its definition."""

import math
import random
from collections import Counter

import pytest

from vagen.evaluate.mindcube.blind import FOLDS, Exam, LetterFrequency, TextRule, baselines, n_grams
from vagen.mindcube.rows import KINDS, kind_of, scene_of, take_apart


def exam(question: str, truth: str, id: str = "among_1_q") -> Exam:
    return Exam.of(id, question, truth)


@pytest.mark.parametrize(
    ("question", "stem", "options"),
    [
        ("Where? A. Left side B. Right", "Where?", [("A", "Left side"), ("B", "Right")]),
        ("Where? A. TV. Set B. No. 5 C. x", "Where?", [("A", "TV. Set"), ("B", "No. 5"), ("C", "x")]),
        ("Where?\nA. Left\nB. Right", "Where?", [("A", "Left"), ("B", "Right")]),
        (
            "Where? A. Vitamin D. pills B. Plan A. notes C. E. coli",
            "Where?",
            [("A", "Vitamin D. pills"), ("B", "Plan A. notes"), ("C", "E. coli")],
        ),
        ("Where? B. Left C. Right", "Where? B. Left C. Right", []),
        ("No options", "No options", []),
        ("", "", []),
        ("A. B. C", "", [("A", ""), ("B", "C")]),
    ],
)
def test_questions_are_taken_apart(question, stem, options):
    parts = take_apart(question)
    assert (parts.stem, list(parts.options)) == (stem, options)


def test_the_public_questions_are_taken_apart(shared):
    import json

    counts, kinds = Counter(), Counter()
    for line in (shared / "tinybench_questions.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        parts = take_apart(row["question"])
        letters = "".join(letter for letter, _ in parts.options)
        assert letters == "ABCDE"[: len(letters)]
        assert row["gt_answer"] in letters
        assert all(text for _, text in parts.options)
        counts[len(letters)] += 1
        kinds[kind_of(parts.stem)] += 1
    assert counts == {4: 557, 2: 259, 3: 234}
    assert kinds["motion"] == 274
    assert kinds["other"] == 0
    assert set(kinds) <= set(KINDS)


@pytest.mark.parametrize(
    ("stem", "kind"),
    [
        ("These views: in which direction did I move from the first view to the second?", "motion"),
        ("Three (left, behind): then I turn right and move forward, will I get closer to the cup?", "approach"),
        ("If I was positioned where the sofa is, what would be behind me?", "perspective"),
        ("then I turn 90 degrees to the left, what is to my behind?", "turn"),
        ("two views: which direction is the mug relative to the lamp?", "relative"),
        ("From the viewpoint in image 2, is there a cup behind the door?", "behind"),
        ("From the viewpoint in image 2, what is to the right of the door?", "beside"),
        ("then I turn back and did I move: what colour is it?", "other"),
    ],
)
def test_kinds_of_questions(stem, kind):
    assert kind_of(stem) == kind


def test_scenes():
    assert scene_of("among_group588_q0_2_1") == scene_of("among_group588_gen_4_1") == "among_group588"
    assert scene_of("x") == "x"
    assert scene_of(None) == ""


# -------------------------------------------------------------------------------------------------------------- letter


def test_the_most_frequent_letter_on_offer():
    three, two = "Q? A. a B. b C. c", "Q? A. a B. b"
    rule = LetterFrequency([exam(three, letter) for letter in "CCCBBA"])
    assert rule.answer(exam(three, "A")) == "C"
    assert rule.answer(exam(two, "A")) == "B"
    assert rule.answer(exam("Q? no options", "A")) == "C"
    assert LetterFrequency([]).answer(exam(three, "C")) == "A", "the earlier of equals"
    odd = [Exam.of("x", three, truth) for truth in (None, 5, "", "F", "AB", ["A"])]
    assert [one.truth for one in odd] == [None] * 6
    assert LetterFrequency([*odd, exam(three, "B")]).answer(exam(three, "A")) == "B"


# --------------------------------------------------------------------------------------------------------- naive Bayes


def definition(training: list[Exam], asked: Exam) -> list[float]:
    """Of each option, log P(n-grams | right) - log P(n-grams | wrong) with add-one smoothing."""
    tokens = {True: [], False: []}
    for known in training:
        for letter, text in known.options:
            tokens[letter == known.truth] += n_grams(text, known.kind)
    vocabulary = set(tokens[True]) | set(tokens[False])

    def of(option: tuple[str, str]) -> list[str]:
        return n_grams(option[1], asked.kind)

    def log_probability(gram: str, right: bool) -> float:
        return math.log((tokens[right].count(gram) + 1) / (len(tokens[right]) + len(vocabulary)))

    return [
        sum(log_probability(g, True) - log_probability(g, False) for g in grams) for grams in map(of, asked.options)
    ]


def some_exams(generator: random.Random, number: int) -> list[Exam]:
    words = ["yes", "no", "red cup", "blue door", "wide door", "diagonally left", "directly left"]
    exams = []
    for index in range(number):
        options = generator.sample(words, generator.randint(2, 4))
        text = " ".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))
        stem = generator.choice(["did I move", "what is behind it"])
        exams.append(exam(f"X: {stem}? {text}", generator.choice("ABCD"[: len(options)]), f"among_s{index // 2}_q"))
    return exams


def test_naive_bayes_by_its_definition():
    generator = random.Random(0)
    for _ in range(20):
        training, asked = some_exams(generator, 12), some_exams(generator, 6)
        rule = TextRule.learned(training)
        for one in asked:
            evidence = definition(training, one)
            chosen = rule.answer(one)
            best = max(evidence)
            assert evidence[[letter for letter, _ in one.options].index(chosen)] == pytest.approx(best, abs=1e-9)


def test_forgetting_is_never_having_learned():
    generator = random.Random(1)
    for _ in range(20):
        kept, held, asked = (some_exams(generator, number) for number in (9, 5, 20))
        rule = TextRule.learned([*kept, *held]).without(TextRule.learned(held))
        alone = TextRule.learned(kept)
        assert [rule.answer(one) for one in asked] == [alone.answer(one) for one in asked]


def test_n_grams():
    assert n_grams("The RED, red cup!", "turn") == [
        *("the", "red", "red", "cup", "the red", "red red", "red cup", "=the red red cup"),
        *("turn: the", "turn: red", "turn: red", "turn: cup"),
        *("turn: the red", "turn: red red", "turn: red cup", "turn: =the red red cup"),
    ]


def test_the_rule_learns_shortcuts():
    question = "X: did I move? A. Directly left B. Diagonally left C. Directly back"
    rule = TextRule.learned([exam(question, "B") for _ in range(3)])
    assert rule.answer(exam("Y: did I move? A. Directly back B. Directly right C. Diagonally right", "C")) == "C"
    assert rule.answer(exam("no options", "A")) is None
    assert TextRule.learned([]).answer(exam(question, "B")) == "A"


def test_baselines_are_fitted_on_the_training_file_or_across_scenes():
    yes = [exam("X: is it behind? A. No B. Yes", "B", f"around_s{index}_q") for index in range(40)]
    no = [exam("X: is it behind? A. No B. Yes", "A", f"around_t{index}_q") for index in range(10)]
    chance, letter, text = baselines(yes, no, "training.jsonl")
    assert (chance.name, letter.name, text.name) == ("chance", "letter", "text")
    assert (chance.correct, letter.correct, text.correct) == ([0.5] * 40, [0.0] * 40, [0.0] * 40)
    assert letter.fitted_on == text.fitted_on == "training.jsonl"
    _, letter, text = baselines([*yes, *no])
    assert letter.correct == [1.0] * 40 + [0.0] * 10
    assert text.correct == [1.0] * 40 + [0.0] * 10
    assert f"{FOLDS}-fold" in text.fitted_on


def test_no_rule_sees_its_own_scene():
    """All questions of one scene have an answer of their own, and nobody else can know it."""
    exams = [exam(f"X: behind? A. thing{scene} B. other{scene}", "B", f"around_s{scene}_q{n}") for scene in range(9)
             for n in range(5)]  # fmt: skip
    _, _, text = baselines(exams)
    assert sum(text.correct) == 0, "add-one smoothing leaves a tie, and the first option is taken"


def test_nothing_to_answer():
    assert [baseline.correct for baseline in baselines([])] == [[], [], []]


def test_what_a_text_only_rule_reaches_on_the_public_questions(shared):
    """Half of the questions, chance being a third: this is why no score is shown alone."""
    import json

    rows = [json.loads(line) for line in (shared / "tinybench_questions.jsonl").open(encoding="utf-8")]
    chance, letter, text = baselines([Exam.of(row["id"], row["question"], row["gt_answer"]) for row in rows])
    shares = [sum(baseline.correct) / len(rows) for baseline in (chance, letter, text)]
    assert shares == pytest.approx([0.33, 0.33, 0.51], abs=0.02)
