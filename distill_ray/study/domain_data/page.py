"""Outcome → a page in Markdown with its plots, and JSON: which text, and whose answers to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from distill_ray.stages.reporting.text import (
    Table,
    big,
    difference,
    listed,
    number,
    percent,
    points,
    seconds,
    shares_read,
    signed,
)
from distill_ray.study.domain_data.compare import UNREAD
from distill_ray.study.domain_data.plots import draw
from distill_ray.study.domain_data.run import Outcome
from distill_ray.study.page import Page, Part

Row = Mapping[str, Any]
SOURCE = "EMNLP 2022 industry track, paper 12; AlexaTM, arXiv 2206.07808"
UNEQUAL = 0.02
"""Difference in tokens between arms from which on the page warns, as a share."""


def write_page(found: Outcome, folder: Path, command: str) -> Path:
    """Write `<study>.md`, `<study>.json` and a plot for each domain; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain, row in found.domains.items():
        draw(found.cfg, row, folder / f"{found.cfg.name}-{domain}.svg")
    title = "Which text should a student be distilled on, and from which teacher?"
    page = Page(title, [*_summary(found)], [*_parts(found)], command)
    return page.write(folder, found.cfg, {"overall": found.overall, "domains": found.domains})


def _summary(found: Outcome) -> Iterator[str]:
    cfg, count = found.cfg, len(found.domains)
    unseen = (
        f", {', '.join(cfg.held_out_domains)} untouched by any choice"
        if cfg.held_out_domains
        else ""
    )
    mixes = listed(f"{name} ({_mix(mix)})" for name, mix in cfg.mixes.items())
    yield (
        f"The same student distils on text alone, without a label, on {count} "
        f"domain{'s' * (count > 1)}{unseen}, with {len(cfg.seeds)} seeds. What it reads: {mixes}, "
        f"by tokens, and as many tokens in each arm. Its teacher: {cfg.raw}, which has read "
        f"nothing of the domain, or {cfg.adapted}, the same one after it has. Then every student "
        f"gets the same fine-tune on the labelled rows, and answers the test questions."
    )
    arms = " < ".join(cfg.mixes)
    yield f"Published shape: {arms}; {cfg.adapted} > {cfg.raw} ({SOURCE})."
    for group in ("held out", "all"):
        if group in found.overall:
            yield _verdicts(group, found.overall[group])
    yield _disagreement(found)


def _mix(mix: Mapping[str, float]) -> str:
    shares = ":".join(f"{share:g}" for share in mix.values())
    return f"{shares} {':'.join(mix)}" if len(mix) > 1 else next(iter(mix))


def _claims(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["claim"]]


def _verdicts(group: str, rows: Sequence[Row]) -> str:
    """What is said of the claims over a group of domains."""
    title = "On what is untouched" if group == "held out" else "On all domains"
    said = (
        f"{row['name']} {points(row['accuracy'])} points of accuracy, {row['said']}"
        for row in _claims(rows)
    )
    return f"{title}: {'; '.join(said)}."


def _disagreement(found: Outcome) -> str:
    """Where the data don't say what the papers do."""
    whole = _claims(found.overall["all"])
    if not whole:
        return "No claim could be compared on all domains: see who failed."
    against = [row["name"] for row in whole if row["said"] == "contradicted"]
    silent = [row["name"] for row in whole if row["said"] == "not shown"]
    apart = [
        f"{row['name']} on {domain}"
        for domain, told in found.domains.items()
        for row in _claims(told["contrasts"])
        if row["said"] == "contradicted"
    ]
    parts = []
    if against:
        parts.append(f"the data contradict the papers in {listed(against)}")
    if silent:
        parts.append(f"they show no difference in {listed(silent)}")
    if apart:
        parts.append(f"single domains contradict them: {listed(apart)}")
    if not parts:
        return "The data agree with the papers in every claim, and no domain contradicts one."
    text = "; ".join(parts)
    return f"Where the data disagree with the papers: {text}."


