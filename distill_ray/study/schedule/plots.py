"""A domain's arms: what they reached, and who taught when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from distill_ray.stages.reporting.charts import PALETTE
from distill_ray.stages.reporting.text import segments
from distill_ray.study.schedule.arms import CONTROL

Row = Mapping[str, Any]


def draw(row: Row, file: Path) -> None:
    """Left, each arm's accuracy on test, a point a seed; right, the teacher and checkpoint of each
    step with every seed, for the arms that change it: the later the checkpoint, the darker."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # Equal numbers give equal bytes, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "distill-ray", "svg.fonttype": "none"})
    height = 1.2 + 0.26 * len(row["arms"])
    figure, (scores, times) = plt.subplots(1, 2, figsize=(13, height))
    _scores(scores, row)
    _times(times, row)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _scores(axis: Any, row: Row) -> None:
    found = sorted(row["arms"].items(), key=lambda item: fmean(item[1]["accuracy"]))
    for place, (name, arm) in enumerate(found):
        colour = "#8A8A8A" if arm["static"] else "#D55E00" if name == CONTROL else "#0072B2"
        axis.scatter(arm["accuracy"], [place] * len(arm["accuracy"]), color=colour, s=10, alpha=0.6)
        axis.scatter([fmean(arm["accuracy"])], [place], color=colour, s=36, marker="|")
    axis.axvline(fmean(row["arms"][row["best_static"]]["accuracy"]), color="#8A8A8A", ls="--", lw=1)
    axis.axvline(row["teachers"][row["most_accurate"]]["accuracy"], color="#009E73", ls=":", lw=1)
    axis.set_yticks(range(len(found)), [name for name, _ in found], fontsize=8)
    axis.set_xlabel("accuracy on test; dashed: best static choice, dotted: most_accurate teacher")
    axis.grid(alpha=0.3, axis="x")


def _times(axis: Any, row: Row) -> None:
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(row["teachers"])}
    rungs = {name: 1 + max(s["static"][1] for s in _statics(row, name)) for name in colours}
    dynamic = [n for n, arm in row["arms"].items() if any(s["log"] for s in arm["served"])]
    ticks, labels, place = [], [], 0.0
    for name in reversed(dynamic):
        arm, first = row["arms"][name], place
        for served in reversed(arm["served"]):
            for part in turns(served, arm["steps"]):
                shade = (part["checkpoint_index"] + 1) / rungs[part["teacher"]]
                width = part["last"] - part["first"] + 1
                axis.barh(
                    place, width, left=part["first"] - 1, height=0.8, lw=0,
                    color=colours[part["teacher"]], alpha=0.2 + 0.8 * shade,
                )  # fmt: skip
            place += 1
        ticks.append((first + place - 1) / 2)
        labels.append(name)
        place += 0.7
    axis.set_yticks(ticks, labels, fontsize=8)
    axis.set_xlabel("step; a bar a seed")
    handles = [_patch(colour) for colour in colours.values()]
    axis.legend(handles, list(colours), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def turns(served: Row, steps: int) -> list[dict[str, Any]]:
    """`teacher`, `checkpoint`, `first` and `last` step of each part of a training.

    Args:
        served: what an outcome says of its schedule.
        steps: of the whole training.
    """
    switches = [entry for entry in served["log"] if entry["changes"]]
    return list(segments(switches, served, steps))


def _statics(row: Row, teacher: str) -> list[Row]:
    arms = row["arms"].values()
    found = [arm for arm in arms if arm["static"] and arm["static"][0] == teacher]
    return found or [{"static": [teacher, 0]}]


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour)
