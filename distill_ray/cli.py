"""The command line: one command a stage, and `run` for the whole route."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from distill_ray import __version__
from distill_ray.bench.commands import app as bench
from distill_ray.cluster.commands import app as cluster
from distill_ray.config import InputError, RunConfig, load_config
from distill_ray.config.load import flags, load_study
from distill_ray.config.study import (
    STUDIES,
    DomainDataStudy,
    RankingStudy,
    ScheduleStudy,
    StudyConfig,
)
from distill_ray.job_commands import app as jobs
from distill_ray.job_commands import submit
from distill_ray.runtime.interruption import interruptible

if TYPE_CHECKING:
    from distill_ray.runtime.run import Run

app = typer.Typer(
    name="distill-ray",
    help="Choose, schedule and distil language-model teachers for a domain, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
BAD_INPUT = 2

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override section.key; repeatable."),
]
StorageUri = Annotated[
    str | None, typer.Option("--storage", metavar="URI", help="Where artifacts go.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Events and results as JSON lines.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try again the teachers and probes that failed.")
]


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
        sys.exit(BAD_INPUT)


@app.command()
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run will do and need, and every problem; starts nothing."""
    from distill_ray import console
    from distill_ray.stages.check import check
    from distill_ray.stages.plan import plain
    from distill_ray.stages.plan import plan as make_plan

    cfg = _load(config, overrides, storage)
    check(cfg, config.name)
    made = make_plan(cfg)
    if as_json:
        console.write_json(plain(made))
    else:
        out = console.wide()
        out.print(console.plan_table(made), console.memory_table(made), console.available(made))
        if said := console.disk(made):
            out.print(said)
    if made.short_of_memory or made.short_of_disk:
        sys.exit(BAD_INPUT)


STAGE_COMMANDS = {
    "run": ("report", "Run the whole route; ends by naming the report."),
    "shard": ("shard", "Read, clean, split, tokenize and pack corpora and tasks."),
    "adapt": ("adapt", "Train the teachers on the domain and keep their checkpoints."),
    "audit": ("audit", "Measure the teachers: accuracy, calibration, behaviour under shift."),
    "probe": ("probe", "Distil shortly from every teacher, with several seeds."),
    "distill": ("distill", "Distil the student, and fine-tune its control."),
    "evaluate": ("evaluate", "Score the student against its control and the teachers."),
    "report": ("report", "Write the report; the same as `run`."),
}
"""Command → the stage up to which the route is run, and its help."""


def _add_command(name: str, stage: str, text: str) -> None:
    @app.command(name, help=text)
    def command(
        config: ConfigFile,
        overrides: Overrides = None,
        storage: StorageUri = None,
        as_json: AsJson = False,
        retry_failed: RetryFailed = False,
    ) -> None:
        _stage(stage, config, overrides, storage, as_json, retry_failed)


for _name, (_upto, _help) in STAGE_COMMANDS.items():
    _add_command(_name, _upto, _help)


@app.command("rank")
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
    """Rank the teachers for every stage of training, or for any progress of the student."""
    from distill_ray import console

    out = Console()
    cfg = _load(config, overrides, storage)
    found = _route("rank", cfg, config, as_json, out, retry_failed=retry_failed)
    places = {f"progress {at:g}": found.at(at) for at in progress or ()} or found.standings
    if as_json:
        console.write_json({"result": {**console.ranking(found), "standings": places}})
    else:
        out.print(console.leaderboard(found, places))


