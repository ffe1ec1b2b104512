"""`distill-ray schema`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from distill_ray.config import RunConfig
from distill_ray.config.study import STUDIES


def schema(
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="KIND", help=f"That of a study: {', '.join(STUDIES)}."),
    ] = None,
) -> None:
    """Print the JSON Schema of a config, for editors."""
    if study is not None and study not in STUDIES:
        raise typer.BadParameter(f"no study {study!r}; there are {', '.join(STUDIES)}")
    section = RunConfig if study is None else STUDIES[study]
    sys.stdout.write(json.dumps(section.model_json_schema(), indent=2) + "\n")
