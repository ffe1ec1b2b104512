"""What says that an artifact is complete: its manifest, and files that match it."""

from __future__ import annotations

import json
import platform
import shutil
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill_ray import __version__
from distill_ray.config.checksums import bytes_sha256, json_sha256
from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime.checksums import MISMATCH, DamagedError, damage
from distill_ray.runtime.storage import Storage

MANIFEST = "manifest.json"
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
        if not typed or (manifest.digest and manifest.digest != manifest_digest(values)):
            raise DamagedError.of(place, MISMATCH, folder.uri)
        return manifest


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


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's plain values."""
    known = {f.name for f in fields(Manifest)} - {"digest"}
    values = {key: value for key, value in manifest.items() if key in known}
    return json_sha256(values)


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
