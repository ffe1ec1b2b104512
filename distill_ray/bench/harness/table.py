"""Show reports as tables: in a terminal, or in Markdown. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from distill_ray.bench.harness.flops import peak
from distill_ray.bench.harness.result import ArmResult, Comparison, Report, Target

TARGET_COLUMNS = ("target", "measured", "aim", "met")
NONE = "-"
DISTURBED = 0.1
"""Share of the machine that other processes may have before the report says so."""


def tables(report: Report) -> Iterator[Table]:
    """Make a table for each comparison, those of details, and one of targets if there are any."""
    for comparison in report.comparisons:
        yield _table(
            _title(comparison), columns(comparison), [row(comparison, a) for a in comparison.arms]
        )
    for details in report.details:
        yield _table(details.title, details.columns, details.rows)
    if report.targets:
        yield _table("Targets", TARGET_COLUMNS, [target_row(t) for t in report.targets])


def remarks(report: Report) -> list[str]:
    """List facts that the tables have no column for: failures, unlike work, notes."""
    lines = []
    for comparison in report.comparisons:
        for arm in comparison.arms:
            if arm.error is not None:
                lines.append(f"{comparison.title}: {arm.name} failed: {arm.error}")
            elif arm.note:
                lines.append(f"{arm.name}: {arm.note}")
            if used := utilisation(arm):
                lines.append(f"{arm.name}: {used}")
        if comparison.same_work is False:
            lines.append(
                f"{comparison.title}: the {comparison.compared} differs by more than "
                f"{comparison.tolerance:g}, so this is not the same work"
            )
        if comparison.other_load > DISTURBED:
            lines.append(
                f"{comparison.title}: other processes had {comparison.other_load:.0%} of the "
                "machine meanwhile, so read the times with care"
            )
    return list(dict.fromkeys([*lines, *report.notes]))


def markdown(report: Report) -> str:
    """Write the tables and remarks in Markdown, with where the figures come from."""
    parts = []
    for comparison in report.comparisons:
        rows = [row(comparison, arm) for arm in comparison.arms]
        parts += [f"**{_title(comparison)}**", _markdown(columns(comparison), rows)]
    for details in report.details:
        parts += [f"**{details.title}**", _markdown(details.columns, details.rows)]
    if report.targets:
        parts.append(_markdown(TARGET_COLUMNS, [target_row(t) for t in report.targets]))
    parts += [f"- {line}" for line in remarks(report)]
    parts.append(source(report))
    return "\n\n".join(parts) + "\n"


def source(report: Report) -> str:
    """Name command, machine and versions in a sentence."""
    machine, versions = report.environment["machine"], report.environment["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"`{report.environment['command']}` on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB; {packages}."
    )


def columns(comparison: Comparison) -> list[str]:
    """Make the heads of an arm's cells."""
    apart, spread = f"{comparison.compared} apart", "from - to"
    return ["arm", comparison.unit, spread, "x time", spread, "memory", "x memory", apart]


def row(comparison: Comparison, arm: ArmResult) -> list[str]:
    """Make the cells of an arm."""
    difference = comparison.difference(arm.name)
    return [
        arm.name,
        _seconds(arm.cost),
        _range([_seconds(cost) for cost in _ends(arm.costs)]),
        _ratio(comparison.ratio(arm.name)),
        _range([_ratio(ratio) for ratio in _ends(comparison.ratios(arm.name))]),
        size(arm.peak_bytes),
        _ratio(comparison.memory_ratio(arm.name)),
        NONE if difference is None else f"{difference.absolute:.1g}",
    ]


def target_row(target: Target) -> list[str]:
    """Make the cells of a target."""
    sign = "<=" if target.at_most else ">="
    met = {None: "not measured", True: "yes", False: "no"}[target.met]
    return [target.what, _ratio(target.value), f"{sign} {target.bound:g}", met]


def utilisation(arm: ArmResult) -> str:
    """Compare the model's FLOP/s with the device's peak, where both are known."""
    flops, peak_flops = arm.facts.get("step_flops"), peak(arm.device)
    if flops is None or peak_flops is None or arm.cost is None:
        return ""
    rate = flops / arm.cost
    return (
        f"{flops / 1e12:.1f} TFLOP a step, {rate / 1e12:.0f} TFLOP/s: model FLOP utilisation "
        f"{rate / peak_flops:.1%} of {peak_flops / 1e12:.0f} TFLOP/s in bfloat16"
    )


def size(count: int | None) -> str:
    """Format a number of bytes for people."""
    if count is None:
        return NONE
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _title(comparison: Comparison) -> str:
    reference = comparison.arm(comparison.reference)
    ranks = {arm.ranks * arm.threads for arm in comparison.arms}
    threads = f", {ranks.pop()} threads" if len(ranks) == 1 and reference.device == "cpu" else ""
    pairs = max(len(arm.costs) for arm in comparison.arms)
    return f"{comparison.title} on {reference.device or 'nothing'}{threads}, {pairs} pairs"


def _ends(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)] if values else []


def _range(cells: Sequence[str]) -> str:
    return " - ".join(cells) if cells else NONE


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for cells in rows:
        table.add_row(*cells)
    return table


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))
