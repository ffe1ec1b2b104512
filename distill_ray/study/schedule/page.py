"""Outcome → a page in Markdown with its plots, and JSON: is a schedule worth it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from distill_ray.config.study import DEFAULT, PLAIN
from distill_ray.runtime.capacity import Machine, machine
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
from distill_ray.study.page import Page, Part
from distill_ray.study.schedule.arms import CONTROL
from distill_ray.study.schedule.compare import BEST_STATIC, ORACLE
from distill_ray.study.schedule.plots import draw, turns
from distill_ray.study.schedule.run import Outcome

MATCHES = 0.40
"""Share of tasks on which the student should match or beat its teacher: SCD's figure."""
PUBLISHED = {
    (CONTROL, PLAIN): "0.655 to 0.727",
    (PLAIN, "equal_periods"): "0.727 to 0.739",
    ("equal_periods", "scd"): "0.739 to 0.742",
    ("scd", "scd-aw"): "0.742 to 0.763",
}
"""Averages of arXiv 2601.10114."""
Row = Mapping[str, Any]


def write_page(found: Outcome, folder: Path, command: str) -> Path:
    """Write `<study>.md`, `<study>.json` and a plot for each domain; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain, row in found.domains.items():
        draw(row, folder / f"{found.cfg.name}-{domain}.svg")
    page = Page("Is a schedule worth it?", [*_summary(found)], [*_parts(found)], command)
    return page.write(folder, found.cfg, {"overall": found.overall, "domains": found.domains})


def _summary(found: Outcome) -> Iterator[str]:
    cfg, rows = found.cfg, found.domains
    steps, tokens = _budget(rows)
    unseen = (
        f", {listed(cfg.held_out_domains)} untouched by any choice" if cfg.held_out_domains else ""
    )
    yield (
        f"One student on {_count(len(rows), 'domain')}{unseen}, each arm with {tokens} tokens "
        f"({steps} steps), the same batches and {len(cfg.seeds)} seeds. A static choice is one "
        "checkpoint of one teacher from start to end; the best static one is that of the highest "
        "accuracy on the validation split, and everything below is measured on the test split. An "
        f"interval ({percent(cfg.confidence, 0)}) is paired: it resamples the questions, of which "
        "near copies stay together, with the seeds averaged. What the order of the rows does is not"
        " in it, and is seen by how many seeds agree."
    )
    for group in ("held out", "all"):
        if group in found.overall:
            yield _target(found, group)
            yield _shape(found, group)
    yield _effort(found)


def _budget(rows: Mapping[str, Row]) -> tuple[str, str]:
    steps = sorted({row["arms"][CONTROL]["steps"] for row in rows.values()})
    tokens = sorted({row["cost"]["tokens"] for row in rows.values()})
    return listed(map(str, steps)), listed(map(big, tokens))


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _on(found: Outcome, group: str) -> str:
    if group == "held out":
        return f"On {listed(found.cfg.held_out_domains)}, untouched by any choice"
    return "On all domains" if group == "all" else "On the domains that choices were made on"


def _target(found: Outcome, group: str) -> str:
    """Never worse than the best static choice by more than noise, and better on average."""
    name, whole = found.cfg.default, found.overall[group]
    if name not in whole["arms"]:
        return f"{_on(found, group)}: the arm {name} failed."
    row = whole["arms"][name]
    lead, last = row["against"][BEST_STATIC], row["against"]["last teacher"]
    tasks, value = _count(whole["tasks"], "task"), lead["accuracy"]
    safe, ahead = lead["worse"] == 0, value["value"] > 0
    shown = "" if value["low"] > 0 or value["high"] < 0 else ", which the interval doesn't show"
    said = "higher" if ahead else "lower"
    verdict = "is met" if safe and ahead else "is missed"
    matches = "met" if last["matches"] >= MATCHES else "missed"
    return (
        f"{_on(found, group)}: `{name}` is worse than the best static choice by more than noise on "
        f"{lead['worse']} of {tasks}, better on {lead['better']}, and its accuracy is {said} on "
        f"average, by {points(value)} points{shown}. The target, never worse and better on average,"
        f" {verdict}. It matches or beats the teacher that served last on "
        f"{percent(last['matches'], 0)} of the tasks, beats it on {percent(last['beats'], 0)}, and "
        f"its mean is no lower on {percent(last['not_below'], 0)} (target "
        f"{percent(MATCHES, 0)}: {matches})."
    )


SAID = {
    "better": "as published",
    "worse": "the opposite of what is published",
    "no difference shown": "no difference shown",
}


def _shape(found: Outcome, group: str) -> str:
    """The papers' order, step by step, as it was found."""
    steps = found.overall[group]["steps"]
    parts = [
        f"`{step['to']}` over `{step['from']}` {points(step['accuracy'])} points, "
        f"{SAID[step['accuracy']['verdict']]}"
        for step in steps
    ]
    against = [f"`{s['to']}`" for s in steps if s["accuracy"]["verdict"] == "worse"]
    agreed = sum(step["accuracy"]["verdict"] == "better" for step in steps)
    said = f"{agreed} of {_count(len(steps), 'step')} stand as published"
    end = f", and at {listed(against)} the data disagree with the papers" if against else ""
    return (
        f"{_on(found, group)}, the published order, control < plain KD < ordered checkpoints ≤ SCD "
        f"< SCD with adaptive weights: {'; '.join(parts)}. So {said}{end}."
    )


