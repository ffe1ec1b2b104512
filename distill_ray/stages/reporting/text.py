"""Numbers and verdicts in words: what the report says, free of any artifact."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.core.intervals import Interval
from distill_ray.core.schedule import ScheduleState, Switch
from distill_ray.stages.results.curve import StreamRead
from distill_ray.stages.results.final_scores import Comparison
from distill_ray.stages.results.question_metrics import TaskMetrics
from distill_ray.stages.results.report_page import Turn

BETTER, WORSE = "better", "worse"
NAMES = {
    "student": "the student",
    "control": "the control",
    "initial-student": "its initial state",
}
"""Models that every run has → how a sentence calls them; teachers go by their names."""
LED_THE_RANKING = "led the ranking at the start"
"""Why a first teacher began that the ranking chose."""
THE_CONTROL = "the control, the same student fine-tuned for as many tokens without a teacher"


@dataclass(frozen=True)
class Table:
    """A table whose cells are text already."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers alone, and are set flush right."""
        return [
            all(not row[i] or row[i][0].isdigit() or row[i][0] in "+−–" for row in self.rows)
            for i in range(len(self.columns))
        ]


def number(value: float | None, digits: int = 3) -> str:
    """Rounded to `digits` decimals; a dash for what wasn't measured."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}".replace("-", "−")
    # A rounded zero has no sign.
    return text.removeprefix("−") if not text.strip("−0.") else text


def percent(share: float | None, digits: int = 1) -> str:
    """A share in per cent."""
    text = number(None if share is None else 100 * share, digits)
    return text if text == "–" else f"{text}%"


def signed(value: float, digits: int) -> str:
    """Rounded, with its sign."""
    text = number(value, digits)
    return text if text.startswith("−") or not text.strip("0.") else f"+{text}"


def big(value: float) -> str:
    """A count in three digits or so: 1.23 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def seconds(value: float) -> str:
    """A duration."""
    if value < 100:
        return f"{value:.1f} s"
    minutes, remainder = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {remainder} s"


Estimate = Interval | Mapping[str, float]
"""An estimate with its interval, or its plain values as a study's page has them."""


def _ends(row: Estimate) -> tuple[float, float, float]:
    """Value, low and high."""
    if isinstance(row, Interval):
        return row.value, row.low, row.high
    return row["value"], row["low"], row["high"]


def interval(row: Estimate, digits: int = 3) -> str:
    """`value (low to high)`."""
    value, low, high = (number(each, digits) for each in _ends(row))
    return f"{value} ({low} to {high})"


def percent_interval(row: Estimate) -> str:
    """`value% (low to high)`."""
    value, low, high = (number(100 * each, 1) for each in _ends(row))
    return f"{value}% ({low} to {high})"


def difference(row: Estimate, digits: int = 3, scale: float = 1.0) -> str:
    """`value (low to high)`, each with its sign."""
    value, low, high = (signed(scale * each, digits) for each in _ends(row))
    return f"{value} ({low} to {high})"


def points(row: Estimate) -> str:
    """A difference of accuracies in percentage points."""
    return difference(row, 1, 100)


def listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    items = list(words)
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def shares_read(streams: Mapping[str, StreamRead]) -> str:
    """What a training read, in shares of its tokens: `70.0% notes, 30.0% triage.prompts`."""
    total = sum(row.tokens for row in streams.values())
    return ", ".join(f"{percent(row.tokens / total)} {n}" for n, row in streams.items())


def sentence(row: Comparison, confidence: float) -> str:
    """One comparison of the student in words.

    Args:
        row: the comparison.
        confidence: mass of its intervals.
    """
    model = NAMES.get(row.against, f"the teacher {row.against}")
    accuracy, nll = row.accuracy, row.nll
    if row.accuracy_verdict in (BETTER, WORSE):
        start = f"On {row.set} the student is {row.accuracy_verdict} than {model}"
    else:
        start = f"On {row.set} no difference in accuracy from {model} is shown"
    value, low, high = (signed(100 * each, 1) for each in _ends(accuracy))
    gap = f"{value} points ({confidence:.0%} interval {low} to {high})"
    if accuracy.value == accuracy.low == accuracy.high == 0:
        gap = "both are right on the same questions"
    value, low, high = (signed(each, 3) for each in _ends(nll))
    return f"{start}: {gap}; NLL {value} nats ({low} to {high}), {row.nll_verdict}."


