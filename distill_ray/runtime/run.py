"""What every stage works with: the config, the storage, Ray on demand, progress."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.fingerprint import fingerprint
from distill_ray.config.run import RunConfig
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.environment import prepare
from distill_ray.runtime.lease import Guard, ReadOnly, acquire
from distill_ray.runtime.progress import Event, NullProgress, Progress
from distill_ray.runtime.signals import raise_if_interrupted
from distill_ray.runtime.storage import Storage

OWNER = "run.json"
FORMAT = 2
"""Of `run.json`. Version 0.1 wrote none, and its config keys have other names."""
IDENTITY = ("student", "teachers", "corpora", "tasks")


@dataclass(frozen=True)
class Run:
    """One run of one config."""

    cfg: RunConfig
    storage: Storage
    """The run's own folder."""
    progress: Progress
    retry_failed: bool = False
    """Retry, once, what failed in an earlier attempt: models in the audit, probes."""
    _retried: set[str] = field(default_factory=set)
    lease: Guard | None = field(default=None, compare=False, repr=False)
    """What says whether the run may still write in the folder."""
    _checked_nodes: set[str] = field(default_factory=set)
    """Ids of nodes that are known to share the storage."""

    @classmethod
    def open(
        cls,
        cfg: RunConfig,
        config_file: str,
        progress: Progress | None = None,
        *,
        retry_failed: bool = False,
        wait: bool = False,
    ) -> Run:
        """Claim the run's folder for a config and for this process, which may do so repeatedly.

        Args:
            cfg: the run's.
            config_file: the file that it was read from.
            progress: who listens.
            retry_failed: retry, once, what failed in an earlier attempt.
            wait: wait while another process works in the folder.

        Raises:
            InputError: the storage can't be written, or the name belongs to another config.
            LeaseHeldError: another process works in the folder.
        """
        storage = Storage(cfg.storage).sub(cfg.name)
        storage.check_writable()
        progress = progress or NullProgress()

        def notify(line: str) -> None:
            progress.emit(Event("note", "run", line))

        lease = acquire(storage, wait=wait, notify=notify)
        config_name = Path(config_file).name
        problem = name_problem(cfg, config_name, storage)
        if problem is not None:
            raise InputError("run name already in use:", [problem])
        owner = json.dumps(_owner(cfg, config_name), indent=1).encode()
        previous = storage.read_bytes(OWNER) if storage.exists(OWNER) else None
        if previous != owner:
            if previous is not None and _is_older(json.loads(previous)):
                progress.emit(Event("note", "run", _not_reused(storage)))
            storage.write_bytes(OWNER, owner)
        return cls(cfg, storage, progress, retry_failed, lease=lease)

    @classmethod
    def read_only(cls, cfg: RunConfig, progress: Progress) -> Run:
        """A run that reads what is complete, also while another process works in the folder.

        Its stages raise `NoLeaseError` where they would have to write.
        """
        storage = Storage(cfg.storage).sub(cfg.name)
        return cls(cfg, storage, progress, lease=ReadOnly(storage))

    def ray(self) -> None:
        """Start or join Ray. Only stages that have work for it call this.

        Raises:
            InputError: the cluster can't hold the workers, or a node doesn't see the storage.
            NoLeaseError: the run only reads.
            KeyboardInterrupt: see `raise_if_interrupted`.
        """
        self._require_lease()
        self.raise_if_interrupted()
        prepare(self.cfg.cluster.address)
        from distill_ray.runtime.cluster import ensure_ray, is_up
        from distill_ray.runtime.shared_storage import check_shared

        if not is_up():
            self.note("ray", "starting" if self.cfg.cluster.address is None else "joining")
        ensure_ray(self.cfg.cluster, self.cfg.distill.pools(), self.progress)
        check_shared(self.storage, self._checked_nodes)

    def artifact(self, kind: str, key: str, identity: Mapping[str, Any]) -> Artifact:
        """The location of a result, which may not exist yet."""
        return Artifact(self.storage, kind, key, dict(identity), lease=self.lease)

    def claim_retry(self, artifact: Artifact) -> bool:
        """Delete the note of an earlier failure where the run retries what failed.

        Each artifact is claimed once, so a second failure stays.

        Returns:
            Whether this call claimed the artifact's retry.
        """
        if not self.retry_failed or artifact.path in self._retried:
            return False
        self._retried.add(artifact.path)
        artifact.forget_failure()
        return True

    def note(
        self, stage: str, text: str, *, completed: float | None = None, total: float | None = None
    ) -> None:
        """Report a stage's progress."""
        self.progress.emit(Event("progress", stage, text, completed, total))

    def reused(self, name: str, text: str = "") -> None:
        """Report that a stage had nothing to do."""
        self.progress.emit(Event("reused", name, text))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report a stage's start and end. An interruption ends it at either.

        Raises:
            NoLeaseError: the run only reads.
            KeyboardInterrupt: see `raise_if_interrupted`.
        """
        self._require_lease()
        self.raise_if_interrupted()
        self.progress.emit(Event("started", name))
        yield
        self.raise_if_interrupted()
        self.progress.emit(Event("finished", name))

    def raise_if_interrupted(self) -> None:
        """End here if a Ctrl-C came that other code dropped. Stages call it between two steps.

        Raises:
            KeyboardInterrupt: a SIGINT came, and the main thread goes on nevertheless.
            LeaseLostError: another run took the folder over.
        """
        if not isinstance(self.lease, ReadOnly):
            self._require_lease()
        raise_if_interrupted()

    def _require_lease(self) -> None:
        if self.lease is not None:
            self.lease.check()


def name_problem(cfg: RunConfig, config_file: str, storage: Storage) -> Problem | None:
    """Why this config can't use the run's name: it belongs to the config that used it first.

    An edited config keeps the name as long as one of its sections stays the same. So does a copy
    of the config under another file name.
    """
    if not storage.exists(OWNER):
        return None
    sections = _owner(cfg, config_file)["sections"]
    try:
        owner = json.loads(storage.read_bytes(OWNER))
        is_older = _is_older(owner)
        shared = [n for n in IDENTITY if owner["sections"].get(n) == sections[n]]
        owner_file = str(owner["config"])
    except (ValueError, TypeError, KeyError, AttributeError):
        what = f"{storage.uri}/{OWNER} is corrupt, so the name's owner is unknown."
        fix = "Delete the file if it belongs to this config; the next run writes it again."
        return Problem("name", what, fix)
    # The keys of an older version are in its fingerprints, so that only the file's name tells.
    if (owner_file == config_file and (shared or is_older)) or len(shared) == len(IDENTITY):
        return None
    what = f"{cfg.name!r} in {storage.uri} belongs to another config, {owner_file}."
    fix = "Choose another name (--set name=...) or another --storage."
    return Problem("name", what, fix)


def _owner(cfg: RunConfig, config_file: str) -> dict[str, Any]:
    sections = {name: fingerprint(getattr(cfg, name)) for name in IDENTITY}
    return {"config": config_file, "format": FORMAT, "sections": sections}


def _is_older(owner: Mapping[str, Any]) -> bool:
    return int(owner.get("format", 1)) < FORMAT


def _not_reused(storage: Storage) -> str:
    """What a run says once in a storage of an older version."""
    folders = ", ".join(n for n in storage.children("") if n != OWNER and not n.startswith("."))
    return (
        f"{storage.uri} is from version 0.1, and nothing in it is reused: the names of config keys "
        "have changed, so all stages run again. To free its space, stop this run and delete these "
        f"folders in it: {folders or 'there are none'}."
    )
