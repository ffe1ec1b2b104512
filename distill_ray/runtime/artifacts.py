"""Artifacts: folders that are complete exactly when they hold a manifest."""

from __future__ import annotations

import errno
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distill_ray.config.errors import InputError
from distill_ray.config.fingerprint import fingerprint
from distill_ray.runtime.checksums import DamagedError, remember
from distill_ray.runtime.lease import Guard, LeaseLostError
from distill_ray.runtime.manifest import (
    MANIFEST,
    Manifest,
    has_manifest,
    local_folder,
    manifest_digest,
    read_file,
    versions,
)
from distill_ray.runtime.storage import PART, Storage

FAILED = ".failed.json"
"""Suffix of the note beside an artifact whose computation failed."""
BUILDING = ".building"
"""Suffix of the folder beside an artifact's, on a local storage, where its files are written."""


@dataclass(frozen=True)
class Artifact:
    """The location of one stage's result, which may not exist yet."""

    storage: Storage
    kind: str
    key: str
    identity: dict[str, Any]
    fingerprint: str = field(init=False)
    lease: Guard | None = field(default=None, compare=False, repr=False)
    """The run's lease on the storage, without which nothing is written; None: none is needed."""

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
        """Write a note beside the folder: why the computation failed. A complete one gets none."""
        self.require_lease()
        if not has_manifest(self.folder):
            note = json.dumps({"reason": reason}).encode()
            self.storage.write_bytes(f"{self.path}{FAILED}", note)

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

    def require_lease(self) -> None:
        """Make sure that the run still has its storage for itself.

        Raises:
            LeaseLostError: another run took it over.
        """
        if self.lease is not None:
            self.lease.check()

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

    @property
    def partial(self) -> Storage:
        """The folder to fill before `commit`: beside the artifact's, or itself on an object store.

        It is the same for every attempt, so work goes on with the files that are missing.
        """
        return self.storage.sub(self._partial_path)

    @property
    def _partial_path(self) -> str:
        # An object store can't rename a folder; there, the manifest alone makes the artifact.
        return f"{self.path}{BUILDING}" if self.storage.local else self.path

    @contextmanager
    def building(self, resumable: bool = False) -> Iterator[Building]:
        """Build the artifact: at the end of the block, all its files are there at once.

        On a local storage, files are written beside the artifact's folder, and the whole folder is
        renamed. On an object store they are written in place, and the manifest comes last. Either
        way, leftovers of killed attempts are deleted at the start, and the files on an error.

        Args:
            resumable: files of an earlier attempt stay at the start, and files of this one on an
                error, so that the next attempt only writes what is missing. An `InputError` still
                deletes them. Each file must appear complete, as `Storage.write_bytes` has it;
                names that end in `.part` are leftovers and are deleted.

        Yields:
            Where to write, and what the manifest tells.

        Raises:
            LeaseLostError: another run took the storage over; its files stay as they are.
        """
        self.require_lease()
        path = self._partial_path
        if self.storage.local and not resumable:
            # Of its own: a process of a dead attempt may still write into that attempt's folder.
            path += f"-{uuid.uuid4().hex[:8]}"
        self._delete_leftovers(kept=path if resumable else None)
        building = Building(self.storage.sub(path))
        try:
            yield building
            wall_s = time.monotonic() - building.started
            self.commit(building.counts, wall_s, building.digests, folder=building.storage)
        except BaseException as error:
            if (not resumable or isinstance(error, InputError)) and self._may_write():
                self._delete(path)
            raise

    def _may_write(self) -> bool:
        try:
            self.require_lease()
        except (LeaseLostError, OSError):
            return False
        return True

    def _delete_leftovers(self, kept: str | None) -> None:
        """Delete what earlier attempts left.

        Args:
            kept: path of a folder whose complete files stay.
        """
        parent, _, name = self.path.rpartition("/")
        siblings = self.storage.children(parent) if self.storage.local else []
        leftovers = {f"{parent}/{s}" for s in siblings if s.startswith(f"{name}{BUILDING}")}
        for path in {self.path, *leftovers} - {kept}:
            self._delete(path)
        if kept is not None:
            folder = self.storage.sub(kept)
            folder.delete(MANIFEST)
            for file in folder.files() if self.storage.local else ():
                if file.endswith(PART):
                    folder.delete(file)

    def _delete(self, path: str) -> None:
        """Delete a folder of files, its manifest first: a kill leaves no half that looks whole."""
        self.storage.delete(f"{path}/{MANIFEST}")
        self.storage.delete(path)

    def commit(
        self,
        counts: Mapping[str, Any],
        wall_s: float,
        digests: Mapping[str, str] | None = None,
        *,
        folder: Storage | None = None,
    ) -> None:
        """Write the manifest, last: from now on the artifact exists.

        Args:
            counts: figures for the reader of a manifest.
            wall_s: how long the work took.
            digests: path → SHA-256 of files whose writers computed it; other files are read.
            folder: where the files are, if not in the artifact's folder: it is renamed.

        Raises:
            FileNotFoundError: a file with a digest isn't there.
            LeaseLostError: another run took the storage over.
        """
        folder, given = folder or self.folder, dict(digests or {})
        sizes = {path: size for path, size in folder.sizes().items() if path != MANIFEST}
        if absent := sorted(given.keys() - sizes.keys()):
            place = folder.sub(absent[0]).uri
            raise FileNotFoundError(errno.ENOENT, "a written file is missing", place)
        computed = {path: folder.sha256(path) for path in sizes if path not in given}
        manifest = Manifest(
            kind=self.kind,
            key=self.key,
            fingerprint=self.fingerprint,
            identity=self.identity,
            counts=dict(counts),
            wall_s=round(wall_s, 3),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=versions(),
            files=dict(sorted({**computed, **given}.items())),
            sizes=sizes,
        )
        plain = json.loads(json.dumps(asdict(manifest), default=_plain))
        text = json.dumps({**plain, "digest": manifest_digest(plain)}, indent=1, sort_keys=True)
        self.require_lease()  # Last: it took long to read the files.
        self.forget_failure()
        folder.write_bytes(MANIFEST, text.encode())
        if folder.uri != self.uri and not self._move_into_place(folder):
            return
        if self.storage.local:
            remember(Path(self.uri), computed)

    def _move_into_place(self, folder: Storage) -> bool:
        """Rename a finished folder to the artifact's, unless another attempt was faster."""
        target = Path(self.uri)
        if not has_manifest(self.folder):
            self._delete(self.path)
        try:
            Path(folder.uri).rename(target)
        except OSError:
            if not has_manifest(self.folder):
                raise
            shutil.rmtree(folder.uri)  # The other's files are as good.
            return False
        return True


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
    """Where its files are written; workers on other machines use its `uri`."""
    counts: dict[str, Any] = field(default_factory=dict)
    """Figures for the reader of a manifest."""
    digests: dict[str, str] = field(default_factory=dict)
    """Path → SHA-256 of files whose writers computed it; other files are read at the end."""
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
