"""What Ray Train keeps of a run between attempts, made fit to be read again."""

from __future__ import annotations

import json

from distill_ray.runtime.storage import Storage

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Its list of checkpoints, written in place: a kill or a full disk cuts it off, and Train then
refuses the whole run."""


def mend(folder: Storage) -> bool:
    """Remove a list of checkpoints that can't be read, or that names some which aren't there.

    Args:
        folder: of one run of Ray Train.

    Returns:
        Whether it was removed: Train then knows of no checkpoint, though their folders stay.
    """
    if not folder.exists(SNAPSHOT):
        return False
    try:
        listed = json.loads(folder.read_bytes(SNAPSHOT))["checkpoint_results"]
        sound = all(folder.exists(result["checkpoint_dir_name"]) for result in listed)
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        folder.delete(SNAPSHOT)
    return not sound