def headline(rows: Sequence[Comparison]) -> str:
    """Was a teacher worth it? From the comparisons with the control, one for each task.

    Accuracy decides; NLL is named where accuracy shows nothing.
    """
    by = _sets_by_verdict((row.set, row.accuracy_verdict) for row in rows)
    if by[BETTER] and by[WORSE]:
        return (
            f"Mixed: with a teacher the student is better than the control on "
            f"{listed(by[BETTER])}, and worse on {listed(by[WORSE])}."
        )
    if by[BETTER]:
        undecided = [row.set for row in rows if row.set not in by[BETTER]]
        tail = f"; on {listed(undecided)} no difference is shown" if undecided else ""
        where = f"on {listed(by[BETTER])} the student beats {THE_CONTROL}"
        return f"The teacher was worth it: {where}{tail}."
    if by[WORSE]:
        where = f"on {listed(by[WORSE])} the student is worse than {THE_CONTROL}"
        return f"The teacher was not worth it: {where}."
    by_nll = _sets_by_verdict((row.set, row.nll_verdict) for row in rows)
    if by_nll[BETTER] and not by_nll[WORSE]:
        return (
            f"Worth it for its probabilities, not for its answers: the student's NLL on "
            f"{listed(by_nll[BETTER])} is better than that of {THE_CONTROL}; in accuracy no "
            "difference is shown."
        )
    start = f"Not shown to be worth it: in accuracy the student does not beat {THE_CONTROL}"
    parts = [f"{verdict} on {listed(sets)}" for verdict, sets in by_nll.items() if sets]
    return f"{start}; its NLL is {' and '.join(parts)}." if parts else f"{start}."


def _sets_by_verdict(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """`better` and `worse` → the sets with that verdict, from pairs of set and verdict."""
    sets: dict[str, list[str]] = {BETTER: [], WORSE: []}
    for name, verdict in rows:
        sets.get(verdict, []).append(name)
    return sets


def above_majority(name: str, row: TaskMetrics) -> str | None:
    """A warning when a model isn't shown to know more than the most frequent answer.

    Args:
        name: of the question set.
        row: the student's figures on it.
    """
    if row.accuracy.low > row.majority:
        return None
    return (
        f"On {name} the student's accuracy, {percent_interval(row.accuracy)}, is not shown to "
        f"be above {percent(row.majority)}, the share of the most frequent answer."
    )


def segments(
    switches: Sequence[Switch],
    schedule: ScheduleState,
    steps: int,
    why: str = LED_THE_RANKING,
) -> list[Turn]:
    """Who taught when.

    Args:
        switches: of the distillation, in order.
        schedule: its last state.
        steps: of the whole distillation.
        why: reason of the first teacher.
    """
    # A switch's step counts from 0, as the schedule does; curves and people count from 1.
    if switches:
        start = (switches[0].from_teacher, switches[0].from_checkpoint)
    else:
        start = schedule.checkpoint
    starts = [(*start, 1, "all begin" if start[0] == ENSEMBLE else why)]
    starts += [(s.to_teacher, s.to_checkpoint, s.step + 1, s.reason) for s in switches]
    ends = [*(switch.step for switch in switches), steps]
    return [
        Turn(teacher=teacher, checkpoint_index=index, first=first, last=last, reason=reason)
        for (teacher, index, first, reason), last in zip(starts, ends)
        if first <= last
    ]


def who_taught(rows: Sequence[Turn]) -> str:
    """One sentence on who taught, from `segments`."""
    by_teacher = [rows[0]]
    for row in rows[1:]:
        if row.teacher != by_teacher[-1].teacher:
            by_teacher.append(row)
    steps = f"{rows[-1].last} steps"
    if len(by_teacher) == 1:
        who = f"{rows[0].teacher} taught throughout, all {steps}"
    else:
        later = (f"{row.teacher} from step {row.first} ({row.reason})" for row in by_teacher[1:])
        who = f"{rows[0].teacher} taught first, then {listed(later)}, {steps} in all"
    changes = [str(row.first) for row in rows[1:]]
    if not changes:
        return f"{who}, with one checkpoint."
    what = "its checkpoint" if len(by_teacher) == 1 else "the teacher or its checkpoint"
    return f"{who}; {what} changed at {'steps' if len(changes) > 1 else 'step'} {listed(changes)}."
