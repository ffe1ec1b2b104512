"""Numbers as people write them: `2M`, `64k`, `64Ki`, `1e5`, `1_000_000`."""

from __future__ import annotations

import math
import re
from decimal import Context, Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

SUFFIXES = {
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
}
"""K, m and B stand for several things, so they are refused."""
PATTERN = r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)?"
_NUMBER = re.compile(PATTERN)
_WITH_SUFFIX = re.compile(rf"({PATTERN})\s*([A-Za-z]*)")
_LONGEST = 30
"""Digits of a whole number. More are a slip, and `1e999999999` would fill the memory."""
_LARGEST_EXPONENT = 400
"""Beyond that of any float."""
_EXACT = Context(prec=100)


def looks_like_a_number(text: str) -> bool:
    """Whether a text has the form of a number, with or without letters behind it."""
    return _WITH_SUFFIX.fullmatch(text) is not None


class PlainText(str):
    """Text that a YAML file has without quotes. Quoted text is a plain `str`."""

    __slots__ = ()


def _exact(value: Any) -> Decimal | None:
    """The number that a text stands for; None if it doesn't look like one.

    Raises:
        ValueError: it is a number that is too large, or has an unknown suffix.
    """
    if not isinstance(value, str):
        return None
    match = _WITH_SUFFIX.fullmatch(value.strip())
    if match is None:
        return None
    digits, suffix = match[1], match[match.lastindex or 0]
    if suffix and suffix not in SUFFIXES:
        raise ValueError(
            f"the suffix of {value} is unknown. Use k (1,000), M, G, Ki (1,024), Mi or Gi"
        )
    number = Decimal(digits.replace("_", ""))
    if number and number.adjusted() > _LARGEST_EXPONENT:
        raise ValueError(f"{value} is too large")
    return _EXACT.multiply(number, SUFFIXES[suffix]) if suffix else number


def _whole(value: Any) -> Any:
    number = _exact(value)
    if number is None:
        return value
    if number and number.adjusted() >= _LONGEST:
        raise ValueError(f"{value} has more than {_LONGEST} digits")
    if number != number.to_integral_value():
        raise ValueError(f"{value} is {number.normalize():f}, which isn't a whole number")
    return int(number)


def _real(value: Any) -> Any:
    number = _exact(value)
    if number is None:
        return value
    if math.isinf(real := float(number)):
        raise ValueError(f"{value} is too large")
    return real


WHOLE, REAL = BeforeValidator(_whole), BeforeValidator(_real)
"""In `Annotated[int, Field(...), WHOLE]`: behind the bounds, which are then in the JSON schema."""
Int = Annotated[int, WHOLE]
Float = Annotated[float, REAL]
PositiveInt = Annotated[int, Field(gt=0), WHOLE]
NonNegativeInt = Annotated[int, Field(ge=0), WHOLE]
PositiveFloat = Annotated[float, Field(gt=0), REAL]
NonNegativeFloat = Annotated[float, Field(ge=0), REAL]
Fraction = Annotated[float, Field(ge=0, le=1), REAL]
OpenFraction = Annotated[float, Field(gt=0, lt=1), REAL]


def _numbers_in(value: Any) -> Any:
    """Unquoted exponents, such as `rope_theta: 1e6`, as the numbers that YAML 1.2 takes them for.

    A suffix stays text: `name: 10M` may be the name of a data set.
    """
    if isinstance(value, dict):
        return {key: _numbers_in(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers_in(item) for item in value]
    if isinstance(value, PlainText):
        return _as_yaml_1_2(value)
    return value


def _as_yaml_1_2(text: str) -> Any:
    """Its number; text if it is none, or is one that no float holds, like the hash 123e456."""
    if not _NUMBER.fullmatch(text):
        return str(text)
    digits = text.replace("_", "")
    if digits.lstrip("+-").isdigit():
        return int(digits)
    return number if math.isfinite(number := float(digits)) else str(text)


FreeMapping = Annotated[dict[str, Any], BeforeValidator(_numbers_in)]
"""Keys and values of another library, or of the user's own function."""


def with_text(schema: Any) -> Any:
    """A JSON schema in which every number may be such a text, too."""
    if isinstance(schema, list):
        return [with_text(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in ("integer", "number"):
        text = {"type": "string", "pattern": rf"^{PATTERN}({'|'.join(SUFFIXES)})?$"}
        about = {k: v for k, v in schema.items() if k in ("title", "description", "default")}
        return {**about, "anyOf": [{k: v for k, v in schema.items() if k not in about}, text]}
    return {key: with_text(item) for key, item in schema.items()}
