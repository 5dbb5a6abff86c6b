"""The benchmarks' table and plots, from the JSON lines that they printed.

    python scripts/bench/table.py outputs/bench

Reads every ``*.jsonl`` of a folder; writes ``table.md`` (a row per comparison, and what fell short of its target) and,
where training was measured with several numbers of clozes, ``growth.png`` (speed over the peers', and memory, by the
number of clozes to a window; a row per layout).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLUMNS = ("what", "peer", "ours", "theirs", "ratio", "spread", "target", "share of the bound")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    lines = read(args.folder)
    if not lines:
        sys.exit(
            f"table: no comparison in {args.folder}/*.jsonl: run scripts/bench/all.sh, or a benchmark into a file"
        )
    (args.folder / "table.md").write_text(table(lines), encoding="utf-8")
    print(args.folder / "table.md")
    if plot_growth(lines, args.folder / "growth.png"):
        print(args.folder / "growth.png")


def read(folder: Path) -> list[dict]:
    """The comparisons of a folder's files, in the order of their names; other lines are passed over."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
        found += [line for line in lines if "ratio" in line]
    return found


def table(lines: Sequence[dict]) -> str:
    """Markdown; below it what fell short, and the machines and versions that were measured."""
    rows = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for line in lines:
        low, high = line["ratio_spread"]
        cells = [line["what"], line["peer"], number(line["ours"]), number(line["theirs"])]
        cells += [f"**{number(line['ratio'])}×**", f"{number(low)} – {number(high)}", target(line), share(line)]
        rows.append(f"| {' | '.join(cells)} |")
    aimed = [line for line in lines if line.get("target") is not None or line.get("target_share") is not None]
    short = sum(map(falls_short, aimed))
    verdict = f"{len(aimed) - short} of {len(aimed)} comparisons with a target reach it."
    versions = sorted({f"{name} {version}" for line in lines for name, version in line["versions"].items()})
    machines = sorted({line["machine"] for line in lines})
    return "\n".join([*rows, "", verdict, "", f"{'; '.join(machines)}. {', '.join(versions)}."]) + "\n"


def target(line: dict) -> str:
    """The ratio that was to be reached, and by how much it was missed."""
    wanted = line.get("target")
    if wanted is None:
        return ""
    return f"≥ {number(wanted)}×{missed(line['ratio'], wanted)}"


def share(line: dict) -> str:
    """The share of the bound, and by how much it fell short of what was to be reached."""
    if line["bound"] is None:
        return ""
    wanted = line.get("target_share")
    return f"{line['bound']:.0%}" + ("" if wanted is None else f" (≥ {wanted:.0%}{missed(line['bound'], wanted)})")


def missed(reached: float, wanted: float) -> str:
    return "" if reached >= wanted else f", **short by {1 - reached / wanted:.0%}**"


def falls_short(line: dict) -> bool:
    """Whether a comparison misses any of its targets."""
    pairs = ((line["ratio"], line.get("target")), (line["bound"], line.get("target_share")))
    return any(wanted is not None and reached < wanted for reached, wanted in pairs)


def number(value: float) -> str:
    """Three digits, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plot_growth(lines: Sequence[dict], path: Path) -> bool:
    """The picture of training over the number of clozes to a window; false where there is too little to draw."""
    layouts: defaultdict[str, defaultdict[tuple[str, str], list[dict]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if "sharing_bound" in line and "clozes" in line:
            layouts[line["layout"]][line["size"], line["peer"]].append(line)
    drawn = {
        layout: {
            key: sorted(found, key=lambda line: line["clozes"]) for key, found in series.items() if len(found) > 1
        }
        for layout, series in layouts.items()
    }
    drawn = {layout: series for layout, series in drawn.items() if series}
    if not drawn:
        return False
    figure, rows = plt.subplots(len(drawn), 2, figsize=(11, 4 * len(drawn)), layout="constrained", squeeze=False)
    for (speed, memory), (layout, series) in zip(rows, drawn.items(), strict=True):
        draw_layout(speed, memory, layout, series)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


def draw_layout(speed: Axes, memory: Axes, layout: str, series: Mapping[tuple[str, str], list[dict]]) -> None:
    """Speed and memory in one layout, a curve per size of model and peer."""
    for (size, peer), found in series.items():
        clozes = [line["clozes"] for line in found]
        ratios = [line["ratio"] for line in found]
        spread = [line["ratio_spread"] for line in found]
        low, high = ([abs(r - s[i]) for r, s in zip(ratios, spread, strict=True)] for i in (0, 1))
        speed.errorbar(clozes, ratios, yerr=[low, high], marker="o", capsize=3, label=f"{size}: over {peer}")
        memory.plot(clozes, [line["peak_bytes"]["theirs"] / 2**20 for line in found], "o-", label=f"{size}: {peer}")
    for size in dict.fromkeys(size for size, _ in series):
        found = next(lines for (own, _), lines in series.items() if own == size)
        clozes = [line["clozes"] for line in found]
        speed.plot(clozes, [line["sharing_bound"] for line in found], "--", color="grey", label=f"{size}: bound")
        memory.plot(clozes, [line["peak_bytes"]["ours"] / 2**20 for line in found], "o-", label=f"{size}: ours")
    for axes, label in ((speed, "clozes per second, ours over theirs"), (memory, "most memory held, MiB")):
        axes.set_title(f"{layout} layout", fontsize="medium")
        axes.set_xscale("log", base=2)
        axes.set_xlabel("clozes to a window of 4 frames")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")


if __name__ == "__main__":
    main()
