"""Patience with a real S3 server that fails now and then, however long a client lives."""

from __future__ import annotations

import time

import pytest
from s3_server import Bucket

from distill_ray.runtime.filesystems import open_uri, unreachable

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


def test_a_server_that_stays_away_is_waited_for_and_then_named(store: Bucket) -> None:
    files, root = open_uri(store.uri)
    store.misbehave("503", match="HEAD")
    began = time.monotonic()
    with pytest.raises(OSError) as error:
        files.open_input_stream(f"{root}/file")
    store.misbehave()
    assert unreachable(error.value)
    assert time.monotonic() - began > 20
