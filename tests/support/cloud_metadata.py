"""Clouds' metadata services on loopback, as their documentation describes them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse


@dataclass
class Service:
    """One node's metadata service."""

    url: str = ""
    notice: str | None = None
    """EC2: the page that appears with the notice. Compute Engine: set for TRUE."""
    down: bool = False
    tokens: list[str] = field(default_factory=list)
    """Those that were given out; the last one is valid."""
    asked: int = 0
    changed: threading.Event = field(default_factory=threading.Event)

    def give(self, notice: str) -> None:
        """The cloud takes the node back."""
        self.notice = notice
        self.changed.set()


@contextmanager
def served(answers: type[Answers]) -> Iterator[Service]:
    """A service while the block runs."""
    service = Service()
    handler = type("Handler", (answers,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.changed.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Answers(BaseHTTPRequestHandler):
    service: Service

    def log_message(self, *_: object) -> None:
        """Silent."""

    def answer(self, status: int, body: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())


class Ec2(Answers):
    """IMDSv2: a token by PUT, and no page without a valid one."""

    def do_PUT(self) -> None:
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not 1 <= int(ttl or 0) <= 21600:
            return self.answer(400)
        self.service.tokens.append(f"token-{len(self.service.tokens)}")
        return self.answer(200, self.service.tokens[-1])

    def do_GET(self) -> None:
        self.service.asked += 1
        if self.service.down:
            return self.answer(500)
        if self.headers.get("X-aws-ec2-metadata-token") not in self.service.tokens[-1:]:
            return self.answer(401)
        if self.path != "/latest/meta-data/spot/instance-action" or self.service.notice is None:
            return self.answer(404)
        return self.answer(200, self.service.notice)


class ComputeEngine(Answers):
    """A question that waits for its answer to change, unless its tag is another one's."""

    def do_GET(self) -> None:
        self.service.asked += 1
        if self.headers.get("Metadata-Flavor") != "Google":
            return self.answer(403)
        asked = urlparse(self.path)
        if asked.path != "/computeMetadata/v1/instance/preempted":
            return self.answer(404)
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        tag = "after" if self.service.notice else "before"
        if query.get("wait_for_change") == "true" and query.get("last_etag") == tag:
            self.service.changed.wait(float(query["timeout_sec"]))
        said = self.service.notice is not None
        return self.answer(200, "TRUE" if said else "FALSE", ETag="after" if said else "before")
