"""The report's figures. Each is a fragment of HTML that needs plotly.js once on the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.core.intervals import Interval
from distill_ray.core.ranking import LeaderboardEntry
from distill_ray.stages.results.final_scores import Comparison
from distill_ray.stages.results.question_metrics import TaskMetrics
from distill_ray.stages.results.report_page import AdaptationCurve
from distill_ray.stages.results.trial import TrialResult

PALETTE = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D", "#B2B200")
"""Colours of teachers (Okabe and Ito's, and three more): told apart in every form of sight."""
FIXED = {
    "student": "#0072B2",
    "control": "#D55E00",
    "initial-student": "#8A8A8A",
    ENSEMBLE: "#5B5BD6",
}
GRID = "rgba(128,128,128,0.25)"
FAINT = "rgba(128,128,128,0.6)"
CLEAR = "rgba(0,0,0,0)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

LOG = {"type": "log", "tickvals": [k * 10.0**e for e in range(-4, 3) for k in (1, 2, 5)]}
"""A logarithmic axis with whole labels at 1, 2 and 5, which Plotly's own would cut to a digit."""


def colours(teachers: Iterable[str]) -> dict[str, str]:
    """Model → its colour in every figure."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(teachers)} | FIXED


def figure_html(figure: Any, height: int) -> str:
    """The figure as a fragment; text colours come from the page's style sheet."""
    legend = any(trace.showlegend is not False for trace in figure.data) and len(figure.data) > 1
    figure.update_layout(
        height=height,
        margin={
            "l": 64,
            "r": 16,
            "t": 32 if figure.layout.annotations or figure.layout.title.text else 12,
            "b": 92 if legend else 56,
        },
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font={"family": FONT, "size": 13},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        hoverlabel={"namelength": -1},
        dragmode=False,
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=FAINT, title_standoff=8)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=FAINT, title_standoff=8)
    config = {"responsive": True, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=config))


def _panels(figures: Mapping[str, go.Figure], height: int) -> str:
    """Figures side by side where the page is wide enough, below each other where not."""
    for title, figure in figures.items():
        figure.update_layout(title={"text": title, "font": {"size": 14}, "x": 0.5, "y": 0.98})
    parts = [f"<div>{figure_html(figure, height)}</div>" for figure in figures.values()]
    return f'<div class="panels">{"".join(parts)}</div>'


def _errors(rows: Sequence[Interval], scale: float = 1.0) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * row.high - scale * row.value for row in rows],
        "arrayminus": [scale * row.value - scale * row.low for row in rows],
        "thickness": 1.5,
        "width": 5,
    }


def _forest(
    rows: Mapping[str, Interval], colour: Mapping[str, str], title: str, mark: float
) -> Any:
    """Estimates with their intervals, one row a model, and a line to compare them with."""
    figure = go.Figure()
    for model, row in rows.items():
        figure.add_scatter(
            x=[100 * row.value],
            y=[model],
            error_x=_errors([row], 100),
            mode="markers",
            marker={"color": colour[model], "size": 9},
            showlegend=False,
            hovertemplate="%{x:.1f}<extra>" + model + "</extra>",
        )
    figure.add_vline(x=mark, line={"color": FAINT, "dash": "dash", "width": 2})
    figure.update_xaxes(title=title)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def differences(comparisons: Sequence[Comparison], colour: Mapping[str, str]) -> str:
    """The student's lead over every other model, in points, with intervals."""
    sets = list(dict.fromkeys(row.set for row in comparisons))
    figures, longest = {}, 0
    for name in sets:
        rows = {row.against: row.accuracy for row in comparisons if row.set == name}
        figures[name] = _forest(rows, colour, "accuracy difference, points", 0)
        longest = max(longest, len(rows))
    return _panels(figures, 100 + 36 * longest)


def leaderboard(places: Mapping[str, Sequence[LeaderboardEntry]], colour: Mapping[str, str]) -> str:
    """Phase-weighted scores with intervals, by phase of training."""
    figure, phases = go.Figure(), list(places)
    ranked = {entry.teacher for entry in places[phases[0]]}
    teachers = [name for name in colour if name in ranked]
    gap = min(0.1, 0.6 / max(len(teachers), 1))
    for i, teacher in enumerate(teachers):
        entries = [next(e for e in places[phase] if e.teacher == teacher) for phase in phases]
        offset = gap * (i - (len(teachers) - 1) / 2)  # Teachers of one phase are side by side.
        figure.add_scatter(
            x=[j + offset for j in range(len(phases))],
            y=[entry.score for entry in entries],
            error_y=_errors([Interval(e.score, e.low, e.high) for e in entries]),
            name=teacher,
            mode="lines+markers",
            line={"color": colour[teacher], "width": 1, "dash": "dot"},
            marker={"size": 10},
            customdata=[[entry.probability_best] for entry in entries],
            hovertemplate="score %{y:.3f}, probability of being best %{customdata[0]:.0%}"
            "<extra>" + teacher + "</extra>",
        )
    figure.update_xaxes(tickvals=list(range(len(phases))), ticktext=phases, title="phase")
    figure.update_yaxes(title="phase-weighted score")
    return figure_html(figure, 380)


def factors(table: Mapping[str, Mapping[str, float]], colour: Mapping[str, str]) -> str:
    """Every teacher's factors before weighting."""
    figure = go.Figure()
    for teacher, row in table.items():
        figure.add_bar(
            x=list(row),
            y=list(row.values()),
            name=teacher,
            marker={"color": colour[teacher]},
            hovertemplate="%{x} %{y:.3f}<extra>" + teacher + "</extra>",
        )
    figure.update_layout(barmode="group", bargroupgap=0.08)
    figure.update_yaxes(title="factor", range=[0, 1.02])
    return figure_html(figure, 320)


