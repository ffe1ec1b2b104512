"""JSON Lines through our shard stage and through plain `datasets`. Imports no torch."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from distill_ray.bench.harness.compare import compare
from distill_ray.bench.harness.machine import provenance
from distill_ray.bench.harness.plan import Arm
from distill_ray.bench.harness.result import ArmResult, Comparison, Details, Report, Target
from distill_ray.bench.harness.table import size
from distill_ray.bench.suites.peers import ARMS, BAD, OURS, Settings
from distill_ray.bench.suites.work import ShardWork
from distill_ray.config.errors import InputError, Problem

DATASETS = "datasets"
VOCABULARY = 8192
MB = 1_000_000
FROM_MB = 200
"""Size from which the time must be that of `datasets`."""
COLUMNS = (
    "size, arm",
    "tokens/s",
    "s",
    "start, s",
    "in all, s",
    "driver",
    "a worker",
    "Ray's own",
    "together",
    "with files",
)
PHASE_COLUMNS = ("size, arm, phase", "s", "MB/s of a core")
PHASE = "phase: "
"""Begins the names of figures that are seconds of a phase."""
TB = 10**12
NODES = 64
"""Size of the estimate."""
NOTES = (
    "seconds are those of the work; 'start' is apart: the interpreter, imports, and for ours Ray "
    "and the first import of each worker; 'in all' ends with the last process",
    "memory is the most that was held at a sample (one a second), shared pages once; 'a worker' is "
    "the largest; 'with files' adds pages of mapped files, which the system can drop",
    "equal in both arms, exactly: tokens and rows of each split, and the number of duplicates",
)


def shard(
    settings: Settings,
    *,
    sizes_mb: Sequence[float] = (50, 200, 800),
    length: int = ShardWork.length,
    num_files: int = 4,
) -> Report:
    """Compare reading, exact duplicates, split, tokenizing, packing and Parquet at each size.

    Args:
        settings: of all benchmarks; `threads` are cores of an arm.
        sizes_mb: megabytes of JSON Lines.
        length: tokens of a packed row.
        num_files: files of each size.

    Raises:
        InputError: this system can't be measured, or a size is given twice.
    """
    if sys.platform != "linux":
        raise InputError(BAD, [Problem("bench shard", "memory is read from Linux's /proc.")])
    if len(set(sizes_mb)) < len(sizes_mb) or min(sizes_mb, default=0) <= 0:
        problem = Problem("--sizes", f"{list(sizes_mb)} aren't different sizes above 0.")
        raise InputError(BAD, [problem])
    # Every turn starts new processes, so there is nothing to warm up.
    settings = replace(settings, warmup=0)
    comparisons, works = [], []
    for size_mb in sorted(sizes_mb):
        with tempfile.TemporaryDirectory(prefix="distill-ray-bench-shard-") as folder:
            work = _write(Path(folder), int(size_mb * MB), num_files, settings)
            works.append(replace(work, length=length))
            comparisons.append(_compare(works[-1], size_mb, settings))
    return report(comparisons, works, settings)


def _write(base: Path, size_bytes: int, num_files: int, settings: Settings) -> ShardWork:
    """Write the input of a size: the files, and a tokenizer that is trained on their first rows."""
    from distill_ray.bench.suites.corpus import write_corpus, write_tokenizer

    if settings.listen is not None:
        settings.listen(f"writing {size_bytes / MB:g} MB of JSON Lines")
    files, tokenizer = base / "rows", base / "tokenizer"
    files.mkdir(parents=True)
    corpus = write_corpus(files, size_bytes, num_files)
    write_tokenizer(tokenizer, corpus, VOCABULARY)
    return ShardWork(corpus.files, corpus.size_bytes, str(tokenizer), processes=settings.threads)


def _compare(work: ShardWork, size_mb: float, settings: Settings) -> Comparison:
    arms = [
        Arm(
            name,
            f"{ARMS}.shard:run",
            {"work": work, "program": f"{ARMS}.shard_{program}"},
            threads=settings.threads,
        )
        for name, program in ((DATASETS, "datasets"), (OURS, "ours"))
    ]
    title = f"Shard {size_mb:g} MB"
    comparison = compare(title, arms, settings.plan, tolerance=0.0, listen=settings.listen)
    return replace(comparison, compared="count")


def report(
    comparisons: Sequence[Comparison], works: Sequence[ShardWork], settings: Settings
) -> Report:
    """Judge comparisons of ascending sizes, and add what the usual table has no column for."""
    measured = list(zip(comparisons, works))
    rows = [_row(c, arm) for c in comparisons for arm in c.arms]
    phases = [row for c, work in measured for arm in c.arms for row in _phase_rows(c, arm, work)]
    details = (
        Details("Shard: speed, start and memory", COLUMNS, tuple(rows)),
        Details("Shard: phases", PHASE_COLUMNS, tuple(phases)),
    )
    estimate = _estimate(comparisons[-1].arm(OURS), works[-1]) if settings.judge else ()
    return Report(
        "shard",
        tuple(comparisons),
        settings.aims(_targets(comparisons, works)),
        settings.to_dict() | {"works": [asdict(work) for work in works]},
        provenance(),
        (*NOTES, *estimate),
        details,
    )


def _targets(comparisons: Sequence[Comparison], works: Sequence[ShardWork]) -> list[Target]:
    targets = [
        Target(f"{c.title}: time, {OURS} / {DATASETS}", c.ratio(OURS), 1.0)
        for c, work in zip(comparisons, works)
        if work.size_bytes >= FROM_MB * MB
    ]
    first, last = comparisons[0], comparisons[-1]
    if first is not last:
        what = f"{last.title} / {first.title.removeprefix('Shard ')}"
        driver = [_figure(c.arm(OURS), "driver_bytes") for c in (first, last)]
        costs = [
            None if (cost := c.arm(OURS).cost) is None else cost / work.size_bytes
            for c, work in ((first, works[0]), (last, works[-1]))
        ]
        targets.append(Target(f"{what}: memory of the driver", _quotient(driver), 1.1))
        targets.append(Target(f"{what}: time a byte", _quotient(costs), 1.15))
    return targets


def _quotient(pair: Sequence[float | None]) -> float | None:
    small, large = pair
    return large / small if small and large is not None else None


def _figure(arm: ArmResult, name: str) -> float | None:
    values = arm.figures(name)
    return median(values) if values else None


def _row(comparison: Comparison, arm: ArmResult) -> tuple[str, ...]:
    def number(name: str, form: str) -> str:
        value = _figure(arm, name)
        return "-" if value is None else format(value, form)

    def bytes_of(name: str) -> str:
        values = arm.figures(name)
        return size(int(max(values))) if values else "-"

    return (
        f"{comparison.title.removeprefix('Shard ')}, {arm.name}",
        number("tokens_per_s", ",.0f"),
        "-" if arm.cost is None else f"{arm.cost:.3g}",
        number("start_s", ".1f"),
        number("total_s", ".1f"),
        *(
            bytes_of(f"{name}_bytes")
            for name in ("driver", "worker", "system", "total", "total_with_files")
        ),
    )


def _phases(arm: ArmResult) -> dict[str, float]:
    """Phase → median seconds, in the order of the work."""
    names = dict.fromkeys(name for unit in arm.units for name in unit.figures)
    return {
        name.removeprefix(PHASE): median(arm.figures(name))
        for name in names
        if name.startswith(PHASE)
    }


def _phase_rows(
    comparison: Comparison, arm: ArmResult, work: ShardWork
) -> Iterator[tuple[str, ...]]:
    for phase, seconds in _phases(arm).items():
        rate = work.size_bytes / MB / max(seconds, 1e-9) / work.processes
        label = f"{comparison.title.removeprefix('Shard ')}, {arm.name}, {phase}"
        yield label, f"{seconds:.3g}", f"{rate:.3g}"


def hours(size_bytes: float, cores: int, rates: Iterable[float]) -> float:
    """Estimate how long phases take one after the other, if all cores are as fast as one.

    Args:
        size_bytes: of the input.
        cores: that work at a time.
        rates: bytes of input a second and core, of each phase.
    """
    return sum(size_bytes / (cores * rate) for rate in rates) / 3600


def _estimate(arm: ArmResult, work: ShardWork) -> Iterator[str]:
    """Say what the rates of the largest size come to at 1 TB: of the work, without its network."""
    seconds, num_rows = _phases(arm), _figure(arm, "rows_read")
    if not seconds or num_rows is None:
        return
    cores = NODES * work.processes
    rates = [work.size_bytes / work.processes / max(s, 1e-9) for s in seconds.values()]
    billions = num_rows * TB / work.size_bytes / 1e9
    estimated_h = hours(TB, cores, rates)
    yield (
        f"at the rates of {work.size_bytes / MB:.0f} MB, 1 TB takes {estimated_h:.2f} h of work on "
        f"{NODES} nodes of {work.processes} such cores, without waiting for the network"
    )
    yield (
        f"1 TB has {billions:.2f} billion such rows: a byte a row that is shuffled is "
        f"{billions:.2f} GB, {billions / NODES:.3f} GB a node"
    )