def _effort(found: Outcome) -> str:
    rows = found.domains.values()
    busy = sum(row["cost"]["busy_s"] for row in rows)
    work = sum(row["cost"]["worker_s"] for row in rows)
    return (
        f"Something was at work for {seconds(busy)}, {seconds(work)} of workers' time in all, on "
        f"a machine of {_machine(machine())}."
    )


def _machine(here: Machine) -> str:
    gpus = _count(here.gpus, "GPU") if here.gpus else "no GPU"
    return f"{_count(here.cpus, 'CPU core')}, {here.memory_bytes / 2**30:.0f} GiB memory and {gpus}"


def _parts(found: Outcome) -> Iterator[Part]:
    groups = [_overall(found, group) for group in found.overall]
    grids = [_grid(found, "accuracy", "Accuracy"), _grid(found, "nll", "NLL, nats")]
    yield Part("Over the domains", tables=[*grids, *groups])
    yield Part("The published shape", tables=[_steps(found, group) for group in found.overall])
    yield Part("The arms", [_arms_text()], [_settings(found)])
    for name, row in found.domains.items():
        yield _domain(found, name, row)


def _order(found: Outcome) -> list[str]:
    """Arms that all domains have, the best first."""
    arms = found.overall["all"]["arms"]
    return sorted(arms, key=lambda name: -arms[name]["accuracy"])


def _grid(found: Outcome, figure: str, title: str) -> Table:
    names = [f"{n} (untouched)" if n in found.cfg.held_out_domains else n for n in found.domains]
    rows = []
    for arm in _order(found):
        each = [fmean(_arm_of(row, arm)[figure]) for row in found.domains.values()]
        rows.append([arm, *(number(v) for v in each), number(fmean(each))])
    if figure == "accuracy":
        best = [row["teachers"][row["most_accurate"]]["accuracy"] for row in found.domains.values()]
        rows.append(["the strongest teacher itself", *(number(v) for v in best)])
        rows[-1].append(number(fmean(best)))
    note = f"Mean over {len(found.cfg.seeds)} seeds."
    if figure == "accuracy":
        note += (
            f" {BEST_STATIC}: chosen on the validation split; {ORACLE}: the best one on the test "
            "split, a choice that nobody can make and that luck flatters."
        )
    return Table(title, ["Arm", *names, "Mean"], rows, note)


def _arm_of(row: Row, arm: str) -> Row:
    name = {BEST_STATIC: row["best_static"], ORACLE: row["oracle"]}.get(arm, arm)
    return dict(row["arms"][name])


def _overall(found: Outcome, group: str) -> Table:
    columns = ["Arm", "Accuracy", "Minus best static, points", "better", "worse", "seeds ahead"]
    columns += ["Minus control, points", "NLL minus best static", "Matches its last teacher"]
    columns += ["beats it", "no lower", "Matches the strongest", "Probes", "Time"]
    whole = found.overall[group]
    rows = []
    for name, row in sorted(whole["arms"].items(), key=lambda item: -item[1]["accuracy"]):
        to_static, last = row["against"][BEST_STATIC], row["against"]["last teacher"]
        rows.append(
            [
                name,
                number(row["accuracy"]),
                "–" if name == BEST_STATIC else points(to_static["accuracy"]),
                str(to_static["better"]),
                str(to_static["worse"]),
                "–" if name == BEST_STATIC else f"{to_static['ahead']} of {to_static['seeds']}",
                "–" if name == CONTROL else points(row["against"][CONTROL]["accuracy"]),
                "–" if name == BEST_STATIC else difference(to_static["nll"]),
                "–" if name == CONTROL else percent(last["matches"], 0),
                "–" if name == CONTROL else percent(last["beats"], 0),
                "–" if name == CONTROL else percent(last["not_below"], 0),
                percent(row["against"]["most_accurate teacher"]["matches"], 0),
                percent(row.get("probe_share"), 0),
                percent(row.get("training_share"), 0),
            ]
        )
    note = (
        "Better, worse: tasks on which the interval of the difference excludes 0. Seeds ahead: of "
        "all tasks, both arms having read the same batches. Matches: tasks on"
        " which the student is not worse than the teacher's best checkpoint by its interval; beats:"
        " better by it; no lower: by the plain mean. Probes: optimiser steps of assessments beside"
        f" the budget, undone afterwards, as a share of it. Time: of training, against `{PLAIN}`."
    )
    title = f"{group[:1].upper()}{group[1:]}: {_count(whole['tasks'], 'task')}"
    return Table(title, columns, rows, note)


