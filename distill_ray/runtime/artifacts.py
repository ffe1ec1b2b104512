"""Artifacts: folders that are whole exactly when they hold a manifest."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill_ray import __version__
from distill_ray.config.fingerprint import fingerprint
from distill_ray.runtime.storage import Storage

MANIFEST = "manifest.json"
FAILED = ".failed.json"
"""Ends the name of the note beside an artifact that couldn't be made."""
PACKAGES = ("ray", "torch", "transformers", "deepspeed", "datasets", "peft")


@dataclass(frozen=True)
class Manifest:
    """What an artifact is, and what it was made from."""

    kind: str
    key: str
    fingerprint: str
    identity: dict[str, Any]
    """Config section and input fingerprints; the fingerprint is its digest."""
    counts: dict[str, Any]
    wall_s: float
    created: str
    versions: dict[str, str]
    files: dict[str, str]
    """Path in the folder → SHA-256."""


@dataclass(frozen=True)
class Artifact:
    """The place of one stage's result, there already or not."""

    storage: Storage
    kind: str
    key: str
    identity: dict[str, Any]
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        plain = json.loads(json.dumps(self.identity, default=_plain))
        object.__setattr__(self, "identity", plain)
        object.__setattr__(self, "fingerprint", fingerprint([self.kind, plain]))

    @property
    def path(self) -> str:
        """Folder below the run's storage."""
        label = f"{self.key}-" if self.key else ""
        return f"{self.kind}/{label}{self.fingerprint}"

    @property
    def uri(self) -> str:
        """The folder's full location."""
        return self.storage.sub(self.path).uri

    def done(self) -> bool:
        """Is it whole?"""
        return self.storage.exists(f"{self.path}/{MANIFEST}")

    def record_failure(self, reason: str) -> None:
        """Leave a note beside its place: why it couldn't be made."""
        self.storage.write_bytes(f"{self.path}{FAILED}", json.dumps({"reason": reason}).encode())

    def failure(self) -> str | None:
        """Why it couldn't be made, if that is known."""
        if not self.storage.exists(f"{self.path}{FAILED}"):
            return None
        return str(json.loads(self.storage.read_bytes(f"{self.path}{FAILED}"))["reason"])

    def forget_failure(self) -> None:
        """So that it is tried again."""
        self.storage.delete(f"{self.path}{FAILED}")

    def manifest(self) -> Manifest:
        """What it says of itself."""
        return Manifest(**json.loads(self.storage.read_bytes(f"{self.path}/{MANIFEST}")))

    def local(self) -> Path:
        """A local folder with its files."""
        return self.storage.get(self.path)

    def read_bytes(self, name: str) -> bytes:
        """A file of it."""
        return self.storage.read_bytes(f"{self.path}/{name}")

    def read_json(self, name: str) -> Any:
        """A JSON file of it."""
        return json.loads(self.read_bytes(name))

    @contextmanager
    def building(self) -> Iterator[Building]:
        """Fill it: what was written is committed at the end, or removed on an error."""
        self.storage.delete(self.path)
        building = Building(self.storage.sub(self.path))
        try:
            yield building
            self.commit(building.counts, time.monotonic() - building.started)
        except BaseException:
            self.storage.delete(self.path)
            raise

    def commit(
        self, counts: Mapping[str, Any], wall_s: float, digests: Mapping[str, str] | None = None
    ) -> None:
        """Write the manifest, last: from now on the artifact exists.

        Args:
            counts: what is worth knowing at a glance.
            wall_s: how long the work took.
            digests: path → SHA-256 of every file, where they are known; else files are read.
        """
        folder = self.storage.sub(self.path)
        if digests is None:
            digests = {path: folder.sha256(path) for path in folder.files() if path != MANIFEST}
        manifest = Manifest(
            kind=self.kind,
            key=self.key,
            fingerprint=self.fingerprint,
            identity=self.identity,
            counts=dict(counts),
            wall_s=round(wall_s, 3),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=versions(),
            files=dict(sorted(digests.items())),
        )
        text = json.dumps(asdict(manifest), indent=1, sort_keys=True, default=_plain)
        folder.write_bytes(MANIFEST, text.encode())


@dataclass(frozen=True)
class Result:
    """A stage's result that is one artifact."""

    artifact: Artifact

    @property
    def artifacts(self) -> list[Artifact]:
        """What the stage left."""
        return [self.artifact]


@dataclass
class Building:
    """An artifact that is being filled."""

    storage: Storage
    """Its folder."""
    counts: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def write_json(self, name: str, value: Any) -> None:
        """Add a JSON file."""
        self.storage.write_bytes(name, json.dumps(value, indent=1, default=_plain).encode())


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"distill_ray": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
