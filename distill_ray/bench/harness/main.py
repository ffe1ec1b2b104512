"""`python -m distill_ray.bench.harness.main FD`: the process of one arm."""

from __future__ import annotations

import ctypes
import signal
import sys
import traceback
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F

from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.harness.protocol import Failed, Start
from distill_ray.core.plugins import import_path

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Build the arm that the other end of the pipe names, and take its turns."""
    _end_with_parent()
    connection: Connection = Connection(int(sys.argv[1]))
    start: Start = connection.recv()
    torch.set_num_threads(start.threads)
    try:
        _touch_libraries()
        import_path(start.run)(ArmClient(connection, start), **start.options)
    except (EOFError, BrokenPipeError):
        return  # Nobody is asking any more.
    except BaseException as error:
        traceback.print_exc()
        connection.send(Failed(f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """Have Linux end this process, at work or not, when the one that asks is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _touch_libraries() -> None:
    """Make the first unit's memory its own: code pages and thread pools come in here."""
    layer = torch.nn.Linear(64, 512)
    optimiser = torch.optim.AdamW(layer.parameters())
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            log_q = F.log_softmax(layer(torch.randn(256, 64)), dim=-1)
        F.kl_div(log_q, log_q.detach(), reduction="sum", log_target=True).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()


if __name__ == "__main__":
    main()
