"""Patience with a real S3 server that fails now and then, however long a client lives."""

from __future__ import annotations

import hashlib
import time

import pytest
from s3_server import Bucket

from distill_ray.runtime.filesystems import open_uri, unreachable
from distill_ray.runtime.storage import Storage

pytestmark = pytest.mark.heavy
CONTENT = b"rows" * 1000


def test_a_client_has_as_much_patience_after_many_faults_as_at_first(store: Bucket) -> None:
    files, root = open_uri(store.uri)
    with files.open_output_stream(f"{root}/file") as stream:
        stream.write(CONTENT)
    store.misbehave("503", every=2, match="GET")
    for _ in range(110):
        assert files.open_input_stream(f"{root}/file").read() == CONTENT
    assert store.met()["503"] > 100
    store.misbehave()


@pytest.mark.parametrize("size", [1, 200])
@pytest.mark.parametrize("fault", ["503", "500"])
def test_a_refusal_that_is_longer_than_the_file_is_waited_out(
    store: Bucket, fault: str, size: int
) -> None:
    storage = Storage(store.uri).sub(f"{fault}-{size}")
    content = bytes(range(size))
    storage.write_bytes("one/small", content)
    store.misbehave(fault, every=2, match="GET .*small")
    for _ in range(6):
        assert storage.read_bytes("one/small") == content
        assert storage.sha256("one/small") == hashlib.sha256(content).hexdigest()
        with storage.reading("one") as folder:
            assert (folder / "small").read_bytes() == content
    assert store.met()[fault] > 5
    store.misbehave()


def test_a_server_that_stays_away_is_waited_for_and_then_named(store: Bucket) -> None:
    files, root = open_uri(store.uri)
    store.misbehave("503", match="HEAD")
    began = time.monotonic()
    with pytest.raises(OSError) as error:
        files.open_input_stream(f"{root}/file")
    store.misbehave()
    assert unreachable(error.value)
    assert time.monotonic() - began > 20
