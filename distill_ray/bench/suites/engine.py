"""Benchmarks of our engine's own options: packing, ranks, caches, pools. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from distill_ray.bench.harness.compare import compare
from distill_ray.bench.harness.machine import provenance
from distill_ray.bench.harness.plan import Arm
from distill_ray.bench.harness.result import Comparison, Report, Target
from distill_ray.bench.suites.peers import ARMS, PLAIN, TOLERANCE, Settings
from distill_ray.bench.suites.work import SamplesWork, StepWork

PADDED, GROUPED, PACKED = "ours, padded", "ours, grouped", "ours, packed"
CACHED, TRUNCATED = "cached targets", "in memory, the same entries"
RAY = "in a Ray Train worker"
AHEAD, LATE = "read ahead", "read when it is due"
TRACING = 3
"""Steps until ZeRO-3 is up to speed: DeepSpeed first records in which order weights are used."""
TRUNCATION_NOTE = (
    "The cache keeps the teacher's 64 likeliest tokens and a tail, so its loss is below the whole "
    "one; it is held against a teacher in memory that is cut to the same entries."
)


def packing(settings: Settings, *, work: SamplesWork) -> Report:
    """Compare useful tokens a second of short samples: padded, grouped by length, packed."""
    padded = f"{PLAIN}, padded"
    arms = [
        _arm(padded, "packing:floor", settings, work=work),
        *(
            _arm(name, "packing:ours", settings, work=work, way=name.rpartition(" ")[2])
            for name in (PADDED, GROUPED, PACKED)
        ),
    ]
    title = f"Steps of {work.samples} samples of {work.shortest} to {work.longest} tokens"
    comparison = _compare(title, arms, settings, work.step.precision)
    targets = [
        Target(f"useful tokens/s, {name} / {padded}", comparison.ratio(padded, name), 2.2, False)
        for name in (GROUPED, PACKED)
    ]
    return _report("packing", [comparison], targets, settings, work)


def zero(settings: Settings, *, work: StepWork) -> Report:
    """Compare two processes with ZeRO 0 to 3 with one of all threads, at the same global batch."""
    settings = replace(settings, warmup=max(settings.warmup, TRACING))
    one = "one process"
    threads = max(1, settings.threads // 2)
    arms = [_arm(one, "engine:step", settings, work=work)]
    arms += [
        Arm(
            _zero(stage),
            f"{ARMS}.ranks:step",
            {"work": work, "zero_stage": stage},
            threads=threads,
            ranks=2,
        )
        for stage in range(4)
    ]
    title = f"Step, {work.rows} x {work.length} tokens, {work.precision}, 2 processes against one"
    comparison = _compare(title, arms, settings, work.precision)
    targets = [
        Target(f"time of a step, {_zero(stage)} / {one}", comparison.ratio(_zero(stage)), bound)
        for stage, bound in ((1, 1.10), (2, 1.10), (3, 1.25))
    ]
    return _report("zero", [comparison], targets, settings, work)


def _zero(stage: int) -> str:
    return f"2 x ZeRO-{stage}"


def cache(settings: Settings, *, work: StepWork) -> Report:
    """Compare steps that read teacher targets from a file with a teacher in the step."""
    online = "online"
    pair = [
        _arm(online, "engine:step", settings, work=work),
        _arm(CACHED, "cache:step", settings, work=work),
    ]
    title = f"Step, {work.rows} x {work.length} tokens, {work.precision}"
    # The losses differ, so the comparison after this one checks that it is the same work.
    comparison = compare(title, pair, settings.plan, tolerance=float("inf"), listen=settings.listen)
    exact = [
        _arm(TRUNCATED, "cache:truncated", settings, work=work),
        _arm(CACHED, "cache:step", settings, work=work),
    ]
    brief = replace(settings, pairs=1)
    same = _compare(f"{title}, the same entries", exact, brief, work.precision)
    targets = [Target(f"time of a step, {CACHED} / {online}", comparison.ratio(CACHED), 0.62)]
    return _report("cache", [comparison, same], targets, settings, work, (TRUNCATION_NOTE,))


def pool(settings: Settings, *, work: StepWork) -> Report:
    """Measure what Ray Train adds to a step, and a teacher in a process of its own."""
    half = replace(settings, threads=max(1, settings.threads // 2))
    plain, colocated = "plain engine", "colocated"
    train_worker = _compare(
        f"Step, {work.rows} x {work.length} tokens, {work.precision}: what Ray adds",
        [
            _arm(plain, "sharded_rows:step", settings, work=work),
            _arm(RAY, "ray_train:step", settings, work=work),
        ],
        settings,
        work.precision,
    )
    placement = _compare(
        f"Step, {work.rows} x {work.length} tokens, {work.precision}: where the teacher lives",
        [
            _arm(colocated, "ray_train:step", settings, work=work),
            _arm("pool of one, hidden states", "ray_train:pooled", half, work=work),
        ],
        settings,
        work.precision,
    )
    targets = [Target(f"time of a step, {RAY} / {plain}", train_worker.ratio(RAY), 1.03)]
    return _report("pool", [train_worker, placement], targets, settings, work)


def switch(settings: Settings, *, work: StepWork) -> Report:
    """Measure what a change of the teacher's checkpoint costs, in steps of the same run."""
    comparisons, targets = [], []
    for kind, (run, bound) in SWITCHED.items():
        arms = [
            _arm(name, f"switch:{run}", settings, work=work, ahead=name == AHEAD)
            for name in (LATE, AHEAD)
        ]
        comparison = compare(
            f"Stall of a switch of {kind}, {work.rows} x {work.length} tokens, {work.precision}",
            arms,
            settings.plan,
            tolerance=TOLERANCE[work.precision],
            unit="steps",
            listen=settings.listen,
        )
        comparisons.append(comparison)
        cost = comparison.arm(AHEAD).cost
        targets.append(Target(f"stall of a switch, {kind} {AHEAD}, in steps", cost, bound))
    notes = [line for comparison in comparisons for line in _other_steps(comparison)]
    return _report("switch", comparisons, targets, settings, work, (*notes, CACHED_PAGES))