def _parts(found: Outcome) -> Iterator[Part]:
    tables = [_by_domain(found)]
    tables += [_contrasts(f"{g[:1].upper()}{g[1:]}", rows) for g, rows in found.overall.items()]
    whole = sum(row["cost"]["busy_s"] for row in found.domains.values())
    text = [f"Everything took {seconds(whole)}, one domain after the other."]
    yield Part("Over the domains", text, tables)
    for name, row in found.domains.items():
        yield _domain(found, name, row)


def _by_domain(found: Outcome) -> Table:
    """Claim by claim: points of accuracy on each domain."""
    names = [row["name"] for row in _claims(found.overall["all"])]
    rows = []
    for domain, told in found.domains.items():
        by_name = {row["name"]: row for row in told["contrasts"]}
        title = f"{domain} (untouched)" if domain in found.cfg.held_out_domains else domain
        cells = [f"{points(by_name[n]['accuracy'])} {by_name[n]['said']}" for n in names]
        rows.append([title, *cells])
    note = "Points of accuracy on the test split, with intervals. Shown: the interval is above 0."
    return Table("Claims, domain by domain", ["Domain", *names], rows, note)


def _contrasts(title: str, rows: Sequence[Row]) -> Table:
    columns = ["Difference", "Accuracy, points", "by seed", "NLL, nats", "Papers"]
    counted = all("means" in row for row in rows)
    columns += ["Above 0 on"] if counted else []
    cells = []
    for row in rows:
        by_seed = " · ".join(signed(100 * value, 1) for value in row["accuracy"]["seeds"])
        cells.append(
            [row["name"], points(row["accuracy"]), by_seed, difference(row["nll"], 3)]
            + [row["said"] if row["claim"] else ""]
            + ([f"{row['means']} of {row['tasks']}"] if counted else [])
        )
    note = (
        "Questions are resampled in their groups, with the mean over seeds; less NLL is better. "
        "The claims come first, over both teachers or all arms."
    )
    return Table(title, columns, cells, note)


def _domain(found: Outcome, name: str, row: Row) -> Part:
    cfg = found.cfg
    kind = "untouched by any choice" if name in cfg.held_out_domains else "choices were made on it"
    asked = listed(f"{count} questions of {task}" for task, count in row["questions"].items())
    text = [
        f"{name} ({kind}): {asked}. It took {seconds(row['cost']['busy_s'])}, "
        f"{seconds(row['cost']['worker_s'])} of workers."
    ]
    text += [_unequal(row)] if _spread(row) > UNEQUAL else []
    text += [f"{f['student']}, seed {f['seed']}, failed: {f['reason']}." for f in row["failed"]]
    tables = [_students(row), _contrasts("Differences", row["contrasts"])]
    caption = f"{name}: accuracy of the fine-tuned students"
    return Part(name, text, tables, f"{cfg.name}-{name}.svg", caption)


def _totals(row: Row) -> list[int]:
    """Tokens that each student that reads has read."""
    read = (student["read"] for student in row["students"].values() if student["read"])
    return [sum(stream["tokens"] for stream in streams.values()) for streams in read]


def _spread(row: Row) -> float:
    totals = _totals(row)
    return max(totals) / min(totals) - 1


def _unequal(row: Row) -> str:
    return (
        f"Arms read equally many tokens with padding, but of their own up to "
        f"{percent(_spread(row))} more than others: their texts fill rows unequally."
    )


def _students(row: Row) -> Table:
    columns = ["Student", "Teacher", "Read", "Tokens", "Accuracy", "by seed", "NLL", "Before"]
    rows = []
    for name, student in sorted(row["students"].items(), key=lambda i: -fmean(i[1]["accuracy"])):
        read = student["read"]
        rows.append(
            [
                UNREAD if student["arm"] is None else name,
                student["teacher"] or "none",
                shares_read(read) if read else "nothing",
                big(sum(stream["tokens"] for stream in read.values())),
                number(fmean(student["accuracy"]), 4),
                " · ".join(number(value) for value in student["accuracy"]),
                number(fmean(student["nll"])),
                number(fmean(student["before"])),
            ]
        )
    note = (
        "Tokens: read before the fine-tune, padding left out. Before: accuracy on the validation "
        "split before the fine-tune, in which all students read the same rows in the same order."
    )
    return Table("Students", columns, rows, note)
