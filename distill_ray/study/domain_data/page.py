"""DomainDataResults → a page in Markdown with plots, and JSON: which text, which teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

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
from distill_ray.stages.results.curve import StreamRead
from distill_ray.study.domain_data.compare import (
    FINE_TUNED_ONLY,
    ContrastResult,
    DomainRow,
    OverallContrast,
)
from distill_ray.study.domain_data.plots import draw
from distill_ray.study.domain_data.run import DomainDataResults
from distill_ray.study.page import Page, PageSection

SOURCE = "EMNLP 2022 industry track, paper 12; AlexaTM, arXiv 2206.07808"
UNEQUAL = 0.02
"""Share by which the arms' tokens must differ for the page to warn."""


def write_page(results: DomainDataResults, folder: Path, command: str) -> Path:
    """Write `<study>.md`, `<study>.json` and a plot for each domain; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = results.cfg
    for name, domain in results.domains.items():
        draw(cfg, domain, folder / f"{cfg.name}-{name}.svg")
    claims = [row.name for row in _claims(results.overall["all"])]
    rows = []
    for name, domain in results.domains.items():
        by_name = {row.name: row for row in domain.contrasts}
        title = f"{name} (held out)" if name in cfg.held_out_domains else name
        cells = [f"{points(by_name[n].accuracy)} {by_name[n].finding}" for n in claims]
        rows.append([title, *cells])
    note = "Points of accuracy on the test split, with intervals. Shown: the interval is above 0."
    tables = [Table("Claims, domain by domain", ["Domain", *claims], rows, note)]
    tables += [_contrasts(f"{g[:1].upper()}{g[1:]}", each) for g, each in results.overall.items()]
    total = sum(domain.cost.busy_s for domain in results.domains.values())
    text = [f"Everything took {seconds(total)}, one domain after the other."]
    sections = [PageSection("Over the domains", text, tables)]
    sections += [_domain(results, name, domain) for name, domain in results.domains.items()]
    title = "Which text should a student be distilled on, and from which teacher?"
    page = Page(title, [*_summary(results)], sections, command)
    return page.write(folder, cfg, {"overall": results.overall, "domains": results.domains})


def _summary(results: DomainDataResults) -> Iterator[str]:
    cfg, count = results.cfg, len(results.domains)
    held_out = ", ".join(cfg.held_out_domains)
    held_out = f", {held_out} held out from every choice" if held_out else ""
    mixes = []
    for name, mix in cfg.mixes.items():
        shares = ":".join(f"{share:g}" for share in mix.values())
        mixes.append(f"{name} ({f'{shares} ' if len(mix) > 1 else ''}{':'.join(mix)})")
    yield (
        f"The same student distils on text alone, without a label, on {count} "
        f"domain{'s' * (count > 1)}{held_out}, with {len(cfg.seeds)} seeds. What it reads: "
        f"{listed(mixes)}, by tokens, and as many tokens in each arm. Its teacher: {cfg.raw}, "
        f"which has read nothing of the domain, or {cfg.adapted}, the same one after it has. Then "
        f"every student gets the same fine-tune on the labelled rows, and answers the test "
        f"questions."
    )
    yield f"Published shape: {' < '.join(cfg.mixes)}; {cfg.adapted} > {cfg.raw} ({SOURCE})."
    for group in ("held out", "all"):
        if group in results.overall:
            title = "On held-out domains" if group == "held out" else "On all domains"
            findings = (
                f"{row.name} {points(row.accuracy)} points of accuracy, {row.finding}"
                for row in _claims(results.overall[group])
            )
            yield f"{title}: {'; '.join(findings)}."
    # Where the data disagree with the papers.
    claims = _claims(results.overall["all"])
    if not claims:
        yield "No claim could be compared on all domains: see what failed."
        return
    contradicted = [row.name for row in claims if row.finding == "contradicted"]
    not_shown = [row.name for row in claims if row.finding == "not shown"]
    in_domains = [
        f"{row.name} on {name}"
        for name, domain in results.domains.items()
        for row in _claims(domain.contrasts)
        if row.finding == "contradicted"
    ]
    parts = []
    if contradicted:
        parts.append(f"the data contradict the papers in {listed(contradicted)}")
    if not_shown:
        parts.append(f"they show no difference in {listed(not_shown)}")
    if in_domains:
        parts.append(f"single domains contradict them: {listed(in_domains)}")
    if parts:
        yield f"Where the data disagree with the papers: {'; '.join(parts)}."
    else:
        yield "The data agree with the papers in every claim, and no domain contradicts one."


def _claims(rows: Sequence[ContrastResult]) -> list[ContrastResult]:
    return [row for row in rows if row.claim]


def _contrasts(title: str, rows: Sequence[ContrastResult]) -> Table:
    columns = ["Difference", "Accuracy, points", "by seed", "NLL, nats", "Papers"]
    counts = [f"{r.means} of {r.tasks}" for r in rows if isinstance(r, OverallContrast)]
    columns += ["Above 0 on"] if len(counts) == len(rows) else []
    cells = []
    for i, row in enumerate(rows):
        by_seed = " · ".join(signed(100 * value, 1) for value in row.accuracy.seeds)
        cells.append(
            [
                *(row.name, points(row.accuracy), by_seed, difference(row.nll, 3)),
                *(row.finding or "", *counts[i : i + 1]),
            ]
        )
    note = (
        "Questions are resampled in their groups, with the mean over seeds; less NLL is better. "
        "The claims come first, over both teachers or all arms."
    )
    return Table(title, columns, cells, note)


def _domain(results: DomainDataResults, name: str, domain: DomainRow) -> PageSection:
    cfg = results.cfg
    kind = (
        "held out from every choice" if name in cfg.held_out_domains else "choices were made on it"
    )
    questions = listed(f"{count} questions of {task}" for task, count in domain.questions.items())
    text = [
        f"{name} ({kind}): {questions}. It took {seconds(domain.cost.busy_s)}, "
        f"{seconds(domain.cost.worker_s)} of workers."
    ]
    totals = [
        sum(stream["tokens"] for stream in student.read.values())
        for student in domain.students.values()
        if student.read
    ]
    spread = max(totals) / min(totals) - 1
    if spread > UNEQUAL:
        text.append(
            f"Arms read equally many tokens with padding, but of their own up to {percent(spread)} "
            "more than others: their texts fill rows unequally."
        )
    text += [f"{f.student}, seed {f.seed}, failed: {f.reason}." for f in domain.failed]
    columns = ["Student", "Teacher", "Read", "Tokens", "Accuracy", "by seed", "NLL", "Before"]
    rows = []
    for arm, student in sorted(domain.students.items(), key=lambda i: -fmean(i[1].accuracy)):
        streams = {stream: StreamRead(**read) for stream, read in student.read.items()}
        rows.append(
            [
                FINE_TUNED_ONLY if student.text is None else arm,
                student.teacher or "none",
                shares_read(streams) if streams else "nothing",
                big(sum(read.tokens for read in streams.values())),
                number(fmean(student.accuracy), 4),
                " · ".join(number(value) for value in student.accuracy),
                number(fmean(student.nll)),
                number(fmean(student.before)),
            ]
        )
    note = (
        "Tokens: read before the fine-tune, without padding. Before: accuracy on the validation "
        "split before the fine-tune, in which all students read the same rows in the same order."
    )
    students = Table("Students", columns, rows, note)
    tables = [students, _contrasts("Differences", domain.contrasts)]
    caption = f"{name}: accuracy of the fine-tuned students"
    return PageSection(name, text, tables, f"{cfg.name}-{name}.svg", caption)
