"""`distill-ray schema` and `distill-ray config upgrade`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import yaml

from distill_ray.config import InputError, Problem, RunConfig, document
from distill_ray.config.numbers import with_text
from distill_ray.config.study import STUDIES
from distill_ray.config.upgrade import counts, upgrade

app = typer.Typer(help="Work on config files.", no_args_is_help=True)


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
    sys.stdout.write(json.dumps(with_text(section.model_json_schema()), indent=2) + "\n")


@app.callback()
def root() -> None:
    """Work on config files."""


@app.command("upgrade")
def upgrade_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run's or a study's YAML file.")],
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if something would change.")
    ] = False,
) -> None:
    """Rewrite the keys of version 0.1 in a file.

    Nothing but the renamed words changes: comments, order, quotes, anchors and spaces stay.
    """
    try:
        text = document.read_text(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} can't be read:", [Problem(str(file), f"{error}.")]) from None
    upgraded, changes = upgrade(text, str(file))
    for rename, count in counts(changes).items():
        sys.stdout.write(f"{rename}" + (f" ({count} times)\n" if count > 1 else "\n"))
    if not changes:
        sys.stdout.write(f"{file} is up to date.\n")
        return
    places = f"{len(changes)} place{'s' * (len(changes) > 1)}"
    if check:
        sys.stdout.write(f"{file} would change in {places}.\n")
        raise typer.Exit(1)
    _replace_content(file, upgraded)
    sys.stdout.write(f"{file} is upgraded in {places}.\n")


def _replace_content(file: Path, text: str) -> None:
    """Replace a file's content at once, never a part of it. Follows links."""
    target = file.resolve()
    try:
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(text.encode())
            Path(part).chmod(target.stat().st_mode & 0o7777)
            Path(part).replace(target)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{file} can't be written:", [Problem(str(file), f"{error}.")]) from None
