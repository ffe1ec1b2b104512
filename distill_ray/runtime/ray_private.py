"""Ray's private APIs: every use of one in this package, with the Ray version it was seen on.

Ray may change any of them in a release, so Ray is pinned. When you raise the pin, check each entry
against the new version and update the version beside it. Imports nothing of Ray until called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# --- ray._private.runtime_env.packaging, seen on 2.60.0 ------------------------------------------


def max_package_bytes() -> int:
    """The largest working directory that Ray uploads."""
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(GCS_STORAGE_MAX_SIZE)


def visit_package(root: Path, excludes: list[str], *, gitignore: bool) -> list[Path]:
    """Paths that Ray packs of a working directory.

    Args:
        root: the working directory.
        excludes: patterns, as in a `.gitignore`.
        gitignore: also respect `.gitignore` and `.rayignore`.
    """
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    paths: list[Path] = []
    log = logging.getLogger(__name__)
    _dir_travel(root, [_get_excludes(root, excludes)], paths.append, gitignore, log)
    return paths


# --- ray._private.worker and loggers by their modules' names, seen on 2.60.0 ---------------------


def log_driver_output(write: Callable[[Mapping[str, Any]], None]) -> None:
    """Hand what Ray would print on the driver's terminal to `write` instead.

    Args:
        write: receives a mapping whose `lines` are the text.
    """
    from ray._private import worker

    def print_to_stdstream(batch: Mapping[str, Any], ignore_prefix: bool) -> None:
        write(batch)

    worker.print_to_stdstream = print_to_stdstream


JOB_CLIENT_LOGGERS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.utils",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)
"""Loggers of Ray's job client, which report what it packs and sends."""


# --- ray._raylet, ray.autoscaler.v2 and ray.core.generated, seen on 2.60.0 -----------------------


def gcs_client(address: str) -> Any:
    """A client of the cluster's global control service."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address)


def has_autoscaler_v2(client: Any) -> bool:
    """Whether an autoscaler of version 2 manages the cluster."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return bool(is_autoscaler_v2(True, client))


def cluster_status(client: Any) -> Any:
    """The autoscaler's `GetClusterStatusReply`."""
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    reply.ParseFromString(client.get_cluster_status(timeout_s=30))
    return reply


# --- ray.autoscaler._private.util and ray.scripts, seen on 2.60.0 --------------------------------


def validate_launcher_config(config: dict[str, Any]) -> None:
    """Raise, as `ray up` does, for a cluster launcher's config that isn't valid."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


RAY_COMMAND = "ray.scripts.scripts"
"""The module of the command `ray`, for `python -m`."""


def start_options() -> frozenset[str]:
    """The options of `ray start`, without their dashes."""
    from ray.scripts.scripts import start

    names = [option for parameter in start.params for option in parameter.opts]
    names += [option for parameter in start.params for option in parameter.secondary_opts]
    return frozenset(name.removeprefix("--") for name in names)


# --- ray.tune.execution.class_cache, seen on 2.60.0 ----------------------------------------------


def keep_aws_keys_out_of_trials() -> None:
    """Stop Tune from copying the driver's AWS keys into its trials' runtime environments.

    Nodes have keys from their own environment, and Ray logs runtime environments.
    """
    from ray.tune.execution import class_cache

    keys = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(keys)


# --- ray.train.v2._internal.callbacks, seen on 2.60.0 --------------------------------------------


class WithoutIdleActors:
    """Mixin of a Train v2 trainer: leaves out the callbacks that start actors without work.

    One actor deals out datasets, even where there are none. Another frees the workers' placement
    group if the controller is killed. It asks the dashboard, and a training without a dashboard
    ends 12 s later for it; a Ray that ends with this process doesn't need it.
    """

    def __init__(self, *arguments: Any, on_cluster: bool, **options: Any) -> None:
        """Pass all but `on_cluster`, whether Ray outlives this process, to the trainer."""
        super().__init__(*arguments, **options)
        self._on_cluster = on_cluster

    def _create_default_callbacks(self) -> list[Any]:
        from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
        from ray.train.v2._internal.callbacks.placement_group_callback import (
            PlacementGroupCleanerCallback,
        )

        cleaner = () if self._on_cluster else (PlacementGroupCleanerCallback,)
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, (DatasetsCallback, *cleaner))]
