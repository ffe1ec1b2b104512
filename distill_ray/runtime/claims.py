"""Claims on a run's folder: files that their owners renew. `acquisition.py` decides by them."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import socket
import sys
import uuid
import zlib
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path

from distill_ray.runtime.storage import PART, Storage

FOLDER = ".lease"
"""Below the run's folder."""
SUFFIX = ".json"
WAITING, ENTERING, HOLDING = "waiting", "entering", "holding"
"""States of a claim, see `acquisition.py`."""
UNREADABLE_S = 60.0
"""A claim that can't be read and doesn't change for this long is dead."""


@dataclass(frozen=True)
class Claim:
    """What a process says of itself."""

    id: str
    """Sorts by the time of its making, roughly: clocks of machines differ."""
    host: str
    machine: str
    """This boot of this machine and its namespace of process ids; empty where that isn't known."""
    pid: int
    pid_started: int | None
    """A later process with the same id started at another time."""
    user: str
    command: str
    started: str
    """UTC, on the clock of its machine. For readers alone."""
    dead_after_s: float
    """It is dead once an observer has seen no heartbeat for this long."""
    state: str = WAITING
    heartbeat: int = 0
    """Counts renewals."""
    deposed: tuple[str, ...] = ()
    """Ids of the dead claims that this one takes over from."""

    @classmethod
    def of_this_process(cls, dead_after_s: float) -> Claim:
        """A new claim, in the state `waiting`."""
        now = datetime.now(timezone.utc)
        return cls(
            id=f"{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}",
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            pid_started=_process_started(os.getpid()),
            user=_user(),
            command=_command(),
            started=now.isoformat(timespec="seconds"),
            dead_after_s=dead_after_s,
        )

    def renewed(self, **changes: object) -> Claim:
        """The claim after a heartbeat, with changes of state."""
        return replace(self, heartbeat=self.heartbeat + 1, **changes)  # type: ignore[arg-type]

    def process_is_gone(self) -> bool:
        """Whether its process ran on this machine and has ended. False where that isn't known."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False  # Another user's.
        return self.pid_started is not None and _process_started(self.pid) != self.pid_started

    def describe(self) -> str:
        """Who it is: command, process, host, user, and since when."""
        who = f", user {self.user}" if self.user else ""
        since = self.started.replace("T", " ").removesuffix("+00:00")
        return f"`{self.command}` (pid {self.pid} on {self.host}{who}, since {since} UTC)"


class Claims:
    """The claims on one folder. Each is one file, which only its owner writes.

    The storage must be strongly consistent, as local file systems, S3, GCS and MinIO are: what was
    written, renamed or deleted is what every later request reads or lists.
    """

    def __init__(self, run: Storage) -> None:
        self._folder = run.sub(FOLDER)

    def put(self, claim: Claim) -> None:
        """Write a claim."""
        self._folder.write_bytes(f"{claim.id}{SUFFIX}", json.dumps(asdict(claim)).encode())

    def get(self, claim_id: str) -> Claim | None:
        """Read a claim; None if there is none."""
        name = f"{claim_id}{SUFFIX}"
        for is_last in (False, False, True):
            try:
                data = self._folder.read_bytes(name)
            except OSError:
                if not self.exists(claim_id):
                    return None
                if is_last:
                    raise
                continue
            # Half a claim: it was replaced between the request for its size and that for it.
            if (claim := _parse(data)) is not None and claim.id == claim_id:
                return claim
        digest = zlib.crc32(data)  # Garbage. If it is still the same later, nobody renews it.
        return Claim(claim_id, "?", "", 0, None, "", "?", "?", UNREADABLE_S, HOLDING, digest)

    def others(self, claim_id: str) -> dict[str, Claim]:
        """Id → claim of all but one."""
        names = self._folder.children("")
        ids = {n.removesuffix(SUFFIX) for n in names if n.endswith(SUFFIX)} - {claim_id}
        claims = {other: self.get(other) for other in sorted(ids)}
        return {other: claim for other, claim in claims.items() if claim is not None}

    def exists(self, claim_id: str) -> bool:
        """Whether a claim is there."""
        return self._folder.exists(f"{claim_id}{SUFFIX}")

    def delete(self, claim_id: str) -> None:
        """Delete a claim, if it is there."""
        names = [n for n in self._folder.children("") if n.startswith(claim_id)]
        for name in names:
            if name.endswith((SUFFIX, PART)):
                try:
                    self._folder.delete(name)
                except FileNotFoundError:
                    continue  # Another process was faster.


def _parse(data: bytes) -> Claim | None:
    names = {f.name for f in fields(Claim)}
    try:
        values = {key: value for key, value in json.loads(data).items() if key in names}
        return Claim(**{**values, "deposed": tuple(values["deposed"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _machine() -> str:
    """This boot of this machine and its namespace of process ids; empty where that isn't known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_started(pid: int) -> int | None:
    """When a process started, in ticks since boot; None if it has ended, or that isn't known."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(rest[18])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        return ""


def _command() -> str:
    """The command without its flags, whose values may be secret."""
    program = Path(sys.argv[0])
    words = [program.parent.name if program.name == "__main__.py" else program.name]
    for word in sys.argv[1:]:
        if word.startswith("-"):
            break
        words.append(word)
    return shlex.join(words)
