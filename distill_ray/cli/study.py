"""`distill-ray study ...`: comparisons on your own data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from distill_ray.cli.options import AsJson, Overrides, RetryFailed, StorageUri, Wait
from distill_ray.cli.working import joined, working
from distill_ray.config.load import flags, load_study
from distill_ray.config.study import STUDIES
from distill_ray.console.output import write_json

app = typer.Typer(
    help="Compare predictors, schedules or texts on your own data.", no_args_is_help=True
)

StudyFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The study's YAML file.")]


def _study_command(kind: str) -> Callable[..., None]:
    """The command that runs one kind of study, and prints its figures and its page's path."""

    def command(
        config: StudyFile,
        overrides: Overrides = None,
        storage: StorageUri = None,
        as_json: AsJson = False,
        retry_failed: RetryFailed = False,
        wait: Wait = False,
    ) -> None:
        out = Console()
        study, cfgs = load_study(STUDIES[kind], config, flags(overrides, storage))
        cfgs = {domain: joined(cfg) for domain, cfg in cfgs.items()}
        with working(as_json, out) as progress:
            from distill_ray.runtime.run import Run
            from distill_ray.stages.preflight.check import check_all
            from distill_ray.study.kinds import KINDS

            check_all(cfgs, config.name)
            # In one order, whatever the study: two that wait for each other would wait for ever.
            by_folder = sorted(cfgs, key=lambda domain: (cfgs[domain].storage, cfgs[domain].name))
            opened = {
                domain: Run.open(
                    cfgs[domain], config.name, progress, retry_failed=retry_failed, wait=wait
                )
                for domain in by_folder
            }
            runs = {domain: opened[domain] for domain in cfgs}
            results = KINDS[kind].run(study, runs)
            page = KINDS[kind].write_page(
                results, Path(study.results), f"distill-ray study {kind} {config}"
            )
        if as_json:
            from distill_ray.study.page import plain

            write_json({"result": {"page": str(page), "overall": plain(results.overall)}})
            return
        for group, summary in results.overall.items():
            out.print(KINDS[kind].table(group, summary))
        out.print(f"Page: {page}", soft_wrap=True, highlight=False, markup=False)

    return command


for name, text in {
    "ranking": "Distil from every teacher to the end, and compare with what was known before.",
    "schedule": "Distil with every schedule and every static choice on equal tokens, and compare.",
    "domain-data": "Distil on generic text, domain text and both, from a raw and an adapted "
    "teacher.",
}.items():
    app.command(name, help=text)(_study_command(name))