data = typer.Typer(help="Look at the rows that training reads.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(bench, name="bench")
app.add_typer(cluster, name="cluster")
app.command("submit")(submit)
app.add_typer(jobs, name="jobs")
studies = typer.Typer(help="Show on your own data what predicts a student.", no_args_is_help=True)
app.add_typer(studies, name="study")


StudyFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The study's YAML file.")]
Study = TypeVar("Study", bound=StudyConfig)


@studies.command("ranking")
def study_ranking(
    config: StudyFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Let every teacher teach to the end, and compare with what was known of it before."""
    from distill_ray import console

    out = Console()
    opened = _study(RankingStudy, config, overrides, storage, as_json, out, retry_failed)
    with opened as (study, runs):
        from distill_ray.study.page import write_page
        from distill_ray.study.study import study as compare

        found = compare(study, runs)
        page = write_page(found, Path(study.results), f"distill-ray study ranking {config}")
    tables = [console.predictors(group, table) for group, table in found.overall.items()]
    _told(page, found.overall, tables, as_json, out)


@studies.command("schedule")
def study_schedule(
    config: StudyFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Let every schedule and every static choice teach with equal tokens, and compare."""
    from distill_ray import console

    out = Console()
    opened = _study(ScheduleStudy, config, overrides, storage, as_json, out, retry_failed)
    with opened as (study, runs):
        from distill_ray.study.schedule import study as compare
        from distill_ray.study.schedule_page import write_page

        found = compare(study, runs)
        page = write_page(found, Path(study.results), f"distill-ray study schedule {config}")
    tables = [console.arms(group, table["arms"]) for group, table in found.overall.items()]
    _told(page, found.overall, tables, as_json, out)


@studies.command("domain-data")
def study_domain_data(
    config: StudyFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Distil on generic text, on the domain's and on both, from a raw and an adapted teacher."""
    from distill_ray import console

    out = Console()
    opened = _study(DomainDataStudy, config, overrides, storage, as_json, out, retry_failed)
    with opened as (study, runs):
        from distill_ray.study.domain_data import study as compare
        from distill_ray.study.domain_page import write_page

        found = compare(study, runs)
        page = write_page(found, Path(study.results), f"distill-ray study domain-data {config}")
    tables = [console.contrasts(group, rows) for group, rows in found.overall.items()]
    _told(page, found.overall, tables, as_json, out)


def _told(
    page: Path, overall: Mapping[str, Any], tables: Sequence[Any], as_json: bool, out: Console
) -> None:
    """What a study ends with: its figures and its page."""
    from distill_ray import console

    if as_json:
        console.write_json({"result": {"page": str(page), "overall": overall}})
        return
    for table in tables:
        out.print(table)
    out.print(f"Page: {page}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _study(
    section: type[Study],
    config: Path,
    overrides: list[str] | None,
    storage: str | None,
    as_json: bool,
    out: Console,
    retry_failed: bool,
) -> Iterator[tuple[Study, dict[str, Run]]]:
    """A study and the opened runs of its domains, for as long as the block works on them."""
    study, cfgs = load_study(section, config, flags(overrides, storage))
    cfgs = {name: _joined(cfg) for name, cfg in cfgs.items()}
    with _working(as_json, out) as progress:
        from distill_ray.runtime.run import Run
        from distill_ray.stages.check import check_all

        check_all(cfgs, config.name)
        yield (
            study,
            {
                name: Run.open(cfg, config.name, progress, retry_failed=retry_failed)
                for name, cfg in cfgs.items()
            },
        )


@data.command("show")
def data_show(
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
    """Print rows with which tokens are supervised, and by whom; makes the shards if need be."""
    from distill_ray import console
    from distill_ray.stages.show import plain, refuse_unknown, show

    cfg, out = _load(config, overrides, storage), console.wide()
    refuse_unknown(cfg, stream, split)
    shown = show(_route("shard", cfg, config, as_json, out), rows=rows, split=split, stream=stream)
    if as_json:
        console.write_json({"result": plain(shown)})
    else:
        console.print_rows(shown, out)


@app.command()
def schema(
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="KIND", help=f"That of a study: {', '.join(STUDIES)}."),
    ] = None,
) -> None:
    """Print the JSON Schema of a config, for editors."""
    if study is not None and study not in STUDIES:
        raise typer.BadParameter(f"no study {study!r}; there are {', '.join(STUDIES)}")
    section = RunConfig if study is None else STUDIES[study]
    sys.stdout.write(json.dumps(section.model_json_schema(), indent=2) + "\n")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Choose, schedule and distil language-model teachers for a domain, on Ray."""
    if version:
        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit


def _load(config: Path, overrides: list[str] | None, storage: str | None) -> RunConfig:
    return _joined(load_config(config, flags(overrides, storage)))


def _joined(cfg: RunConfig) -> RunConfig:
    """With the cluster that this process belongs to, as the driver of a job does."""
    from distill_ray.runtime.environment import cluster_address

    address = cluster_address(cfg.cluster.address)
    return cfg.model_copy(update={"cluster": cfg.cluster.model_copy(update={"address": address})})


def _stage(
    stage: str,
    config: Path,
    overrides: list[str] | None,
    storage: str | None,
    as_json: bool,
    retry_failed: bool,
) -> None:
    """Run the route up to a stage and show its result."""
    out = Console()
    cfg = _load(config, overrides, storage)
    result = _route(stage, cfg, config, as_json, out, retry_failed=retry_failed)
    _show(stage, result, as_json, out)


def _route(
    stage: str,
    cfg: RunConfig,
    config: Path,
    as_json: bool,
    out: Console,
    *,
    retry_failed: bool = False,
) -> Any:
    """The result of the route up to a stage."""
    with _working(as_json, out) as progress:
        from distill_ray.runtime.environment import prepare

        prepare(cfg.cluster.address)
        from distill_ray.runtime.run import Run
        from distill_ray.stages.check import check

        check(cfg, config.name)
        opened = Run.open(cfg, config.name, progress, retry_failed=retry_failed)
        from distill_ray.stages.pipeline import upto  # Imports torch: seconds, so not before.

        return upto(opened, stage)


@contextmanager
def _working(as_json: bool, out: Console) -> Iterator[Any]:
    """Progress is shown while the block runs; Ray is left behind it, and so is an interruption."""
    with _quiet(), _progress(as_json, out) as progress:
        # Libraries print where they like (Ray: the deaths of workers); machines read JSON alone.
        printed = redirect_stdout(sys.stderr) if as_json else nullcontext()
        try:
            with printed, interruptible():
                yield progress
        except KeyboardInterrupt:
            out.print("Interrupted; the same command goes on from here.")
            sys.exit(130)
        except Exception as error:
            from distill_ray.runtime.causes import outside_cause

            if isinstance(error, InputError) or (cause := outside_cause(error)) is None:
                raise
            raise cause from None
        finally:
            _leave_ray()


@contextmanager
def _progress(as_json: bool, out: Console) -> Iterator[Any]:
    from distill_ray.console import reporter

    listener = reporter(as_json, out)
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Our events tell the progress; libraries speak up from warnings on."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING)
    yield


def _leave_ray() -> None:
    if "ray" in sys.modules:
        from distill_ray.runtime.cluster import shutdown

        shutdown()


def _show(stage: str, result: Any, as_json: bool, out: Console) -> None:
    from distill_ray import console

    if stage == "report":
        _show_report(result, as_json, out)
    elif as_json:
        console.write_json({"result": [artifact.uri for artifact in result.artifacts]})
    else:
        for artifact in result.artifacts:
            out.print(artifact.uri, soft_wrap=True, highlight=False, markup=False)


def _show_report(result: Any, as_json: bool, out: Console) -> None:
    from distill_ray.console import write_json

    summary = result.summary
    if as_json:
        said = {key: summary[key] for key in ("verdict", "verdicts", "taught", "switches")}
        write_json({"result": {"report": result.html, "student": result.student, **said}})
        return
    lines = [summary["verdict"], *(v["sentence"] for v in summary["verdicts"] if v["task"])]
    lines += [f"Student: {result.student}", f"Report:  {result.html}"]
    for line in lines:
        out.print(line, soft_wrap=True, highlight=False, markup=False)
