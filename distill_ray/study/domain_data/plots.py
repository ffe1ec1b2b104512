"""A domain's students: accuracy after the fine-tune, by what they read and who taught them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from distill_ray.config.study import DomainDataStudy
from distill_ray.study.domain_data.compare import UNREAD

COLOURS = ("#0072B2", "#D55E00")


def draw(cfg: DomainDataStudy, row: Mapping[str, Any], file: Path) -> None:
    """A line a teacher over the arms, a point a seed; dashed, what comes without a teacher."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # Equal numbers give equal bytes, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "distill-ray", "svg.fonttype": "none"})
    figure, axis = plt.subplots(figsize=(6.5, 3.8))
    students, arms = row["students"], [*cfg.mixes]
    for teacher, colour in zip((cfg.raw, cfg.adapted), COLOURS):
        found = [(i, f"{teacher}-{arm}") for i, arm in enumerate(arms)]
        there = [(i, students[name]["accuracy"]) for i, name in found if name in students]
        for place, values in there:
            axis.scatter([place] * len(values), values, color=colour, s=12, alpha=0.5)
        means = [fmean(values) for _, values in there]
        axis.plot([place for place, _ in there], means, color=colour, marker="o", label=teacher)
    beside = {
        f"untaught-{arms[-1]}": (f"{arms[-1]} text, no teacher", "--"),
        "unread": (UNREAD, ":"),
    }
    for name, (label, style) in beside.items():
        if name in students:
            level = fmean(students[name]["accuracy"])
            axis.axhline(level, color="#8A8A8A", ls=style, lw=1, label=label)
    axis.set_xticks(range(len(arms)), arms)
    axis.set_xlabel("text that the student was distilled on")
    axis.set_ylabel("accuracy on test, fine-tuned")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
