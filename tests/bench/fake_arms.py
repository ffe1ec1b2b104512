"""Arms that are known beforehand. Each runs in a process of its own, as any arm does."""

import os
import time
from pathlib import Path

import torch


def telling(turns, *, losses, amount=1.0, path=None):
    """Reports these losses, and appends its name and turn to a file."""
    turns.tell(threads=torch.get_num_threads())
    for number in turns:
        if path is not None:
            name, file = path
            with Path(file).open("a") as log:
                log.write(f"{name}{number} ")
        turns.done([losses[number % len(losses)]], amount)


def holding(turns, *, size):
    """Holds `size` bytes during its second unit, beside as many that it always has."""
    always = torch.ones(size // 4)
    for number in turns:
        if number == 1:
            torch.ones(size // 4).sum()
        turns.done([float(always[0])])


def raising(turns, *, at):
    """Raises in unit `at`."""
    for number in turns:
        if number == at:
            raise ValueError(f"no unit {at}")
        turns.done([0.0])


def dying(turns, *, at, code):
    """Its process ends in unit `at`; code 9 as by SIGKILL."""
    for number in turns:
        if number == at:
            os.write(1, b"last words\n")
            if code == 9:
                os.kill(os.getpid(), code)
            os._exit(code)
        turns.done([0.0])


def stuck(turns):
    """Never ends its first unit."""
    for _ in turns:
        time.sleep(3600)


def together(turns):
    """Each rank reports other numbers; they know each other by a file."""
    for _ in turns:
        Path(f"{turns.rendezvous}-{turns.rank}").write_text("here")
        turns.done([float(10 * turns.rank + turns.ranks)])
