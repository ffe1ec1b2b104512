"""What is wrong with a row or a file: where, what, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RAW_LENGTH = 2000
"""Most characters of a faulty row that a fault keeps."""
SHOWN_LENGTH = 60
"""Most characters of a value in a message."""


@dataclass(frozen=True)
class RowFault:
    """A row that can't be read, or what ends the reading of a file."""

    file: str
    """Path or URI."""
    place: str
    """`line 12`, `row 3`, `byte 104`, or nothing. Counted from 1; bytes from 0."""
    column: str
    """Name of the column, or nothing."""
    what: str
    """What is there."""
    fix: str
    """What to do."""
    raw: str = ""
    """The row as text, at most `RAW_LENGTH` characters."""

    def __str__(self) -> str:
        column = f"column {self.column!r}" if self.column else ""
        where = ", ".join(part for part in (self.file, self.place, column) if part)
        return f"{where}: {self.what}." + (f" {self.fix}" if self.fix else "")


class ReadError(ValueError):
    """A file that can't be read to its end, or at all."""

    def __init__(self, fault: RowFault) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return str(self.fault)


def unreadable(file: str, what: str, fix: str = "", *, place: str = "") -> ReadError:
    """The error of a whole file."""
    return ReadError(RowFault(file, place, "", what.rstrip(". "), fix))


def shortened(text: str, length: int = SHOWN_LENGTH) -> str:
    """A text for a message: its beginning, where it is longer than `length` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def raw_text(text: str) -> str:
    """A row's text as a fault keeps it: shortened, and what isn't text as `\\udcxx`."""
    return text[:RAW_LENGTH].encode("utf-8", "backslashreplace").decode()[:RAW_LENGTH]


def kind_of(value: Any) -> str:
    """What a value is, in words: `a list ([1, 2])`."""
    if isinstance(value, bool):
        return f"a boolean ({str(value).lower()})"
    for kind, words in (
        (str, "text"),
        (dict, "an object"),
        ((list, tuple), "a list"),
        (bytes, "bytes"),
        ((int, float), "a number"),
    ):
        if isinstance(value, kind):
            return f"{words} ({raw_text(shortened(repr(value)))})"
    return "nothing (null)" if value is None else f"a {type(value).__name__}"
