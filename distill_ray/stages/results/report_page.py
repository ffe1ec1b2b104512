"""The report's result: the page, its data and the student's folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from distill_ray.runtime.artifacts import Artifact, Result
from distill_ray.stages.results.audit_table import AuditedModel
from distill_ray.stages.results.curve import SwitchEntry
from distill_ray.stages.results.final_scores import Comparison, TestedModel
from distill_ray.stages.results.ranking import RankingRecord
from distill_ray.stages.results.record import Record

STUDENT_FOLDER = "student"
REPORT = "report.json"


class ReportedComparison(Comparison):
    """A comparison, and how the page words it."""

    sentence: str
    task: bool
    """Whether the set is a task itself, and not one of its shifted sets."""


class Turn(Record):
    """A run of steps with one teacher's checkpoint."""

    teacher: str
    checkpoint_index: int
    first: int
    """Step, counted from 1."""
    last: int
    reason: str
    """Why this checkpoint was put in use."""


class Taught(Record):
    """Who taught the student."""

    sentence: str
    turns: list[Turn]


class AdaptationCurve(Record):
    """A teacher's validation loss in the course of one recipe."""

    name: str
    """The recipe."""
    initial_loss: float | None
    tokens: list[int]
    """Tokens trained on at each measurement."""
    losses: list[float | None]


class LineageEntry(Record):
    """One artifact that the report rests on."""

    stage: str
    kind: str
    key: str
    fingerprint: str
    path: str
    """Folder below the run's storage."""
    wall_s: float
    created: str
    counts: dict[str, JsonValue]
    versions: dict[str, str]


class ReportPaths(Record):
    """Full locations of the report's files."""

    html: str
    markdown: str
    student: str


class ReportData(Record):
    """`report.json`: the page as data."""

    title: str
    verdict: str
    """The headline."""
    verdicts: list[ReportedComparison]
    taught: Taught
    tokens: dict[str, float]
    """Teacher → tokens that the student learned from it."""
    switches: list[SwitchEntry]
    ranking: RankingRecord
    """As `ranking.json`."""
    audit: dict[str, AuditedModel]
    probes: list[JsonValue]
    """The outcome of every probe."""
    adaptation: dict[str, list[AdaptationCurve]]
    """Teacher → its recipes."""
    scores: dict[str, TestedModel]
    lineage: list[LineageEntry]
    config: dict[str, JsonValue]
    versions: dict[str, str]
    paths: ReportPaths


@dataclass(frozen=True)
class Report(Result):
    """The page, its data, and the student."""

    @property
    def html(self) -> str:
        """Full location of the page."""
        return report_location(self.artifact, "report.html")

    @property
    def student(self) -> str:
        """Full location of the student's Hugging Face folder."""
        return report_location(self.artifact, STUDENT_FOLDER)

    @cached_property
    def data(self) -> ReportData:
        """The page as data."""
        return ReportData.read(self.artifact, REPORT)


def report_location(artifact: Artifact, name: str) -> str:
    """Full location of a file of the report."""
    return artifact.storage.sub(f"{artifact.path}/{name}").uri
