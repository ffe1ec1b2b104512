"""A domain's arms: what they reached, and who taught when."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from distill_ray.core.schedule import ScheduleState, Switch
from distill_ray.stages.reporting.charts import PALETTE
from distill_ray.stages.reporting.text import segments
from distill_ray.stages.results.report_page import Turn
from distill_ray.stages.results.trial import TrialSchedule
from distill_ray.study.schedule.arms import CONTROL
from distill_ray.study.schedule.compare import ScheduleDomain


def draw(domain: ScheduleDomain, file: Path) -> None:
    """Plot each arm's accuracy on test on the left, a point for each seed. On the right, plot who
    teaches at each step for the arms that change it: the later the checkpoint, the darker."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # A fixed salt gives equal bytes for equal numbers; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "distill-ray", "svg.fonttype": "none"})
    height = 1.2 + 0.26 * len(domain.arms)
    figure, (scores, times) = plt.subplots(1, 2, figsize=(13, height))
    _scores(scores, domain)
    _times(times, domain)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _scores(axis: Any, domain: ScheduleDomain) -> None:
    arms = sorted(domain.arms.items(), key=lambda item: fmean(item[1].accuracy))
    for place, (name, arm) in enumerate(arms):
        colour = "#8A8A8A" if arm.static else "#D55E00" if name == CONTROL else "#0072B2"
        axis.scatter(arm.accuracy, [place] * len(arm.accuracy), color=colour, s=10, alpha=0.6)
        axis.scatter([fmean(arm.accuracy)], [place], color=colour, s=36, marker="|")
    best_static = domain.arms[domain.best_static]
    axis.axvline(fmean(best_static.accuracy), color="#8A8A8A", ls="--", lw=1)
    teacher = domain.teachers[domain.most_accurate]
    axis.axvline(teacher.accuracy, color="#009E73", ls=":", lw=1)
    axis.set_yticks(range(len(arms)), [name for name, _ in arms], fontsize=8)
    axis.set_xlabel("accuracy on test; dashed: best static choice, dotted: most accurate teacher")
    axis.grid(alpha=0.3, axis="x")


def _times(axis: Any, domain: ScheduleDomain) -> None:
    from matplotlib.patches import Patch

    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(domain.teachers)}
    num_checkpoints = dict.fromkeys(colours, 1)
    for arm in domain.arms.values():
        if arm.static:
            teacher, index = arm.static
            num_checkpoints[teacher] = max(num_checkpoints[teacher], index + 1)
    dynamic = [n for n, arm in domain.arms.items() if any(schedule.log for schedule in arm.served)]
    ticks, labels, place = [], [], 0.0
    for name in reversed(dynamic):
        arm, first = domain.arms[name], place
        for served in reversed(arm.served):
            for part in turns(served, arm.steps):
                shade = (part.checkpoint_index + 1) / num_checkpoints[part.teacher]
                width = part.last - part.first + 1
                axis.barh(
                    place, width, left=part.first - 1, height=0.8, lw=0,
                    color=colours[part.teacher], alpha=0.2 + 0.8 * shade,
                )  # fmt: skip
            place += 1
        ticks.append((first + place - 1) / 2)
        labels.append(name)
        place += 0.7
    axis.set_yticks(ticks, labels, fontsize=8)
    axis.set_xlabel("step; a bar for each seed")
    handles = [Patch(color=colour) for colour in colours.values()]
    axis.legend(handles, list(colours), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def turns(served: TrialSchedule, steps: int) -> list[Turn]:
    """Each part of a training that one checkpoint taught.

    Args:
        served: who taught in the trial.
        steps: steps of the training.
    """
    changes = [
        Switch(**entry.model_dump(exclude={"changes"})) for entry in served.log if entry.changes
    ]
    return segments(changes, ScheduleState(served.teacher, served.checkpoint_index), steps)