SWITCHED = {"full weights": ("full", 2.0), "an adapter": ("adapter", 1.0)}
"""What is switched → its arm's function, and how many steps a switch may take."""
CACHED_PAGES = (
    "Files were in the page cache; read from a disk, what is not read ahead takes longer."
)


def _other_steps(comparison: Comparison) -> Iterator[str]:
    """Describe how long each arm's other steps take, against its steps without a switch."""
    titles = {"beside": "a step beside the reading", "first": "the first step after a switch"}
    kind = comparison.title.split(", ")[0].rpartition(" of ")[2]
    for arm in comparison.arms:
        for name, text in titles.items():
            if ratios := arm.figures(name):
                ends = f"{min(ratios):.3f} - {max(ratios):.3f}"
                yield f"{kind}, {arm.name}: {text} takes {median(ratios):.3f} of one ({ends})"


def _arm(name: str, run: str, settings: Settings, **options: Any) -> Arm:
    return Arm(name, f"{ARMS}.{run}", options, threads=settings.threads)


def _compare(title: str, arms: Sequence[Arm], settings: Settings, precision: str) -> Comparison:
    tolerance = TOLERANCE[precision]
    return compare(title, list(arms), settings.plan, tolerance=tolerance, listen=settings.listen)


def _report(
    name: str,
    comparisons: Sequence[Comparison],
    targets: Sequence[Target],
    settings: Settings,
    work: StepWork | SamplesWork,
    notes: tuple[str, ...] = (),
) -> Report:
    reported = settings.to_dict() | {"work": asdict(work)}
    return Report(name, tuple(comparisons), settings.aims(targets), reported, provenance(), notes)
