"""Characters and lines of a file, decoded without losing a byte.

A byte that the encoding doesn't know becomes a lone surrogate (U+DC00 + byte), as with Python's
`surrogateescape`. So it spoils the cell that it is in, not the file.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import AnyStr

from distill_ray.stages.reading.batches import Before, Slice
from distill_ray.stages.reading.compression import (
    BLOCK,
    blocks,
    compression_of,
    head_of,
    open_file,
)
from distill_ray.stages.reading.faults import unreadable

MAX_LINE = 256 << 20
"""Most characters of one line or row, so that memory is bounded whatever a file is."""
BAD_BYTES = "distill_ray.bad_bytes"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # Before UTF-16: its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OTHER_FILES = (
    (0, b"PAR1\x15", "a Parquet file, not text", "The key `parquet` reads it."),
    (0, b"ARROW1\0\0", "an Arrow file, not text", "The key `arrow` reads it."),
    (0, b"PK\x03\x04", "a zip archive or a spreadsheet, not text", "Unpack it, or save it as CSV."),
    (257, b"ustar", "a tar archive, not text", "Unpack it."),
    (0, b"SQLite format 3\0", "a SQLite database, not text", "Write its rows as CSV or Parquet."),
)
"""Place, bytes, what it is and what to do: files that are taken for text now and then."""


def _as_surrogates(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + b) for b in error.object[error.start : error.end]), error.end


codecs.register_error(BAD_BYTES, _as_surrogates)


def can_cut(uri: str, encoding: str | None) -> bool:
    """Whether a file's bytes can be cut at line feeds: UTF-8, not compressed."""
    head = head_of(uri)
    return compression_of(head) is None and _encoding_of(uri, head, encoding)[0] == "utf-8"


def _encoding_of(uri: str, head: bytes, named: str | None) -> tuple[str, int]:
    """The encoding of a file that begins so, and the length of its mark.

    A mark counts more than the encoding that is named for all files of a source.

    Raises:
        ReadError: it looks like UTF-16 and has no mark.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding, len(mark)
    if named is not None:
        return codecs.lookup(named).name.replace("utf-8-sig", "utf-8"), 0
    if len(head) >= 32:
        for zeros, others, guess in (
            (head[1::2], head[::2], "utf-16-le"),
            (head[::2], head[1::2], "utf-16-be"),
        ):
            if zeros.count(0) * 10 >= len(zeros) * 9 and others.count(0) * 10 <= len(others):
                what = "every other byte is zero, as in UTF-16 without a byte order mark"
                raise unreadable(uri, what, f"Set `encoding: {guess}`.", place="byte 0")
    return "utf-8", 0


def characters(uri: str, encoding: str | None) -> Iterator[str]:
    """Blocks of a file's text, without its byte order mark.

    Raises:
        ReadError: see `compression.blocks`.
    """
    return _decoded(*_marked(uri, encoding))


def _marked(uri: str, encoding: str | None) -> tuple[Iterator[bytes], str]:
    """A file's bytes after its mark, and their encoding."""
    data, head = blocks(uri), b""
    for block in data:
        head += block
        if len(head) >= 512:
            break
    for place, magic, what, fix in _OTHER_FILES:
        if head[place : place + len(magic)] == magic:
            raise unreadable(uri, what, fix, place="byte 0")
    name, mark = _encoding_of(uri, head[:64], encoding)
    return chain((head[mark:],), data), name


def _decoded(data: Iterable[bytes], encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)(errors=BAD_BYTES)
    for block in data:
        if text := decoder.decode(block):
            yield text
    if text := decoder.decode(b"", True):
        yield text


def line_blocks(piece: Slice, encoding: str | None) -> Iterator[bytes | str]:
    """Blocks of a slice's whole lines: UTF-8 as bytes, other encodings decoded.

    Lines end at `\n` alone: U+2028, form feeds and the like are part of a text. The last line
    needs no end.

    Raises:
        ReadError: see `compression.blocks`; a line is longer than `MAX_LINE`.
    """
    if piece.start or piece.end is not None:
        yield from _whole_lines(piece.uri, _bytes_of_lines(piece), b"\n")
        return
    data, name = _marked(piece.uri, encoding)
    if name == "utf-8":
        yield from _whole_lines(piece.uri, data, b"\n")
    else:
        yield from _whole_lines(piece.uri, _decoded(data, name), "\n")


def lines_of(block: bytes | str) -> list[str]:
    """The lines of a block, without their `\n`; a `\r` before it stays."""
    text = block if isinstance(block, str) else block.decode("utf-8", BAD_BYTES)
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _whole_lines(uri: str, data: Iterable[AnyStr], newline: AnyStr) -> Iterator[AnyStr]:
    """Blocks that are cut after line ends only."""
    nothing, size = newline[:0], 0
    pending: list[AnyStr] = []
    for block in data:
        cut = block.rfind(newline) + 1
        if cut:
            pending.append(block[:cut])
            yield nothing.join(pending)
            pending, size = [], 0
        pending.append(block[cut:])
        size += len(block) - cut
        if size > MAX_LINE:
            what = f"a line of more than {MAX_LINE >> 20} MiB"
            raise unreadable(uri, what, "Is it a file of lines?")
    if last := nothing.join(pending):
        yield last


def _bytes_of_lines(piece: Slice) -> Iterator[bytes]:
    """The bytes of the lines that begin in a slice."""
    if piece.end is not None and piece.end <= piece.start:
        return
    with open_file(piece.uri) as file:
        begun = piece.start == 0
        if begun:
            position = _encoding_of(piece.uri, bytes(file.read(64)), "utf-8")[1]
        else:  # The byte before the slice counts: a line may begin with the slice.
            position = piece.start - 1
        file.seek(position)
        end = file.size() if piece.end is None else piece.end
        while block := bytes(file.read(BLOCK)):
            position, first = position + len(block), 0
            if not begun:
                first = block.find(b"\n") + 1
                begun = first > 0
                if not begun:
                    if position >= end:
                        return
                    continue
                if position - len(block) + first >= end:
                    return
            if position >= end:
                # The line that the last byte of the slice belongs to is read to its end.
                last = block.find(b"\n", max(first, end - 1 - (position - len(block))))
                if last >= 0:
                    yield block[first : last + 1]
                    return
            yield block[first:]


def newlines_before(uri: str, end: int) -> int:
    """How many lines end before a byte of a file that isn't compressed."""
    count = 0
    with open_file(uri) as file:
        while end > 0 and (block := bytes(file.read(min(BLOCK, end)))):
            count += block.count(b"\n")
            end -= len(block)
    return count


def lines_before(piece: Slice) -> Before | None:
    """The number of lines that begin before a slice, for `Places`.

    The line that reaches into the slice is one more than the line feeds before it.
    """
    return Before(partial(_lines_before, piece.uri, piece.start)) if piece.start else None


def _lines_before(uri: str, start: int) -> int:
    return newlines_before(uri, start - 1) + 1
