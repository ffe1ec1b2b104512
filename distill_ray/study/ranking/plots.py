"""A study's plots, as files that any viewer of Markdown shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_ray.study.ranking.predictors import ACCURACY, RANKING

SHOWN = (RANKING, "probe: task gain", ACCURACY, "RSR")


def scatter(row: Mapping[str, Any], outcome: str, file: Path) -> None:
    """Four predictors of a domain against what the students reached; a point is a teacher."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # Equal numbers give equal bytes, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "distill-ray", "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(4 * len(SHOWN), 3.6), sharey=True)
    reached = row["reached"]
    for axis, name in zip(axes, SHOWN):
        values, found = row["predictions"][name], row["agreement"][name]
        axis.scatter([values[t] for t in reached], list(reached.values()), color="#0072B2", s=28)
        for teacher in reached:
            axis.annotate(
                teacher, (values[teacher], reached[teacher]), fontsize=7,
                xytext=(4, 3), textcoords="offset points",
            )  # fmt: skip
        axis.set_title(f"{name}: Spearman {found['spearman']:.2f}", fontsize=10)
        axis.grid(alpha=0.3)
        axis.margins(x=0.15)
    axes[0].set_ylabel(f"student's {outcome} on test")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
