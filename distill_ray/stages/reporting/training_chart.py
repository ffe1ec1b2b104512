"""The figure of the distillation: losses, KL, progress, and who was teaching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plotly.subplots import make_subplots

from distill_ray.stages.reporting.charts import CLEAR, FAINT, FIXED, LOG, figure_html
from distill_ray.stages.results.curve import Curve, HistoryRow, SwitchEntry
from distill_ray.stages.results.report_page import Turn

DASHES = {"task": "solid", "text": "dot"}


def training(
    student: Curve,
    control: Curve,
    turns: Sequence[Turn],
    switches: Sequence[SwitchEntry],
    colour: Mapping[str, str],
) -> str:
    """Both trainings against steps, with a line at every change of teacher or checkpoint.

    Args:
        student: its curve, as `Student.curve`.
        control: the control's.
        turns: who taught when, as `text.segments`.
        switches: every switch and assessment, as `Student.switch_log`.
        colour: model → colour.
    """
    titles = [
        "teacher and checkpoint",
        "training cross-entropy, nats per token",
        "validation cross-entropy, nats per token",
        "validation KL to the current teacher, nats per token",
        "progress: share of the gap to the best teacher that is closed",
    ]
    weighted = any("share" in row for row in student.history)
    if weighted:
        titles.append("the teacher's share in a sample's loss, the mean")
    figure = make_subplots(
        len(titles), 1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.045,
        row_heights=[0.06, 0.27, 0.27, 0.22, 0.18, *([0.18] if weighted else [])],
    )  # fmt: skip
    for name, curve in (("student", student), ("control", control)):
        for kind in DASHES:
            _line(figure, curve.history, f"{kind}.ce", name, kind, row=2)
            start = curve.initial_loss if kind == "task" else None
            _line(figure, curve.history, f"validation.{kind}.ce", name, kind, 3, start)
            _line(figure, curve.history, f"validation.{kind}.kl", name, kind, row=4)
    _line(figure, student.history, "progress", "student", "task", row=5)
    for row in (2, 3):
        figure.update_yaxes(row=row, col=1, **LOG)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%", row=5, col=1)
    figure.update_xaxes(title="step", row=len(titles), col=1)
    if weighted:
        _line(figure, student.history, "share", "student", "task", row=6)
        figure.update_yaxes(range=[0, 1.02], tickformat=".0%", row=6, col=1)
    _turns(figure, turns, colour)
    if unchanged := [row for row in switches if not row.changes]:
        # A mark for every assessment that left teacher and checkpoint as they were.
        figure.add_scatter(
            x=[row.step + 0.5 for row in unchanged],
            y=[0.9] * len(unchanged),
            text=[row.reason for row in unchanged],
            mode="markers",
            name="assessed, no change",
            marker={"symbol": "triangle-down", "size": 8, "color": FAINT},
            hovertemplate="step %{x}: %{text}<extra></extra>",
            row=1,
            col=1,
        )
    return figure_html(figure, 1240 if weighted else 1060)


def _line(
    figure: Any,
    history: Sequence[HistoryRow],
    key: str,
    model: str,
    kind: str,
    row: int,
    start: float | None = None,
) -> None:
    """One measured term of one training; nothing where it wasn't measured."""
    points = [(r["step"], r[key]) for r in history if r.get(key) is not None]
    if not points:
        return
    if start is not None:
        points.insert(0, (0, start))
    label = f"{model}, {kind}"
    shown = {trace.name for trace in figure.data if trace.showlegend}
    figure.add_scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=label,
        legendgroup=label,
        showlegend=label not in shown,
        mode="lines" if row == 2 else "lines+markers",
        line={"color": FIXED[model], "dash": DASHES[kind], "width": 1.5},
        marker={"size": 5},
        hovertemplate="step %{x}: %{y:.3f}<extra>" + label + "</extra>",
        row=row,
        col=1,
    )


def _turns(figure: Any, turns: Sequence[Turn], colour: Mapping[str, str]) -> None:
    """A strip that says who teaches, and a line with the reason at every change."""
    for turn in turns:
        first, last = turn.first - 0.5, turn.last + 0.5
        label = f"{turn.teacher} {turn.checkpoint_index + 1}"
        figure.add_shape(
            type="rect", x0=first, x1=last, y0=0, y1=1, row=1, col=1, line={"width": 0},
            fillcolor=colour[turn.teacher], opacity=0.35,
        )  # fmt: skip
        figure.add_scatter(
            x=[(first + last) / 2], y=[0.5], text=[label], mode="text", showlegend=False,
            hovertemplate=f"{label}, steps {turn.first} to {turn.last}: {turn.reason}"
            "<extra></extra>", row=1, col=1,
        )  # fmt: skip
    for turn in turns[1:]:
        figure.add_vline(x=turn.first - 0.5, line={"color": FAINT, "width": 1, "dash": "dash"})
        # The whole reason is in the table; its first clause fits along the line.
        figure.add_annotation(
            x=turn.first - 0.5, y=1, yref="y2 domain", xref="x", textangle=-90, showarrow=False,
            text=turn.reason.partition(":")[0], xanchor="right", yanchor="top",
            font={"size": 11}, bgcolor=CLEAR,
        )  # fmt: skip
    figure.update_yaxes(visible=False, range=[0, 1], row=1, col=1)
