"""`distill-ray plan`, `run`, one command a stage, and `data show`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from distill_ray.cli.options import AsJson, ConfigFile, Overrides, RetryFailed, StorageUri
from distill_ray.cli.working import load_run, working
from distill_ray.config import RunConfig
from distill_ray.console.output import wide, write_json
from distill_ray.stages import STAGES

if TYPE_CHECKING:
    from distill_ray.stages.results.report_page import Report

BAD_INPUT = 2
data = typer.Typer(help="Inspect the rows that training reads.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add `plan`, `run` and a command for every stage."""
    app.command()(plan)
    app.command("run", help="Run all stages, and print the report's path.")(
        _stage_command("report")
    )
    for stage, text in STAGES.items():
        app.command(stage, help=text)(rank if stage == "rank" else _stage_command(stage))


def _stage_command(stage: str) -> Callable[..., None]:
    """The command that runs the route up to a stage."""

    def command(
        config: ConfigFile,
        overrides: Overrides = None,
        storage: StorageUri = None,
        as_json: AsJson = False,
        retry_failed: RetryFailed = False,
    ) -> None:
        out = Console()
        cfg = load_run(config, overrides, storage)
        result = _run_route(stage, cfg, config, as_json, out, retry_failed=retry_failed)
        _print_result(stage, result, as_json, out)

    return command


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
) -> None:
    """Print what a run will do and need, and every problem. Starts nothing."""
    from distill_ray.console import tables as console
    from distill_ray.stages.preflight.check import check
    from distill_ray.stages.preflight.plan import plain
    from distill_ray.stages.preflight.plan import plan as make_plan

    cfg = load_run(config, overrides, storage)
    check(cfg, config.name)
    run_plan = make_plan(cfg)
    if as_json:
        write_json(plain(run_plan))
    else:
        out = wide()
        out.print(
            console.plan_table(run_plan),
            console.memory_table(run_plan),
            console.available(run_plan),
        )
        if disk_line := console.disk(run_plan):
            out.print(disk_line)
    if run_plan.short_of_memory or run_plan.short_of_disk:
        sys.exit(BAD_INPUT)


def rank(
    config: ConfigFile,
    progress: Annotated[
        list[float] | None,
        typer.Option("--progress", min=0, max=1, help="Rank at this progress; repeatable."),
    ] = None,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Rank the teachers for every phase of training, or for any progress of the student."""
    from distill_ray.console import tables as console

    out = Console()
    cfg = load_run(config, overrides, storage)
    ranking = _run_route("rank", cfg, config, as_json, out, retry_failed=retry_failed)
    places = {
        f"progress {share:g}": ranking.at(share) for share in progress or ()
    } or ranking.leaderboard
    if as_json:
        plain = {place: [asdict(entry) for entry in entries] for place, entries in places.items()}
        write_json({"result": {**console.ranking(ranking), "leaderboard": plain}})
    else:
        out.print(console.leaderboard(ranking, places))


@data.command("show")
def show_rows(
    config: ConfigFile,
    rows: Annotated[
        int, typer.Option("--rows", min=1, metavar="N", help="Rows of each stream.")
    ] = 2,
    stream: Annotated[str | None, typer.Option("--stream", help="Only this stream.")] = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "train",
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
) -> None:
    """Print rows and mark who supervises each token. Builds the shards if needed."""
    from distill_ray.console import tables as console
    from distill_ray.stages.sharding.show import plain, refuse_unknown, show

    cfg, out = load_run(config, overrides, storage), wide()
    refuse_unknown(cfg, stream, split)
    shown = show(
        _run_route("shard", cfg, config, as_json, out), rows=rows, split=split, stream=stream
    )
    if as_json:
        write_json({"result": plain(shown)})
    else:
        console.print_rows(shown, out)


def _run_route(
    stage: str,
    cfg: RunConfig,
    config: Path,
    as_json: bool,
    out: Console,
    *,
    retry_failed: bool = False,
) -> Any:
    """The result of the route up to a stage."""
    with working(as_json, out) as progress:
        from distill_ray.runtime.environment import prepare

        prepare(cfg.cluster.address)
        from distill_ray.runtime.run import Run
        from distill_ray.stages.preflight.check import check

        check(cfg, config.name)
        opened = Run.open(cfg, config.name, progress, retry_failed=retry_failed)

        from distill_ray.stages.pipeline import run_until

        return run_until(opened, stage)


def _print_result(stage: str, result: Any, as_json: bool, out: Console) -> None:
    if stage == "report":
        _print_report(result, as_json, out)
    elif as_json:
        write_json({"result": [artifact.uri for artifact in result.artifacts]})
    else:
        for artifact in result.artifacts:
            out.print(artifact.uri, soft_wrap=True, highlight=False, markup=False)


def _print_report(result: Report, as_json: bool, out: Console) -> None:
    data = result.data
    if as_json:
        fields = {"verdict", "verdicts", "taught", "switches"}
        selected = data.model_dump(mode="json", include=fields)
        write_json({"result": {"report": result.html, "student": result.student, **selected}})
        return
    lines = [data.verdict, *(row.sentence for row in data.verdicts if row.task)]
    lines += [f"Student: {result.student}", f"Report:  {result.html}"]
    for line in lines:
        out.print(line, soft_wrap=True, highlight=False, markup=False)
