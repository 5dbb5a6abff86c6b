"""The benchmarks' table and plots, from the JSON lines that they printed.

    python scripts/bench/table.py outputs/bench

Reads every ``*.jsonl`` of a folder; writes ``table.md`` (a row per comparison, and what fell short of its target),
``summary.md`` (a row per benchmark and peer) and, where training was measured with several numbers of clozes,
``growth.png`` (speed over the peers', and memory, by the number of clozes to a window; a row per layout).
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
BRIEFLY = ("what", "compared with", "comparisons", "times as fast", "target", "reached", "share of the bound")

#: Which benchmarks are summed up, as they are named in ``all.sh``, and what they measure.
SUBJECTS = {
    "cloze_train": "training on 16 clozes about 4 frames",
    "score": "answering clozes about a trajectory",
    "rollout": "16 turns of a conversation",
    "rl_step": "a step of GRPO",
    "render": "drawing frames",
    "vector": "stepping and drawing many boards",
    "data": "reading trajectories with their frames",
    "scene": "drawing furnished rooms",
    "gpu_step": "a step of a 3B model on a GPU",
}

#: Peers in words; others are named as they are.
PEERS = {
    "own_unpacked": "our own loop, one sequence per cloze",
    "trl": "TRL",
    "plain_generate": "`generate`, one at a time",
    "plain_generate_batched": "`generate`, all in one padded batch",
    "minigrid": "MiniGrid's renderer",
    "gym_sokoban": "gym-sokoban's renderer",
    "pasting": "pasting tiles",
    "new_renderer": "a new MuJoCo model and renderer per room",
    "memory_copy": "copying memory",
    "stored_images": "decoding stored images",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    lines = read(args.folder)
    if not lines:
        sys.exit(
            f"table: no comparison in {args.folder}/*.jsonl: run scripts/bench/all.sh, or a benchmark into a file"
        )
    for name, text in (("table.md", table(lines)), ("summary.md", summary(lines))):
        (args.folder / name).write_text(text, encoding="utf-8")
        print(args.folder / name)
    if plot_growth(lines, args.folder / "growth.png"):
        print(args.folder / "growth.png")


def read(folder: Path) -> list[dict]:
    """The comparisons of a folder's files, in the order of their names; other lines are passed over.

    Each gets the name of its ``benchmark``: that of its file, without a number before it.
    """
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
        name = path.stem.lstrip("0123456789-")
        found += [{"benchmark": name, **line} for line in lines if "ratio" in line]
    return found


def summary(lines: Sequence[dict]) -> str:
    """Markdown: what each benchmark found about each peer, over all settings that were measured."""
    groups: defaultdict[tuple[str, str], list[dict]] = defaultdict(list)
    for line in lines:
        if subject := SUBJECTS.get(line["benchmark"]):
            groups[subject + setting(line), line["peer"]].append(line)
    rows = [f"| {' | '.join(BRIEFLY)} |", f"|{'---|' * len(BRIEFLY)}"]
    for (subject, peer), some in groups.items():
        targets = {aim(line["target"]) for line in some if line["target"] is not None}
        targets |= {f"≥ {line['target_share']:.0%} of the bound" for line in some if line.get("target_share")}
        shares = [line["bound"] for line in some if line["bound"] is not None]
        cells = [subject, PEERS.get(peer, peer), str(len(some))]
        cells += [f"**{spread([line['ratio'] for line in some], '×')}**"]
        cells += [", ".join(sorted(targets)), reached(some) if any(map(is_aimed, some)) else ""]
        cells += [spread([100 * share for share in shares], " %")]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", measured_on(lines)]) + "\n"


def setting(line: dict) -> str:
    """By which comparisons of a benchmark with a peer are told apart in the summary."""
    if "layout" in line:
        return f", {line['layout']} layout"
    return f", {line['stored']}" if "stored" in line else ""


def reached(lines: Sequence[dict]) -> str:
    """How many of the comparisons with a target reach all of theirs."""
    aimed = list(filter(is_aimed, lines))
    return f"{sum(not falls_short(line) for line in aimed)} of {len(aimed)}"


def is_aimed(line: dict) -> bool:
    """Whether a comparison has a target."""
    return line.get("target") is not None or line.get("target_share") is not None


def spread(values: Sequence[float], unit: str) -> str:
    """The least and the largest, or one where there are no two."""
    ends = dict.fromkeys(f"{number(value)}{unit}" for value in (min(values), max(values))) if values else ()
    return " – ".join(ends)


def table(lines: Sequence[dict]) -> str:
    """Markdown; below it what fell short, and the machines and versions that were measured."""
    rows = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for line in lines:
        low, high = line["ratio_spread"]
        cells = [line["what"], line["peer"], number(line["ours"]), number(line["theirs"])]
        cells += [f"**{number(line['ratio'])}×**", f"{number(low)} – {number(high)}", target(line), share(line)]
        rows.append(f"| {' | '.join(cells)} |")
    verdict = f"{reached(lines)} comparisons with a target reach it."
    return "\n".join([*rows, "", verdict, "", measured_on(lines)]) + "\n"


def measured_on(lines: Sequence[dict]) -> str:
    """The machines and versions, as a sentence each."""
    versions = sorted({f"{name} {version}" for line in lines for name, version in line["versions"].items()})
    machines = sorted({line["machine"] for line in lines})
    return f"{'; '.join(machines)}. {', '.join(versions)}."


def target(line: dict) -> str:
    """The ratio that was to be reached, and by how much it was missed."""
    wanted = line.get("target")
    return "" if wanted is None else aim(wanted) + missed(line["ratio"], wanted)


def aim(wanted: float) -> str:
    """A ratio that is to be reached."""
    return f"≥ {number(wanted)}×"


def share(line: dict) -> str:
    """The share of the bound, and by how much it fell short of what was to be reached."""
    if line["bound"] is None:
        return ""
    wanted = line.get("target_share")
    return f"{line['bound']:.0%}" + ("" if wanted is None else f" (≥ {wanted:.0%}{missed(line['bound'], wanted)})")


def missed(reached: float, wanted: float) -> str:
    return "" if reached >= wanted else f", **short by {1 - reached / wanted:.1%}**"


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
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_xlabel("clozes to a window of 4 frames")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")


if __name__ == "__main__":
    main()
