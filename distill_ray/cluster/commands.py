"""`distill-ray cluster ...`: the files of a cluster, and what runs on its nodes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from distill_ray.config.load import flags, load_config

app = typer.Typer(
    help="Cluster files for a run, their check, and the watch for spot notices.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
FAILED = 1
Provider = Annotated[str, typer.Option("--provider", metavar="NAME", help="Of which cloud.")]


@app.command("render")
def render_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")],
    provider: Annotated[str, typer.Option("--provider", help="aws, gcp or kuberay.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Write there; default: print.")
    ] = None,
    fill: Annotated[
        list[str] | None,
        typer.Option("--fill", metavar="NAME=VALUE", help="What a plan can't know; repeatable."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override section.key; repeatable."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URI", help="Folder or URI of the artifacts."),
    ] = None,
) -> None:
    """Render cluster files from a run's plan: the machines, and their maximum number."""
    from distill_ray.cluster.render import FILLS, render

    _require(provider, FILLS)
    cfg = load_config(config, flags(overrides, storage))
    wrong = [pair for pair in fill or () if "=" not in pair]
    if wrong:
        raise typer.BadParameter(f"--fill needs NAME=VALUE, got {wrong[0]!r}")
    fills = dict(pair.split("=", 1) for pair in fill or ())
    rendered = render(provider, cfg, str(config), fills)
    for name, text in rendered.items():
        if out is None:
            sys.stdout.write(text if len(rendered) == 1 else f"# {name}\n{text}---\n")
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
        _print_line(Console(), str(out / name))


@app.command("validate")
def validate_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Cluster files.")],
) -> None:
    """Validate cluster files offline, before you pay for nodes."""
    from distill_ray.cluster.validate import validate

    out = Console()
    for checked in [validate(file) for file in files]:
        _print_line(out, f"{checked.file}: {', '.join(checked.objects)}")
        if checked.open_places:
            _print_line(out, f"  placeholders to fill in: {', '.join(checked.open_places)}")


@app.command("watch")
def watch_command(
    provider: Provider,
    address: Annotated[str, typer.Option("--address", help="The cluster's address.")] = "auto",
    node_id: Annotated[
        str | None, typer.Option("--node-id", help="Ray's id of the node; default: this one.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option("--metadata", metavar="URL", help="URL of the metadata service.")
    ] = None,
) -> None:
    """Wait for a spot interruption notice, then drain this node in Ray. For spot nodes."""
    from distill_ray.runtime.spot import PROVIDERS, drain_node, this_node, watch

    _require(provider, PROVIDERS)
    service = PROVIDERS[provider](metadata) if metadata else PROVIDERS[provider]()
    out = Console()
    try:
        node = node_id or this_node(address)
        _print_line(out, f"watching for a spot notice of {provider}; this is node {node}")
        watch(
            service, lambda notice: drain_node(node, notice, address), lambda t: _print_line(out, t)
        )
    except (RuntimeError, ConnectionError) as error:
        _print_line(Console(stderr=True), str(error))
        raise typer.Exit(FAILED) from None
    _print_line(out, "drained")


@app.command("drain")
def drain_command(
    seconds: Annotated[
        int, typer.Option("--seconds", min=1, help="Seconds until this node is gone.")
    ],
    address: Annotated[str, typer.Option("--address", help="The cluster's address.")] = "auto",
    node_id: Annotated[
        str | None, typer.Option("--node-id", help="Ray's id of the node; default: this one.")
    ] = None,
) -> None:
    """Drain this node now, and give its work that many seconds. For a pod that stops."""
    from distill_ray.runtime.spot import Notice, drain_node, this_node

    ends = time.monotonic() + seconds
    try:
        drain_node(node_id or this_node(address), Notice("stopped", seconds), address)
    except (RuntimeError, ConnectionError) as error:
        _print_line(Console(stderr=True), str(error))
        raise typer.Exit(FAILED) from None
    time.sleep(max(0.0, ends - time.monotonic()))


def _print_line(out: Console, text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def _require(provider: str, known: Any) -> None:
    if provider not in known:
        raise typer.BadParameter(f"no provider {provider!r}; there are {', '.join(known)}")
