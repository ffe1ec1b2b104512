"""A domain's students: accuracy after the fine-tune, by what they read and who taught them."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from distill_ray.config.study import DomainDataStudy
from distill_ray.study.domain_data.compare import FINE_TUNED_ONLY, DomainRow

COLOURS = ("#0072B2", "#D55E00")


def draw(cfg: DomainDataStudy, domain: DomainRow, file: Path) -> None:
    """Plot a line for each teacher over the texts, and a point for each seed.

    Dashed lines are students without a teacher.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # A fixed salt gives equal bytes for equal numbers; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "distill-ray", "svg.fonttype": "none"})
    figure, axis = plt.subplots(figsize=(6.5, 3.8))
    students, texts = domain.students, [*cfg.mixes]
    for teacher, colour in zip((cfg.raw, cfg.adapted), COLOURS):
        names = [(i, f"{teacher}-{text}") for i, text in enumerate(texts)]
        accuracy = {i: students[name].accuracy for i, name in names if name in students}
        for place, values in accuracy.items():
            axis.scatter([place] * len(values), values, color=colour, s=12, alpha=0.5)
        means = [fmean(values) for values in accuracy.values()]
        axis.plot([*accuracy], means, color=colour, marker="o", label=teacher)
    baselines = {
        f"untaught-{texts[-1]}": (f"{texts[-1]} text, no teacher", "--"),
        "unread": (FINE_TUNED_ONLY, ":"),
    }
    for name, (label, style) in baselines.items():
        if name in students:
            level = fmean(students[name].accuracy)
            axis.axhline(level, color="#8A8A8A", ls=style, lw=1, label=label)
    axis.set_xticks(range(len(texts)), texts)
    axis.set_xlabel("text that the student was distilled on")
    axis.set_ylabel("accuracy on test, fine-tuned")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
