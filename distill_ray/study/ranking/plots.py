"""A ranking study's plots, as SVG files."""

from __future__ import annotations

from pathlib import Path

from distill_ray.study.ranking.predictors import ACCURACY, RANKING
from distill_ray.study.ranking.run import RankingDomain

PLOTTED = (RANKING, "probe: task gain", ACCURACY, "RSR")


def scatter(domain: RankingDomain, outcome: str, file: Path) -> None:
    """Four predictors of a domain against the students' mean outcome; a point is a teacher."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # A fixed salt gives equal bytes for equal numbers; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "distill-ray", "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, len(PLOTTED), figsize=(4 * len(PLOTTED), 3.6), sharey=True)
    outcomes = domain.mean_outcomes
    for axis, name in zip(axes, PLOTTED):
        values = domain.predictions[name]
        axis.scatter([values[t] for t in outcomes], list(outcomes.values()), color="#0072B2", s=28)
        for teacher in outcomes:
            axis.annotate(
                teacher, (values[teacher], outcomes[teacher]), fontsize=7,
                xytext=(4, 3), textcoords="offset points",
            )  # fmt: skip
        axis.set_title(f"{name}: Spearman {domain.agreement[name].spearman:.2f}", fontsize=10)
        axis.grid(alpha=0.3)
        axis.margins(x=0.15)
    axes[0].set_ylabel(f"student's {outcome} on test")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
