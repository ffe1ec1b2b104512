"""A page in Markdown with JSON beside it: what the pages of all studies are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill_ray.config.study import StudyConfig
from distill_ray.runtime.artifacts import versions
from distill_ray.stages.reporting.render import render
from distill_ray.stages.reporting.text import Table


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figure: str | None = None
    """File of a plot beside the page."""
    caption: str = ""


@dataclass(frozen=True)
class Page:
    """What a study says."""

    title: str
    summary: Sequence[str]
    """Paragraphs."""
    sections: Sequence[Part]
    command: str
    """That made it."""

    def write(self, folder: Path, cfg: StudyConfig, data: Mapping[str, Any]) -> Path:
        """Write `<study>.md` and `<study>.json` into a folder; returns the page's path.

        Args:
            folder: there already.
            cfg: the study's.
            data: the numbers.
        """
        whole = {"study": cfg.model_dump(mode="json"), **data, "versions": versions()}
        text = json.dumps(whole, indent=1) + "\n"
        (folder / f"{cfg.name}.json").write_text(text, encoding="utf-8")
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
