"""What every stage is given: the config, the storage, Ray on demand, someone to report to."""

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
from distill_ray.runtime.progress import Event, NullProgress, Progress
from distill_ray.runtime.signals import check
from distill_ray.runtime.storage import Storage

OWNER = "run.json"
IDENTITY = ("student", "teachers", "corpora", "tasks")


@dataclass(frozen=True)
class Run:
    """One run of one config."""

    cfg: RunConfig
    storage: Storage
    """The run's own folder."""
    progress: Progress
    retry_failed: bool = False
    """Try again, once, what failed in an earlier attempt: models in the audit, probes."""
    _tried_again: set[str] = field(default_factory=set)
    _nodes: set[str] = field(default_factory=set)
    """Those that are known to see the storage."""

    @classmethod
    def open(
        cls,
        cfg: RunConfig,
        config_file: str,
        progress: Progress | None = None,
        *,
        retry_failed: bool = False,
    ) -> Run:
        """Take the run's folder into use.

        Raises:
            InputError: the storage can't be written, or the name belongs to another config.
        """
        storage = Storage(cfg.storage).sub(cfg.name)
        storage.check_writable()
        _claim(cfg, Path(config_file).name, storage)
        return cls(cfg, storage, progress or NullProgress(), retry_failed)

    def ray(self) -> None:
        """Start or join Ray; called by stages that have work for it.

        Raises:
            InputError: it can't hold the workers, or a node of it doesn't see the storage.
        """
        prepare(self.cfg.cluster.address)
        from distill_ray.runtime.cluster import ensure_ray, is_up
        from distill_ray.runtime.shared_storage import check_shared

        if not is_up():
            self.note("ray", "starting" if self.cfg.cluster.address is None else "joining")
        ensure_ray(self.cfg.cluster, self.cfg.distill.pools(), self.progress)
        check_shared(self.storage, self._nodes)

    def artifact(self, kind: str, key: str, identity: Mapping[str, Any]) -> Artifact:
        """The place of a result."""
        return Artifact(self.storage, kind, key, dict(identity))

    def settled(self, artifact: Artifact) -> bool:
        """Whether nothing is left to do for it: it is there, or it failed and stays so."""
        if self.retry_failed and artifact.path not in self._tried_again:
            self._tried_again.add(artifact.path)
            artifact.forget_failure()
        return artifact.done() or artifact.failure() is not None

    def note(
        self, stage: str, text: str, *, done: float | None = None, total: float | None = None
    ) -> None:
        """Say something about a stage's progress."""
        self._say(Event("progress", stage, text, done, total))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Frame a stage's work."""
        self._say(Event("started", name))
        yield
        self._say(Event("finished", name))

    def reused(self, name: str, text: str = "") -> None:
        """Say that a stage had nothing to do."""
        self._say(Event("reused", name, text))

    def _say(self, event: Event) -> None:
        check()
        self.progress.emit(event)


def _claim(cfg: RunConfig, config_file: str, storage: Storage) -> None:
    """Take the run's name into use for this config."""
    problem = name_problem(cfg, config_file, storage)
    if problem is not None:
        raise InputError("the run's name is taken:", [problem])
    mine = json.dumps(_owner(cfg, config_file), indent=1).encode()
    if not storage.exists(OWNER) or storage.read_bytes(OWNER) != mine:
        storage.write_bytes(OWNER, mine)


def name_problem(cfg: RunConfig, config_file: str, storage: Storage) -> Problem | None:
    """Why this config can't have the run's name: it belongs to the one that used it first.

    A config's own edits keep the name, as long as some section of it stays; so does a copy of it
    under another file name.
    """
    if not storage.exists(OWNER):
        return None
    mine = _owner(cfg, config_file)
    try:
        owner = json.loads(storage.read_bytes(OWNER))
        shared = [n for n in IDENTITY if owner["sections"].get(n) == mine["sections"][n]]
        str(owner["config"])
    except (ValueError, TypeError, KeyError, AttributeError):
        what = f"{storage.uri}/{OWNER} is damaged, so nothing tells whose name it is."
        fix = "Remove the file if it is this config's; it is written again."
        return Problem("name", what, fix)
    same_file = owner["config"] == config_file
    if (same_file and shared) or len(shared) == len(IDENTITY):
        return None
    what = f"{cfg.name!r} in {storage.uri} belongs to another config, {owner['config']}."
    fix = "Choose another name (--set name=...) or another --storage."
    return Problem("name", what, fix)


def _owner(cfg: RunConfig, config_file: str) -> dict[str, Any]:
    sections = {name: fingerprint(getattr(cfg, name)) for name in IDENTITY}
    return {"config": config_file, "sections": sections}
