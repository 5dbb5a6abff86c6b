"""How fast MindCube responses are scored, on one core.

    python scripts/bench/mindcube.py [--rows 20000] [--repeats 3]

Makes rows like the published ones (answers alone; answers with maps), scores them as ``vagen score mindcube`` does,
and prints one JSON line per figure: the best of the repeats, in rows per second. Then the longest that one hostile
answer of a megabyte takes.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vagen.evaluate.mindcube.official import Tally, item_row
from vagen.evaluate.mindcube.score import MODES, score_file
from vagen.mindcube.rows import read_responses

CENTRE, AROUND = (5, 5), ((5, 8), (2, 5), (5, 2), (8, 5))
VIEWS = (((5, 6), "up"), ((4, 5), "right"), ((5, 4), "down"), ((6, 5), "left"))
NAMES = ("blue jar", "wooden shelf", "window", "grey sofa", "white wall", "table with cups", "door", "bed sheet")
MEGABYTE = 10**6
HOSTILE = {
    "braces": "{}" * (MEGABYTE // 2),
    "quotes": "{" + '"' * MEGABYTE + "}",
    "slashes": "{" + "//\n" * (MEGABYTE // 3) + "}",
    "nested": '{"a":' * (MEGABYTE // 5),
    "pairs": "{" + '"a":{}' * (MEGABYTE // 6) + "}",
    "broken pairs": "{" + '"a":{b}' * (MEGABYTE // 7) + "}",
    "bare keys": "{" + "a:" * (MEGABYTE // 2) + "}",
    "letters": "A" * MEGABYTE,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for with_maps in (False, True):
            path = home / f"maps-{with_maps}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows(args.rows, with_maps)), encoding="utf-8")
            for mode in MODES:
                official = mode != "strict"
                if official:
                    seconds = best(lambda p=path, m=mode: tally(p, m), args.repeats)
                    report("score", mode, with_maps, args.rows / seconds)
                seconds = best(lambda p=path, m=mode: score_file(p, m, home / "out.json"), args.repeats)
                report("score with baselines and floor", mode, with_maps, args.rows / seconds)
        for name, answer in HOSTILE.items():
            path = home / "hostile.jsonl"
            path.write_text(json.dumps({**next(rows(1, True)), "answer": answer}) + "\n", encoding="utf-8")
            seconds = best(lambda p=path: [item_row(response) for response in read_responses(p)], args.repeats)
            print(json.dumps({"figure": "seconds per hostile megabyte", "answer": name, "seconds": round(seconds, 3)}))


def rows(count: int, with_maps: bool) -> Iterator[dict[str, str]]:
    """Rows like those of the published set, whose maps are right, turned, jittered or cut off."""
    generator = random.Random(0)
    for number in range(count):
        names = generator.sample(NAMES, 5)
        letter = generator.choice("ABCD")
        options = " ".join(f"{at}. {name.capitalize()}" for at, name in zip("ABCD", names[1:], strict=True))
        row = {
            "id": f"among_group{number // 4:03d}_q{number % 4}_2_1",
            "question": "Based on these four images (image 1, 2, 3, and 4) showing the scene from different viewpoints"
            f" (front, left, back, right): From the viewpoint presented in image 2, what is to the right? {options}",
            "gt_answer": generator.choice("ABCD"),
            "answer": f"<answer>{letter}. {names['ABCD'.index(letter) + 1]}</answer>",
        }
        if with_maps:
            row["grounded_cogmap"] = json.dumps(augmented(names, lambda x, y: (x, y)), indent=2)
            drawn = json.dumps(augmented(names, generator.choice(CHANGES)))
            row["answer"] = f"Based on my observation, the answer is:\n<cogmap>{drawn}</cogmap>{row['answer']}"
        yield row


CHANGES: tuple[Callable[[int, int], tuple[float, float]], ...] = (
    lambda x, y: (x, y),
    lambda x, y: (10 - y, x),
    lambda x, y: (x + 0.25, y - 0.5),
    lambda x, y: (y, x),
)


def augmented(names: Sequence[str], change: Callable[[int, int], tuple[float, float]]) -> dict[str, object]:
    objects = [
        {"name": name, "position": change(*place)} for name, place in zip(names, (CENTRE, *AROUND), strict=True)
    ]
    views = [
        {"name": f"Image {number}", "position": change(*place), "facing": facing}
        for number, (place, facing) in enumerate(VIEWS, start=1)
    ]
    return {"objects": objects, "views": views}


def tally(path: Path, mode: str) -> None:
    counts = Tally(with_maps=mode == "official-cogmap")
    for response in read_responses(path):
        counts.add(response)
    counts.result()


def best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some runs."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def report(figure: str, mode: str, with_maps: bool, speed: float) -> None:
    line = {"figure": figure, "mode": mode, "maps": with_maps, "rows_per_second": round(speed)}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
