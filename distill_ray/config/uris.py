"""URIs of storages and sources: logs and manifests have them, so they must hold no secrets."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

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


Uri = Annotated[str, AfterValidator(without_secrets)]
"""A path or a URI."""
