"""What surrounds a command's work: its config, its progress, Ray's end, an interruption."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console

from distill_ray.config import InputError, RunConfig, load_config
from distill_ray.config.load import flags
from distill_ray.runtime.signals import interruptible


def load_run(config: Path, overrides: list[str] | None, storage: str | None) -> RunConfig:
    """A run's config with its overrides, on the cluster that this process belongs to."""
    return joined(load_config(config, flags(overrides, storage)))


def joined(cfg: RunConfig) -> RunConfig:
    """With the cluster that this process belongs to, as the driver of a job does."""
    from distill_ray.runtime.environment import cluster_address

    address = cluster_address(cfg.cluster.address)
    return cfg.model_copy(update={"cluster": cfg.cluster.model_copy(update={"address": address})})


@contextmanager
def working(as_json: bool, out: Console) -> Iterator[Any]:
    """Progress is shown while the block runs; Ray is left behind it, and so is an interruption."""
    with _quiet(), _progress(as_json, out) as progress:
        # Libraries print where they like (Ray: the deaths of workers); machines read JSON alone.
        printed = redirect_stdout(sys.stderr) if as_json else nullcontext()
        try:
            with printed, interruptible():
                yield progress
        except KeyboardInterrupt:
            out.print("Interrupted. Rerun the same command to resume.")
            sys.exit(130)
        except Exception as error:
            from distill_ray.runtime.external_errors import outside_cause

            if isinstance(error, InputError) or (cause := outside_cause(error)) is None:
                raise
            raise cause from None
        finally:
            _leave_ray()


@contextmanager
def _progress(as_json: bool, out: Console) -> Iterator[Any]:
    from distill_ray.console.output import reporter

    listener = reporter(as_json, out)
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Our events tell the progress; libraries speak up from warnings on."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING)
    yield


def _leave_ray() -> None:
    if "ray" in sys.modules:
        from distill_ray.runtime.cluster import shutdown

        shutdown()
