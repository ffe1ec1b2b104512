"""`distill-ray bench NAME`. Imports no torch: only the arms' processes do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from distill_ray.bench.chaos import command as chaos_command
from distill_ray.bench.harness.result import Report
from distill_ray.bench.harness.table import markdown, remarks, source, tables
from distill_ray.bench.suites.engine import cache, packing, pool, switch, zero
from distill_ray.bench.suites.peers import BAD, Settings, loss, step, step_work
from distill_ray.bench.suites.shard import shard
from distill_ray.bench.suites.work import LossWork, SamplesWork, StepWork
from distill_ray.config.errors import InputError, Problem

app = typer.Typer(
    help="Measure: arms take turns at the same work; prints a table and JSON.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
FAILED = 1


Pairs = Annotated[int, typer.Option(min=1, help="Rounds in which every arm takes a turn.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of one process.")]
Wait = Annotated[
    float,
    typer.Option("--wait", min=0, help="Seconds to wait, before a turn, for a quiet machine."),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON there instead.")
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of a table.")]
Small = Annotated[bool, typer.Option("--small", help="Tiny sizes, to see that it works.")]
Precision = Annotated[str | None, typer.Option(help="float32 or bfloat16.")]
Place = Annotated[
    str | None, typer.Option(metavar="PLACE[:N]", help="Folder, GGUF file or hub id; N layers.")
]


@app.command("loss")
def loss_command(
    pairs: Pairs = 5,
    threads: Threads = 2,
    vocabulary: Annotated[list[int] | None, typer.Option(min=2, help="Repeatable.")] = None,
    tokens: Annotated[int, typer.Option(min=1)] = 2048,
    small: Small = False,
    wait: Wait = 0.0,
    json_file: JsonFile = None,
    as_markdown: Markdown = False,
) -> None:
    """The loss alone, from hidden states to gradients, against full logits."""
    sizes = [512] if small else vocabulary or [49152, 128256]
    works = [LossWork(size, tokens) for size in sizes]
    if small:
        works = [replace(work, tokens=64, hidden=32) for work in works]
    settings = Settings(pairs, threads=threads, patience_s=wait, judge=not small)
    _run(lambda s: loss(s, works=works), settings, json_file, as_markdown)


@app.command("step")
def step_command(
    pairs: Pairs = 5,
    threads: Threads = 2,
    peer: Annotated[str | None, typer.Option(help="Another library beside ours: trl.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Shapes of models: smollm2-135m, or llama-1b on a GPU.")
    ] = None,
    precision: Precision = None,
    teacher: Place = None,
    student: Place = None,
    small: Small = False,
    wait: Wait = 0.0,
    json_file: JsonFile = None,
    as_markdown: Markdown = False,
) -> None:
    """Optimiser steps of a distillation against a plain torch loop."""
    work = step_work("small" if small else preset, precision, teacher=teacher, student=student)
    _run(
        lambda s: step(s, work=work, peer=peer),
        Settings(pairs, threads=threads, patience_s=wait, judge=not small),
        json_file,
        as_markdown,
    )


@app.command("shard")
def shard_command(
    sizes: Annotated[
        str, typer.Option(metavar="MB[,MB]", help="Megabytes of JSON Lines.")
    ] = "50,200,800",
    pairs: Annotated[int, typer.Option(min=1, help="Rounds in which both arms take a turn.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Cores of an arm: `num_proc`.")] = 2,
    small: Small = False,
    wait: Wait = 0.0,
    json_file: JsonFile = None,
    as_markdown: Markdown = False,
) -> None:
    """JSON Lines to packed Parquet: the shard stage against plain `datasets`."""
    settings = Settings(pairs, threads=threads, patience_s=wait, judge=not small)
    sizes_mb = [0.5] if small else _numbers("--sizes", sizes)
    _run(lambda s: shard(s, sizes_mb=sizes_mb), settings, json_file, as_markdown)


def _numbers(flag: str, text: str) -> list[float]:
    """Parse numbers between commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        problem = Problem(flag, f"{text!r} isn't a list of numbers.", "For example: 50,200.")
        raise InputError(BAD, [problem]) from None


Bench = Callable[[Settings, StepWork], Report]


def _add_command(name: str, bench: Bench, text: str) -> None:
    """Register a command with the flags that all benchmarks of steps share."""

    @app.command(name, help=text)
    def command(
        pairs: Pairs = 5,
        threads: Threads = 2,
        precision: Precision = None,
        teacher: Place = None,
        student: Place = None,
        small: Small = False,
        wait: Wait = 0.0,
        json_file: JsonFile = None,
        as_markdown: Markdown = False,
    ) -> None:
        preset = "small" if small else "smollm2-135m"
        work = step_work(preset, precision, teacher=teacher, student=student)
        settings = Settings(pairs, threads=threads, patience_s=wait, judge=not small)
        _run(lambda s: bench(s, work), settings, json_file, as_markdown)


def _packing(settings: Settings, work: StepWork) -> Report:
    """The packing benchmark, with few and short samples where the figures aren't judged."""
    samples = SamplesWork(work)
    if not settings.judge:
        samples = replace(samples, samples=6, batch=4, shortest=3, longest=work.length, group=2)
    return packing(settings, work=samples)


for _name, _bench, _help in (
    ("packing", _packing, "Short samples: padded, grouped by length, packed."),
    ("zero", lambda s, w: zero(s, work=w), "Two processes with ZeRO against one."),
    ("cache", lambda s, w: cache(s, work=w), "Teacher targets from a file against online ones."),
    ("switch", lambda s, w: switch(s, work=w), "What a change of the teacher's checkpoint costs."),
    ("pool", lambda s, w: pool(s, work=w), "What Ray Train adds; a teacher in its own process."),
):
    _add_command(_name, _bench, _help)


app.command("chaos")(chaos_command.command)


def _run(
    bench: Callable[[Settings], Report],
    settings: Settings,
    json_file: Path | None,
    as_markdown: bool,
) -> None:
    """Run a benchmark and print its report; exit with 1 if an arm failed or did other work."""
    from distill_ray.console.output import wide, write_json

    errors = Console(stderr=True)
    with errors.status("bench") as status:

        def tell(line: str) -> None:
            if errors.is_terminal:
                status.update(line)
            else:
                errors.print(line, highlight=False, markup=False, soft_wrap=True)

        report = bench(replace(settings, listen=tell))
    if as_markdown:
        sys.stdout.write(markdown(report))
    else:
        console = wide()
        console.print(*tables(report))
        for line in (*remarks(report), source(report)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if json_file is None:
        write_json(report.to_dict())
    else:
        json_file.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    if any(c.same_work is False or any(a.error for a in c.arms) for c in report.comparisons):
        raise typer.Exit(FAILED)
