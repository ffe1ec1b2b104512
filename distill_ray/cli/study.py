"""`distill-ray study ...`: comparisons on your own data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from distill_ray.cli.options import AsJson, Overrides, RetryFailed, StorageUri
from distill_ray.cli.working import joined, working
from distill_ray.config.load import flags, load_study
from distill_ray.config.study import DomainDataStudy, RankingStudy, ScheduleStudy, StudyConfig
from distill_ray.console.output import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from distill_ray.runtime.run import Run

app = typer.Typer(
    help="Compare predictors, schedules or texts on your own data.", no_args_is_help=True
)

StudyFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The study's YAML file.")]
Study = TypeVar("Study", bound=StudyConfig)


@app.command("ranking")
def study_ranking(
    config: StudyFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Distil from every teacher to the end, and compare with what was known before."""
    from distill_ray.study import tables

    out = Console()
    opened = _open_study(RankingStudy, config, overrides, storage, as_json, out, retry_failed)
    with opened as (study, runs):
        from distill_ray.study.ranking.page import write_page
        from distill_ray.study.ranking.run import study as run_study

        results = run_study(study, runs)
        page = write_page(results, Path(study.results), f"distill-ray study ranking {config}")
    shown = [tables.predictors(group, rows) for group, rows in results.overall.items()]
    _print_results(page, results.overall, shown, as_json, out)


@app.command("schedule")
def study_schedule(
    config: StudyFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Distil with every schedule and every static choice on equal tokens, and compare."""
    from distill_ray.study import tables

    out = Console()
    opened = _open_study(ScheduleStudy, config, overrides, storage, as_json, out, retry_failed)
    with opened as (study, runs):
        from distill_ray.study.schedule.page import write_page
        from distill_ray.study.schedule.run import study as run_study

        results = run_study(study, runs)
        page = write_page(results, Path(study.results), f"distill-ray study schedule {config}")
    shown = [tables.arms(group, summary.arms) for group, summary in results.overall.items()]
    _print_results(page, results.overall, shown, as_json, out)


@app.command("domain-data")
def study_domain_data(
    config: StudyFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Distil on generic text, domain text and both, from a raw and an adapted teacher."""
    from distill_ray.study import tables

    out = Console()
    opened = _open_study(DomainDataStudy, config, overrides, storage, as_json, out, retry_failed)
    with opened as (study, runs):
        from distill_ray.study.domain_data.page import write_page
        from distill_ray.study.domain_data.run import study as run_study

        results = run_study(study, runs)
        page = write_page(results, Path(study.results), f"distill-ray study domain-data {config}")
    shown = [tables.contrasts(group, rows) for group, rows in results.overall.items()]
    _print_results(page, results.overall, shown, as_json, out)


def _print_results(
    page: Path, overall: object, tables: Sequence[Table], as_json: bool, out: Console
) -> None:
    """Print a study's figures and the path of its page."""
    if as_json:
        from distill_ray.study.page import plain

        write_json({"result": {"page": str(page), "overall": plain(overall)}})
        return
    for table in tables:
        out.print(table)
    out.print(f"Page: {page}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _open_study(
    section: type[Study],
    config: Path,
    overrides: list[str] | None,
    storage: str | None,
    as_json: bool,
    out: Console,
    retry_failed: bool,
) -> Iterator[tuple[Study, dict[str, Run]]]:
    """A study and the opened runs of its domains, while the block runs."""
    study, cfgs = load_study(section, config, flags(overrides, storage))
    cfgs = {name: joined(cfg) for name, cfg in cfgs.items()}
    with working(as_json, out) as progress:
        from distill_ray.runtime.run import Run
        from distill_ray.stages.preflight.check import check_all

        check_all(cfgs, config.name)
        yield (
            study,
            {
                name: Run.open(cfg, config.name, progress, retry_failed=retry_failed)
                for name, cfg in cfgs.items()
            },
        )
