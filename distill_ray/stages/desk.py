"""Where a model's scores are kept until all of them are there. Knows no Ray."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage
from distill_ray.stages.sheet_parts import Part, Scores

DONE, BEGUN = "done", "begun"


@dataclass(frozen=True)
class Desk:
    """A model's folder in `.state`: parts that are done, and who has begun which."""

    storage: Storage
    path: str

    @classmethod
    def of(cls, artifact: Artifact) -> Desk:
        """The desk of the sheet that is to be made."""
        return cls(artifact.storage, f".state/{artifact.path}")

    def missing(self, parts: Iterable[Part]) -> list[Part]:
        """Those that aren't done."""
        there = self.storage.children(f"{self.path}/{DONE}")
        return [part for part in parts if f"{part.key}.json" not in there]

    def write(self, part: Part, scores: Scores) -> None:
        """Put a part's scores down."""
        self.storage.write_bytes(self._done(part), json.dumps(scores).encode())

    def read(self, part: Part) -> Scores:
        """A part's scores."""
        return dict(json.loads(self.storage.read_bytes(self._done(part))))

    def begin(self, part: Part) -> str:
        """Say that this process begins a part; returns what `end` must be told."""
        mark = f"{self.path}/{BEGUN}/{part.key}.{uuid.uuid4().hex}.json"
        who = {"pid": os.getpid(), "host": socket.gethostname()}
        self.storage.write_bytes(mark, json.dumps(who).encode())
        return mark

    def end(self, mark: str) -> None:
        """Say that a part that was begun has ended, well or not."""
        self.storage.delete(mark)

    def deaths(self, part: Part) -> int:
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

    def _done(self, part: Part) -> str:
        return f"{self.path}/{DONE}/{part.key}.json"
