"""What a person, or a machine, sees of a run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from distill_ray.core.memory import GIB
from distill_ray.runtime.progress import Event
from distill_ray.stages.plan import Plan, Work

QUIET_S = 2.0
"""Plain lines of one stage come at most this often."""


class JsonLines:
    """One JSON object an event, for machines."""

    def emit(self, event: Event) -> None:
        """Write an event."""
        write_json({"event": event.to_dict()})

    def close(self) -> None:
        """Nothing to end."""


class PlainLines:
    """A line an event, with the time that a stage took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started: dict[str, float] = {}
        self._last = 0.0

    def emit(self, event: Event) -> None:
        """Write an event, unless the last line of its stage was a moment ago."""
        now = time.monotonic()
        if event.kind == "started":
            self._started[event.stage] = now
        important = event.kind != "progress" or "from here" in event.text
        if important or now - self._last >= QUIET_S:
            self._last = now if event.kind == "progress" else 0.0
            self._console.print(self._line(event, now), highlight=False, markup=False)

    def _line(self, event: Event, now: float) -> str:
        took = ""
        if event.kind == "finished" and event.stage in self._started:
            took = f"done in {now - self._started[event.stage]:.0f} s"
        words = {"started": "started", "reused": "reused", "finished": took or "done"}
        parts = [words.get(event.kind, ""), event.text]
        if event.total:
            parts.append(f"[{event.done or 0:g}/{event.total:g}]")
        return f"{event.stage:>9}  {' '.join(part for part in parts if part)}"

    def close(self) -> None:
        """Nothing to end."""


class LiveBars:
    """A bar for the stage at work, above it the stages that are done."""

    def __init__(self, console: Console) -> None:
        self._lines = PlainLines(console)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]:>9}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._bars.start()

    def emit(self, event: Event) -> None:
        """Show an event."""
        if event.kind != "progress":
            self._lines.emit(event)
        if event.kind in ("started", "progress"):
            task = self._tasks.get(event.stage)
            if task is None:
                task = self._bars.add_task("", total=None, stage=event.stage)
                self._tasks[event.stage] = task
            self._bars.update(
                task, description=event.text, completed=event.done or 0, total=event.total
            )
        elif (task := self._tasks.pop(event.stage, None)) is not None:
            self._bars.remove_task(task)
        if event.kind in ("started", "finished") and "ray" in self._tasks:
            self._bars.remove_task(self._tasks.pop("ray"))

    def close(self) -> None:
        """Take the bars away."""
        self._bars.stop()


def reporter(as_json: bool, console: Console) -> JsonLines | PlainLines | LiveBars:
    """The right way to show progress here."""
    if as_json:
        return JsonLines()
    return LiveBars(console) if console.is_terminal else PlainLines(console)


def write_json(value: Any) -> None:
    """A line of JSON on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def plan_table(made: Plan) -> Table:
    """Work and memory of every stage."""
    table = Table(title=f"Plan of {made.name}: {made.workers} workers", title_justify="left")
    table.add_column("stage")
    table.add_column("work")
    for name in ("tokens", "steps", "trials"):
        table.add_column(name, justify="right")
    table.add_column("memory of a worker", justify="right")
    for work in made.work:
        numbers = [work.tokens, work.steps, work.trials]
        cells = ["" if n is None else f"{n:,}" for n in numbers]
        table.add_row(work.stage, work.what, *cells, _memory(work))
    return table


def _memory(work: Work) -> str:
    if work.need is None:
        return "" if work.tokens is None else "size not known before loading"
    return size(work.need.total)


def memory_table(made: Plan) -> Table:
    """Where the memory of each training worker goes."""
    uses = ("parameters", "gradients", "optimiser", "activations", "logits", "teacher", "runtime")
    table = Table(title="Memory of one worker, in MiB", title_justify="left")
    table.add_column("stage")
    for use in (*uses, "total"):
        table.add_column(use, justify="right")
    for work in made.work:
        if work.need is not None:
            label = f"{work.stage} {work.what.partition(',')[0].partition(' (')[0]}"
            sizes = [getattr(work.need, use) for use in (*uses, "total")]
            table.add_row(label, *(f"{count / 2**20:,.1f}" for count in sizes))
    return table


def wide() -> Console:
    """Standard output; at least 140 columns where no terminal sets the width."""
    console = Console()
    return console if console.is_terminal else Console(width=max(140, console.width))


def available(made: Plan) -> str:
    """What a worker has, and whether it is enough."""
    if made.available_bytes is None:
        return "The memory of a worker isn't known: set cluster.memory_gib_per_worker."
    short = made.short_of_memory
    text = f"A worker has {size(made.available_bytes)}."
    if not short:
        return f"{text} That is enough."
    names = ", ".join(sorted({work.stage for work in short}))
    return (
        f"{text} That is too little for {names}: lower micro_batch_rows, raise zero_stage, or use "
        "more workers."
    )


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def leaderboard(standings: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Teachers at each stage of training, best first."""
    table = Table(title="Teachers, by stage of training", title_justify="left")
    for name in ("stage", "teacher", "score", "interval", "best with probability", "decided by"):
        table.add_column(name, justify="left" if name in ("stage", "teacher") else "right")
    for stage, rows in standings.items():
        for i, row in enumerate(rows):
            table.add_row(
                stage if i == 0 else "",
                str(row["teacher"]),
                f"{row['score']:.3f}",
                f"{row['low']:.3f} to {row['high']:.3f}",
                f"{row['probability_best']:.0%}",
                str(row["decided_by"]),
                end_section=i == len(rows) - 1,
            )
    return table
