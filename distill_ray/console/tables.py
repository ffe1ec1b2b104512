"""What a person, or a machine, sees of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from distill_ray.console.output import size
from distill_ray.core.memory import MemoryEstimate
from distill_ray.stages.preflight.plan import Plan
from distill_ray.stages.results.shard_set import LENGTHS, ShardCounts, left_out_reasons
from distill_ray.stages.sharding.show import PADDING, RowShown, SampleShown, counts

if TYPE_CHECKING:
    from distill_ray.core.ranking import LeaderboardEntry
    from distill_ray.runtime.submission import Attempt
    from distill_ray.stages.results.ranking import Ranking


SUPERVISED = {
    "both": ("black on green", "[[", "]]", "supervised by the data and by the teacher"),
    "data": ("black on yellow", "((", "))", "supervised by the data alone"),
    "teacher": ("black on cyan", "{{", "}}", "supervised by the teacher alone"),
    "none": ("", "", "", "not supervised"),
}
"""Who supervises a prediction → its style, its brackets where there are no colours, in words."""
VISIBLE = {code: chr(0x2400 + code) for code in range(32)} | {ord("\n"): "⏎", 127: "\u2421"}
"""Control characters → a sign for each."""


def plan_table(plan: Plan) -> Table:
    """Work and memory of every stage; below the work, the tokens of each stream."""
    table = Table(title=f"Plan of {plan.name}: {plan.workers} workers", title_justify="left")
    table.add_column("stage")
    table.add_column("work")
    for name in ("tokens", "steps", "trials"):
        table.add_column(name, justify="right")
    table.add_column("memory of a worker", justify="right")
    for work in plan.work:
        numbers = [work.tokens, work.steps, work.trials]
        cells = ["" if n is None else f"{n:,}" for n in numbers]
        read = ", ".join(f"{count:,} {name}" for name, count in (work.streams or {}).items())
        if work.need is not None:
            memory = size(work.need.total)
        else:
            memory = "" if work.tokens is None else "size not known before loading"
        what = f"{work.what}\n{read}" if read else work.what
        table.add_row(work.stage, what, *cells, memory)
    return table


def memory_table(plan: Plan) -> Table:
    """Where the memory of each training worker goes."""
    uses = tuple(field.name for field in fields(MemoryEstimate))
    table = Table(title="Memory of one worker, in MiB", title_justify="left")
    table.add_column("stage")
    for use in (*uses, "total"):
        table.add_column(use, justify="right")
    for work in plan.work:
        if work.need is not None:
            label = f"{work.stage} {work.what.partition(',')[0].partition(' (')[0]}"
            sizes = [getattr(work.need, use) for use in (*uses, "total")]
            table.add_row(label, *(f"{count / 2**20:,.1f}" for count in sizes))
    return table


def available(plan: Plan) -> str:
    """What a worker has, and whether it is enough."""
    if plan.available_bytes is None:
        return "The memory of a worker isn't known: set cluster.memory_gib_per_worker."
    short = plan.short_of_memory
    text = f"A worker has {size(plan.available_bytes)}."
    if not short:
        return f"{text} That is enough."
    names = ", ".join(sorted({work.stage for work in short}))
    return (
        f"{text} That is too little for {names}: lower micro_batch_size, raise zero_stage, or use "
        "more workers."
    )


def disk(plan: Plan) -> str:
    """What is written into the storage, and whether there is room for it; empty if it is little."""
    lines = [
        f"{work.stage} may take {size(work.disk_bytes)} of disk."
        for work in plan.work
        if work.disk_bytes is not None
    ]
    if not lines or plan.free_disk_bytes is None:
        return " ".join(lines)
    lines.append(f"The storage has {size(plan.free_disk_bytes)} free.")
    if plan.short_of_disk:
        lines.append(
            "That may be too little: free space, set storage elsewhere, keep fewer entries "
            "(distill.serving.targets), or lower distill.token_budget."
        )
    return " ".join(lines)


def leaderboard(ranking: Ranking, places: Mapping[str, Sequence[LeaderboardEntry]]) -> Group:
    """Teachers in each phase of training, best first; below, who can't serve or failed.

    Args:
        ranking: what they are of.
        places: phase, or progress → its leaderboard.
    """
    table = Table(title="Teachers, by phase of training", title_justify="left")
    for name in ("phase", "teacher", "score", "interval", "best with probability", "decided by"):
        table.add_column(name, justify="left" if name in ("phase", "teacher") else "right")
    for place, rows in places.items():
        for i, row in enumerate(rows):
            mark = " *" if row.teacher in ranking.ineligible else ""
            table.add_row(
                place if i == 0 else "",
                f"{row.teacher}{mark}",
                f"{row.score:.3f}",
                f"{row.low:.3f} to {row.high:.3f}",
                f"{row.probability_best:.0%}",
                row.decided_by,
                end_section=i == len(rows) - 1,
            )
    below = [
        *(f"{phase}: {verdict}" for phase, verdict in ranking.verdicts.items()),
        *(f"* {name} can't serve: {'; '.join(why)}" for name, why in ranking.ineligible.items()),
        *(f"{teacher} is left out: {reason}" for teacher, reason in ranking.failed.items()),
    ]
    return Group(table, *(Text(line) for line in below))


def ranking(result: Ranking) -> dict[str, object]:
    """The leaderboard as plain values."""
    return result.record.model_dump(include={"leaderboard", "verdicts", "ineligible", "failed"})


def shard_table(counts: ShardCounts) -> Table:
    """What became of the rows of each stream, and the lengths of those that stay."""
    table = Table(title="Rows that were read", title_justify="left")
    table.add_column("stream")
    reasons = left_out_reasons(counts)
    names = [reason.replace("_", " ") for reason in reasons]
    for name in ("read", *names, "kept", "too long", "tokens", *LENGTHS):
        table.add_column(name, justify="right")
    table.add_column("largest labels")
    for name, stream in counts.streams.items():
        numbers = [
            stream.num_read,
            *(stream.left_out[r].rows if r in stream.left_out else 0 for r in reasons),
            stream.kept,
            stream.long.rows,
            stream.tokens,
            *(stream.lengths.get(place, 0) for place in LENGTHS),
        ]
        labels = ", ".join(f"{label} {rows:,}" for label, rows in stream.labels.items())
        table.add_row(name, *(f"{number:,}" for number in numbers), escape(labels))
    return table


def attempts(submitted: Sequence[Attempt]) -> Table:
    """Jobs: how far they are, or how they ended."""
    table = Table(title="Jobs", title_justify="left")
    for name in ("job", "up to", "status", "started", "took", "exit code"):
        table.add_column(name)
    for attempt in submitted:
        began, ended = attempt.started, attempt.ended
        took = ((ended or datetime.now(timezone.utc)) - began) if began else None
        table.add_row(
            attempt.id,
            attempt.stage,
            attempt.status,
            began.astimezone().strftime("%Y-%m-%d %H:%M:%S") if began else "",
            f"{took.total_seconds():.0f} s" if took else "",
            str(attempt.exit_code) if attempt.over else "",
        )
    return table


def print_rows(rows: Sequence[RowShown], out: Console) -> None:
    """Rows token by token, a line a sample, and what the colours or brackets mean."""
    coloured = out.is_terminal and not out.no_color
    for row in rows:
        out.print(Text(f"{row.stream}/{row.split}  {row.columns['row_id']}", "bold"))
        for number, sample in enumerate(row.samples, start=1):
            out.print(_sample_line(number, sample, coloured), soft_wrap=True)
        out.print()
    legend = Text("Each mark is on the token that is predicted: the mask before it, ")
    legend.append(
        "at i, speaks of token i + 1. A line is a sample; samples never see each other.\n"
    )
    for by, (*_, words) in SUPERVISED.items():
        _append(legend, " token ", by, coloured)
        legend.append(f" {words}   ")
    _append(legend.append("\n"), "?", "teacher", coloured)
    legend.append(" behind a prompt: the teacher alone says what comes next. ⏎: a new line.")
    out.print(legend, soft_wrap=True)
    out.print(_supervision_table(rows))


def _sample_line(number: int, sample: SampleShown, coloured: bool) -> Text:
    if sample.source is None:
        return Text(f"     padding: {len(sample.tokens)} tokens, never supervised", "dim")
    line = Text().append(f"{number:>4} ", "dim")
    for i, token in enumerate(sample.tokens):
        _append(line, token.text.translate(VISIBLE), token.by, coloured, bold=i % 2 == 1)
    if sample.after != "none":
        _append(line, "?", sample.after, coloured)
    return line


def _append(line: Text, text: str, by: str, coloured: bool, bold: bool = False) -> None:
    style, opening, closing, _ = SUPERVISED[by]
    if coloured:
        # Every second token is bold: where one ends is seen inside a coloured stretch too.
        line.append(text, f"bold {style}" if bold and style else style)
    else:
        line.append(f"{opening}{text}{closing}", "")


def _supervision_table(rows: Sequence[RowShown]) -> Table:
    table = Table(title="Predictions in these rows", title_justify="left")
    table.add_column("stream")
    for name in ("rows", "tokens", *SUPERVISED, "supervised", PADDING):
        table.add_column(name, justify="right")
    for stream, tally in counts(rows).items():
        taught = sum(tally[by] for by in SUPERVISED if by != "none")
        numbers = [tally["rows"], tally["tokens"], *(tally[by] for by in SUPERVISED)]
        share = f"{taught / max(1, tally['tokens']):.0%}"
        table.add_row(stream, *(f"{n:,}" for n in numbers), share, f"{tally[PADDING]:,}")
    return table
