"""Bytes of a file, decompressed, with damage named by its place."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import fs as pafs

from distill_ray.runtime.filesystems import open_uri, read_patiently, unreachable
from distill_ray.stages.reading.faults import unreadable

BLOCK = 2 << 20
"""Bytes of a block."""
INPUT_BLOCK = 64 << 10
"""Compressed bytes that are read at once: the grain of a fault's place."""
HUB = "hf://"
"""How URIs of files on Hugging Face's hub begin. They name the commit."""
SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
REMAKE = "The file is damaged: get it again."


class _Decompressor(Protocol):
    """One member of a compressed file, which may have several."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


_MEMBERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


def compression_of(head: bytes) -> str | None:
    """The compression whose magic bytes a file begins with."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    # The second: a frame to skip, with which parallel compressors begin.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (
        head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F
    ):
        return "zstd"
    return None


def file_system(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or a URI, and the path on it."""
    if uri.startswith(HUB):
        return pafs.LocalFileSystem(), _downloaded(uri)
    return open_uri(uri) if "://" in uri else (pafs.LocalFileSystem(), uri)


@lru_cache(maxsize=4096)
def _downloaded(uri: str) -> str:
    """The path of a hub's file in this machine's cache."""
    from datasets import DownloadManager

    return str(DownloadManager().download(uri))


def open_file(uri: str) -> Any:
    """Open a local path or a URI as a random-access file.

    Raises:
        ReadError: it can't be opened.
        OSError: the storage behind a URI is unreachable.
    """
    try:
        filesystem, path = file_system(uri)
        file = filesystem.open_input_file(path)
        return pa.PythonFile(_SmallReads(file), "r") if filesystem.type_name == "s3" else file
    except (OSError, ValueError) as error:
        if unreachable(error):
            raise
        raise unreadable(uri, f"it can't be opened ({_reason(error)})") from error


class _SmallReads:
    """A file on S3, of which short pieces can be read while the server fails now and then."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.size, self.seek, self.tell, self.close = file.size, file.seek, file.tell, file.close

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes from where the file is."""
        position = self._file.tell()

        def read() -> bytes:
            self._file.seek(position)
            return bytes(self._file.read(None if size < 0 else size))

        return read_patiently(read)


def head_of(uri: str, size: int = 64) -> bytes:
    """The first bytes of a file, as they are stored."""
    with open_file(uri) as file:
        return bytes(file.read(size))


def blocks(uri: str) -> Iterator[bytes]:
    """Read a file in blocks, decompressed by its magic bytes.

    Raises:
        ReadError: it can't be opened, a frame is broken or cut off, or its name promises a
            compression that it doesn't have.
    """
    with open_file(uri) as file:
        head = bytes(file.read(16))
        file.seek(0)
        compression = compression_of(head)
        promised = SUFFIXES.get(Path(uri.partition("?")[0]).suffix.lower())
        if promised is not None and compression != promised and head:
            what = f"its name says {promised}, its first bytes are {head[:8]!r}"
            actual = f"it is {compression or 'not compressed'}"
            raise unreadable(uri, what, f"Rename it if {actual}, or get it again.", place="byte 0")
        if compression is None:
            while block := bytes(file.read(BLOCK)):
                yield block
        elif compression == "zstd":
            yield from _zstd(uri, file)
        else:
            yield from _members(uri, file, compression)


def _zstd(uri: str, file: Any) -> Iterator[bytes]:
    stream = pa.CompressedInputStream(file, "zstd")
    while True:
        try:
            block = bytes(stream.read(BLOCK))
        except OSError as error:
            if unreachable(error):
                raise
            what = f"broken zstd frame ({_reason(error)})"
            raise unreadable(uri, what, REMAKE, place=f"byte {file.tell()}") from error
        if not block:
            return
        yield block


def _members(uri: str, file: Any, compression: str) -> Iterator[bytes]:
    """Decompress members that follow one another.

    The standard library's file objects ignore what follows a member and isn't another one, so a
    damaged second member would vanish.
    """
    member: _Decompressor | None = None
    data, read = b"", 0
    while True:
        if len(data) < 16:
            more = bytes(file.read(INPUT_BLOCK))
            data, read = data + more, read + len(more)
        place = f"byte {read - len(data)}"
        if member is None:
            data = data.lstrip(b"\0")  # Tapes and xz pad members with zeros.
            if not data:
                if file.tell() >= file.size():
                    return
                continue
            if compression_of(data) != compression:
                what = f"{data[:8]!r} where the next {compression} member should begin"
                raise unreadable(uri, what, REMAKE, place=f"byte {read - len(data)}")
            member = _MEMBERS[compression]()
        elif not data:
            raise unreadable(uri, f"{compression} data that ends early", REMAKE, place=place)
        try:
            yield from _output(member, data)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            what = f"broken {compression} data ({_reason(error)})"
            raise unreadable(uri, what, REMAKE, place=place) from error
        data = member.unused_data if member.eof else b""
        if member.eof:
            member = None


def _output(member: _Decompressor, data: bytes) -> Iterator[bytes]:
    """All that these bytes become, at most a block at once: zeros grow a thousandfold."""
    while True:
        block = member.decompress(data, BLOCK)
        if block:
            yield block
        data = getattr(member, "unconsumed_tail", b"")
        if member.eof or (not data and len(block) < BLOCK):
            return


def _reason(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
