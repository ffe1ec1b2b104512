"""A Ray cluster of the bench's own, in a child process. Imports no Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from distill_ray.bench.harness.descendants import Process, below, end

END_S = 60.0


class Nodes:
    """A head and worker nodes, each with room for one worker."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        """Start the head.

        Args:
            env: the environment of all nodes.
            log: gets their standard error.
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

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of `arms.ray_nodes.Nodes` in the child process.

        Raises:
            RuntimeError: the call failed, or the nodes are gone.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": method, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # The missing reply below is the error.
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the nodes are gone:\n{self._log.read_text()[-2000:]}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply

    def below(self, word: str) -> list[Process]:
        """Processes of all nodes that have a word in their command."""
        return [process for process in below(self._process.pid) if word in process.command]

    def close(self) -> None:
        """End all nodes."""
        survivors = below(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end(survivors, END_S / 4)
