"""`python -m distill_ray.bench.harness.main FD`: the process of one arm."""

from __future__ import annotations

import sys
import traceback
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F

from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.harness.descendants import end_with_parent
from distill_ray.bench.harness.protocol import Failed, Start
from distill_ray.core.plugins import import_path


def main() -> None:
    """Build the arm that the other end of the pipe names, and take its turns."""
    end_with_parent()
    connection: Connection = Connection(int(sys.argv[1]))
    start: Start = connection.recv()
    torch.set_num_threads(start.threads)
    try:
        _touch_libraries()
        import_path(start.run)(ArmClient(connection, start), **start.options)
    except (EOFError, BrokenPipeError):
        return  # The command is gone.
    except BaseException as error:
        traceback.print_exc()
        connection.send(Failed(f"{type(error).__name__}: {error}"))


def _touch_libraries() -> None:
    """Load code pages and start thread pools, so that the first unit's memory is its own."""
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
