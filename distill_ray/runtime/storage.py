"""Folders at a storage URI: on the local disk, or on any file system that pyarrow supports."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs as pafs

from distill_ray.config.cache import cached_folder
from distill_ray.config.checksums import stream_sha256
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.uris import local_path
from distill_ray.runtime.filesystems import open_uri, read_patiently

FLAT = ("s3", "gcs")
"""Object stores: they have no folders; an object's name is its path."""
AT_A_TIME = 8
"""Files that are fetched at a time."""
PART = ".part"
"""Suffix of a file that is being written; a leftover one was cut off."""
Value = TypeVar("Value")


class Storage:
    """Folders below one root. Local roots are used in place, remote ones through copies.

    Args:
        uri: of the root: a path, `file:///...`, or that of a remote folder. See `local_path`.
        gives_up_quickly: see `open_uri`.
    """

    def __init__(self, uri: str, *, gives_up_quickly: bool = False) -> None:
        self._memo: dict[tuple[str, str], Any] = {}
        self._read = partial(read_patiently, gives_up_quickly=gives_up_quickly)
        try:
            root = local_path(uri)
            self.local = root is not None
            if root is not None:
                self.uri, self._fs = str(root.absolute()), pafs.LocalFileSystem()
                self._root = self.uri
            else:
                self.uri = uri.rstrip("/")
                self._fs, self._root = open_uri(self.uri, gives_up_quickly=gives_up_quickly)
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError.
            problem = Problem("storage", f"can't open {uri} ({error}).", STORAGE_FIX)
            raise InputError("storage not accessible:", [problem]) from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the memoized values, which belong to one process."""
        return Storage, (self.uri,)

    @property
    def place(self) -> dict[str, Any]:
        """Arguments for Ray Train and Tune: a remote storage keeps our retries."""
        if self.local:
            return {"storage_path": self.uri}
        return {"storage_path": self._root, "storage_filesystem": self._fs}

    def sub(self, path: str) -> Storage:
        """The same storage with its root further down."""
        if not path:
            return self
        # A question mark in a path is one of its characters.
        base, question, query = (self.uri, "", "") if self.local else self.uri.partition("?")
        below = object.__new__(Storage)  # Shares the client and the memoized values.
        below.__dict__ |= self.__dict__
        below.uri, below._root = f"{base}/{path}{question}{query}", f"{self._root}/{path}"
        return below

    def memoize(self, name: str, compute: Callable[[], Value]) -> Value:
        """A value computed from this folder, which doesn't change any more.

        A local folder's value is computed each time. A remote folder's is computed once, until this
        object writes or deletes one of the folder's files; a false value is computed again.
        """
        if self.local:
            return compute()
        if not (value := self._memo.get((self._root, name))):
            value = self._memo[self._root, name] = compute()
        return value

    def check_writable(self) -> None:
        """Write and remove a small file.

        Raises:
            InputError: that failed.
        """
        probe = f"{self._root}/.writable-{os.getpid()}"
        try:
            self._fs.create_dir(self._root, recursive=True)
            with self._fs.open_output_stream(probe) as stream:
                stream.write(b"1")
            self._fs.delete_file(probe)
        except (OSError, ValueError) as error:
            reason = str(error).split(". Detail")[0]
            problem = Problem("storage", f"{self.uri} isn't writable ({reason}).", STORAGE_FIX)
            raise InputError("storage not accessible:", [problem]) from None

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists."""
        return bool(self._info(path).type != pafs.FileType.NotFound)

    def read_bytes(self, path: str) -> bytes:
        """A file's content."""

        def read() -> bytes:
            with self._fs.open_input_stream(f"{self._root}/{path}") as stream:
                return bytes(stream.read())

        return self._read(read)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file atomically: it appears complete or not at all."""
        target = f"{self._root}/{path}"
        self._forget(target)
        if self._fs.type_name not in FLAT:
            self._fs.create_dir(target.rpartition("/")[0], recursive=True)
        if self.local:
            part = Path(f"{target}.{os.getpid()}{PART}")
            try:
                part.write_bytes(data)
                part.replace(target)
            except OSError:
                part.unlink(missing_ok=True)  # A full disk needs its space.
                raise
        else:  # Object stores publish an object when its stream is closed.
            with self._fs.open_output_stream(target) as stream:
                stream.write(data)

    def children(self, path: str) -> list[str]:
        """Names in a folder, sorted; empty when the folder doesn't exist."""
        selector = pafs.FileSelector(f"{self._root}/{path}", allow_not_found=True)
        return sorted(info.base_name for info in self._fs.get_file_info(selector))

    def delete(self, path: str) -> None:
        """Delete a folder or a file, if it exists."""
        target, kind = f"{self._root}/{path}", self._info(path).type
        self._forget(target)
        if kind == pafs.FileType.File:
            self._fs.delete_file(target)
        elif kind != pafs.FileType.NotFound:
            self._fs.delete_dir(target)

    def free_bytes(self) -> int | None:
        """Free space on the disk of a local storage; None for a remote one."""
        if not self.local:
            return None
        root = Path(self._root)
        return shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free

    def files(self) -> list[str]:
        """Paths of all files below the root, sorted."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Path → bytes of all files below the root."""
        selector = pafs.FileSelector(self._root, recursive=True, allow_not_found=True)
        infos = self._fs.get_file_info(selector)
        return {i.path[len(self._root) :].lstrip("/"): int(i.size) for i in infos if i.is_file}

    def sha256(self, path: str) -> str:
        """Digest of a file, read in blocks."""

        def digest() -> str:
            with self._fs.open_input_stream(f"{self._root}/{path}") as stream:
                return stream_sha256(stream)

        return self._read(digest)

    @contextmanager
    def folder(self, path: str) -> Iterator[Path]:
        """A local folder to fill; when the block ends, its files are at `path`."""
        if self.local:
            target = Path(self._root) / path
            target.mkdir(parents=True, exist_ok=True)
            yield target
            return
        with tempfile.TemporaryDirectory(prefix="distill-ray-") as scratch:
            yield Path(scratch)
            self._forget(f"{self._root}/{path}")
            self._fs.create_dir(f"{self._root}/{path}", recursive=True)
            pafs.copy_files(
                scratch,
                f"{self._root}/{path}",
                destination_filesystem=self._fs,
                # Parallel uploads to S3 can hang: github.com/apache/arrow/issues/32372.
                use_threads=self._fs.type_name != "s3",
            )

    @contextmanager
    def reading(self, path: str) -> Iterator[Path]:
        """A local folder with the files of `path`, while the block runs.

        Use it for folders that are still being filled, and `get` for folders that don't change.
        """
        if self.local:
            yield Path(self._root) / path
            return
        with tempfile.TemporaryDirectory(prefix="distill-ray-") as scratch:
            self._copy_to(f"{self._root}/{path}", Path(scratch))
            yield Path(scratch)

    def get(self, path: str = "", state: str = "") -> Path:
        """A local folder with the files of `path`: the folder itself, or this machine's copy.

        Args:
            path: a folder that doesn't change any more.
            state: a digest that differs from that of an earlier folder at the same path.
        """
        if self.local:
            return Path(self._root) / path
        digest = hashlib.sha256(f"{self.uri}/{path} {state}".encode()).hexdigest()[:16]
        source = f"{self._root}/{path}".rstrip("/")
        return cached_folder(digest, lambda part: self._copy_to(source, part))

    def _forget(self, target: str) -> None:
        """Drop memoized values of the folders that contain a path, and of those below it."""
        for root, name in list(self._memo):
            if f"{target}/".startswith(f"{root}/") or root.startswith(f"{target}/"):
                del self._memo[root, name]

    def _copy_to(self, source: str, folder: Path) -> None:
        """Copy a remote folder, several files at a time; a refusal costs one of them alone."""
        selector = pafs.FileSelector(source, recursive=True)
        files = [info.path for info in self._fs.get_file_info(selector) if info.is_file]

        def copy(path: str) -> None:
            target = folder / path[len(source) :].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._read(lambda: pafs.copy_files(path, str(target), source_filesystem=self._fs))

        with ThreadPoolExecutor(AT_A_TIME) as threads:
            for _ in threads.map(copy, files):  # Raises what a copy raised.
                pass

    def _info(self, path: str) -> pafs.FileInfo:
        return self._fs.get_file_info(f"{self._root}/{path}")


STORAGE_FIX = "Set another folder or URI with --storage, or fix the permissions."


def is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, or the user's share of it, is full."""
    # Some of Arrow's errors have the number in their text only.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
        os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)
    )
