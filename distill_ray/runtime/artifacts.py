"""Artifacts: folders that are complete exactly when they hold a manifest."""

from __future__ import annotations

import json
import platform
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill_ray import __version__
from distill_ray.config.checksums import bytes_sha256, json_sha256
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.fingerprint import fingerprint
from distill_ray.runtime.checksums import MISMATCH, DamagedError, damage, remember
from distill_ray.runtime.storage import Storage

MANIFEST = "manifest.json"
FAILED = ".failed.json"
"""Suffix of the note beside an artifact whose computation failed."""
SHARED_FIX = "Set a storage that all nodes share: a URI such as s3://, or a shared file system."
PACKAGES = ("ray", "torch", "transformers", "deepspeed", "datasets", "peft")


@dataclass(frozen=True)
class Manifest:
    """What an artifact is, and what it was computed from."""

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
    sizes: dict[str, int] = field(default_factory=dict)
    """Path in the folder → bytes."""
    digest: str = ""
    """SHA-256 of all fields above."""

    @classmethod
    def of(cls, folder: Storage) -> Manifest:
        """The manifest in an artifact's folder; a remote one is read once.

        Raises:
            DamagedError: the manifest is corrupt.
        """
        return folder.memoize(MANIFEST, lambda: cls._read(folder))

    @classmethod
    def _read(cls, folder: Storage) -> Manifest:
        place = folder.sub(MANIFEST).uri
        try:
            values = json.loads(folder.read_bytes(MANIFEST))
            manifest = cls(**values)
            typed = all(
                isinstance(getattr(manifest, name), dict) for name in ("identity", "files", "sizes")
            )
        except (ValueError, TypeError) as error:
            raise DamagedError.of(place, f"can't be read ({error}).", folder.uri) from None
        if not typed or (manifest.digest and manifest.digest != _digest(values)):
            raise DamagedError.of(place, MISMATCH, folder.uri)
        return manifest


@dataclass(frozen=True)
class Artifact:
    """The location of one stage's result, which may not exist yet."""

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

    def is_complete(self) -> bool:
        """Whether the manifest exists and every file has its size. Reads no file's content.

        Raises:
            DamagedError: the manifest exists, but files are missing or cut off.
        """
        return self.folder.memoize("complete", self._has_all_files)

    def is_settled(self) -> bool:
        """Whether no work is left for it: it is complete, or it failed before."""
        return self.is_complete() or self.failure() is not None

    def _has_all_files(self) -> bool:
        if not has_manifest(self.folder):
            return False
        actual = self.folder.sizes()
        for name, size in self.manifest().sizes.items():
            if actual.get(name) != size:
                what = f"has {actual[name]} bytes of {size}." if name in actual else "is missing."
                raise DamagedError.of(self.folder.sub(name).uri, what, self.uri)
        return True

    @property
    def folder(self) -> Storage:
        """The artifact's folder."""
        return self.storage.sub(self.path)

    def record_failure(self, reason: str) -> None:
        """Write a note beside the folder: why the computation failed."""
        self.storage.write_bytes(f"{self.path}{FAILED}", json.dumps({"reason": reason}).encode())

    def failure(self) -> str | None:
        """Why the computation failed, if a note says so."""
        if not self.storage.exists(f"{self.path}{FAILED}"):
            return None
        try:
            return str(json.loads(self.storage.read_bytes(f"{self.path}{FAILED}"))["reason"])
        except (ValueError, TypeError, KeyError):
            return None  # An unreadable note doesn't prevent a retry.

    def forget_failure(self) -> None:
        """Delete the note, so that the artifact is computed again."""
        self.storage.delete(f"{self.path}{FAILED}")

    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return Manifest.of(self.folder)

    def local(self) -> Path:
        """A local folder with the artifact's files, checked against their digests.

        Raises:
            DamagedError: a file is corrupt.
            InputError: this machine doesn't see the artifact.
        """
        return local_folder(self.folder)

    def read_bytes(self, name: str) -> bytes:
        """A file's content.

        Raises:
            DamagedError: the file is corrupt.
        """
        return read_file(self.folder, name)

    def read_json(self, name: str) -> Any:
        """A JSON file's content."""
        return json.loads(self.read_bytes(name))

    @contextmanager
    def building(self) -> Iterator[Building]:
        """Build the artifact: its files are committed at the end, or deleted on an error."""
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
            counts: figures for the reader of a manifest.
            wall_s: how long the work took.
            digests: path → SHA-256 of every file, if known; otherwise the files are read.
        """
        folder = self.folder
        sizes = {path: size for path, size in folder.sizes().items() if path != MANIFEST}
        if digests is None:
            digests = {path: folder.sha256(path) for path in sizes}
            if folder.local:
                remember(Path(folder.uri), digests)
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
            sizes=sizes,
        )
        plain = json.loads(json.dumps(asdict(manifest), default=_plain))
        text = json.dumps({**plain, "digest": _digest(plain)}, indent=1, sort_keys=True)
        folder.write_bytes(MANIFEST, text.encode())


def read_file(artifact: Storage, name: str) -> bytes:
    """A file of an artifact's folder. An incomplete artifact has no digests to compare with.

    Raises:
        DamagedError: the file is corrupt.
    """
    data = artifact.read_bytes(name)
    digest = Manifest.of(artifact).files.get(name) if has_manifest(artifact) else None
    if digest is not None and bytes_sha256(data) != digest:
        raise DamagedError.of(artifact.sub(name).uri, MISMATCH, artifact.uri)
    return data


def local_folder(artifact: Storage, path: str = "") -> Path:
    """A local folder with an artifact's files below `path`, checked against their digests.

    Args:
        artifact: the artifact's folder.
        path: a folder in it; the artifact's folder itself by default.

    Raises:
        DamagedError: a file is corrupt.
        InputError: this machine doesn't see the artifact.
    """
    if not has_manifest(artifact):
        what = f"{artifact.uri} isn't visible on {socket.gethostname()}."
        raise InputError("artifact not found:", [Problem("storage", what, SHARED_FIX)])
    manifest = Manifest.of(artifact)
    below = f"{path}/" if path else ""
    digests = {
        name.removeprefix(below): digest
        for name, digest in manifest.files.items()
        if name.startswith(below)
    }
    for is_retry in (False, True):
        folder = artifact.sub(path).get(state=manifest.digest)
        name = damage(folder, digests)
        if name is None:
            return folder
        if artifact.local or is_retry:
            break
        shutil.rmtree(folder, ignore_errors=True)  # Perhaps only the copy is corrupt.
    raise DamagedError.of(artifact.sub(f"{below}{name}").uri, MISMATCH, artifact.uri)


def has_manifest(folder: Storage) -> bool:
    """Whether an artifact is committed. A remote one that was is not looked up again."""
    return folder.memoize("has a manifest", lambda: folder.exists(MANIFEST))


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's plain values."""
    known = {f.name for f in fields(Manifest)} - {"digest"}
    values = {key: value for key, value in manifest.items() if key in known}
    return json_sha256(values)


@dataclass(frozen=True)
class Result:
    """A stage's result that is one artifact."""

    artifact: Artifact

    @property
    def artifacts(self) -> list[Artifact]:
        """The stage's artifacts."""
        return [self.artifact]


@dataclass
class Building:
    """An artifact that is being built."""

    storage: Storage
    """The artifact's folder."""
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


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of distill_ray, Python and those of these packages that are installed.

    Args:
        packages: by default, the packages that determine a result.
    """
    by_package = {"distill_ray": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package
