"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override section.key; repeatable."),
]
StorageUri = Annotated[
    str | None,
    typer.Option("--storage", metavar="URI", help="Folder or URI of the artifacts."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print events and results as JSON lines.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait while another process works in the run's folder.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Retry the teachers and probes that failed.")
]
