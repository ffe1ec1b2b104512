"""The report's result: the page, its data and the student's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill_ray.runtime.artifacts import Artifact, Result

STUDENT_FOLDER = "student"


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

    @property
    def summary(self) -> dict[str, Any]:
        """The page as data: `verdict`, `verdicts`, `taught`, `ranking`, `scores` and so on."""
        return dict(self.artifact.read_json("report.json"))


def report_location(artifact: Artifact, name: str) -> str:
    """Full location of a file of the report."""
    return artifact.storage.sub(f"{artifact.path}/{name}").uri
