"""Paths and URIs of storages and sources. Logs and manifests have them: they hold no secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator

SECRET = re.compile(
    r"secret|password|passwd|token|credential|signature|(access|account)_?key", re.IGNORECASE
)
SECRET_OPTION = re.compile(
    r"(use_auth_)?token|.*(secret|password).*|storage_options", re.IGNORECASE
)
"""Names of a source's options that hold credentials."""
FIX = "credentials belong into the environment or the cloud's own files, which workers read too"


def without_secrets(uri: str) -> str:
    """The URI or path, if it holds no credentials.

    Raises:
        ValueError: it does; the message doesn't repeat them.
    """
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    user, separator, _ = parts.netloc.rpartition("@")
    if separator and (":" in user or parts.scheme == "s3"):
        raise ValueError(f"a {parts.scheme}:// URI with a user and a password; {FIX}")
    for key, _ in parse_qsl(parts.query, keep_blank_values=True):
        if SECRET.search(key):
            raise ValueError(f"a {parts.scheme}:// URI with {key!r}; {FIX}")
    return uri


def local_path(location: str) -> Path | None:
    """The path of a location on this machine's disks; None for a URI elsewhere.

    `runs`, `~/runs`, `/home/me/my runs`, `file:///home/me/my%20runs` and `file://~/my%20runs` are
    such locations. A relative path stays relative.

    Raises:
        ValueError: a `file://` URI names another machine, or the user of `~user` is unknown.
    """
    if location.startswith("file://"):
        host, _, path = location.removeprefix("file://").partition("/")
        if host not in ("", "localhost") and not host.startswith("~"):
            raise ValueError(f"{host!r} isn't this machine; a path follows file:// with its own /")
        location = unquote(f"{host}/{path}" if host.startswith("~") else f"/{path}")
    elif "://" in location:
        return None
    try:
        return Path(location).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{location}: {error}") from None


def on_this_machine(uri: str) -> str:
    """The URI or path, unless it is a file of another machine.

    Raises:
        ValueError: it is.
    """
    if uri.startswith("file://"):
        local_path(uri)
    return uri


Uri = Annotated[str, AfterValidator(without_secrets), AfterValidator(on_this_machine)]
"""A path or a URI."""
