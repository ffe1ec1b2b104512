"""File systems behind a URI, with retries for servers that are slow or fail now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from pyarrow import fs as pafs

T = TypeVar("T")

ATTEMPTS = 10
"""Attempts of each request, with pauses that double: 25 s in all for an unreachable server."""
CONNECT_S = 10.0
ANSWER_S = 30.0
"""Timeout without a byte. A busy server sometimes takes longer than the AWS library's 3 s."""
FEW_ATTEMPTS = 6
"""Attempts of requests that are made again soon anyway: pauses of 1.6 s in all."""
SHORT_ANSWER_S = 5.0
REFUSAL_TOO_LONG = "flush response stream"
"""What pyarrow says of a refusal that is longer than what was asked for; see `read_patiently`."""
REFUSAL_PAUSES_S = (0.1, 0.5, 2.0, 5.0, 10.0)
"""Pauses between attempts after one."""
FEW_REFUSAL_PAUSES_S = REFUSAL_PAUSES_S[:2]
"""The same for requests that are made again soon anyway."""


class PatientS3(pafs.S3FileSystem):  # type: ignore[misc]
    """S3 that retries failed requests, also in processes that it is sent to.

    A small file is one request, so it appears complete or not at all. A larger file is a multipart
    upload, which appears with its last request.
    """

    def __init__(self, options: dict[str, Any], attempts: int = ATTEMPTS) -> None:
        # Not the standard strategy: its budget of 100 retries lasts for a client's whole life, as
        # pyarrow never reports successes to it. The next fault would then end the run.
        retry = pafs.AwsDefaultS3RetryStrategy(max_attempts=attempts)
        super().__init__(**options, retry_strategy=retry)
        self.options, self.attempts = options, attempts

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """Do nothing: S3 has no folders, and pyarrow would write an object for each."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the retries, which pyarrow's own pickle drops."""
        return PatientS3, (self.options, self.attempts)


def open_uri(uri: str, *, gives_up_quickly: bool = False) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI, and the path on it.

    Args:
        uri: of a folder.
        gives_up_quickly: whether a request fails within seconds, because it is made again anyway.

    Raises:
        OSError: the file system is unreachable.
        ValueError: the kind of file system or an option is unknown.
    """
    filesystem, root = pafs.FileSystem.from_uri(uri)
    if filesystem.type_name != "s3":
        return filesystem, root
    (options,) = filesystem.__reduce__()[1]  # The constructor's arguments.
    timeouts = {"connect_timeout": CONNECT_S, "request_timeout": ANSWER_S}
    attempts = ATTEMPTS
    if gives_up_quickly:
        timeouts, attempts = dict.fromkeys(timeouts, SHORT_ANSWER_S), FEW_ATTEMPTS
    return PatientS3({**options, **timeouts, "allow_delayed_open": True}, attempts), root


def read_patiently(read: Callable[[], T], *, gives_up_quickly: bool = False) -> T:
    """Read something short from S3, again while the server refuses it.

    pyarrow lets the server's answer into a buffer of the size that was asked for. The text of a
    refusal (`503 SlowDown`, some 300 bytes) doesn't fit into a shorter one, and then the AWS
    library gives up without the retries that it makes otherwise.

    Args:
        read: reads anew from the beginning each time.
        gives_up_quickly: as in `open_uri`.

    Raises:
        OSError: the storage is unreachable, or still refuses.
    """
    for pause in FEW_REFUSAL_PAUSES_S if gives_up_quickly else REFUSAL_PAUSES_S:
        try:
            return read()
        except OSError as error:
            if REFUSAL_TOO_LONG not in str(error):
                raise
            time.sleep(pause)
    return read()


def unreachable(error: BaseException) -> bool:
    """Whether an error means that a remote storage failed after all retries."""
    signs = ("AWS Error", "google::cloud::Status", "Azure::")
    return any(sign in str(error) for sign in signs)
