"""How events and results are printed: JSON lines, plain lines or live bars."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from distill_ray.core.memory import GIB
from distill_ray.runtime.progress import Event

QUIET_S = 2.0
"""Plain lines of one stage come at most this often."""


class JsonLines:
    """One JSON object an event, for machines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def emit(self, event: Event) -> None:
        """Write an event."""
        write_json({"event": event.to_dict()}, self._stream)

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
            parts.append(f"[{event.completed or 0:g}/{event.total:g}]")
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
        self._tasks: dict[str, TaskID] = {}
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
                task, description=event.text, completed=event.completed or 0, total=event.total
            )
        elif event.kind != "note" and (task := self._tasks.pop(event.stage, None)) is not None:
            self._bars.remove_task(task)
        if event.kind in ("started", "finished") and "ray" in self._tasks:
            self._bars.remove_task(self._tasks.pop("ray"))

    def close(self) -> None:
        """Take the bars away."""
        self._bars.stop()


def reporter(as_json: bool, console: Console) -> JsonLines | PlainLines | LiveBars:
    """The right way to show progress here."""
    if as_json:
        return JsonLines(sys.stdout)
    return LiveBars(console) if console.is_terminal else PlainLines(console)


def write_json(value: Any, stream: TextIO | None = None) -> None:
    """A line of JSON, on standard output unless told."""
    stream = stream or sys.stdout
    stream.write(json.dumps(value) + "\n")
    stream.flush()


def wide() -> Console:
    """Standard output; at least 140 columns where no terminal sets the width."""
    console = Console()
    return console if console.is_terminal else Console(width=max(140, console.width))


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
