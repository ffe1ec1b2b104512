"""Every result file is one record: it reads back as it was written, and refuses other fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stage_results import (
    Candidate,
    answers,
    audit_row,
    audited_metrics,
    curve,
    curve_point,
    probe_outcome,
    scores_record,
    shard_counts,
    spread,
    student_metrics,
)

from distill_ray.core.ranking import LeaderboardEntry
from distill_ray.core.schedule import ScheduleState, Switch
from distill_ray.core.weighting import FavourableSets
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.checksums import DamagedError
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.adaptation_gain import AdaptationGain, AdaptationGains
from distill_ray.stages.results.audit_table import AuditRecord
from distill_ray.stages.results.curve import (
    ServedCheckpoint,
    StreamRead,
    SwitchEntry,
    SwitchLog,
)
from distill_ray.stages.results.final_scores import (
    Comparison,
    FinalScores,
    GapQuestion,
    LargestGaps,
)
from distill_ray.stages.results.final_scores import (
    TestedModel as ScoredModel,
)
from distill_ray.stages.results.probe_table import EstimatesRecord, TeacherEstimates
from distill_ray.stages.results.question_metrics import TaskMetrics
from distill_ray.stages.results.ranking import RankingRecord, TaughtMetrics, TeacherEvidence
from distill_ray.stages.results.record import Record
from distill_ray.stages.results.report_page import (
    AdaptationCurve,
    LineageEntry,
    ReportData,
    ReportedComparison,
    ReportPaths,
    Taught,
    Turn,
)
from distill_ray.stages.results.shard_set import ShardCounts, VocabularyFits
from distill_ray.stages.results.trial import TrialOutcome

ROW = audit_row(Candidate({"organ": answers(8, 3, 0, right=0.5)}, text={"findings": 2.0}))
EVIDENCE = TeacherEvidence(
    accuracy=[spread(0.5)],
    ece=[spread(0.1)],
    ece_floor=[0.01],
    text={"findings": 2.0},
    domain_nll=[2.0],
    untrained_nll=[4.0],
    seeds=[0, 1],
    kl_moved=[1.0, 1.1],
    kl_removed=[0.5, 0.6],
    gain=[0.3, 0.2],
    taught=[TaughtMetrics(accuracy=0.5, nll=1.0, brier=0.4)],
)
GAIN = AdaptationGain(
    accuracy=spread(0.2), nll=spread(-0.5), text={"findings": (3.0, 2.0)}, adapted_is_better=True
)
ESTIMATES = TeacherEstimates(
    rsr=2.0, surprisal=1.0, gradient_norm=None, grace=3.0, samples=4, tokens=40
)
SCHEDULE = {
    "teacher": "a",
    "checkpoint_index": 1,
    "log": [
        {
            "step": 3, "from_teacher": "a", "from_checkpoint": 0, "to_teacher": "a",
            "to_checkpoint": 1, "reason": "period 2", "numbers": {"a": 0.5}, "changes": True,
        }
    ],
}  # fmt: skip
COMPARISON = {
    "against": "control",
    "set": "organ",
    "accuracy": spread(0.1),
    "nll": spread(-0.2),
    "accuracy_verdict": "better",
    "nll_verdict": "no difference shown",
    "favourable_sets": FavourableSets(0.5, 0.25, 0.2, 0.1, 0.1),
}
GAP = GapQuestion(row_id="r1", text="a text", answer="heart", student=0.5, teacher=1.5)
TESTED = ScoredModel(
    parameters=1000,
    text={"findings": 2.0},
    divergence={"task.kl": 0.5},
    tasks={
        "organ": TaskMetrics(**audited_metrics().model_dump(exclude={"scaled"})),
    },
)
SWITCH = SwitchEntry(
    step=3,
    before=ServedCheckpoint(teacher="a", checkpoint=1),
    after=ServedCheckpoint(teacher="a", checkpoint=2),
    changes=True,
    reason="period 2",
    numbers={"a": 0.5},
    stall_s=0.01,
)
RANKING = RankingRecord(
    factors={"a": {"learnability": 1.0}},
    weights={"early": {"learnability": 1.0}, "late": {"learnability": 1.0}},
    leaderboard={"early": [LeaderboardEntry("a", 0.5, 0.4, 0.6, 1.0, "no other teacher")]},
    verdicts={"early": "separated at 95 %"},
    evidence={"a": EVIDENCE},
    ineligible={"b": ["no size advantage"]},
    failed={"c": "audit: it has no weights"},
    temperatures={"a": 1.5},
)
OPEN = {"config", "counts", "memory"}
"""Fields whose content is checked where it is written: any JSON goes."""
RECORDS: dict[str, Record] = {
    "curve.json": curve(
        history=[{"step": 1, "loss": 2.5, "teacher": "a"}],
        initial_loss=3.0,
        switches=[Switch(3, "a", 0, "a", 1, "period 2", {"a": 0.5})],
        schedule=ScheduleState("a", 1, losses=(2.5, 2.0)),
        tokens_by_teacher={"a": 90.0},
        streams={"findings": StreamRead(rows=2, tokens=90)},
    ),
    "switches.json": SwitchLog(entries=[SWITCH]),
    "scores.json": FinalScores(
        rows={"student": TESTED},
        comparisons=[Comparison(**COMPARISON)],
        teacher="a",
        largest_gaps={"organ": LargestGaps(student=[GAP], teacher=[])},
    ),
    "report.json": ReportData(
        title="tiny",
        verdict="Mixed",
        verdicts=[ReportedComparison(**COMPARISON, sentence="On organ …", task=True)],
        taught=Taught(
            sentence="a taught",
            turns=[Turn(teacher="a", checkpoint_index=0, first=1, last=9, reason="led")],
        ),
        tokens={"a": 90.0},
        switches=[SWITCH],
        ranking=RANKING,
        audit={"a": ROW},
        probes=[],
        adaptation={
            "a": [AdaptationCurve(name="full", initial_loss=3.0, tokens=[9], losses=[2.0])]
        },
        scores={"student": TESTED},
        lineage=[
            LineageEntry(
                stage="shard",
                kind="shard",
                key="",
                fingerprint="f",
                path="shard/f",
                wall_s=1.0,
                created="2026-01-01",
                counts={"rows": 3},
                versions={"torch": "2"},
            )
        ],
        config={"name": "tiny"},
        versions={"torch": "2"},
        paths=ReportPaths(html="report.html", markdown="report.md", student="student"),
    ),
    "model_scores.json": scores_record(
        options={"organ": [[-1.5, -0.5]]},
        rows={"findings": {"nll": [2.5], "tokens": [3]}},
        end={"organ": None},
    ),
    "audit.json": AuditRecord(rows={"a": ROW}, failed={"b": "it has no weights"}),
    "outcome.json": TrialOutcome(
        **probe_outcome(
            1.0,
            tasks={"organ": {"nll": 1.0, "accuracy": 0.5}},
            before=student_metrics(validation={"task.kl": 4.0}),
            curve=[curve_point()],
            streams={"findings": {"rows": 2, "tokens": 90}},
            options={"organ": [[-1.5, -0.5]]},
            schedule=SCHEDULE,
        )
    ),
    "estimates.json": EstimatesRecord(teachers={"a": ESTIMATES, "silent": None}),
    "ranking.json": RANKING,
    "gain.json": AdaptationGains(teachers={"a": GAIN}),
    "fit.json": VocabularyFits(teachers={"a": 1.0}),
    "counts.json": ShardCounts(**shard_counts(rows={"findings/train": 9})),
}


def fields_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all values of a JSON file."""
    items: Any = []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    below = [(*path, key) for key, _ in items]
    return below + [each for key, item in items for each in fields_of(item, (*path, key))]


