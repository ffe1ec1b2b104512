"""The frame of every command: config, progress, interruption, and Ray's shutdown."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
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
    """The config with the address of the cluster that this process belongs to, as in a job."""
    from distill_ray.runtime.environment import cluster_address

    address = cluster_address(cfg.cluster.address)
    return cfg.model_copy(update={"cluster": cfg.cluster.model_copy(update={"address": address})})


@contextmanager
def working(as_json: bool, out: Console) -> Iterator[Any]:
    """Show progress while the block runs; afterwards disconnect from Ray and end interruptions.

    Leases on runs are released last: other processes must not meet this one's workers.
    """
    from distill_ray.console.output import reporter

    # Events report the progress: of libraries, warnings are enough.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING)
    with closing(reporter(as_json, out)) as progress:
        # Libraries print to standard output (Ray: dead workers), where JSON alone belongs.
        stdout = redirect_stdout(sys.stderr) if as_json else nullcontext()
        try:
            with stdout, interruptible():
                yield progress
        except KeyboardInterrupt:
            from distill_ray.runtime.lease import loss

            if (lost := loss()) is not None:
                raise lost from None
            out.print("Interrupted. Rerun the same command to resume.")
            sys.exit(130)
        except Exception as error:
            from distill_ray.runtime.external_errors import outside_cause

            if isinstance(error, InputError) or (cause := outside_cause(error)) is None:
                raise
            raise cause from None
        finally:
            try:
                if "ray" in sys.modules:
                    from distill_ray.runtime.cluster import shutdown

                    shutdown()
            finally:
                from distill_ray.runtime.lease import release_all

                release_all()
