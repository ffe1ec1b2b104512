"""What ended a run from outside of it: a full disk, a storage that stays away, a damaged file.

None is a model's fault, so none is noted as the failure of one; each ends the command with one
message, and the same command goes on from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime.checksums import DAMAGED, DamagedError
from distill_ray.runtime.filesystems import unreachable
from distill_ray.runtime.storage import is_full

AGAIN = "The same command goes on from here."


def outside_cause(error: BaseException | None) -> InputError | None:
    """The message about what ended the work from outside; None for any other error.

    Args:
        error: as it was raised, or as Ray brings it from another process.
    """
    for cause in _causes(error):
        if isinstance(cause, DamagedError):
            return cause
        # Of an error in a worker of Ray Data, text alone arrives.
        if told := re.search(rf"{DAMAGED}\n +(.+)", str(cause)):
            return DamagedError(DAMAGED, [_problem(told[1])])
        if is_full(cause):
            fix = f"Free some space, or set storage elsewhere. {AGAIN}"
            return InputError("the disk is full:", [Problem("storage", _line(cause), fix)])
        if unreachable(cause):
            fix = f"Try again when it answers. {AGAIN}"
            return InputError("the storage stays away:", [Problem("storage", _line(cause), fix)])
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it came from, whichever way Ray keeps them."""
    waiting, seen = [error], set()
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "cause", None)]
        waiting += list((getattr(cause, "worker_failures", None) or {}).values())


def _line(error: BaseException) -> str:
    """The line of an error's text that tells it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = (ln for ln in reversed(lines) if is_full(OSError(ln)) or unreachable(OSError(ln)))
    line = next(telling, lines[-1] if lines else type(error).__name__)
    return f"{line.split('. Detail')[0][:300].rstrip('.')}."


def _problem(line: str) -> Problem:
    where, _, what = line.partition(": ")
    return Problem(where, what)
