"""The report's tables, from the rows of the artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from distill_ray.config.run import RunConfig
from distill_ray.stages.reporting.text import (
    Table,
    big,
    difference,
    interval,
    number,
    percent,
    percent_interval,
    points,
    seconds,
    signed,
)
from distill_ray.stages.results.audit_table import AuditedModel
from distill_ray.stages.results.curve import ServedCheckpoint, StreamRead, SwitchEntry
from distill_ray.stages.results.final_scores import Comparison, LargestGaps, TestedModel
from distill_ray.stages.results.question_metrics import TaskMetrics
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.results.report_page import AdaptationCurve, LineageEntry, Turn
from distill_ray.stages.results.shard_set import LENGTHS, ShardCounts, left_out_reasons
from distill_ray.stages.results.trial import TrialResult


def leaderboard(ranking: Ranking) -> Table:
    """Places in each phase of training."""
    columns = ["Phase", "Teacher", "Score", "Interval", "P(best)", "Decided by"]
    rows = [
        [
            phase,
            entry.teacher,
            number(entry.score),
            f"{number(entry.low)} to {number(entry.high)}",
            percent(entry.probability_best, 0),
            entry.decided_by,
        ]
        for phase, entries in ranking.leaderboard.items()
        for entry in entries
    ]
    return Table("Ranking by phase of training", columns, rows)


def factors(ranking: Ranking) -> Table:
    """Factors of every teacher beside their weights."""
    table, weights = ranking.factors, ranking.weights
    columns = ["Factor", "Weight early", "Weight late", *table]
    rows = [
        [
            factor,
            percent(early, 0),
            percent(weights["late"][factor], 0),
            *(number(row[factor]) for row in table.values()),
        ]
        for factor, early in weights["early"].items()
    ]
    return Table("Factors", columns, rows)


def evidence(ranking: Ranking, tasks: Sequence[str], cfg: RunConfig) -> Table:
    """The measurements that the factors are made from."""

    def each(values: Iterable[str]) -> str:
        pairs = zip(tasks, values)
        return "; ".join(f"{t}: {v}" if len(tasks) > 1 else v for t, v in pairs)

    columns = ["Teacher", "KL moved, nats", "Task gain, nats", "Taught accuracy", "Taught NLL"]
    columns += ["Taught Brier", "Domain NLL"]
    rows = []
    for teacher, evidence_of in ranking.evidence.items():
        moved, nll = (
            zip(evidence_of.kl_moved, evidence_of.kl_removed),
            zip(evidence_of.domain_nll, evidence_of.untrained_nll),
        )
        rows.append(
            [
                teacher,
                " · ".join(f"{number(nats)} ({percent(share, 0)})" for nats, share in moved),
                " · ".join(number(value) for value in evidence_of.gain),
                each(percent(task.accuracy) for task in evidence_of.taught),
                each(number(task.nll) for task in evidence_of.taught),
                each(number(task.brier) for task in evidence_of.taught),
                "; ".join(f"{number(a)} (untrained student {number(b)})" for a, b in nll),
            ]
        )
    seeds = ", ".join(map(str, cfg.probe.seeds))
    note = (
        f"KL moved (share of the initial KL) and task gain of each probe, from seeds {seeds} on. "
        "Taught: figures of what the student is pulled to, the teacher's answers mixed with what "
        "the labels teach by themselves. Domain NLL in nats per token of text."
    )
    return Table("Evidence", columns, rows, note)


def figures(title: str, table: Mapping[str, Mapping[str, TaskMetrics]]) -> Table:
    """Every model on every question set.

    Args:
        title: of the table.
        table: model → question set → metrics.
    """
    columns = ["Set", "Model", "Accuracy", "NLL, nats", "ECE", "ECE floor", "Brier"]
    sets = list(dict.fromkeys(name for row in table.values() for name in row))
    rows, majorities = [], []
    for name in sets:
        shown = {model: row[name] for model, row in table.items() if name in row}
        one = next(iter(shown.values()))
        majorities.append(
            f"{name}: {one.questions} questions, the most frequent answer is right on "
            f"{percent(one.majority)}"
        )
        rows += [
            [
                name,
                model,
                percent_interval(row.accuracy),
                interval(row.nll),
                interval(row.ece),
                number(row.ece_floor),
                interval(row.brier),
            ]
            for model, row in shown.items()
        ]
    return Table(title, columns, rows, f"{'; '.join(majorities)}.")


def audited(table: Mapping[str, AuditedModel]) -> Table:
    """Size and fit of every model, and its NLL on every corpus."""
    corpora = _corpora(table)
    columns = ["Model", "Parameters", "× student", "Vocabulary fit"]
    rows = [
        [
            model,
            big(row.parameters),
            number(row.size_ratio, 2),
            percent(row.vocabulary_fit, 0),
            *(number(row.text.get(name)) for name in corpora),
        ]
        for model, row in table.items()
    ]
    columns += [f"NLL of {name}" for name in corpora]
    return Table("Audit: models", columns, rows, "NLL of text in nats per token.")


def tested(table: Mapping[str, TestedModel], teacher: str) -> Table:
    """Every model's NLL on every corpus, and the students' KL to the teacher."""
    corpora, terms = _corpora(table), {"task.kl": "KL on answers", "text.kl": "KL on text"}
    rows = [
        [
            model,
            big(row.parameters),
            *(number(row.text.get(name)) for name in corpora),
            *(number(row.divergence.get(term)) for term in terms),
        ]
        for model, row in table.items()
    ]
    columns = ["Model", "Parameters", *(f"NLL of {name}" for name in corpora), *terms.values()]
    note = f"Nats per token; KL from {teacher}, the teacher that taught last, or the most."
    return Table("Text, and distance to the teacher", columns, rows, note)


def _corpora(table: Mapping[str, AuditedModel] | Mapping[str, TestedModel]) -> list[str]:
    return list(dict.fromkeys(name for row in table.values() for name in row.text))


def comparisons(compared: Sequence[Comparison]) -> Table:
    """The student against everyone."""
    columns = ["Against", "Set", "Accuracy difference, points", "Accuracy"]
    columns += ["NLL difference, nats", "NLL"]
    rows = [
        [
            row.against,
            row.set,
            points(row.accuracy),
            row.accuracy_verdict,
            difference(row.nll),
            row.nll_verdict,
        ]
        for row in compared
    ]
    note = "The student minus the other, question by question; verdicts are the student's."
    return Table("The student against everyone", columns, rows, note)


def favourable_sets(compared: Sequence[Comparison]) -> Table:
    """Which questions the student does better, and which the other model."""
    columns = ["Against", "Set", "Student does better", "The other does better"]
    columns += ["Student's lead, nats", "The other's lead, nats", "Risk gap, nats"]
    rows = [
        [
            row.against,
            row.set,
            percent(row.favourable_sets.student_share),
            percent(row.favourable_sets.teacher_share),
            number(row.favourable_sets.gain),
            number(row.favourable_sets.loss),
            signed(row.favourable_sets.gap, 3),
        ]
        for row in compared
    ]
    note = (
        "By NLL of the right option; leads are means over all questions, and their difference is "
        "the risk gap: the student beats the other if its lead is the larger one."
    )
    return Table("Who knows which questions better", columns, rows, note)


def largest_gaps(by_task: Mapping[str, LargestGaps], teacher: str) -> Table:
    """Questions on which the student and its teacher are farthest apart."""
    rows = [
        [
            name,
            side,
            row.text,
            row.answer,
            number(row.student),
            number(row.teacher),
        ]
        for name, gaps in by_task.items()
        for side, questions in (("student", gaps.student), (teacher, gaps.teacher))
        for row in questions
    ]
    columns = ["Set", "Ahead", "Question", "Right answer", "Student's NLL", "Teacher's NLL"]
    return Table("Where they are farthest apart", columns, rows)


def probes(trials: Sequence[TrialResult]) -> Table:
    """The outcome of every probe."""
    columns = ["Teacher", "Seed", "Tokens", "KL removed", "Task gain, nats"]
    rows = [
        [
            trial.teacher,
            str(trial.seed),
            big(trial.curve[-1].tokens),
            percent(trial.kl_removed),
            number(trial.gain),
        ]
        for trial in sorted(trials, key=lambda t: (t.teacher, t.seed))
    ]
    return Table("Probes", columns, rows)


def turns(sequence: Sequence[Turn]) -> Table:
    """Who taught when."""
    rows = [
        [f"{r.first}–{r.last}", r.teacher, str(r.checkpoint_index + 1), r.reason] for r in sequence
    ]
    return Table("Who taught when", ["Steps", "Teacher", "Checkpoint", "Reason"], rows)


def switches(entries: Sequence[SwitchEntry]) -> Table:
    """Every switch and every assessment that changed nothing, with the numbers behind it."""
    rows = [
        [
            str(row.step + 1),
            _checkpoint(row.before),
            _checkpoint(row.after) if row.changes else "no change",
            row.reason,
            "; ".join(f"{name} {number(value)}" for name, value in row.numbers.items()),
            "–" if row.stall_s is None else f"{1000 * row.stall_s:.0f} ms",
        ]
        for row in entries
    ]
    columns = ["Step", "From", "To", "Reason", "Numbers", "Stall"]
    note = "A stall is what the first step with the new checkpoint waited for it."
    return Table("Switches and assessments", columns, rows, note)


def _checkpoint(row: ServedCheckpoint) -> str:
    return f"{row.teacher} {row.checkpoint}"


def tokens(tokens_by_teacher: Mapping[str, float], assignment: Mapping[str, str]) -> Table:
    """Whose tokens the student has learned from.

    Args:
        tokens_by_teacher: teacher → tokens.
        assignment: stream → teacher, where streams have their own.
    """
    total = sum(tokens_by_teacher.values())
    streams = {
        name: [s for s, teacher in assignment.items() if teacher == name]
        for name in tokens_by_teacher
    }
    rows = [
        [name, big(count), percent(count / total if total else None), ", ".join(streams[name])]
        for name, count in tokens_by_teacher.items()
    ]
    columns = ["Teacher", "Tokens", "Share", "Streams"]
    note = "Tokens that teachers supervise; of a mixture, each has its weight."
    if not assignment:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("Tokens by teacher", columns, rows, note)


def checkpoints(curves: Mapping[str, Sequence[AdaptationCurve]], best: Mapping[str, int]) -> Table:
    """Checkpoints of the teachers, the best one marked."""
    rows = []
    for teacher, recipes in curves.items():
        for recipe in recipes:
            last = recipe is recipes[-1]
            for i, (tokens, loss) in enumerate(zip(recipe.tokens, recipe.losses)):
                mark = "best" if last and i == best[teacher] else ""
                mark = mark or ("may teach" if last and i < best[teacher] else "not used")
                start = number(recipe.initial_loss)
                cells = [teacher, recipe.name, str(i + 1), big(tokens), start, number(loss)]
                rows.append([*cells, mark])
    columns = ["Teacher", "Recipe", "Checkpoint", "Tokens", "Loss before", "Loss", "Role"]
    note = "Validation loss of the tasks' gold answers (of text where there are none), nats."
    return Table("Adaptation of the teachers", columns, rows, note)


def times(wall_s: Mapping[str, float]) -> Table:
    """Time of each stage."""
    rows = [[stage, seconds(value)] for stage, value in wall_s.items()]
    note = "Times of a stage's artifacts added up; those made side by side took less in all."
    return Table("Time by stage", ["Stage", "Work"], rows, note)


def artifacts(entries: Sequence[LineageEntry]) -> Table:
    """Every artifact behind the report."""
    rows = [
        [
            e.kind,
            e.key or "–",
            e.fingerprint,
            seconds(e.wall_s),
            ", ".join(
                f"{name} {number(count) if isinstance(count, float) else count}"
                for name, count in e.counts.items()
            ),
            e.path,
        ]
        for e in entries
    ]
    columns = ["Kind", "Key", "Fingerprint", "Time", "Counts", "Path"]
    return Table("Artifacts", columns, rows)


def data(counts: ShardCounts) -> Table:
    """Rows and tokens of every stream and split."""
    tables = [counts.rows, counts.tokens, counts.packed]
    places = sorted({place for table in tables for place in table})
    rows = [
        [*place.rsplit("/", 1), *(big(t[place]) if place in t else "–" for t in tables)]
        for place in places
    ]
    columns = ["Stream", "Split", "Texts", "Tokens", "Packed rows"]
    note = (
        "Texts whose label was given up are counted as labelled, their tokens as prompts. "
        f"Vocabulary: {counts.tokenizer.vocab_size} tokens."
    )
    return Table("Data", columns, rows, note)


def input_rows(counts: ShardCounts) -> Table:
    """What became of the rows that each stream's files hold."""
    reasons = left_out_reasons(counts)
    rows = [
        [
            name,
            big(stream.num_read),
            *(big(stream.left_out[r].rows) if r in stream.left_out else "–" for r in reasons),
            big(stream.kept),
            big(stream.long.rows) if stream.long.rows else "–",
            *(big(stream.lengths[p]) if p in stream.lengths else "–" for p in LENGTHS),
            ", ".join(f"{label} {big(rows)}" for label, rows in stream.labels.items()) or "–",
        ]
        for name, stream in counts.streams.items()
    ]
    reason_columns = [reason.replace("_", " ").capitalize() for reason in reasons]
    lengths = ["Median tokens", "90 %", "99 %", "Longest"]
    columns = ["Stream", "Read", *reason_columns, "Kept", "Too long", *lengths, "Largest labels"]
    return Table("Rows that were read", columns, rows, " ".join(counts.notes))


def read(streams: Mapping[str, Mapping[str, StreamRead]]) -> Table:
    """What each student read of every stream; `streams` is student → stream → rows and tokens."""
    rows = []
    for student, read_by_stream in streams.items():
        total = sum(row.tokens for row in read_by_stream.values())
        for stream, row in read_by_stream.items():
            share = percent(row.tokens / total)
            rows.append([student, stream, big(row.rows), big(row.tokens), share])
    columns = ["Model", "Stream", "Rows", "Tokens", "Share of its tokens"]
    return Table("What was read", columns, rows, "Tokens without padding.")


def models(origins: Iterable[tuple[str, str]]) -> Table:
    """Where every model's weights come from."""
    return Table("Models", ["Model", "Weights"], [list(row) for row in origins])


def versions(entries: Sequence[LineageEntry]) -> Table:
    """Versions that the artifacts were made by."""
    by_package: dict[str, dict[str, None]] = {}
    for entry in entries:
        for package, version in entry.versions.items():
            by_package.setdefault(package, {})[version] = None
    rows = [[package, ", ".join(numbers)] for package, numbers in by_package.items()]
    return Table("Versions", ["Package", "Version"], rows)
