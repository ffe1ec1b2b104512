"""External errors that end a run: a full disk, an unreachable storage, a corrupt file, a lost run.

None is a model's fault, so none is recorded as a model's failure. Each ends the command with one
message, and the same command resumes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime.checksums import DAMAGED, DamagedError
from distill_ray.runtime.filesystems import unreachable
from distill_ray.runtime.lease import LOST, LeaseLostError
from distill_ray.runtime.storage import is_full

RESUME = "Rerun the same command to resume."


def outside_cause(error: BaseException | None) -> InputError | None:
    """The input error for an external cause; None for any other error.

    Args:
        error: as it was raised, or as Ray passes it on from another process.
    """
    for cause in _causes(error):
        if isinstance(cause, (DamagedError, LeaseLostError)):
            return cause
        # Ray Data passes on only the text of an error in a worker.
        for title, kind in ((DAMAGED, DamagedError), (LOST, LeaseLostError)):
            if match := re.search(rf"{title}\n +(.+)", str(cause)):
                where, _, what = match[1].partition(": ")
                return kind(title, [Problem(where, what)])
        if is_full(cause):
            fix = f"Free some space, or set storage to another place. {RESUME}"
            return InputError("disk full:", [Problem("storage", _telling_line(cause), fix)])
        if unreachable(cause):
            fix = f"Wait until it answers. {RESUME}"
            problem = Problem("storage", _telling_line(cause), fix)
            return InputError("storage unreachable:", [problem])
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all its causes, in every attribute where Ray stores them."""
    queue, visited = [error], set()
    while queue:
        cause = queue.pop(0)
        if not isinstance(cause, BaseException) or id(cause) in visited:
            continue
        visited.add(id(cause))
        yield cause
        queue += [cause.__cause__, cause.__context__, getattr(cause, "cause", None)]
        queue += list((getattr(cause, "worker_failures", None) or {}).values())


def _telling_line(error: BaseException) -> str:
    """The line of an error's text that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = (ln for ln in reversed(lines) if is_full(OSError(ln)) or unreachable(OSError(ln)))
    line = next(telling, lines[-1] if lines else type(error).__name__)
    return f"{line.split('. Detail')[0][:300].rstrip('.')}."
