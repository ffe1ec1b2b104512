"""The command line: `plan`, `run`, one command a stage, and what stands beside the route."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from distill_ray import __version__
from distill_ray.bench.commands import app as bench
from distill_ray.cli import jobs, route, study
from distill_ray.cli.config import app as config
from distill_ray.cli.config import schema
from distill_ray.cluster.commands import app as cluster
from distill_ray.config import InputError

app = typer.Typer(
    name="distill-ray",
    help="Choose, schedule and distil language-model teachers for a domain, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
route.add_commands(app)
app.command("submit")(jobs.submit)
app.add_typer(jobs.app, name="jobs")
app.add_typer(route.data, name="data")
app.command("schema")(schema)
app.add_typer(config, name="config")
app.add_typer(study.app, name="study")
app.add_typer(cluster, name="cluster")
app.add_typer(bench, name="bench")


def main() -> None:
    """Entry point: input errors end with exit code 2 and one message."""
    sys.path.insert(0, str(Path.cwd()))  # Where a user's own sources and losses are.
    try:
        app()
    except InputError as error:
        # Never wrapped: a path that is cut in two can't be copied.
        Console(stderr=True).print(
            str(error), style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(route.BAD_INPUT)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Choose, schedule and distil language-model teachers for a domain, on Ray."""
    if version:
        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit
