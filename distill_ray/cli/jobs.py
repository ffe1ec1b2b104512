"""`distill-ray submit CONFIG` and `distill-ray jobs ...`. Imports Ray only to talk to a cluster."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from distill_ray.config import InputError, load_config
from distill_ray.config.load import flags
from distill_ray.console.output import size, wide, write_json
from distill_ray.stages import STAGES

if TYPE_CHECKING:
    from distill_ray.runtime.jobs import Jobs
    from distill_ray.runtime.submission import Attempt, Submission
    from distill_ray.runtime.working_dir import Package

STOP_TIMEOUT_S = 90.0
"""A stopped job has a minute to come to rest, then it is killed."""
LEFT = 130
COMMANDS = ("run", *STAGES)
"""What a job may do: the whole route, or up to a stage."""

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
AsJson = Annotated[bool, typer.Option("--json", help="Results as JSON lines.")]

app = typer.Typer(help="Submitted runs: where they are, what they say.", no_args_is_help=True)


def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")],
    address: Address,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show what the job writes; end as it ends.")
    ] = False,
    stage: Annotated[
        str,
        typer.Option("--stage", metavar="STAGE", help="Only up to this stage."),
    ] = "run",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override section.key; repeatable."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="URI", help="Where artifacts go.")
    ] = None,
    as_json: AsJson = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed.")
    ] = False,
) -> None:
    """Run it as a job on a cluster; submitted again, it goes on where the last attempt stopped."""
    if stage not in COMMANDS:
        raise typer.BadParameter(f"no stage {stage!r}; there are {', '.join(COMMANDS)}")
    all_overrides = flags(overrides, storage)
    cfg = load_config(config, all_overrides)
    words = [word for override in all_overrides for word in ("--set", override)]
    words += ["--json"] * as_json + ["--retry-failed"] * retry_failed
    _client()
    from distill_ray.runtime.jobs import Jobs
    from distill_ray.runtime.submission import next_attempt

    submission = _packed(cfg, config, stage, words)
    jobs = Jobs(address)
    job_id = next_attempt(jobs.attempts(), cfg.name)
    jobs.submit(submission, job_id)
    out = Console(stderr=as_json)
    _say(out, f"Submitted {job_id}: {_sent(submission.package)}.")
    if as_json:
        _json({"submitted": job_id})
    if follow:
        _follow(jobs, job_id, out)
    else:
        _say(out, f"See `distill-ray jobs logs {job_id} --follow`, `distill-ray jobs status`.")


@app.command("status")
def status(
    address: Address,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A run's name, or a job's id.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Attempts of a run, or of all runs, and how they ended."""
    from distill_ray.console import tables as console

    attempts = _jobs(address).attempts()
    if name is not None:
        from distill_ray.runtime.submission import find

        attempt = find(attempts, name)
        attempts = [attempt] if name == attempt.id else [a for a in attempts if a.run == name]
    attempts.sort(key=lambda attempt: (attempt.run, attempt.number))
    if as_json:
        _json({"jobs": [_plain(attempt) for attempt in attempts]})
    else:
        wide().print(console.attempts(attempts))


@app.command("logs")
def logs(
    name: Named,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
) -> None:
    """What a job has written; with --follow, end as it ends."""
    jobs, attempt = _find(address, name)
    if follow:
        _follow(jobs, attempt.id, Console(stderr=True))
    else:
        sys.stdout.write(jobs.logs(attempt.id))


@app.command("stop")
def stop(name: Named, address: Address, as_json: AsJson = False) -> None:
    """End a job, as Ctrl-C ends a run: submitted again, it goes on."""
    jobs, attempt = _find(address, name)
    if not attempt.over:
        attempt = jobs.stop(attempt.id, STOP_TIMEOUT_S)
    if as_json:
        _json({"jobs": [_plain(attempt)]})
    else:
        _say(Console(), _ended(attempt) if attempt.over else f"{attempt.id} hasn't ended yet.")
    if not attempt.over:
        sys.exit(1)


def _packed(cfg: Any, config: Path, stage: str, words: list[str]) -> Submission:
    """A submission in which nothing is wrong, as far as this machine can tell.

    Raises:
        InputError: something is; nothing has been sent.
    """
    from distill_ray.runtime.submission import Submission
    from distill_ray.runtime.working_dir import MIB, survey
    from distill_ray.stages.preflight.submit import submit_problems

    job, root = cfg.cluster.job, Path.cwd()
    package = survey(root, job.excludes, job.max_file_mib * MIB)
    problems = list(submit_problems(cfg, config, package))
    if problems:
        raise InputError("the run can't be submitted:", problems)
    inside = config.resolve().relative_to(root.resolve()).as_posix()
    return Submission(cfg, inside, stage, tuple(words), package)


def _follow(jobs: Jobs, job_id: str, out: Console) -> None:
    """Show the job's log, and end with its exit code."""
    try:
        attempt = jobs.follow(job_id, _write)
    except KeyboardInterrupt:
        _say(out, f"The job goes on; `distill-ray jobs stop {job_id}` ends it.")
        sys.exit(LEFT)
    _say(out, _ended(attempt))
    sys.exit(attempt.exit_code)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _ended(attempt: Attempt) -> str:
    """How it ended, and why where its log can't say it."""
    text = f"{attempt.id} {attempt.status}"
    if attempt.status == "FAILED" and attempt.driver_exit_code is not None:
        return f"{text}, exit code {attempt.exit_code}"
    return f"{text}: {attempt.message}" if attempt.status == "FAILED" else text


def _sent(package: Package) -> str:
    """What was sent, and what wasn't for its size."""
    text = f"{len(package.files)} files, {size(package.size_bytes)}"
    if package.too_large:
        named = ", ".join(f"{path} ({size(n)})" for path, n in package.too_large.items())
        text += f", without {named}"
    return text


def _find(address: str, name: str) -> tuple[Jobs, Attempt]:
    jobs = _jobs(address)
    from distill_ray.runtime.submission import find

    return jobs, find(jobs.attempts(), name)


def _jobs(address: str) -> Jobs:
    _client()
    from distill_ray.runtime.jobs import Jobs

    return Jobs(address)


def _client() -> None:
    from distill_ray.runtime.environment import prepare_client

    prepare_client()


def _plain(attempt: Attempt) -> dict[str, Any]:
    plain = {k: str(v) if k in ("started", "ended") else v for k, v in asdict(attempt).items() if v}
    return {**plain, "exit_code": attempt.exit_code if attempt.over else None}


def _json(value: Any) -> None:
    write_json(value)


def _say(out: Console, text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
