"""Numbers and verdicts in words: what the report says, free of any artifact."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.core.intervals import Interval
from distill_ray.stages.results.question_metrics import TaskMetrics

BETTER, WORSE = "better", "worse"
NAMES = {
    "student": "the student",
    "control": "the control",
    "initial-student": "its initial state",
}
"""Models that every run has → how a sentence calls them; teachers go by their names."""
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
        return [all(_is_number(row[i]) for row in self.rows) for i in range(len(self.columns))]


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "+−–"


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
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


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


def shares_read(streams: Mapping[str, Mapping[str, int]]) -> str:
    """What a training read, in shares of its tokens: `70.0% notes, 30.0% triage.prompts`."""
    whole = sum(row["tokens"] for row in streams.values())
    return ", ".join(f"{percent(row['tokens'] / whole)} {n}" for n, row in streams.items())


def called(model: str) -> str:
    """How a sentence calls a model."""
    return NAMES.get(model, f"the teacher {model}")


def sentence(row: Mapping[str, Any], confidence: float) -> str:
    """One comparison of the student in words.

    Args:
        row: a row of `Scores.comparisons`.
        confidence: mass of its intervals.
    """
    other = called(row["against"])
    accuracy, nll = row["accuracy"], row["nll"]
    if row["accuracy_verdict"] in (BETTER, WORSE):
        start = f"On {row['set']} the student is {row['accuracy_verdict']} than {other}"
    else:
        start = f"On {row['set']} no difference in accuracy from {other} is shown"
    value, low, high = (signed(100 * accuracy[k], 1) for k in ("value", "low", "high"))
    gap = f"{value} points ({confidence:.0%} interval {low} to {high})"
    if accuracy["value"] == accuracy["low"] == accuracy["high"] == 0:
        gap = "both are right on the same questions"
    low, high = (signed(nll[k], 3) for k in ("low", "high"))
    nats = f"NLL {signed(nll['value'], 3)} nats ({low} to {high}), {row['nll_verdict']}"
    return f"{start}: {gap}; {nats}."


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """Was a teacher worth it? From the comparisons with the control, one for each task.

    Accuracy decides; NLL is named where accuracy shows nothing.
    """
    by = _sets_by_verdict(rows, "accuracy_verdict")
    if by[BETTER] and by[WORSE]:
        return (
            f"Mixed: with a teacher the student is better than the control on "
            f"{listed(by[BETTER])}, and worse on {listed(by[WORSE])}."
        )
    if by[BETTER]:
        rest = [row["set"] for row in rows if row["set"] not in by[BETTER]]
        tail = f"; on {listed(rest)} no difference is shown" if rest else ""
        where = f"on {listed(by[BETTER])} the student beats {THE_CONTROL}"
        return f"The teacher was worth it: {where}{tail}."
    if by[WORSE]:
        where = f"on {listed(by[WORSE])} the student is worse than {THE_CONTROL}"
        return f"The teacher was not worth it: {where}."
    return _undecided(rows)


def _undecided(rows: Sequence[Mapping[str, Any]]) -> str:
    start = f"Not shown to be worth it: in accuracy the student does not beat {THE_CONTROL}"
    by = _sets_by_verdict(rows, "nll_verdict")
    if by[BETTER] and not by[WORSE]:
        return (
            f"Worth it for its probabilities, not for its answers: the student's NLL on "
            f"{listed(by[BETTER])} is better than that of {THE_CONTROL}; in accuracy no "
            "difference is shown."
        )
    parts = [f"{verdict} on {listed(by[verdict])}" for verdict in (BETTER, WORSE) if by[verdict]]
    return f"{start}; its NLL is {' and '.join(parts)}." if parts else f"{start}."


def _sets_by_verdict(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[str]]:
    return {v: [row["set"] for row in rows if row[key] == v] for v in (BETTER, WORSE)}


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
    switches: Sequence[Mapping[str, Any]],
    schedule: Mapping[str, Any],
    steps: int,
    why: str = "led the ranking at the start",
) -> Any:
    """Who taught when: `teacher`, `checkpoint`, `first` and `last` step, `reason`.

    Args:
        switches: of the distillation, in order.
        schedule: its last state.
        steps: of the whole distillation.
        why: of the teacher that began.
    """
    first = switches[0] if switches else None
    teacher = first["from_teacher"] if first else schedule["teacher"]
    rows = [
        {
            "teacher": teacher,
            "checkpoint_index": first["from_checkpoint"] if first else schedule["checkpoint_index"],
            "first": 1,
            "reason": "all begin" if teacher == ENSEMBLE else why,
        }
    ]
    for switch in switches:
        # `step` counts from 0, as the schedule does; curves and people count from 1.
        rows[-1]["last"] = switch["step"]
        rows.append(
            {
                "teacher": switch["to_teacher"],
                "checkpoint_index": switch["to_checkpoint"],
                "first": switch["step"] + 1,
                "reason": switch["reason"],
            }
        )
    rows[-1]["last"] = steps
    return [row for row in rows if row["first"] <= row["last"]]


def taught(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on who taught, from `segments`."""
    turns = [rows[0]]
    for row in rows[1:]:
        if row["teacher"] != turns[-1]["teacher"]:
            turns.append(row)
    steps = f"{rows[-1]['last']} steps"
    if len(turns) == 1:
        who = f"{turns[0]['teacher']} taught throughout, all {steps}"
    else:
        later = (
            f"{row['teacher']} from step {row['first']} ({row['reason']})" for row in turns[1:]
        )
        who = f"{turns[0]['teacher']} taught first, then {listed(later)}, {steps} in all"
    at = [str(row["first"]) for row in rows[1:]]
    if not at:
        return f"{who}, with one checkpoint."
    what = "its checkpoint" if len(turns) == 1 else "the teacher or its checkpoint"
    return f"{who}; {what} changed at {'steps' if len(at) > 1 else 'step'} {listed(at)}."
