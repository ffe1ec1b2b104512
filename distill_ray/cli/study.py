"""`distill-ray study ...`: comparisons on your own data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from distill_ray.cli.options import AsJson, Overrides, RetryFailed, StorageUri
from distill_ray.cli.working import joined, working
from distill_ray.config.load import flags, load_study
from distill_ray.config.study import DomainDataStudy, RankingStudy, ScheduleStudy, StudyConfig
from distill_ray.console.output import write_json

if TYPE_CHECKING:
    from distill_ray.runtime.run import Run

app = typer.Typer(help="Show on your own data what predicts a student.", no_args_is_help=True)

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
    """Let every teacher teach to the end, and compare with what was known of it before."""
    from distill_ray.console import tables as console

    out = Console()
    opened = _study(RankingStudy, config, overrides, storage, as_json, out, retry_failed)
    with opened as (study, runs):
        from distill_ray.study.ranking.page import write_page
        from distill_ray.study.ranking.run import study as compare

        found = compare(study, runs)
        page = write_page(found, Path(study.results), f"distill-ray study ranking {config}")
    tables = [console.predictors(group, table) for group, table in found.overall.items()]
    _told(page, found.overall, tables, as_json, out)


@app.command("schedule")
def study_schedule(
    config: StudyFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Let every schedule and every static choice teach with equal tokens, and compare."""
    from distill_ray.console import tables as console

    out = Console()
    opened = _study(ScheduleStudy, config, overrides, storage, as_json, out, retry_failed)
    with opened as (study, runs):
        from distill_ray.study.schedule.page import write_page
        from distill_ray.study.schedule.run import study as compare

        found = compare(study, runs)
        page = write_page(found, Path(study.results), f"distill-ray study schedule {config}")
    tables = [console.arms(group, table["arms"]) for group, table in found.overall.items()]
    _told(page, found.overall, tables, as_json, out)


@app.command("domain-data")
def study_domain_data(
    config: StudyFile,
    overrides: Overrides = None,
    storage: StorageUri = None,
    as_json: AsJson = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Distil on generic text, on the domain's and on both, from a raw and an adapted teacher."""
    from distill_ray.console import tables as console

    out = Console()
    opened = _study(DomainDataStudy, config, overrides, storage, as_json, out, retry_failed)
    with opened as (study, runs):
        from distill_ray.study.domain_data.page import write_page
        from distill_ray.study.domain_data.run import study as compare

        found = compare(study, runs)
        page = write_page(found, Path(study.results), f"distill-ray study domain-data {config}")
    tables = [console.contrasts(group, rows) for group, rows in found.overall.items()]
    _told(page, found.overall, tables, as_json, out)


def _told(
    page: Path, overall: Mapping[str, Any], tables: Sequence[Any], as_json: bool, out: Console
) -> None:
    """What a study ends with: its figures and its page."""

    if as_json:
        write_json({"result": {"page": str(page), "overall": overall}})
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
