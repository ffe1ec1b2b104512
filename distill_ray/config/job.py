"""How a run is submitted to a cluster as a job."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from distill_ray.config.base import Section


class JobConfig(Section):
    """What `distill-ray submit` sends, and where the job's driver runs."""

    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the node that the driver runs on, such as `{market-type: on-demand}`; values in
    Ray's form (`!spot`, `in(a, b)`). A driver goes down with its node, and the job with it, so keep
    it off spot nodes. By default the head's node."""
    pip: tuple[str, ...] = ()
    """Requirements that Ray installs for the job beside what the cluster's image has."""
    excludes: tuple[str, ...] = ()
    """What is left out of the working directory, as in a `.gitignore`, which is respected, too."""
    max_file_mib: PositiveInt = 100
    """Larger files aren't sent; their place is a storage that all nodes reach."""