def parent_of(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def read(record: Record, name: str, value: Any, folder: Path) -> Record:
    artifact = Artifact(Storage(str(folder)), "result", "", {})
    with artifact.building() as building:
        building.write_json(name, value)
    return type(record).read(artifact, name)


@pytest.mark.parametrize("name", RECORDS)
def test_a_result_file_reads_back_as_it_was_written(tmp_path: Path, name: str) -> None:
    artifact = Artifact(Storage(str(tmp_path)), "result", "", {})
    with artifact.building() as building:
        RECORDS[name].write(building, name)
    assert type(RECORDS[name]).read(artifact, name) == RECORDS[name]


@pytest.mark.parametrize("name", RECORDS)
def test_each_field_of_a_result_file_is_required_by_its_name(tmp_path: Path, name: str) -> None:
    plain = json.loads(json.dumps(RECORDS[name].model_dump()))
    for field in plain:
        misspelt = {key if key != field else f"{key}x": value for key, value in plain.items()}
        with pytest.raises(DamagedError) as error:
            read(RECORDS[name], name, misspelt, tmp_path)
        assert f"/{name}: {field}: missing field" in str(error.value)
        assert f"/{name}: {field}x: unknown field. Did you mean {field!r}?" in str(error.value)


@pytest.mark.parametrize("name", RECORDS)
def test_no_value_of_a_result_file_may_have_another_type(tmp_path: Path, name: str) -> None:
    plain = json.loads(json.dumps(RECORDS[name].model_dump()))
    for path in fields_of(plain):
        if OPEN.intersection(path):
            continue
        changed = json.loads(json.dumps(plain))
        parent = parent_of(changed, path)
        parent[path[-1]] = {"another": {"type": [None]}}
        try:
            found = read(RECORDS[name], name, changed, tmp_path)
        except DamagedError as error:
            assert f"/{name}: {path[0]}" in str(error), path
        else:
            raise AssertionError(f"{path} was read as {found}")


def test_the_counts_of_a_manifest_are_checked_too(tmp_path: Path) -> None:
    counts = shard_counts()
    counts["tokeniser"] = counts.pop("tokenizer")
    artifact = Artifact(Storage(str(tmp_path)), "shard", "", {})
    artifact.commit(counts, 0.0)
    with pytest.raises(DamagedError, match=r"manifest\.json: counts: tokeniser: unknown field"):
        ShardCounts.of_counts(artifact)


def test_a_row_of_a_curve_has_a_step(tmp_path: Path) -> None:
    plain = json.loads(curve(history=[{"step": 1}]).model_dump_json())
    plain["history"].append({"stpe": 2})
    with pytest.raises(DamagedError, match=r"curve\.json: history: .*row 1 has no step"):
        read(curve(), "curve.json", plain, tmp_path)
