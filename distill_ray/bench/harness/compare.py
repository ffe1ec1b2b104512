"""Let arms take turns: each in its own process, one at work at a time. Imports no torch.

Each round takes one unit from every arm, in an order that is reversed from round to round, so that
other load, heat and clock changes affect all arms alike. Ratios are taken within a round, and their
median is reported.
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
    """The order of arms in a round: A B C, then C B A."""
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
    """Let arms do the same work in turns. An arm that fails is reported, and the others go on.

    Args:
        title: what is compared.
        arms: the arms, the reference first.
        plan: how many rounds, and how long to wait.
        tolerance: relative loss difference up to which it is the same work.
        unit: what costs are counted in, if arms report an amount.
        listen: gets a line at every turn.
    """
    tell = listen or (lambda _: None)
    with ExitStack() as stack:
        tell(f"{title}: building {', '.join(arm.name for arm in arms)}")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="distill-ray-bench-"))
        processes = [ArmProcesses(arm, plan, Path(folder) / str(i)) for i, arm in enumerate(arms)]
        for arm in processes:
            stack.callback(arm.end)
        for arm in processes:
            arm.build()
        for number in range(plan.rounds):
            pair = f"pair {number - plan.warmup + 1} of {plan.pairs}"
            label = "warm-up" if number < plan.warmup else pair
            for i in order(len(processes), number):
                processes[i].take_turn()
                tell(f"{title}: {label}, {processes[i].last()}")
    results = tuple(arm.result() for arm in processes)
    return Comparison(title, results, arms[0].name, tolerance, unit)
