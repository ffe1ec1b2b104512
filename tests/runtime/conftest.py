"""A bucket on an S3 server of this machine's own, requested by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_server import Bucket, bucket_with_credentials


@pytest.fixture(scope="module")
def store() -> Iterator[Bucket]:
    """A bucket, with its credentials in the environment."""
    with bucket_with_credentials() as made:
        yield made
