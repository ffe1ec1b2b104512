"""Measurements, and the arithmetic on them. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Unit:
    """One unit of work of one arm."""

    number: int
    """Number of units that this arm did before."""
    seconds: float
    cpu_seconds: float
    """CPU time of all threads of its processes."""
    losses: tuple[float, ...]
    """Numbers that must be equal in all arms; the loss comes first."""
    amount: float = 1.0
    """How much work was done, where arms differ in it."""
    peak_bytes: int | None = None
    """Peak memory so far, above the level before the first unit."""
    other_load: float = 0.0
    """Share of the machine's CPU time that other processes used meanwhile."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Other measurements."""


@dataclass(frozen=True)
class ArmResult:
    """All units of one arm."""

    name: str
    units: tuple[Unit, ...]
    """All units, the warm-up's included."""
    warmup: int
    """Units that don't count."""
    note: str = ""
    error: str | None = None
    """Why the arm ended early."""
    threads: int = 0
    """Threads of each of its processes."""
    ranks: int = 1
    device: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def costs(self) -> tuple[float, ...]:
        """Seconds per amount of each measured unit, in the order of the rounds."""
        return tuple(unit.seconds / unit.amount for unit in self.units[self.warmup :])

    @property
    def cost(self) -> float | None:
        """The median of the costs."""
        return median(self.costs) if self.costs else None

    def figures(self, name: str) -> tuple[float, ...]:
        """Collect one of the other measurements from the measured units that have it."""
        units = self.units[self.warmup :]
        return tuple(unit.figures[name] for unit in units if name in unit.figures)

    @property
    def peak_bytes(self) -> int | None:
        """Peak memory above the level before the first unit, of the hungriest process."""
        known = [unit.peak_bytes for unit in self.units if unit.peak_bytes is not None]
        return max(known) if known else None

    @property
    def _has_figures(self) -> bool:
        return any(unit.figures for unit in self.units)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the units' numbers as columns."""
        measured = self.units[self.warmup :]
        return {
            "name": self.name,
            "note": self.note,
            "error": self.error,
            "device": self.device,
            "threads": self.threads,
            "ranks": self.ranks,
            "median_s": self.cost,
            "seconds": [unit.seconds for unit in measured],
            "cpu_seconds": [unit.cpu_seconds for unit in measured],
            "others": [unit.other_load for unit in measured],
            "amounts": [unit.amount for unit in measured],
            "losses": [list(unit.losses) for unit in self.units],
            "peak_bytes": self.peak_bytes,
            **({"figures": [dict(u.figures) for u in measured]} if self._has_figures else {}),
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


@dataclass(frozen=True)
class Difference:
    """The largest gap between two arms' losses at equal unit numbers."""

    absolute: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """Arms that did the same work in turns."""

    title: str
    arms: tuple[ArmResult, ...]
    reference: str
    """The arm that ratios are taken against, unless another is named."""
    tolerance: float = 1e-3
    """Relative loss difference up to which it is the same work."""
    unit: str = "seconds"
    """What costs are counted in."""
    compared: str = "loss"
    """What the number is that must be equal."""

    def arm(self, name: str) -> ArmResult:
        """Look up an arm by its name."""
        return next(arm for arm in self.arms if arm.name == name)

    def ratios(self, name: str, to: str | None = None) -> tuple[float, ...]:
        """Ratios of costs, one for each round in which both arms took their turn."""
        own, reference = self.arm(name).costs, self.arm(to or self.reference).costs
        return tuple(a / b for a, b in zip(own, reference))

    def ratio(self, name: str, to: str | None = None) -> float | None:
        """The median of the rounds' ratios; None without any."""
        ratios = self.ratios(name, to)
        return median(ratios) if ratios else None

    def memory_ratio(self, name: str, to: str | None = None) -> float | None:
        """Ratio of peak memory; None where one is unknown."""
        own, reference = self.arm(name).peak_bytes, self.arm(to or self.reference).peak_bytes
        return own / reference if own is not None and reference else None

    def difference(self, name: str, to: str | None = None) -> Difference | None:
        """Compare the losses of two arms; None where they have no unit in common."""
        own, reference = self.arm(name).units, self.arm(to or self.reference).units
        pairs: list[tuple[float, float]] = []
        for a, b in zip(own, reference):
            if len(a.losses) == len(b.losses):
                pairs += zip(a.losses, b.losses)
            else:
                pairs.append((math.inf, 0.0))  # Unlike counts differ as far as can be.
        if not pairs:
            return None
        # Numbers that are not finite differ as far as can be.
        gaps = [abs(a - b) if math.isfinite(a - b) else math.inf for a, b in pairs]
        relative = [gap / max(abs(b), 1e-12) for gap, (_, b) in zip(gaps, pairs)]
        return Difference(max(gaps), max(relative))

    @property
    def other_load(self) -> float:
        """The median share of the machine that other processes had while arms worked."""
        shares = [u.other_load for arm in self.arms for u in arm.units[arm.warmup :]]
        return median(shares) if shares else 0.0

    def largest_difference(self) -> Difference | None:
        """The largest difference of any arm from the reference; None without any."""
        differences = [self.difference(arm.name) for arm in self.arms if arm.name != self.reference]
        known = [difference for difference in differences if difference is not None]
        if not known:
            return None
        return Difference(max(d.absolute for d in known), max(d.relative for d in known))

    @property
    def same_work(self) -> bool | None:
        """Whether all losses agree; None where there is nothing to compare."""
        largest = self.largest_difference()
        return None if largest is None else largest.relative <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with every ratio against the reference."""
        rows = []
        for arm in self.arms:
            difference = self.difference(arm.name)
            rows.append(
                arm.to_dict()
                | {
                    "ratios": list(self.ratios(arm.name)),
                    "ratio": self.ratio(arm.name),
                    "memory_ratio": self.memory_ratio(arm.name),
                    "loss_difference": None if difference is None else difference.absolute,
                    "relative_loss_difference": (
                        None if difference is None else difference.relative
                    ),
                }
            )
        return {
            "title": self.title,
            "reference": self.reference,
            "same_work": self.same_work,
            "tolerance": self.tolerance,
            "unit": self.unit,
            "compared": self.compared,
            "others": self.other_load,
            "arms": rows,
        }


@dataclass(frozen=True)
class Target:
    """A bound that a measurement should meet."""

    what: str
    value: float | None
    """None where it could not be measured."""
    bound: float
    at_most: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the value is within the bound; None where it is not known."""
        if self.value is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        goal = {"at_most" if self.at_most else "at_least": self.bound}
        return {"what": self.what, "value": self.value, **goal, "met": self.met}


@dataclass(frozen=True)
class Details:
    """A further table: what the usual one has no column for. Its figures are in the arms' JSON."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Report:
    """All measurements of one bench command."""

    name: str
    comparisons: tuple[Comparison, ...]
    targets: tuple[Target, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: tuple[Details, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, enough to repeat it."""
        fields = {
            "bench": self.name,
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "targets": [target.to_dict() for target in self.targets],
            "notes": list(self.notes),
        }
        return {key: _finite(value) for key, value in fields.items()}


def _finite(value: Any) -> Any:
    """Replace `nan` and `inf` by text: JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
