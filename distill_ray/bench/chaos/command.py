"""`distill-ray bench chaos`. Imports neither torch nor Ray."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from distill_ray.bench.chaos.outcomes import KINDS

FAILED = 1

Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", metavar="KIND", help=f"{', '.join(KINDS)}; repeatable, all without it."),
]
Page = Annotated[Path | None, typer.Option("--out", metavar="FILE.md", help="Write the page.")]
Folder = Annotated[
    Path | None,
    typer.Option(help="Work there, keep logs and the undisturbed run, take one that is there."),
]


def command(
    kills: Annotated[int, typer.Option(min=1, help="Of all kinds together.")] = 20,
    kind: Kinds = None,
    seed: Annotated[int, typer.Option(help="Of moments and victims.")] = 0,
    folder: Folder = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON there instead.")
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown instead of a table.")
    ] = False,
    out: Page = None,
) -> None:
    """Kill workers, trials, drivers and nodes of a small run: what is lost, how soon it goes on."""
    for name in kind or ():
        if name not in KINDS:
            raise typer.BadParameter(f"no kind {name!r}; there are {', '.join(KINDS)}")
    from distill_ray.bench.chaos.page import page, remarks, source, table
    from distill_ray.bench.chaos.run import chaos
    from distill_ray.console.output import wide, write_json

    errors = Console(stderr=True)

    def tell(line: str) -> None:
        errors.print(line, highlight=False, markup=False, soft_wrap=True)

    # A short path: Ray's sockets lie below it, and theirs may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as scratch:
        work_folder = Path(scratch) if folder is None else folder.absolute()
        report = chaos(work_folder, kind or list(KINDS), kills, seed, tell)
    if as_markdown:
        sys.stdout.write(page(report))
    else:
        console = wide()
        console.print(table(report))
        for line in (*remarks(report), source(report)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if out is not None:
        out.write_text(page(report))
    if json_file is None:
        write_json(report.to_dict())
    else:
        json_file.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    if report.problems:
        raise typer.Exit(FAILED)
