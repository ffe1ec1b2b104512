"""Nodes of a Ray of the bench's own, in a child process: imports no Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from distill_ray.bench.chaos.processes import Process, below, end

END_S = 60.0


class Nodes:
    """A head and nodes beside it, each with room for one worker."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        """Start the head.

        Args:
            env: of all of them.
            log: what they say goes there.
        """
        self._log = log
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "distill_ray.bench.arms.ray_nodes"],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                start_new_session=True,
            )

    def ask(self, what: str, **how: Any) -> dict[str, Any]:
        """Have one of the methods of `arms.ray_nodes.Nodes` called.

        Raises:
            RuntimeError: it failed, or the nodes are gone.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **how}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # Its missing answer tells.
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the nodes are gone:\n{self._log.read_text()[-2000:]}")
        reply: dict[str, Any] = json.loads(answer)
        if "error" in reply:
            raise RuntimeError(f"{what}: {reply['error']}")
        return reply

    def below(self, word: str) -> list[Process]:
        """Processes of all nodes with a word in their command."""
        return [process for process in below(self._process.pid) if word in process.command]

    def close(self) -> None:
        """End all of them."""
        survivors = below(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end(survivors, END_S / 4)
