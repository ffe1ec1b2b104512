"""ScheduleResults → a page in Markdown with plots, and JSON: is a schedule worth it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from distill_ray.config.study import DEFAULT, PLAIN
from distill_ray.runtime.capacity import machine
from distill_ray.stages.reporting.text import (
    Table,
    big,
    difference,
    listed,
    number,
    percent,
    points,
    seconds,
)
from distill_ray.study.page import Page, PageSection
from distill_ray.study.schedule.arms import CONTROL
from distill_ray.study.schedule.compare import (
    BEST_STATIC,
    ORACLE,
    ScheduleDomain,
    ScheduleSummary,
)
from distill_ray.study.schedule.plots import draw, turns
from distill_ray.study.schedule.run import ScheduleResults

MATCHES = 0.40
"""Share of tasks on which the student should match or beat its teacher, from SCD's paper."""
PUBLISHED = {
    (CONTROL, PLAIN): "0.655 to 0.727",
    (PLAIN, "equal_periods"): "0.727 to 0.739",
    ("equal_periods", "scd"): "0.739 to 0.742",
    ("scd", "scd-aw"): "0.742 to 0.763",
}
"""Averages of arXiv 2601.10114."""
FINDINGS = {
    "better": "as published",
    "worse": "the opposite of what is published",
    "no difference shown": "no difference shown",
}
"""Verdict → what it means for the published order."""
ARMS_TEXT = (
    f"`{CONTROL}` is fine-tuned without a teacher, on the labels alone. `{PLAIN}` is plain "
    "distillation from the most accurate teacher's best checkpoint; the other arms that begin "
    "with the most accurate teacher use its checkpoints. Others begin with the ranking's first "
    f"teacher for that stage. `{DEFAULT}` is the config's `distill` section."
)


