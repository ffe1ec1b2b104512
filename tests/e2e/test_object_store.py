"""The route with its artifacts on a real S3 server, behind a proxy that misbehaves."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from pyarrow import fs as pafs
from s3_server import CREDENTIALS, Bucket, bucket
from tiny_run import config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
FAULTS = ("503", "reset", "torn", "lost", "cut", "500", "slow")


@pytest.fixture(scope="module", autouse=True)
def _credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("DISTILL_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def store(_credentials: None) -> Iterator[Bucket]:
    with bucket() as made:
        yield made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, store: Bucket) -> Path:
    folder = tmp_path_factory.mktemp("route")
    data = config(folder, storage=store.uri)
    data["cluster"]["num_workers"] = 1
    (folder / "tiny.yaml").write_text(yaml.safe_dump(data))
    done = command(folder / "tiny.yaml")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "tiny.yaml"


def command(file: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distill_ray", "run", str(file), "--json", *flags],
        capture_output=True,
        text=True,
        timeout=2000,
        env=os.environ,
    )


def objects(store: Bucket) -> dict[str, bytes]:
    """Everything of the small run in the bucket, past the proxy."""
    return all_below(store, "tiny")


def all_below(store: Bucket, name: str) -> dict[str, bytes]:
    files, root = pafs.FileSystem.from_uri(store.direct)
    found = files.get_file_info(pafs.FileSelector(f"{root}/{name}", recursive=True))
    return {
        info.path.removeprefix(f"{root}/"): files.open_input_stream(info.path).read()
        for info in found
        if info.is_file
    }


def test_the_quickstart_ends_whatever_the_server_does_now_and_then(store: Bucket) -> None:
    store.misbehave(*FAULTS, every=11, match=r"/runs/here/|/runs\?", seconds=4)
    done = command(QUICKSTART, "--storage", store.uri)
    met = store.met()
    store.misbehave()
    assert done.returncode == 0, done.stderr[-4000:]
    assert set(met) == set(FAULTS), "every fault was really met"
    report = json.loads(done.stdout.splitlines()[-1])["result"]["report"]
    assert report.startswith("s3://runs/here/quickstart/report/")
    left = all_below(store, "quickstart")
    assert not any("/.state/" in name for name in left)
    everything = b"".join(left.values()) + (done.stdout + done.stderr).encode()
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode() not in everything
    for name, content in left.items():
        if name.endswith(".json"):
            json.loads(content)
        elif name.endswith(".parquet"):
            pq.ParquetFile(io.BytesIO(content)).read()


def test_a_server_that_stays_away_is_one_message_and_leaves_nothing_torn(
    file: Path, store: Bucket
) -> None:
    before = objects(store)
    again = ("--set", "evaluate.num_bootstrap=500")
    store.misbehave("down", match=r"PUT .*/evaluate/")
    away = command(file, *again)
    store.misbehave()
    assert away.returncode == 2
    assert "storage unreachable:" in away.stderr
    assert "Rerun the same command to resume." in away.stderr
    assert "Traceback" not in away.stderr + away.stdout
    assert set(objects(store)) == set(before)
    assert command(file, *again).returncode == 0
    made = {name.split("/")[1] for name in set(objects(store)) - set(before)}
    assert made == {"evaluate", "report"}


def test_what_was_damaged_on_the_server_is_named(file: Path, store: Bucket) -> None:
    files, root = pafs.FileSystem.from_uri(store.direct)
    left = objects(store)
    (name,) = (name for name in left if name.endswith("/audit.json"))
    whole = left[name]
    with files.open_output_stream(f"{root}/{name}") as stream:
        stream.write(whole.replace(b"0", b"1", 1))
    done = command(file, "--set", "rank.num_draws=4000")
    assert done.returncode == 2
    assert "audit.json" in done.stderr and "checksum mismatch" in done.stderr
    assert "rerun to rebuild it" in done.stderr
