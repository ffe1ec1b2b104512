"""Kills as plain data: when they are planned, what they cost, how their run ended."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

WENT_ON = re.compile(r"goes on after step (\d+), with (\d+) worker")
EARLIEST, LATEST = 0.05, 0.85
"""Shares of a training between which kills fall: late events must still find it running."""


@dataclass(frozen=True)
class Kind:
    """A kind of kill."""

    what: str
    """What is killed, for people."""
    stage: str = "distill"
    """The stage that is running then."""
    fewest: int | None = None
    """Fewest workers that training goes on with; None where it waits for all of them."""
    per_run: int = 5
    """Most kills in one run."""
    latest: float = LATEST
    """Latest share of the work at which a kill falls."""

    @property
    def exact(self) -> bool:
        """Whether the result must be equal bit for bit."""
        return self.fewest is None


KINDS: Mapping[str, Kind] = {
    "worker": Kind("a worker, anywhere in training"),
    "upload": Kind("a worker, while a checkpoint is uploaded"),
    "switch": Kind("a worker, around a switch of the teacher's checkpoint"),
    "driver": Kind("the driver; then the same command again", per_run=2),
    "node": Kind("a node; then another one comes", per_run=2),
    "fewer": Kind("a node; none comes, one worker goes on", fewest=1, per_run=1, latest=0.5),
    "drain": Kind("a node that was announced to go; another one comes", per_run=1, latest=0.2),
    "trial": Kind("the process of a probe", stage="probe"),
}


@dataclass(frozen=True)
class KillPlan:
    """When and what to kill in one run."""

    kind: str
    moments: tuple[float, ...]
    """Shares of the work, ascending, at each of which something is killed."""
    seed: int
    """Decides which of several processes is killed."""


def kill_plans(kinds: Sequence[str], kills: int, seed: int) -> list[KillPlan]:
    """Spread kills over kinds as evenly as possible, at random moments.

    Args:
        kinds: names in `KINDS`.
        kills: how many, of all kinds together.
        seed: equal seeds give equal moments.
    """
    rng, plans = random.Random(seed), []
    for index, name in enumerate(kinds):
        kind, remaining = KINDS[name], len(range(index, kills, len(kinds)))
        while remaining:
            count = min(remaining, kind.per_run)
            moments = sorted(rng.uniform(EARLIEST, kind.latest) for _ in range(count))
            plans.append(KillPlan(name, tuple(moments), rng.randrange(2**32)))
            remaining -= count
    return plans


@dataclass(frozen=True)
class TimedEvent:
    """An event of a run, with the time when it was read."""

    time_s: float
    """When it was read, by the monotonic clock."""
    stage: str
    text: str = ""
    completed: float | None = None


@dataclass(frozen=True)
class Kill:
    """What a kill cost."""

    at_step: int
    """The last step that was reported before the kill."""
    lost: int | None
    """Steps that were repeated; None for work that has no steps."""
    recovery_s: float | None
    """Seconds from the kill until work went on; None where it never did."""
    workers: int | None = None
    """The number of workers after the kill, where an event says it."""
    facts: Mapping[str, Any] = field(default_factory=dict)


def kill_of(events: Sequence[TimedEvent], killed_at: float, job: str, **facts: Any) -> Kill:
    """Compute the cost of a kill from the run's events.

    Args:
        events: all events of the run, in order.
        killed_at: when something was killed, by the monotonic clock.
        job: the job that was training.
        facts: other facts about the kill.
    """
    of_job = [event for event in events if event.text.startswith(f"{job}:")]
    last, workers, went_on = 0, None, None
    for event in of_job:
        step = int(event.completed or 0)
        if event.time_s <= killed_at:
            last = step or last
        elif match := WENT_ON.search(event.text):
            went_on, workers = int(match[1]), int(match[2])
        elif step and went_on is None and step > last:
            last = step  # Done before the kill, reported after it.
        elif step:
            lost = last - (step - 1 if went_on is None else went_on)
            return Kill(last, max(0, lost), event.time_s - killed_at, workers, facts)
    return Kill(last, None, None, workers, facts)


@dataclass(frozen=True)
class KillResult:
    """A run with its kills, and its outcome."""

    plan: KillPlan
    kills: tuple[Kill, ...]
    survived: bool
    """Whether the run ended by itself, with its result."""
    differences: Mapping[str, float] = field(default_factory=dict)
    """What was compared → how far it is from the undisturbed run's, 0 for equal bytes."""
    seconds: float = 0.0
    output: str = ""
    """The end of the output of a run that didn't survive."""

    @property
    def kind(self) -> Kind:
        """The kind of its kills."""
        return KINDS[self.plan.kind]

    @property
    def missed(self) -> int:
        """Kills that never found anything to kill."""
        return len(self.plan.moments) - len(self.kills)

    @property
    def difference(self) -> float | None:
        """The largest difference; None where nothing could be compared."""
        return max(self.differences.values()) if self.differences else None

    def problems(self, save_steps: int, tolerance: float) -> list[str]:
        """Describe what should not have happened.

        Args:
            save_steps: steps between two checkpoints.
            tolerance: largest difference allowed where the number of workers changed.
        """
        problems = [] if self.survived else ["didn't survive"]
        if self.missed:
            problems.append(f"{self.missed} kills came too late")
        if any(kill.recovery_s is None for kill in self.kills):
            problems.append("a kill after which work wasn't seen to go on")
        limit = 0.0 if self.kind.exact else tolerance
        if self.survived and (self.difference is None or not self.difference <= limit):
            problems.append(f"differs by {self.difference}, not at most {limit:g}")
        # The newest checkpoint may not have been uploaded yet.
        lost = [kill.lost for kill in self.kills if kill.lost is not None]
        if max(lost, default=0) > 2 * save_steps:
            problems.append(f"{max(lost)} steps were lost, more than two intervals")
        return problems

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"difference": self.difference, "missed": self.missed}


def of_kind(rounds: Sequence[KillResult], name: str) -> list[KillResult]:
    """Filter rounds by kind."""
    return [result for result in rounds if result.plan.kind == name]