def write_page(results: ScheduleResults, folder: Path, command: str) -> Path:
    """Write `<study>.md`, `<study>.json` and a plot for each domain; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    name = results.cfg.name
    for domain, row in results.domains.items():
        draw(row, folder / f"{name}-{domain}.svg")
    grids = [_grid(results, "accuracy", "Accuracy"), _grid(results, "nll", "NLL, nats")]
    arms = [_overall(group, summary) for group, summary in results.overall.items()]
    columns = ["From", "To", "Difference, points", "Verdict", "better on", "worse on", "Published"]
    steps = []
    for group, summary in results.overall.items():
        rows = [
            [
                step.from_arm,
                step.to_arm,
                points(step.accuracy),
                step.accuracy.verdict,
                str(step.better),
                str(step.worse),
                PUBLISHED.get((step.from_arm, step.to_arm), "–"),
            ]
            for step in summary.steps
        ]
        steps.append(Table(f"{group[:1].upper()}{group[1:]}", columns, rows))
    sections = [
        PageSection("Over the domains", tables=[*grids, *arms]),
        PageSection("The published shape", tables=steps),
        PageSection("The arms", [ARMS_TEXT], [_settings(results)]),
        *(_domain(results, domain, row) for domain, row in results.domains.items()),
    ]
    page = Page("Is a schedule worth it?", [*_summary(results)], sections, command)
    data = {"overall": results.overall, "domains": results.domains}
    return page.write(folder, results.cfg, data)


def _summary(results: ScheduleResults) -> Iterator[str]:
    cfg, domains = results.cfg, results.domains.values()
    steps = listed(map(str, sorted({domain.arms[CONTROL].steps for domain in domains})))
    tokens = listed(map(big, sorted({domain.cost.tokens for domain in domains})))
    held_out = listed(cfg.held_out_domains)
    held_out = f", {held_out} held out from every choice" if held_out else ""
    yield (
        f"One student on {_count(len(domains), 'domain')}{held_out}, each arm with {tokens} tokens "
        f"({steps} steps), the same batches and {len(cfg.seeds)} seeds. A static choice is one "
        "checkpoint of one teacher from start to end. The best static choice has the highest "
        "accuracy on the validation split; everything below is measured on the test split. An "
        f"interval ({percent(cfg.confidence, 0)}) is paired: it resamples the questions, of which "
        "near copies stay together, with the seeds averaged. It leaves out the effect of the order "
        "of the rows, which shows in how many seeds agree."
    )
    for group in ("held out", "all"):
        if group in results.overall:
            yield from _findings(results, group)
    here = machine()
    gpus = _count(here.gpus, "GPU") if here.gpus else "no GPU"
    yield (
        f"The work took {seconds(sum(domain.cost.busy_s for domain in domains))}, "
        f"{seconds(sum(domain.cost.worker_s for domain in domains))} of workers' time in all, on a "
        f"machine of {_count(here.cpus, 'CPU core')}, {here.memory_bytes / 2**30:.0f} GiB memory "
        f"and {gpus}."
    )


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _findings(results: ScheduleResults, group: str) -> Iterator[str]:
    """The target, never worse than the best static choice and better on average, and the papers'
    order, step by step."""
    name, summary = results.cfg.default, results.overall[group]
    on = "On all domains"
    if group == "held out":
        on = f"On {listed(results.cfg.held_out_domains)}, held out from every choice"
    if name not in summary.arms:
        yield f"{on}: the arm {name} failed."
    else:
        against = summary.arms[name].against
        lead, last, value = against.best_static, against.last_teacher, against.best_static.accuracy
        is_safe, is_ahead = lead.worse == 0, value.value > 0
        shown = "" if value.excludes_zero() else ", which the interval doesn't show"
        yield (
            f"{on}: `{name}` is worse than the best static choice by more than noise on "
            f"{lead.worse} of {_count(summary.tasks, 'task')}, better on {lead.better}, and its "
            f"accuracy is {'higher' if is_ahead else 'lower'} on average, by {points(value)} "
            f"points{shown}. The target, never worse and better on average, is "
            f"{'met' if is_safe and is_ahead else 'missed'}. It matches or beats the teacher that "
            f"served last on {percent(last.matches, 0)} of the tasks, beats it on "
            f"{percent(last.beats, 0)}, and its mean is no lower on {percent(last.not_below, 0)} "
            f"(target {percent(MATCHES, 0)}: {'met' if last.matches >= MATCHES else 'missed'})."
        )
    parts = [
        f"`{step.to_arm}` over `{step.from_arm}` {points(step.accuracy)} points, "
        f"{FINDINGS[step.accuracy.verdict]}"
        for step in summary.steps
    ]
    opposed = [f"`{step.to_arm}`" for step in summary.steps if step.accuracy.verdict == "worse"]
    agreed = sum(step.accuracy.verdict == "better" for step in summary.steps)
    end = f", and at {listed(opposed)} the data disagree with the papers" if opposed else ""
    yield (
        f"{on}, the published order, control < plain KD < ordered checkpoints ≤ SCD < SCD with "
        f"adaptive weights: {'; '.join(parts)}. So {agreed} of "
        f"{_count(len(summary.steps), 'step')} stand as published{end}."
    )


def _by_accuracy(results: ScheduleResults) -> list[str]:
    """Arms that all domains have, the best first."""
    arms = results.overall["all"].arms
    return sorted(arms, key=lambda name: -arms[name].accuracy)


def _grid(results: ScheduleResults, metric: str, title: str) -> Table:
    cfg, domains = results.cfg, results.domains
    names = [f"{n} (held out)" if n in cfg.held_out_domains else n for n in domains]
    rows = []
    for arm in _by_accuracy(results):
        each = []
        for domain in domains.values():
            name = {BEST_STATIC: domain.best_static, ORACLE: domain.oracle}.get(arm, arm)
            result = domain.arms[name]
            each.append(fmean(result.accuracy if metric == "accuracy" else result.nll))
        rows.append([arm, *(number(value) for value in each), number(fmean(each))])
    note = f"Mean over {len(cfg.seeds)} seeds."
    if metric == "accuracy":
        best = [domain.teachers[domain.most_accurate].accuracy for domain in domains.values()]
        best_cells = [*(number(value) for value in best), number(fmean(best))]
        rows.append(["the most accurate teacher itself", *best_cells])
        note += (
            f" {BEST_STATIC}: chosen on the validation split; {ORACLE}: the best one on the test "
            "split, a choice that nobody can make and that luck flatters."
        )
    return Table(title, ["Arm", *names, "Mean"], rows, note)


def _overall(group: str, summary: ScheduleSummary) -> Table:
    columns = ["Arm", "Accuracy", "Minus best static, points", "better", "worse", "seeds ahead"]
    columns += ["Minus control, points", "NLL minus best static", "Matches its last teacher"]
    columns += ["beats it", "no lower", "Matches the most accurate", "Probes", "Time"]
    rows = []
    for name, arm in sorted(summary.arms.items(), key=lambda item: -item[1].accuracy):
        lead, last = arm.against.best_static, arm.against.last_teacher
        is_best, is_control = name == BEST_STATIC, name == CONTROL
        rows.append(
            [
                name,
                number(arm.accuracy),
                "–" if is_best else points(lead.accuracy),
                str(lead.better),
                str(lead.worse),
                "–" if is_best else f"{lead.ahead} of {lead.seeds}",
                "–" if is_control else points(arm.against.control.accuracy),
                "–" if is_best else difference(lead.nll),
                "–" if is_control else percent(last.matches, 0),
                "–" if is_control else percent(last.beats, 0),
                "–" if is_control else percent(last.not_below, 0),
                percent(arm.against.most_accurate_teacher.matches, 0),
                percent(arm.probe_share, 0),
                percent(arm.training_share, 0),
            ]
        )
    note = (
        "Better, worse: tasks on which the interval of the difference excludes 0. Seeds ahead: of "
        "all tasks, both arms having read the same batches. Matches: tasks on"
        " which the student is not worse than the teacher's best checkpoint by its interval; beats:"
        " better by it; no lower: by the plain mean. Probes: optimiser steps of assessments beside"
        f" the budget, undone afterwards, as a share of it. Time: of training, against `{PLAIN}`."
    )
    title = f"{group[:1].upper()}{group[1:]}: {_count(summary.tasks, 'task')}"
    return Table(title, columns, rows, note)


def _settings(results: ScheduleResults) -> Table:
    domains = results.domains
    arms = next(iter(domains.values())).arms
    rows = []
    for name in _by_accuracy(results):
        if name in arms and arms[name].settings:
            settings = {k: v for k, v in arms[name].settings.items() if k != "first_teacher"}
            first = [str(domain.arms[name].first_teacher) for domain in domains.values()]
            rows.append([name, ", ".join(first), _settings_text(settings)])
    columns = ["Arm", f"Begins with ({', '.join(domains)})", "Settings"]
    return Table("Settings", columns, rows)


def _settings_text(settings: Mapping[str, object]) -> str:
    parts = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            parts.append(f"{key}: {{{_settings_text(value)}}}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            parts.append(f"{key}: [{', '.join(map(str, value))}]")
        else:
            parts.append(f"{key}: {value}")
    return ", ".join(parts)


def _domain(results: ScheduleResults, name: str, domain: ScheduleDomain) -> PageSection:
    is_held_out = name in results.cfg.held_out_domains
    kind = "held out from every choice" if is_held_out else "choices were made on it"
    questions = listed(f"{count} questions of {task}" for task, count in domain.questions.items())
    each = (f"{n} {number(metrics.accuracy)}" for n, metrics in domain.teachers.items())
    text = [
        f"{name} ({kind}): {questions} on test. Its teachers' best checkpoints: {listed(each)}; "
        f"the most accurate on validation is {domain.most_accurate}. The best static choice there "
        f"is {domain.best_static}, on the test split it is {domain.oracle}. The work took "
        f"{seconds(domain.cost.busy_s)}."
    ]
    text += [f"{f.arm}, seed {f.seed}, failed: {f.reason}" for f in domain.failed]
    columns = ["Arm", "Accuracy", "by seed", "NLL", "Minus best static, points"]
    columns += ["Minus control, points", "Minus its last teacher, points", "On validation"]
    rows = []
    for arm_name, arm in sorted(domain.arms.items(), key=lambda item: -fmean(item[1].accuracy)):
        against, is_control = arm.against, arm_name == CONTROL
        rows.append(
            [
                arm_name,
                number(fmean(arm.accuracy)),
                " · ".join(number(value) for value in arm.accuracy),
                number(fmean(arm.nll)),
                "–" if arm_name == domain.best_static else points(against.best_static.accuracy),
                "–" if is_control else points(against.control.accuracy),
                "–" if is_control else points(against.last_teacher.accuracy),
                number(arm.validation.accuracy),
            ]
        )
    note = "A number is a checkpoint of a teacher."
    reached = Table("What each arm reached", columns, rows, note)
    rows = []
    for arm_name, arm in domain.arms.items():
        for seed, served in enumerate(arm.served):
            if served.log:
                parts = ", ".join(
                    f"{part.teacher} {part.checkpoint_index + 1} from {part.first}"
                    for part in turns(served, arm.steps)
                )
                rows.append([arm_name, str(seed + 1), parts])
    columns = ["Arm", "Seed", "Teacher and checkpoint, from step"]
    switches = Table("Who taught", columns, rows)
    caption = f"{name}: what each arm reached, and who taught when"
    return PageSection(name, text, [reached, switches], f"{results.cfg.name}-{name}.svg", caption)
