"""Several nodes: a folder that all of them see will do, one that some node can't see is refused."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from ray_cluster import clean_environment
from tiny_run import config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
RAY = Path(sys.executable).parent / "ray"
Start = Callable[..., None]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    own |= {"DISTILL_RAY_CACHE": str(tmp_path / "cache"), "RAY_USAGE_STATS_ENABLED": "0"}
    # Of Ray's variables only these: the tests' own Ray has no peers.
    return clean_environment(tmp_path, **own)


@pytest.fixture
def start(environment: dict[str, str], port: int) -> Iterator[Start]:
    """Starts nodes on this machine; the second may be blind to a folder."""
    started: list[subprocess.Popen[bytes]] = []

    def node(*flags: str, blind_to: Path | None = None) -> None:
        command = [
            str(RAY),
            "start",
            "--block",
            "--num-cpus=2",
            "--node-ip-address=127.0.0.1",
            *flags,
        ]
        command += ["--object-store-memory=100000000"]
        if blind_to is not None:
            hide = f"mount -t tmpfs none '{blind_to}' && exec {' '.join(command)}"
            command = ["unshare", "--mount", "sh", "-c", hide]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, env=environment, **quiet))

    yield node
    for process in reversed(started):
        children = psutil.Process(process.pid).children(recursive=True)
        for one in (process, *children):
            try:
                os.kill(one.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()


def wait_for_nodes(count: int, port: int, environment: dict[str, str]) -> None:
    code = (
        f"import ray; ray.init('127.0.0.1:{port}', log_to_driver=False); "
        f"import sys; sys.exit(sum(n['Alive'] for n in ray.nodes()) != {count})"
    )
    for _ in range(12):
        asked = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
        if asked.returncode == 0:
            return
        time.sleep(2)
    pytest.fail(f"{count} nodes never came")


def shard(folder: Path, port: int, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    data = config(folder)
    data["cluster"] = {"address": f"127.0.0.1:{port}"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(data))
    return subprocess.run(
        [sys.executable, "-m", "distill_ray", "shard", str(folder / "tiny.yaml")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )


def can_hide() -> bool:
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not can_hide(), reason="needs the right to mount")
def test_a_folder_that_another_node_cannot_see_is_refused_before_any_work(
    tmp_path: Path, port: int, environment: dict[str, str], start: Start
) -> None:
    (tmp_path / "runs").mkdir()
    start("--head", f"--port={port}", "--include-dashboard=false")
    wait_for_nodes(1, port, environment)
    start(f"--address=127.0.0.1:{port}", blind_to=tmp_path / "runs")
    wait_for_nodes(2, port, environment)
    done = shard(tmp_path, port, environment)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "storage not shared by all nodes:" in done.stderr
    assert "is a folder of this node alone" in done.stderr
    assert "a URI such as s3://, or a shared file system" in done.stderr
    assert "Traceback" not in done.stderr
    left = [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert left == ["run.json"]


def test_a_folder_that_all_nodes_see_needs_no_declaration(
    tmp_path: Path, port: int, environment: dict[str, str], start: Start
) -> None:
    start("--head", f"--port={port}", "--include-dashboard=false")
    wait_for_nodes(1, port, environment)
    start(f"--address=127.0.0.1:{port}")
    wait_for_nodes(2, port, environment)
    done = shard(tmp_path, port, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list((tmp_path / "runs").rglob(".seen-*"))
