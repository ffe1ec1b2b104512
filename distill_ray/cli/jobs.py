"""`distill-ray submit CONFIG` and `distill-ray jobs ...`. Imports Ray only to talk to a cluster."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from distill_ray.cli.options import Wait
from distill_ray.config import load_config
from distill_ray.config.load import flags
from distill_ray.console.output import size, wide, write_json
from distill_ray.stages import STAGES

if TYPE_CHECKING:
    from distill_ray.runtime.jobs import Jobs
    from distill_ray.runtime.submission import Attempt
    from distill_ray.runtime.working_dir import Package

STOP_TIMEOUT_S = 90.0
"""Ray kills a stopped job after a minute."""
STOPPED_FOLLOWING = 130
"""Exit code when Ctrl-C ends the following of a job."""
COMMANDS = ("run", *STAGES)
"""Commands of a job: the whole route, or the route up to a stage."""

Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        help="The cluster's dashboard, such as http://127.0.0.1:8265.",
    ),
]
Named = Annotated[str, typer.Argument(metavar="NAME", help="A run's name, or a job's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]

app = typer.Typer(help="Inspect, follow and stop submitted runs.", no_args_is_help=True)


def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")],
    address: Address,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the job's output; exit with its exit code.")
    ] = False,
    stage: Annotated[
        str,
        typer.Option("--stage", metavar="STAGE", help="Run only up to this stage."),
    ] = "run",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override section.key; repeatable."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URI", help="Folder or URI of the artifacts."),
    ] = None,
    as_json: AsJson = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry teachers and probes that failed.")
    ] = False,
    wait: Wait = False,
) -> None:
    """Submit a run as a job to a cluster. Submit it again to resume."""
    if stage not in COMMANDS:
        raise typer.BadParameter(f"no stage {stage!r}; there are {', '.join(COMMANDS)}")
    all_overrides = flags(overrides, storage)
    cfg = load_config(config, all_overrides)
    words = [word for override in all_overrides for word in ("--set", override)]
    words += ["--json"] * as_json + ["--retry-failed"] * retry_failed + ["--wait"] * wait
    from distill_ray.runtime.environment import prepare_client

    prepare_client()
    from distill_ray.runtime.jobs import Jobs
    from distill_ray.runtime.submission import Submission, next_attempt
    from distill_ray.runtime.working_dir import MIB, survey
    from distill_ray.stages.preflight.check import check_submission

    job, root = cfg.cluster.job, Path.cwd()
    package = survey(root, job.excludes, job.max_file_mib * MIB)
    check_submission(cfg, config, package)
    inside = config.resolve().relative_to(root.resolve()).as_posix()
    submission = Submission(cfg, inside, stage, tuple(words), package)
    jobs = Jobs(address)
    job_id = next_attempt(jobs.attempts(), cfg.name)
    jobs.submit(submission, job_id)
    out = Console(stderr=as_json)
    _print_line(out, f"Submitted {job_id}: {_package_summary(package)}.")
    if as_json:
        write_json({"submitted": job_id})
    if follow:
        _follow(jobs, job_id, out)
    else:
        _print_line(
            out, f"See `distill-ray jobs logs {job_id} --follow`, `distill-ray jobs status`."
        )


@app.command("status")
def status(
    address: Address,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A run's name, or a job's id.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List attempts of a run, or of all runs, and how they ended."""
    from distill_ray.console import tables as console

    attempts = _jobs(address).attempts()
    if name is not None:
        from distill_ray.runtime.submission import find

        attempt = find(attempts, name)
        attempts = [attempt] if name == attempt.id else [a for a in attempts if a.run == name]
    attempts.sort(key=lambda attempt: (attempt.run, attempt.number))
    if as_json:
        write_json({"jobs": [_attempt_row(attempt) for attempt in attempts]})
    else:
        wide().print(console.attempts(attempts))


@app.command("logs")
def logs(
    name: Named,
    address: Address,
    follow: Annotated[
        bool, typer.Option("--follow", help="Follow the output until the job ends.")
    ] = False,
) -> None:
    """Print a job's output; with --follow, exit with its exit code."""
    jobs, attempt = _find_attempt(address, name)
    if follow:
        _follow(jobs, attempt.id, Console(stderr=True))
    else:
        sys.stdout.write(jobs.logs(attempt.id))


@app.command("stop")
def stop(name: Named, address: Address, as_json: AsJson = False) -> None:
    """Stop a job, as Ctrl-C stops a run. Submit the run again to resume."""
    jobs, attempt = _find_attempt(address, name)
    if not attempt.over:
        attempt = jobs.stop(attempt.id, STOP_TIMEOUT_S)
    if as_json:
        write_json({"jobs": [_attempt_row(attempt)]})
    else:
        _print_line(
            Console(), _end_summary(attempt) if attempt.over else f"{attempt.id} hasn't ended yet."
        )
    if not attempt.over:
        sys.exit(1)


def _follow(jobs: Jobs, job_id: str, out: Console) -> None:
    """Print the job's log, and exit with its exit code."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        attempt = jobs.follow(job_id, write)
    except KeyboardInterrupt:
        _print_line(out, f"The job goes on. Stop it with `distill-ray jobs stop {job_id}`.")
        sys.exit(STOPPED_FOLLOWING)
    _print_line(out, _end_summary(attempt))
    sys.exit(attempt.exit_code)


def _end_summary(attempt: Attempt) -> str:
    """How an attempt ended, and why if its log doesn't say."""
    text = f"{attempt.id} {attempt.status}"
    if attempt.status == "FAILED" and attempt.driver_exit_code is not None:
        return f"{text}, exit code {attempt.exit_code}"
    return f"{text}: {attempt.message}" if attempt.status == "FAILED" else text


def _package_summary(package: Package) -> str:
    """What was sent, and which files were too large to send."""
    text = f"{len(package.files)} files, {size(package.size_bytes)}"
    if package.too_large:
        named = ", ".join(f"{path} ({size(n)})" for path, n in package.too_large.items())
        text += f", without {named}"
    return text


def _find_attempt(address: str, name: str) -> tuple[Jobs, Attempt]:
    jobs = _jobs(address)
    from distill_ray.runtime.submission import find

    return jobs, find(jobs.attempts(), name)


def _jobs(address: str) -> Jobs:
    from distill_ray.runtime.environment import prepare_client

    prepare_client()
    from distill_ray.runtime.jobs import Jobs

    return Jobs(address)


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    plain = {k: str(v) if k in ("started", "ended") else v for k, v in asdict(attempt).items() if v}
    return {**plain, "exit_code": attempt.exit_code if attempt.over else None}


def _print_line(out: Console, text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
