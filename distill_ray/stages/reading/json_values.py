"""JSON values out of text, with literals as they are written and faults in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distill_ray.stages.reading.batches import Row
from distill_ray.stages.reading.faults import RowFault, kind_of, raw_text, shortened, unreadable
from distill_ray.stages.reading.streams import MAX_LINE, characters
from distill_ray.stages.reading.values import NotJSON, Number

SPACE = " \t\r\n"
"""What JSON calls white space."""
_CUT = 64
"""Characters of a literal or an escape that the end of a buffer may have cut off."""
ONE_OBJECT_A_ROW = 'A row is one object, for example {"text": "..."}.'


class _RepeatedKeyError(ValueError):
    """An object with one key twice. Any reader would have to choose."""


class _Object(dict[str, Any]):
    """An object that knows which of its keys it has twice."""

    repeated: frozenset[str] = frozenset()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise _RepeatedKeyError
    return row


def _with_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = _Object(pairs)
    keys = [key for key, _ in pairs]
    row.repeated = frozenset(key for key in keys if keys.count(key) > 1)
    return row


def _decoder(**options: Any) -> json.JSONDecoder:
    return json.JSONDecoder(parse_float=Number, parse_constant=NotJSON, **options)


decode = _decoder(object_pairs_hook=_unique).raw_decode
"""`decode(text, position)` → a value and where it ends; the fast way, see `decode_any`."""
_decode_any = _decoder(object_pairs_hook=_with_repeated, parse_int=Number).raw_decode
_decode_repeated = _decoder(object_pairs_hook=_with_repeated).raw_decode


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row."""

    what: str
    fix: str
    column: str = ""

    def fault(self, file: str, place: str, raw: str) -> RowFault:
        """The same at its place."""
        return RowFault(file, place, self.column, self.what, self.fix, raw_text(raw))


def decode_any(text: str, position: int, wanted: tuple[str, ...] | None) -> tuple[Any, int]:
    """A value that is a row, or what is wrong with it, and where it ends.

    Raises:
        JSONDecodeError: no JSON.
        RecursionError: lists in lists, too deep.
    """
    try:
        row, end = decode(text, position)
        if type(row) is dict:
            return row, end
    except json.JSONDecodeError:
        raise
    except ValueError:
        try:
            row, end = _decode_repeated(text, position)
        except json.JSONDecodeError:
            raise
        except ValueError:  # An integer of more digits than Python converts stays text.
            row, end = _decode_any(text, position)
    if not isinstance(row, dict):
        return Problem(kind_of(row), ONE_OBJECT_A_ROW), end
    repeated: frozenset[str] = getattr(row, "repeated", frozenset())
    for name in row if wanted is None else wanted:
        if name in repeated or _has_repeated(row.get(name)):
            return Problem("an object that has one key twice", "Leave one of them.", name), end
    return row, end


def _has_repeated(value: Any) -> bool:
    if isinstance(value, dict):
        own = getattr(value, "repeated", None)
        return bool(own) or any(map(_has_repeated, value.values()))
    return isinstance(value, list) and any(map(_has_repeated, value))


def parse_line(line: str, wanted: tuple[str, ...] | None) -> Row | Problem | None:
    """The row of a line, what is wrong with it, or None for a blank line."""
    text = line.strip(SPACE)
    if not text:
        return None
    try:
        row, end = decode_any(text, 0, wanted)
    except json.JSONDecodeError as error:
        return _syntax(error)
    except RecursionError:
        return Problem("lists or objects nested too deep", "Remove the row.")
    if text[end:].strip(SPACE):
        rest = raw_text(shortened(text[end:].strip(SPACE)))
        return Problem(f"more after the value ({rest})", "Write one object a line.")
    return row  # type: ignore[no-any-return]


def _syntax(error: json.JSONDecodeError) -> Problem:
    near = error.doc[max(0, error.pos - 20) : error.pos + 20]
    place = f"character {error.pos + 1}, near {raw_text(near)!r}"
    if error.msg.startswith("Invalid control character"):
        code = ord(error.doc[error.pos])
        what = f"a control character (U+{code:04X}) in a string, at {place}"
        return Problem(what, f"Write it as \\u{code:04x}.")
    if error.pos >= len(error.doc.rstrip(SPACE)) or error.msg.startswith("Unterminated"):
        return Problem(f"JSON that ends early ({error.msg.lower()}, {place})", "Complete the row.")
    return Problem(f"no valid JSON ({error.msg.lower()}, {place})", "Mend the row.")


class ValueStream:
    """The rows of one JSON array, or of objects one after another, whatever lines they are on."""

    def __init__(self, uri: str, encoding: str | None, wanted: tuple[str, ...] | None) -> None:
        self._uri, self._wanted = uri, wanted
        self._blocks = characters(uri, encoding)
        self._text, self._at, self._lines, self._ended = "", 0, 0, False

    def __iter__(self) -> Iterator[tuple[int, Row | RowFault, int]]:
        """Number, row or fault, and size.

        Raises:
            ReadError: the JSON is broken: what follows can't be told apart.
        """
        number = 0
        array = self._next() == "["
        if array:
            self._at += 1
        while (character := self._next()) not in ("", "]" if array else ""):
            if array and number:
                if character != ",":
                    raise self._broken(f"{character!r} where a comma should be", number)
                self._at += 1
                self._next()
            number += 1
            row, size = self._value(number)
            if isinstance(row, Problem):
                raw = self._text[self._at - size : self._at]
                yield number, row.fault(self._uri, f"row {number}", raw), size
            else:
                yield number, row, size
        if array and character == "":
            raise self._broken("a JSON array that ends early", number)
        self._at += 1
        if array and self._next():
            raise self._broken("more after the JSON array", number)

    def _next(self) -> str:
        """The next character that isn't white space, or nothing at the end."""
        while True:
            text = self._text
            while self._at < len(text) and text[self._at] in SPACE:
                self._at += 1
            if self._at < len(text):
                return text[self._at]
            if self._ended:
                return ""
            self._more()

    def _more(self) -> None:
        """Drop what was read, and double what wasn't: long values are tried a few times only."""
        self._lines += self._text.count("\n", 0, self._at)
        pieces = [self._text[self._at :]]
        needed = max(len(pieces[0]), 1)
        self._at = 0
        while needed > 0 and not self._ended:
            block = next(self._blocks, None)
            self._ended = block is None
            pieces.append(block or "")
            needed -= len(pieces[-1])
        self._text = "".join(pieces)

    def _value(self, number: int) -> tuple[Row | Problem, int]:
        """The row that begins here, or what is wrong with it, and its size."""
        while True:
            try:
                row, end = decode_any(self._text, self._at, self._wanted)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - _CUT or error.msg.startswith("Unterminated")
                if self._ended or not cut:
                    self._at = error.pos
                    raise self._broken(_syntax(error).what, number) from error
            except RecursionError as error:
                raise self._broken("lists or objects nested too deep", number) from error
            else:
                # A number may go on after the end of the buffer.
                if end < len(self._text) or self._ended:
                    size = end - self._at
                    self._at = end
                    return row, size
            if len(self._text) - self._at > MAX_LINE:
                raise self._broken(f"one value of more than {MAX_LINE:,} characters", number)
            self._more()

    def _broken(self, what: str, number: int) -> Exception:
        line = self._lines + self._text.count("\n", 0, self._at) + 1
        return unreadable(self._uri, what, "Mend the file.", place=f"line {line}, row {number}")
