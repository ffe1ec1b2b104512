"""`distill-ray plan`, `run`, one command a stage, and `data show`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from distill_ray.cli.options import (
    AsJson,
    ConfigFile,
    Overrides,
    RetryFailed,
    StorageUri,
    Wait,
)
from distill_ray.cli.working import load_run, working
from distill_ray.config import RunConfig
from distill_ray.console.output import wide, write_json
from distill_ray.stages import STAGES

if TYPE_CHECKING:
    from distill_ray.stages.results.report_page import Report
    from distill_ray.stages.results.shard_set import ShardSet

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
        wait: Wait = False,
    ) -> None:
        out = Console()
        cfg = load_run(config, overrides, storage)
        options = _RouteOptions(stage, as_json, retry_failed, wait)
        result = _run_route(cfg, config, options, out)
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
    wait: Wait = False,
) -> None:
    """Rank the teachers for every phase of training, or for any progress of the student."""
    from distill_ray.console import tables as console

    out = Console()
    cfg = load_run(config, overrides, storage)
    options = _RouteOptions("rank", as_json, retry_failed, wait)
    ranking = _run_route(cfg, config, options, out)
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
    wait: Wait = False,
) -> None:
    """Print rows and mark who supervises each token. Builds the shards if needed."""
    from distill_ray.console import tables as console
    from distill_ray.stages.sharding.show import plain, refuse_unknown, show

    cfg, out = load_run(config, overrides, storage), wide()
    refuse_unknown(cfg, stream, split)
    shards = _run_route(cfg, config, _RouteOptions("shard", as_json, wait=wait), out)
    shown = show(shards, rows=rows, split=split, stream=stream)
    if as_json:
        write_json({"result": plain(shown)})
    else:
        console.print_rows(shown, out)


@dataclass(frozen=True)
class _RouteOptions:
    """What the commands of the route have in common."""

    stage: str
    """The last one."""
    as_json: bool
    retry_failed: bool = False
    wait: bool = False


def _run_route(cfg: RunConfig, config: Path, options: _RouteOptions, out: Console) -> Any:
    """The result of the route up to a stage.

    Raises:
        InputError: the config can't run, or another process works in the run's folder, where the
            result isn't complete yet.
    """
    with working(options.as_json, out) as progress:
        from distill_ray.runtime.environment import prepare

        prepare(cfg.cluster.address)
        from distill_ray.runtime.acquisition import LeaseHeldError
        from distill_ray.runtime.lease import NoLeaseError
        from distill_ray.runtime.progress import NullProgress
        from distill_ray.runtime.run import Run
        from distill_ray.stages.preflight.check import check

        check(cfg, config.name)
        held = None
        try:
            run = Run.open(
                cfg,
                config.name,
                progress,
                retry_failed=options.retry_failed,
                wait=options.wait,
            )
        except LeaseHeldError as error:  # What is complete can be read meanwhile.
            held, run = error, Run.read_only(cfg, NullProgress())

        from distill_ray.stages.pipeline import run_until

        try:
            return run_until(run, options.stage)
        except NoLeaseError as error:
            raise held or error from None


def _print_result(stage: str, result: Any, as_json: bool, out: Console) -> None:
    if stage == "report":
        _print_report(result, as_json, out)
    elif stage == "shard":
        _print_shards(result, as_json, out)
    elif as_json:
        write_json({"result": [artifact.uri for artifact in result.artifacts]})
    else:
        for artifact in result.artifacts:
            out.print(artifact.uri, soft_wrap=True, highlight=False, markup=False)


def _print_shards(result: ShardSet, as_json: bool, out: Console) -> None:
    from distill_ray.console import tables as console

    if as_json:
        counts = result.counts.model_dump(mode="json", include={"streams", "notes"})
        write_json({"result": [result.artifact.uri], **counts})
        return
    wide().print(console.shard_table(result.counts))
    for line in (*result.counts.notes, result.artifact.uri):
        out.print(line, soft_wrap=True, highlight=False, markup=False)


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
