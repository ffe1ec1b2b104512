"""Scores of parts of a model, stored until all of them are there. Knows no Ray."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from distill_ray.config.checksums import bytes_sha256
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.checksums import MISMATCH, DamagedError
from distill_ray.runtime.storage import Storage
from distill_ray.stages.scoring.parts import PartScores, QuestionRange

DONE, LEASED = "done", "leased"
DIGEST = 65
"""Bytes of the line before a part's scores: their SHA-256."""


@dataclass(frozen=True)
class PartialScores:
    """A model's folder in `.state`: parts that are scored, and which process works on which."""

    storage: Storage
    path: str

    @classmethod
    def of(cls, artifact: Artifact) -> PartialScores:
        """The partial scores of an artifact that is to be made."""
        return cls(artifact.storage, f".state/{artifact.path}")

    def missing(self, parts: Iterable[QuestionRange]) -> list[QuestionRange]:
        """Parts that aren't scored, or whose file is damaged."""
        names = self.storage.children(f"{self.path}/{DONE}")
        return [p for p in parts if f"{p.key}.json" not in names or self._stored(p) is None]

    def write(self, part: QuestionRange, scores: PartScores) -> None:
        """Store a part's scores."""
        data = json.dumps(scores.model_dump()).encode()
        self.storage.write_bytes(self._file(part), _digest(data) + data)

    def read(self, part: QuestionRange) -> PartScores:
        """Read a part's scores.

        Raises:
            DamagedError: they aren't what was written.
        """
        data, place = self._stored(part), self.storage.sub(self._file(part)).uri
        if data is None:
            raise DamagedError.of(place, MISMATCH, place)
        return PartScores.parse(data, place, place)

    def _stored(self, part: QuestionRange) -> bytes | None:
        """A part's scores as they were written; None where they are damaged."""
        stored = self.storage.read_bytes(self._file(part))
        digest, data = stored[:DIGEST], stored[DIGEST:]
        return data if digest == _digest(data) else None

    def lease(self, part: QuestionRange) -> str:
        """Record that this process begins a part; returns what `release` takes."""
        lease = f"{self.path}/{LEASED}/{part.key}.{uuid.uuid4().hex}.json"
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        self.storage.write_bytes(lease, json.dumps(holder).encode())
        return lease

    def release(self, lease: str) -> None:
        """Record that the process has ended a part, well or not."""
        self.storage.delete(lease)

    def crashes(self, part: QuestionRange) -> int:
        """Processes that began one of the model's parts and never ended it.

        The caller is about to begin `part`, so nobody works on it; on another part, the process
        that began it last may be at work.
        """
        leases: dict[str, int] = {}
        for name in self.storage.children(f"{self.path}/{LEASED}"):
            key = name.partition(".")[0]
            leases[key] = leases.get(key, 0) + 1
        return sum(count - (key != part.key) for key, count in leases.items())

    def reset(self) -> None:
        """Delete all leases: no process is at work when a driver starts."""
        self.storage.delete(f"{self.path}/{LEASED}")

    def clear(self) -> None:
        """Delete everything."""
        self.storage.delete(self.path)

    def _file(self, part: QuestionRange) -> str:
        return f"{self.path}/{DONE}/{part.key}.json"


def _digest(data: bytes) -> bytes:
    """The line before a part's scores."""
    return bytes_sha256(data).encode() + b"\n"
