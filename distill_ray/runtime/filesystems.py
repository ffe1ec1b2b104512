"""File systems behind a URI, with patience for servers that are slow or fail now and then."""

from __future__ import annotations

from typing import Any

from pyarrow import fs as pafs

ATTEMPTS = 10
"""Of each request, with pauses that double: a server that stays away costs a request 25 s."""
CONNECT_S = 10.0
ANSWER_S = 30.0
"""Without a byte. The AWS library's own 3 s are less than a busy server takes now and then."""


class PatientS3(pafs.S3FileSystem):  # type: ignore[misc]
    """S3 that repeats what failed, also in the processes that it is sent to.

    A small file is one request, so it is there whole or not at all; a larger one is a multipart
    upload, which the server shows when its last request has come.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        # Not the standard one: its budget of 100 retries is a client's for all its life, since
        # pyarrow never tells it of what succeeded. The next fault would then end the run.
        retry = pafs.AwsDefaultS3RetryStrategy(max_attempts=ATTEMPTS)
        super().__init__(**options, retry_strategy=retry)
        self.options = options

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """Nothing: a file's name is all of its path. pyarrow writes an object for each folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        """pyarrow's own pickle forgets the retries."""
        return PatientS3, (self.options,)


def open_uri(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system that a URI is on, and the path on it.

    Raises:
        OSError: it can't be reached.
        ValueError: there is no such kind of file system, or it has no such options.
    """
    found, root = pafs.FileSystem.from_uri(uri)
    if found.type_name != "s3":
        return found, root
    (options,) = found.__reduce__()[1]  # What its constructor takes.
    patience = {"connect_timeout": CONNECT_S, "request_timeout": ANSWER_S}
    return PatientS3({**options, **patience, "allow_delayed_open": True}), root


def unreachable(error: BaseException) -> bool:
    """Whether an error says that a remote storage failed, after the retries."""
    signs = ("AWS Error", "google::cloud::Status", "Azure::")
    return any(sign in str(error) for sign in signs)