def _steps(found: Outcome, group: str) -> Table:
    columns = ["From", "To", "Difference, points", "Verdict", "better on", "worse on", "Published"]
    rows = [
        [
            step["from"],
            step["to"],
            points(step["accuracy"]),
            step["accuracy"]["verdict"],
            str(step["better"]),
            str(step["worse"]),
            PUBLISHED.get((step["from"], step["to"]), "–"),
        ]
        for step in found.overall[group]["steps"]
    ]
    return Table(f"{group[:1].upper()}{group[1:]}", columns, rows)


def _arms_text() -> str:
    return (
        f"`{CONTROL}` is fine-tuned without a teacher, on the labels alone. `{PLAIN}` is plain "
        "distillation from the most accurate teacher's best checkpoint; the other arms that begin "
        "with the strongest use its checkpoints. Others begin with the ranking's first teacher for "
        f"that stage. `{DEFAULT}` is what the config's `distill` section says."
    )


def _settings(found: Outcome) -> Table:
    row = next(iter(found.domains.values()))
    rows = []
    for name in _order(found):
        if name in row["arms"] and row["arms"][name]["settings"]:
            settings = {k: v for k, v in row["arms"][name]["settings"].items() if k != "begins"}
            first = [r["arms"][name]["first"] for r in found.domains.values()]
            rows.append([name, ", ".join(first), _plainly(settings)])
    columns = ["Arm", f"Begins with ({', '.join(found.domains)})", "Settings"]
    return Table("Settings", columns, rows)


def _plainly(settings: Mapping[str, Any]) -> str:
    parts = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            parts.append(f"{key}: {{{_plainly(value)}}}")
        else:
            said = f"[{', '.join(map(str, value))}]" if isinstance(value, Sequence | tuple) else ""
            parts.append(f"{key}: {value if isinstance(value, str) else said or value}")
    return ", ".join(parts)


def _domain(found: Outcome, name: str, row: Row) -> Part:
    kind = (
        "untouched by any choice"
        if name in found.cfg.held_out_domains
        else "choices were made on it"
    )
    cost, teachers = row["cost"], row["teachers"]
    questions = listed(f"{count} questions of {task}" for task, count in row["questions"].items())
    each = (f"{n} {number(figures['accuracy'])}" for n, figures in teachers.items())
    text = [
        f"{name} ({kind}): {questions} on test. Its teachers' best checkpoints: {listed(each)}; "
        f"the most accurate on validation is {row['most_accurate']}. The best static choice there "
        f"is {row['best_static']}, on the test split it is {row['oracle']}. Something was at work "
        f"for {seconds(cost['busy_s'])}."
    ]
    text += [f"{f['arm']}, seed {f['seed']}, failed: {f['reason']}" for f in row["failed"]]
    tables = [_reached(row), _switches(row)]
    caption = f"{name}: what each arm reached, and who taught when"
    return Part(name, text, tables, f"{found.cfg.name}-{name}.svg", caption)


def _reached(row: Row) -> Table:
    columns = ["Arm", "Accuracy", "by seed", "NLL", "Minus best static, points"]
    columns += ["Minus control, points", "Minus its last teacher, points", "On validation"]
    rows = []
    for name, arm in sorted(row["arms"].items(), key=lambda item: -fmean(item[1]["accuracy"])):
        against, control = arm["against"], name == CONTROL
        best = name == row["best_static"]
        rows.append(
            [
                name,
                number(fmean(arm["accuracy"])),
                " · ".join(number(value) for value in arm["accuracy"]),
                number(fmean(arm["nll"])),
                "–" if best else points(against[BEST_STATIC]["accuracy"]),
                "–" if control else points(against[CONTROL]["accuracy"]),
                "–" if control else points(against["last teacher"]["accuracy"]),
                number(arm["validation"]["accuracy"]),
            ]
        )
    return Table("What each arm reached", columns, rows, "A number is a checkpoint of a teacher.")


def _switches(row: Row) -> Table:
    rows = []
    for name, arm in row["arms"].items():
        for seed, served in enumerate(arm["served"]):
            if served["log"]:
                parts = turns(served, arm["steps"])
                way = ", ".join(
                    f"{p['teacher']} {p['checkpoint_index'] + 1} from {p['first']}" for p in parts
                )
                rows.append([name, str(seed + 1), way])
    return Table("Who taught", ["Arm", "Seed", "Teacher and checkpoint, from step"], rows)
