"""What `bench chaos` found, for a terminal and as the page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.table import Table

from distill_ray.bench.chaos.outcomes import KINDS, KillResult, of_kind
from distill_ray.bench.chaos.run import ChaosReport

NONE = "-"
COLUMNS = (
    *("killed", "kills", "runs", "survived", "steps lost", "at most", "recovery, s", "at most"),
    "result",
)
EXPLAINED = """\
A small student of random weights is distilled on two workers from a teacher with five checkpoints,
{steps} steps with a checkpoint every {save_steps}, and a control after it. First nothing is killed.
Then the stage is made again and again from the same artifacts, and in each run something is killed
with SIGKILL, once or several times, at moments drawn at random before it starts. The command is the
real one in a process of its own; it joins a cluster of two nodes, raylets on this machine with room
for one worker each.

- *steps lost*: the last step that was told before the kill, minus the one that it went on from. A
  probe isn't saved: it starts again, and what it lost isn't counted in steps.
- *recovery*: from the kill until the first new step; of a probe, until another process is at one.
  For a node that was announced to go, it counts from the last step before it was taken,
  {notice_s} s after the announcement.
- *result*: the weights of the student and of the control against those of the undisturbed run (of
  probes: their outcomes, times apart). Where fewer workers went on, sums are added up in another
  order: the largest difference of two weights, as a share of the tensor's largest weight, which
  may be {tolerance:g}.
"""


def table(report: ChaosReport) -> Table:
    """Make a table for the terminal, with a row for each kind of kill."""
    rich_table = Table(title=f"Chaos: {headline(report)}", title_justify="left")
    for index, column in enumerate(COLUMNS):
        rich_table.add_column(column, justify="left" if index == 0 else "right")
    for cells in rows(report):
        rich_table.add_row(*cells)
    return rich_table


def headline(report: ChaosReport) -> str:
    """Sum up all kills in a line."""
    kills = [kill for result in report.rounds for kill in result.kills]
    lost = [kill.lost for kill in kills if kill.lost is not None]
    survived = sum(result.survived for result in report.rounds)
    return (
        f"{len(kills)} kills in {len(report.rounds)} runs, {survived} survived; "
        f"at most {max(lost, default=0)} steps lost at a checkpoint every "
        f"{report.settings['save_steps']}"
    )


def rows(report: ChaosReport) -> list[list[str]]:
    """Make the cells of each kind that was tried."""
    cells = []
    for name in report.settings["kinds"]:
        rounds = of_kind(report.rounds, name)
        kills = [kill for result in rounds for kill in result.kills]
        lost = [kill.lost for kill in kills if kill.lost is not None]
        recovery = [kill.recovery_s for kill in kills if kill.recovery_s is not None]
        if rounds:
            cells.append(
                [
                    KINDS[name].what,
                    str(len(kills)),
                    str(len(rounds)),
                    str(sum(result.survived for result in rounds)),
                    f"{median(lost):g}" if lost else NONE,
                    str(max(lost)) if lost else NONE,
                    f"{median(recovery):.1f}" if recovery else NONE,
                    f"{max(recovery):.1f}" if recovery else NONE,
                    _result(rounds),
                ]
            )
    return cells


def _result(rounds: Sequence[KillResult]) -> str:
    differences = [result.difference for result in rounds if result.difference is not None]
    if len(differences) < len(rounds):
        return "not all there"
    return "equal bit for bit" if max(differences) == 0 else f"within {max(differences):.1g}"


def remarks(report: ChaosReport) -> list[str]:
    """List facts that the table has no column for."""
    uploads = [k for r in of_kind(report.rounds, "upload") for k in r.kills]
    torn = sum(not kill.facts["sealed"] for kill in uploads)
    sentences = [f"Of {len(uploads)} uploads, {torn} were cut off by the kill."] if uploads else []
    duration = f"The whole run up to its students takes {report.undisturbed_s:.0f} s undisturbed."
    return [*sentences, duration, *report.problems]


def source(report: ChaosReport) -> str:
    """Name command, machine and versions in a sentence."""
    machine, versions = report.environment["machine"], report.environment["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"`{report.environment['command']}` (seed {report.settings['seed']}) on {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, load "
        f"{machine['load_average']:.1f}; {packages}."
    )


def page(report: ChaosReport) -> str:
    """Write the documentation's page, in Markdown."""
    from distill_ray.bench.chaos.kill import NOTICE_S

    explanation = EXPLAINED.format(**report.settings, notice_s=NOTICE_S)
    by_kind = ["| " + " | ".join(cells) + " |" for cells in (COLUMNS, *rows(report))]
    by_kind.insert(1, "|---|" + "---:|" * (len(COLUMNS) - 1))
    by_kill = ["| run | kind | at step | steps lost | workers then | recovery, s | result |"]
    by_kill.append("|---|---|" + "---:|" * 5)
    for number, result in enumerate(report.rounds, start=1):
        for kill in result.kills:
            step = NONE if result.kind.stage == "probe" else str(kill.at_step)
            lost, workers = (NONE if v is None else str(v) for v in (kill.lost, kill.workers))
            recovery = NONE if kill.recovery_s is None else f"{kill.recovery_s:.1f}"
            cells = [str(number), result.plan.kind, step, lost, workers, recovery]
            by_kill.append("| " + " | ".join([*cells, _result([result])]) + " |")
    parts = [
        "# Killed at random moments",
        f"{headline(report)}.",
        explanation.strip(),
        "\n".join(by_kind),
        "\n".join(f"- {line}" for line in remarks(report)),
        "## Every kill",
        "\n".join(by_kill),
        source(report),
    ]
    return "\n\n".join(parts) + "\n"
