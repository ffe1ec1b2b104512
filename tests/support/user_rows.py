"""Functions of a user that yield rows."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def rows(*, count: int = 3) -> Iterator[dict[str, Any]]:
    for i in range(count):
        yield {"text": f"row {i}", "label": f"{i:04d}", "other": object()}


def typed() -> list[dict[str, Any]]:
    values = [1, 1.0, True, decimal.Decimal("1.10"), datetime.date(2024, 1, 5), None, "01"]
    values += [np.int64(7), np.float32(0.1), np.bool_(False), np.str_("x"), float("nan"), {1}]
    return [{"text": "a", "label": value} for value in values]


def failing() -> Iterator[dict[str, Any]]:
    yield {"text": "a"}
    yield {"text": "b"}
    raise KeyError("speaker")


def not_rows() -> Iterator[Any]:
    yield {"text": "a"}
    yield "b"
    yield ["c"]


def of_file(*, path: str) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON Lines."""
    for line in Path(path).read_text().splitlines():
        yield json.loads(line)


def of_values(*, column: str, kind: str) -> Iterator[dict[str, Any]]:
    """A good row, and one whose column holds something that isn't text."""
    values = {"a list": ["heart"], "an object": {"organ": "eye"}, "bytes": b"\xff"}
    yield {"text": "a", column: "x"}
    yield {"text": "b", column: values[kind]}
