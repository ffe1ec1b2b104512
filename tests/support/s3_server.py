"""A real S3 protocol server, and a proxy before it that misbehaves; each a process on loopback.

`python s3_server.py moto`, or `python s3_server.py proxy <port of moto>`; the first line that a
process prints is its port. `bucket` starts both.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch
from urllib.request import Request, urlopen

CONTROL = "/-/faults"
HOPS = ("connection", "transfer-encoding", "content-length", "date", "server", "expect")


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on; every k-th that matches meets the next of the faults.

    `500`, `503`: refused with that status. `reset`: the connection is torn before the server sees
    the request. `torn`: it is torn in the middle of the request's body. `lost`: the server takes
    the request, its answer is lost. `cut`: half of the answer's body comes. `slow`: the answer
    comes late. `down`: as `reset`; what a server that stays away is called.
    """

    protocol_version = "HTTP/1.1"
    upstream = 0
    plan: ClassVar[dict[str, Any]] = {}
    met: ClassVar[Counter[str]] = Counter()
    count = itertools.count(1)
    lock = threading.Lock()

    def do_GET(self) -> None:
        if self.path == CONTROL:
            return self._answer(200, {}, json.dumps(Proxy.met).encode())
        return self._serve()

    def do_PUT(self) -> None:
        if self.path != CONTROL:
            return self._serve()
        with Proxy.lock:
            Proxy.plan = json.loads(self._body())
            Proxy.met, Proxy.count = Counter(), itertools.count(1)
        return self._answer(200, {}, b"")

    def do_POST(self) -> None:
        return self._serve()

    def do_DELETE(self) -> None:
        return self._serve()

    def do_HEAD(self) -> None:
        return self._serve()

    def _serve(self) -> None:
        fault = self._fault()
        if fault in ("reset", "down"):
            return self._reset()
        if fault == "torn":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self._reset()
        body = self._body()
        if fault in ("500", "503"):
            code = "InternalError" if fault == "500" else "SlowDown"
            # As long as those of AWS: longer than many a file.
            what = f"<Error><Code>{code}</Code><Message>{'Reduce your request rate. ' * 10}"
            return self._answer(int(fault), {}, f"{what}</Message></Error>".encode())
        if fault == "slow":
            time.sleep(Proxy.plan.get("seconds", 5))
        status, headers, answer = self._upstream(body)
        if fault == "lost":
            return self._reset()
        if fault == "cut" and len(answer) > 1 and self.command == "GET":
            self._answer(status, headers, answer, sent=len(answer) // 2)
            return self._reset()
        return self._answer(status, headers, answer)

    def _fault(self) -> str:
        with Proxy.lock:
            plan = Proxy.plan
            if not re.search(plan.get("match", "$^"), f"{self.command} {self.path}"):
                return ""
            number = next(Proxy.count)
            if number % plan["every"]:
                return ""
            fault = plan["kinds"][number // plan["every"] % len(plan["kinds"])]
            Proxy.met[fault] += 1
            return str(fault)

    def _body(self) -> bytes:
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        server = http.client.HTTPConnection("127.0.0.1", Proxy.upstream, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOPS}
        server.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        answer = server.getresponse()
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in HOPS[:2]}
        content = answer.read()
        server.close()
        return answer.status, headers, content

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, sent: int | None = None
    ) -> None:
        self.send_response_only(status)
        known = {name.lower() for name in headers}
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in known:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wfile.flush()
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError, ValueError):  # A connection that was torn on purpose.
            super().finish()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Clients go away when they like."""


@dataclass(frozen=True)
class Bucket:
    """A bucket behind the proxy."""

    port: int
    server: int

    @property
    def uri(self) -> str:
        return self._uri(self.port)

    @property
    def direct(self) -> str:
        """Past the proxy."""
        return self._uri(self.server)

    def _uri(self, port: int, more: str = "") -> str:
        query = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
        return f"s3://runs/here?{query}{more}"

    def misbehave(self, *kinds: str, every: int = 1, match: str = ".", seconds: float = 0) -> None:
        """From now on; without kinds, it behaves."""
        plan = {"kinds": kinds, "every": every, "match": match, "seconds": seconds}
        data = json.dumps(plan if kinds else {}).encode()
        urlopen(Request(f"http://127.0.0.1:{self.port}{CONTROL}", data, method="PUT")).close()

    def met(self) -> dict[str, int]:
        """Fault → how often it was met since then."""
        with urlopen(f"http://127.0.0.1:{self.port}{CONTROL}") as answer:
            return dict(json.loads(answer.read()))


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "hidden-from-everyone",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a client's environment needs."""


@contextmanager
def bucket() -> Iterator[Bucket]:
    """Both processes, with an empty bucket `runs`; CREDENTIALS must be set."""
    from pyarrow import fs as pafs

    with _process("moto") as server, _process("proxy", str(server)) as port:
        made = Bucket(port, server)
        whole = made._uri(server, "&allow_bucket_creation=true").replace("/here", "")
        pafs.FileSystem.from_uri(whole)[0].create_dir("runs")
        yield made


@contextmanager
def bucket_with_credentials() -> Iterator[Bucket]:
    """The same, with CREDENTIALS in the environment meanwhile."""
    with patch.dict(os.environ, CREDENTIALS), bucket() as made:
        yield made


@contextmanager
def _process(*arguments: str) -> Iterator[int]:
    command = [sys.executable, str(Path(__file__)), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def main(role: str, upstream: str = "0") -> None:
    if role == "moto":
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        sys.stdout.write(f"{server.get_host_and_port()[1]}\n")
        sys.stdout.flush()
        threading.Event().wait()
    Proxy.upstream = int(upstream)
    proxy = _Server(("127.0.0.1", 0), Proxy)
    sys.stdout.write(f"{proxy.server_address[1]}\n")
    sys.stdout.flush()
    proxy.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
