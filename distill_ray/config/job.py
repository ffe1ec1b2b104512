"""How a run is submitted to a cluster as a job."""

from __future__ import annotations

from pydantic import Field

from distill_ray.config.base import Section
from distill_ray.config.numbers import PositiveInt


class JobConfig(Section):
    """What `distill-ray submit` sends, and where the job's driver runs."""

    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the node that the driver runs on, such as `{market-type: on-demand}`; values in
    Ray's form (`!spot`, `in(a, b)`). The job ends when its driver's node goes away, so keep it off
    spot nodes. By default, the head node."""
    pip: tuple[str, ...] = ()
    """Requirements that Ray installs for the job, beside those of the cluster's image."""
    excludes: tuple[str, ...] = ()
    """Patterns to leave out of the working directory, in the form of a `.gitignore`. The folder's
    own `.gitignore` counts too."""
    max_file_mib: PositiveInt = 100
    """Larger files aren't sent. Put them on a storage that all nodes reach."""
