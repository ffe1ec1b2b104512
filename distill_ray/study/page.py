"""A page in Markdown with JSON beside it: the building blocks of every study's page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path

from pydantic import BaseModel

from distill_ray.config.study import StudyConfig
from distill_ray.runtime.manifest import versions
from distill_ray.stages.reporting.render import render
from distill_ray.stages.reporting.text import Table


@dataclass(frozen=True)
class PageSection:
    """A section of the page."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figure: str | None = None
    """File of a plot beside the page."""
    caption: str = ""


@dataclass(frozen=True)
class Page:
    """A study's page."""

    title: str
    summary: Sequence[str]
    """Paragraphs."""
    sections: Sequence[PageSection]
    command: str
    """The command that wrote the page."""

    def write(self, folder: Path, cfg: StudyConfig, data: Mapping[str, object]) -> Path:
        """Write `<study>.md` and `<study>.json` into a folder; returns the page's path.

        Args:
            folder: an existing folder.
            cfg: the study's config.
            data: the numbers; dataclasses become JSON objects.
        """
        contents = {"study": cfg.model_dump(mode="json"), **data, "versions": versions()}
        (folder / f"{cfg.name}.json").write_text(
            json.dumps(contents, indent=1, default=_plain) + "\n", encoding="utf-8"
        )
        page = folder / f"{cfg.name}.md"
        context = {
            "title": self.title,
            "name": cfg.name,
            "command": self.command,
            "summary": self.summary,
            "sections": self.sections,
        }
        page.write_text(render("study/page.md.j2", context), encoding="utf-8")
        return page


def plain(results: object) -> object:
    """Results as they stand in the JSON file: dataclasses become mappings."""
    return json.loads(json.dumps(results, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no place in a study's JSON")