def reliability(tables: Mapping[str, Mapping[str, TaskMetrics]], colour: Mapping[str, str]) -> str:
    """Confidence against accuracy, a panel for each question set.

    Args:
        tables: model → question set → its metrics.
        colour: model → colour.
    """
    figures = {}
    for name in dict.fromkeys(name for row in tables.values() for name in row):
        figures[name] = figure = go.Figure()
        line = {"color": FAINT, "dash": "dash", "width": 1}
        figure.add_scatter(
            x=[0, 1], y=[0, 1], mode="lines", line=line, showlegend=False, hoverinfo="skip"
        )
        for model, row in tables.items():
            if name not in row:
                continue
            diagram = row[name].reliability
            total = sum(diagram.count)
            figure.add_scatter(
                x=diagram.confidence,
                y=diagram.accuracy,
                name=model,
                mode="lines+markers",
                line={"color": colour[model], "width": 1},
                # The area shows how many answers a bin holds.
                marker={
                    "size": [5 + 25 * (count / total) ** 0.5 for count in diagram.count],
                    "opacity": 0.75,
                },
                cliponaxis=False,
                customdata=diagram.count,
                hovertemplate="confidence %{x:.2f}, accuracy %{y:.2f}, %{customdata} answers"
                "<extra>" + model + "</extra>",
            )
        figure.update_xaxes(title="confidence", range=[0, 1.02])
        figure.update_yaxes(title="accuracy", range=[0, 1.02])
    return _panels(figures, 420)


def probes(rows: Sequence[TrialResult], colour: Mapping[str, str]) -> str:
    """What the probes removed of the KL and gained at the tasks, against tokens."""
    figures = {}
    for key, title, form in (
        ("kl_removed", "share of the KL removed", ".0%"),
        ("gain", "task gain, nats per question", ".2f"),
    ):
        figures[title] = figure = go.Figure()
        for teacher in dict.fromkeys(row.teacher for row in rows):
            trials = [row for row in rows if row.teacher == teacher]
            by_checkpoint = list(zip(*(trial.curve for trial in trials)))
            # The mean over seeds is a line, and every seed a point.
            figure.add_scatter(
                x=[0, *(points[0].tokens for points in by_checkpoint)],
                y=[0.0, *(fmean(getattr(p, key) for p in points) for points in by_checkpoint)],
                name=teacher,
                legendgroup=teacher,
                mode="lines",
                line={"color": colour[teacher], "width": 2},
                hoverinfo="skip",
            )
            for trial in trials:
                figure.add_scatter(
                    x=[point.tokens for point in trial.curve],
                    y=[getattr(point, key) for point in trial.curve],
                    legendgroup=teacher,
                    showlegend=False,
                    mode="markers",
                    marker={"color": colour[teacher], "size": 6, "opacity": 0.7},
                    hovertemplate=f"%{{y:{form}}}<extra>{teacher}, seed {trial.seed}</extra>",
                )
        figure.update_xaxes(title="tokens", rangemode="tozero")
        figure.update_yaxes(tickformat=form)
    return _panels(figures, 380)


def scores(tables: Mapping[str, Mapping[str, TaskMetrics]], colour: Mapping[str, str]) -> str:
    """Accuracy on the test split of every model, a panel for each question set.

    Args:
        tables: model → question set → its metrics.
        colour: model → colour.
    """
    figures = {}
    for name in dict.fromkeys(name for row in tables.values() for name in row):
        shown = {m: row[name] for m, row in tables.items() if name in row}
        majority = next(iter(shown.values())).majority
        rows = {model: row.accuracy for model, row in shown.items()}
        figures[name] = _forest(rows, colour, "accuracy, %", 100 * majority)
    return _panels(figures, 100 + 36 * len(tables))


def adaptation(
    curves: Mapping[str, Sequence[AdaptationCurve]],
    best: Mapping[str, int],
    colour: Mapping[str, str],
) -> str:
    """Validation loss of every teacher at each checkpoint, the best one marked.

    Args:
        curves: teacher → its recipes in order.
        best: teacher → index of the best checkpoint of its last recipe.
        colour: model → colour.
    """
    figure = go.Figure()
    for teacher, recipes in curves.items():
        starts = [0, *accumulate(recipe.tokens[-1] for recipe in recipes)]
        x, y, text = [0], [recipes[0].initial_loss], ["untrained"]
        for start, recipe in zip(starts, recipes):
            x += [start + tokens for tokens in recipe.tokens]
            y += recipe.losses
            text += [f"{recipe.name}, checkpoint {i + 1}" for i in range(len(recipe.losses))]
        best_place = len(x) - len(recipes[-1].losses) + best[teacher]
        stars = ["star" if i == best_place else "circle" for i in range(len(x))]
        figure.add_scatter(
            x=x,
            y=y,
            text=text,
            name=teacher,
            mode="lines+markers",
            line={"color": colour[teacher], "width": 2},
            marker={"symbol": stars, "size": [14 if i == best_place else 7 for i in range(len(x))]},
            hovertemplate="%{text}: %{y:.3f} nats<extra>" + teacher + "</extra>",
        )
    figure.update_xaxes(title="tokens of adaptation", rangemode="tozero")
    figure.update_yaxes(title="validation loss, nats per token", **LOG)
    return figure_html(figure, 380)


def times(wall_s: Mapping[str, float]) -> str:
    """Seconds of work in each stage."""
    figure = go.Figure()
    figure.add_bar(
        y=list(wall_s),
        x=list(wall_s.values()),
        orientation="h",
        marker={"color": FIXED["student"]},
        hovertemplate="%{y} %{x:.1f} s<extra></extra>",
    )
    figure.update_xaxes(title="seconds of work, workers of one stage added up")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure_html(figure, 300)
