"""Arms take turns: every arm in its own process, one at work at a time. Imports no torch.

Each round asks every arm for one unit, in an order that is turned around from round to round, so
that what else the machine does, its heat and its clock hit all arms alike. Ratios are taken within
a round and their median is reported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from distill_ray.bench.harness.plan import Arm, Plan
from distill_ray.bench.harness.processes import ArmProcesses
from distill_ray.bench.harness.result import Comparison

Listener = Callable[[str], None]


def order(count: int, number: int) -> list[int]:
    """Who works when in a round: A B C, then C B A."""
    forward = list(range(count))
    return forward if number % 2 == 0 else forward[::-1]


def compare(
    title: str,
    arms: Sequence[Arm],
    plan: Plan,
    *,
    tolerance: float = 1e-3,
    unit: str = "seconds",
    listen: Listener | None = None,
) -> Comparison:
    """Let arms do the same work in turns. An arm that fails is reported; the others go on.

    Args:
        title: what is compared.
        arms: the first one is the reference.
        plan: rounds and patience.
        tolerance: relative loss difference up to which it is the same work.
        unit: what costs are counted in, if arms tell an amount.
        listen: gets a line at every turn.
    """
    tell = listen or (lambda _: None)
    with ExitStack() as stack:
        tell(f"{title}: building {', '.join(arm.name for arm in arms)}")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="distill-ray-bench-"))
        teams = [ArmProcesses(arm, plan, Path(folder) / str(i)) for i, arm in enumerate(arms)]
        for team in teams:
            stack.callback(team.end)
        for team in teams:
            team.build()
        for number in range(plan.rounds):
            for i in order(len(teams), number):
                teams[i].take_turn()
                tell(f"{title}: {_label(number, plan)}, {teams[i].last()}")
    results = tuple(team.result() for team in teams)
    return Comparison(title, results, arms[0].name, tolerance, unit)


def _label(number: int, plan: Plan) -> str:
    if number < plan.warmup:
        return "warm-up"
    return f"pair {number - plan.warmup + 1} of {plan.pairs}"
