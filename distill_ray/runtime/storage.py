"""A storage URI as a place for folders: local disk, or whatever pyarrow reaches."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs as pafs

from distill_ray.config.cache import cache_folder as cache_folder
from distill_ray.config.cache import kept
from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime.filesystems import open_uri

FLAT = ("s3", "gcs")
"""Object stores: they have no folders, an object's name is its path."""
PART = ".part"
"""Ends the name of a file that is being written; one that stays was cut off."""
Found = TypeVar("Found")


class Storage:
    """Folders below one root. Local roots are used in place; remote ones through copies."""

    def __init__(self, uri: str) -> None:
        self._known: dict[tuple[str, str], Any] = {}
        self.local = "://" not in uri or uri.startswith("file://")
        if self.local:
            root = Path(uri.removeprefix("file://")).expanduser().absolute()
            self.uri, self._root, self._fs = str(root), str(root), pafs.LocalFileSystem()
        else:
            self.uri = uri.rstrip("/")
            try:
                self._fs, self._root = open_uri(self.uri)
            except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError.
                problem = Problem("storage", f"{self.uri} can't be used ({error}).", STORAGE_FIX)
                raise InputError("the storage can't be used:", [problem]) from None

    def __reduce__(self) -> tuple[Any, ...]:
        """What is known stays in its process."""
        return Storage, (self.uri,)

    @property
    def place(self) -> dict[str, Any]:
        """Where it is, as Ray Train and Tune take it: with our patience for a remote one."""
        if self.local:
            return {"storage_path": self.uri}
        return {"storage_path": self._root, "storage_filesystem": self._fs}

    def sub(self, path: str) -> Storage:
        """The same storage with its root further down."""
        if not path:
            return self
        base, question, query = self.uri.partition("?")
        below = object.__new__(Storage)  # With the same client, and what it knows.
        below.__dict__ |= self.__dict__
        below.uri, below._root = f"{base}/{path}{question}{query}", f"{self._root}/{path}"
        return below

    def memoize(self, what: str, find: Callable[[], Found]) -> Found:
        """What is found of this folder that doesn't change any more.

        A local folder is looked at each time. A remote one is asked once, until one of its files is
        written or deleted here; an answer that is false is asked for again.
        """
        if self.local:
            return find()
        if not (found := self._known.get((self._root, what))):
            found = self._known[self._root, what] = find()
        return found

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
            problem = Problem("storage", f"{self.uri} can't be written ({reason}).", STORAGE_FIX)
            raise InputError("the storage can't be used:", [problem]) from None

    def exists(self, path: str) -> bool:
        """Is there a file or folder?"""
        return bool(self._info(path).type != pafs.FileType.NotFound)

    def read_bytes(self, path: str) -> bytes:
        """A whole file."""
        with self._fs.open_input_stream(f"{self._root}/{path}") as stream:
            return bytes(stream.read())

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file so that it is there whole or not at all."""
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
                part.unlink(missing_ok=True)  # On a full disk, its room is needed.
                raise
        else:  # Object stores publish an object when its stream is closed.
            with self._fs.open_output_stream(target) as stream:
                stream.write(data)

    def children(self, path: str) -> list[str]:
        """Names in a folder, sorted; none when there is no folder."""
        selector = pafs.FileSelector(f"{self._root}/{path}", allow_not_found=True)
        return sorted(info.base_name for info in self._fs.get_file_info(selector))

    def delete(self, path: str) -> None:
        """Remove a folder or a file, if it is there."""
        target, kind = f"{self._root}/{path}", self._info(path).type
        self._forget(target)
        if kind == pafs.FileType.File:
            self._fs.delete_file(target)
        elif kind != pafs.FileType.NotFound:
            self._fs.delete_dir(target)

    def free_bytes(self) -> int | None:
        """Room on the disk that a local storage is on; None for a remote one."""
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
        found = self._fs.get_file_info(selector)
        return {i.path[len(self._root) :].lstrip("/"): int(i.size) for i in found if i.is_file}

    def sha256(self, path: str) -> str:
        """Digest of a file, read in blocks."""
        digest = hashlib.sha256()
        with self._fs.open_input_stream(f"{self._root}/{path}") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()

    @contextmanager
    def folder(self, path: str) -> Iterator[Path]:
        """A local folder to fill; its files are at `path` when the block ends."""
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
                # Parallel uploads to S3 can block for ever: github.com/apache/arrow/issues/32372.
                use_threads=self._fs.type_name != "s3",
            )

    @contextmanager
    def reading(self, path: str) -> Iterator[Path]:
        """A local folder with the files of `path`, for as long as the block lasts.

        For folders that are still being filled; `get` is for those that don't change any more.
        """
        if self.local:
            yield Path(self._root) / path
            return
        with tempfile.TemporaryDirectory(prefix="distill-ray-") as scratch:
            pafs.copy_files(f"{self._root}/{path}", scratch, source_filesystem=self._fs)
            yield Path(scratch)

    def get(self, path: str = "", state: str = "") -> Path:
        """A local folder with the files of `path`: itself, or a copy kept for this machine.

        Args:
            path: a folder that doesn't change any more.
            state: what tells it from one that was there before.
        """
        if self.local:
            return Path(self._root) / path
        digest = hashlib.sha256(f"{self.uri}/{path} {state}".encode()).hexdigest()[:16]
        source = f"{self._root}/{path}".rstrip("/")
        return kept(digest, lambda part: self._copy_to(source, part))

    def _forget(self, target: str) -> None:
        """What is known of folders that it lies in, or that lie in it."""
        for root, what in list(self._known):
            if f"{target}/".startswith(f"{root}/") or root.startswith(f"{target}/"):
                del self._known[root, what]

    def _copy_to(self, source: str, folder: Path) -> None:
        pafs.copy_files(source, str(folder), source_filesystem=self._fs)

    def _info(self, path: str) -> pafs.FileInfo:
        return self._fs.get_file_info(f"{self._root}/{path}")


STORAGE_FIX = "Give another folder or URI with --storage, or free its permissions."


def is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, or the user's share of it, is full."""
    # Arrow's errors may carry the number in their text only.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
        os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)
    )
