"""Answers that no model ought to give: never an exception, and never more than a moment."""

import json
import random
import time
from pathlib import Path

import pytest

from vagen.evaluate.mindcube.blind import Exam
from vagen.evaluate.mindcube.official import item_row
from vagen.evaluate.mindcube.strict import judge
from vagen.mindcube.rows import Response, response_of

MEGABYTE = 10**6
GENEROUS = 5.0  # seconds of the processor; a megabyte takes a fraction of one


def respond(answer: str, true_map: dict) -> Response:
    row = {"id": "among_1", "question": "behind? A. x B. y", "gt_answer": "A", "grounded_cogmap": json.dumps(true_map)}
    return response_of(Path("x"), 1, row | {"answer": answer})


def both_ways(response: Response) -> dict:
    """Everything that scoring does with a row, in every mode."""
    item = item_row(response)
    json.dumps(item, allow_nan=False)
    judged = judge(response, Exam.of(response.id, response.question, response.truth))
    json.dumps(judged.row(), allow_nan=False)
    similarity = item.get("similarity")
    if similarity:
        assert 0 <= similarity["overall_similarity"] <= 1
    assert judged.agreement is not None
    assert 0 <= judged.agreement.overall <= 1
    assert judged.letter == item["extracted_cogmap_mode"]
    return item


PIECES = [
    *("{", "}", "[", "]", '"', ":", ",", "\\", "//", "\n", " ", "\t", "\x00", "ä", "\ud800", "🙂", "<", ">", ".", "'"),
    *("A", "B.", "E", "<Answer>", "<answer>", "Answer:", "my answer is ", "```json", "<cogmap>", "</cogmap>", "null"),
    *('"position"', '"facing"', '"name"', '"objects"', '"views"', '"cup"', '"door"', '"Image 1"', "cup", "position"),
    *("[1, 2]", "[5, 5]", '["3", 4]', "[NaN, 1]", "[1e400, 0]", "[-0.0, 1e-320]", "[true, false]", "[null, 1]", "[]"),
    *(
        '{"position": [1, 2]}',
        '{"position": [5, 8], "facing": "up"}',
        '"facing": "north"',
        '"facing": ["in"]',
        "9" * 40,
    ),
    *(
        '{"objects": [{"name": "cup", "position": [1, 2]}]}',
        '"views": []',
        '{"cup": {"position": [3, 4]}, ',
        "1_0",
        "-",
    ),
]
VALUES = [
    None,
    True,
    0,
    1.5,
    -3,
    10**30,
    10**400,
    1e308,
    "",
    "up",
    "inner",
    "3",
    "nan",
    [],
    {},
    [1, 2],
    ["5", 5],
    [[1], 2],
]
KEYS = ["position", "facing", "name", "objects", "views", "cup", "door", "shelf", "Image 1", "View 2", ""]


def wild_json(generator: random.Random, depth: int = 3):
    """JSON that looks like a map for the most part."""
    kind = generator.random()
    if depth == 0 or kind < 0.3:
        return generator.choice([*VALUES, {"position": [generator.randint(0, 9), generator.random()]}])
    if kind < 0.5:
        return [wild_json(generator, depth - 1) for _ in range(generator.randint(0, 3))]
    return {generator.choice(KEYS): wild_json(generator, depth - 1) for _ in range(generator.randint(0, 4))}


def test_twenty_thousand_answers_of_pieces_and_wild_maps(true_map):
    generator = random.Random(20)
    maps = 0
    for number in range(20_000):
        if number % 2:
            answer = "".join(generator.choices(PIECES, k=generator.randint(0, 30)))
        else:
            answer = json.dumps(wild_json(generator))
            if generator.random() < 0.5:
                cut = sorted(generator.choices(range(len(answer) + 1), k=2))
                answer = answer[: cut[0]] + generator.choice(["", ",", "}", '"', "//"]) + answer[cut[1] :]
        response = respond(answer, true_map)
        maps += both_ways(response)["generated_found"]
    assert maps > 3000, "too few of them have a map to say much"


@pytest.mark.parametrize("field", ["cognitive_map", "answer_cognitive_map", "grounded_cogmap", "question", "id"])
def test_wild_values_in_other_fields(field, true_map):
    generator = random.Random(21)
    for _ in range(1000):
        value = wild_json(generator)
        row = {"id": "among_1", "question": "q? A. x B. y", "gt_answer": "A", "grounded_cogmap": true_map}
        if field == "id" and value and not isinstance(value, str):
            continue  # refused when the file is read
        response = response_of(Path("x"), 1, row | {"answer": "A. {}", field: value})
        json.dumps(item_row(response))
        json.dumps(judge(response, Exam.of(response.id, response.question, response.truth)).row())


def repeated(text: str) -> str:
    return text * (MEGABYTE // len(text))


HOSTILE = {
    "opening braces": repeated("{"),
    "closing braces": repeated("}"),
    "braces": repeated("{}"),
    "braces the wrong way round": repeated("}{"),
    "quotes": "{" + repeated('"') + "}",
    "names": "{" + repeated('"a') + "}",
    "slashes": "{" + repeated("/") + "}",
    "comments": "{" + repeated("//\n") + "}",
    "spaces": "{" + repeated(" ") + "}",
    "commas": "{" + repeated(", ") + "}",
    "a comma and spaces": "{," + repeated(" ") + "x}",
    "one word": "{" + repeated("a") + "}",
    "words": "{" + repeated("a ") + "}",
    "a word and spaces": "{a" + repeated(" ") + "}",
    "bare keys": "{" + repeated("a:") + "}",
    "colons": "{" + repeated(":") + "}",
    "nested": repeated('{"a":'),
    "nested and closed": '{"a":' * (MEGABYTE // 6) + "}" * (MEGABYTE // 6),
    "nested lists": '{"a":' + "[" * (MEGABYTE // 2) + "]" * (MEGABYTE // 2) + "}",
    "pairs": "{" + repeated('"a":{}') + "}",
    "pairs with bare keys": "{" + repeated('"a":{b:1}') + "}",
    "broken pairs": "{" + repeated('"a":{b}') + "}",
    "pairs in a pair that never ends": '{"a":{' + repeated('"b":{}') + " {{}",
    "pairs nested too deeply": "{" + repeated('"a":{"b":{') + "}",
    "a pair and spaces": '{"a":' + repeated(" ") + "x}",
    "digits": '{"a":' + repeated("9") + "}",
    "a number in quotes": '{"a":{"position":["' + repeated("9") + '",1]}}',
    "a long fraction": '{"a":{"position":[0.' + repeated("1") + ",1]}}",
    "many objects": json.dumps(
        {"objects": [{"name": str(n), "position": [n, n]} for n in range(25_000)], "views": []}
    ),
    "many places": json.dumps({str(n): {"position": [n, 1]} for n in range(33_000)}),
    "escapes": "{" + repeated('\\"') + "}",
    "control characters": "{" + repeated("\x00") + "}",
    "Answer": repeated("Answer:"),
    "Answer and spaces": "Answer:" + repeated(" "),
    "tags": repeated("<Answer>"),
    "letters": repeated("A"),
    "letters and spaces": repeated("A "),
    "lines": repeated("AB\n"),
    "line breaks": repeated("\n"),
    "sentences": repeated("my answer is "),
    "asterisks": repeated("*A"),
    "no Latin letters": repeated("Ä"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_megabyte_takes_a_moment(kind, true_map):
    response = respond(HOSTILE[kind], true_map)
    began = time.process_time()
    both_ways(response)
    assert time.process_time() - began < GENEROUS, f"{kind}: not linear"
