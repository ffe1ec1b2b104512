"""Where a model's scores are kept until all of them are there. Knows no Ray."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.checksums import MISMATCH, DamagedError
from distill_ray.runtime.storage import Storage
from distill_ray.stages.scoring.parts import QuestionRange, Scores

DONE, BEGUN = "done", "begun"
DIGEST = 65
"""Bytes of the line before a part's scores: their SHA-256."""


@dataclass(frozen=True)
class PartialScores:
    """A model's folder in `.state`: parts that are done, and who has begun which."""

    storage: Storage
    path: str

    @classmethod
    def of(cls, artifact: Artifact) -> PartialScores:
        """The desk of the sheet that is to be made."""
        return cls(artifact.storage, f".state/{artifact.path}")

    def missing(self, parts: Iterable[QuestionRange]) -> list[QuestionRange]:
        """Those that aren't done, or are damaged."""
        there = self.storage.children(f"{self.path}/{DONE}")
        return [p for p in parts if f"{p.key}.json" not in there or self._found(p) is None]

    def write(self, part: QuestionRange, scores: Scores) -> None:
        """Put a part's scores down."""
        data = json.dumps(scores).encode()
        self.storage.write_bytes(self._done(part), _digest(data) + data)

    def read(self, part: QuestionRange) -> Scores:
        """A part's scores.

        Raises:
            DamagedError: they aren't what was written.
        """
        data = self._found(part)
        if data is None:
            place = self.storage.sub(self._done(part)).uri
            raise DamagedError.of(place, MISMATCH, place)
        return dict(json.loads(data))

    def _found(self, part: QuestionRange) -> bytes | None:
        """A part's scores as they were written, if they are."""
        written = self.storage.read_bytes(self._done(part))
        digest, data = written[:DIGEST], written[DIGEST:]
        return data if digest == _digest(data) else None

    def begin(self, part: QuestionRange) -> str:
        """Say that this process begins a part; returns what `end` must be told."""
        mark = f"{self.path}/{BEGUN}/{part.key}.{uuid.uuid4().hex}.json"
        who = {"pid": os.getpid(), "host": socket.gethostname()}
        self.storage.write_bytes(mark, json.dumps(who).encode())
        return mark

    def end(self, mark: str) -> None:
        """Say that a part that was begun has ended, well or not."""
        self.storage.delete(mark)

    def deaths(self, part: QuestionRange) -> int:
        """Processes that began one of the model's parts and never ended it.

        The caller is about to begin `part`, so nobody works on it; on another part, the process
        that began it last may be at work.
        """
        marks: dict[str, int] = {}
        for name in self.storage.children(f"{self.path}/{BEGUN}"):
            key = name.partition(".")[0]
            marks[key] = marks.get(key, 0) + 1
        return sum(count - (key != part.key) for key, count in marks.items())

    def sweep(self) -> None:
        """Forget who has begun what: a driver that starts anew has no process at work."""
        self.storage.delete(f"{self.path}/{BEGUN}")

    def clear(self) -> None:
        """Nothing is needed of it any more."""
        self.storage.delete(self.path)

    def _done(self, part: QuestionRange) -> str:
        return f"{self.path}/{DONE}/{part.key}.json"


def _digest(data: bytes) -> bytes:
    """The line that goes before a part's scores."""
    return hashlib.sha256(data).hexdigest().encode() + b"\n"
