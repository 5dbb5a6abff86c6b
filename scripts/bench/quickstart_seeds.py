"""The quickstart with several training seeds: how much of its result is luck.

    python scripts/bench/quickstart_seeds.py [--seeds 0 1 2] [--output outputs/seeds] [--evaluation-seed 1]

Runs `vagen quickstart` once per seed (minutes each), writes `seeds.json` (all accuracies) and `table.md` (the README's
table), and prints the path of the former. The evaluation asks the same questions of every seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("outputs/seeds"))
    parser.add_argument("--evaluation-seed", type=int, default=1)
    args = parser.parse_args()
    runs = [run(seed, args.output / f"seed-{seed}", args.evaluation_seed) for seed in args.seeds]
    (args.output / "seeds.json").write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    (args.output / "table.md").write_text(table(runs), encoding="utf-8")
    print(args.output / "seeds.json")


def run(seed: int, output: Path, evaluation_seed: int) -> dict:
    """One quickstart; its card in brief."""
    began = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "vagen.cli", "quickstart"),
            *(f"--seed={seed}", f"--output={output}", f"--evaluate.seed={evaluation_seed}"),
        ],
        check=True,
    )
    card = json.loads((output / "report_card.json").read_text(encoding="utf-8"))
    keys = ("world", "cloze", "n", "accuracy", "ci_low", "ci_high", "floors", "seen_in_training")
    return {
        "seed": seed,
        "evaluation_seed": evaluation_seed,
        "seconds": round(time.perf_counter() - began, 1),
        "timings": json.loads((output / "timings.json").read_text(encoding="utf-8")),
        "mean_accuracy": statistics.fmean(row["accuracy"] for row in card["rows"]),
        "rows": [{key: row[key] for key in keys} for row in card["rows"]],
    }


def table(runs: list[dict]) -> str:
    """Markdown: the first seed with its intervals and floors, the other seeds beside it."""
    first, others = runs[0], runs[1:]
    heads = [
        "world",
        "cloze",
        "n",
        f"seed {first['seed']}",
        "95 % interval",
        "best floor",
        "shuffled image",
    ]
    heads += [f"seed {other['seed']}" for other in others]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for index, row in enumerate(first["rows"]):
        floors = {name: value for name, value in row["floors"].items() if value is not None}
        best = max(floors, key=lambda name: floors[name])
        cells = [
            *(row["world"], row["cloze"], str(row["n"]), f"**{row['accuracy']:.3f}**"),
            *(f"{row['ci_low']:.3f} – {row['ci_high']:.3f}", f"{floors[best]:.3f} ({best})"),
            f"{floors['shuffled_image']:.3f}",
            *(f"{other['rows'][index]['accuracy']:.3f}" for other in others),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    means = [f"**{first['mean_accuracy']:.3f}**", "", "", "", *(f"{other['mean_accuracy']:.3f}" for other in others)]
    return "\n".join([*lines, f"| mean | | | {' | '.join(means)} |"]) + "\n"


if __name__ == "__main__":
    main()
