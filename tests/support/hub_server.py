"""A hub of data sets on loopback: the part of Hugging Face's protocol that a download needs.

`python hub_server.py FOLDER` serves the folder as the data set `someone/rows`; the first line that
it prints is its port.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

NAME = "someone/rows"
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """One data set at one commit."""

    folder: ClassVar[Path]

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        kind, _, place = path.removeprefix("/api").removeprefix(f"/datasets/{NAME}/").partition("/")
        target = self.folder / place.partition("/")[2]
        if kind == "resolve" and target.is_file():
            digest = hashlib.sha1(target.read_bytes()).hexdigest()
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
            self._answer(target.read_bytes(), headers)
        elif kind == "tree" and target.is_dir():
            deep = "recursive=true" in query.lower()
            paths = sorted(target.rglob("*") if deep else target.iterdir())
            self._answer([self._entry(each) for each in paths])
        elif kind == "revision":
            names = [self._entry(each)["path"] for each in sorted(self.folder.rglob("*"))]
            siblings = [{"rfilename": name} for name in names]
            self._answer({"id": NAME, "sha": COMMIT, "tags": [], "siblings": siblings})
        else:
            self._answer(b"", {"X-Error-Code": "EntryNotFound"}, status=404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _entry(self, path: Path) -> dict[str, Any]:
        kind = "file" if path.is_file() else "directory"
        name = str(path.relative_to(self.folder))
        return {"type": kind, "oid": "a" * 40, "size": path.stat().st_size, "path": name}

    def _answer(
        self, body: Any, headers: dict[str, str] | None = None, *, status: int = 200
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def hub_of(folder: Path) -> Iterator[dict[str, str]]:
    """A hub with this folder; the environment of its clients."""
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            endpoint = f"http://127.0.0.1:{port}"
            yield {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint}
        finally:
            process.terminate()


if __name__ == "__main__":
    Hub.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
