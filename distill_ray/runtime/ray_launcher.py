"""What Ray's cluster launcher accepts, checked with Ray's own validation."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from distill_ray.config.errors import Problem, did_you_mean
from distill_ray.runtime.ray_private import start_options as start_options
from distill_ray.runtime.ray_private import validate_launcher_config


def launcher_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Reasons why `ray up` would refuse a cluster, as far as they show without a cloud.

    Args:
        config: a cluster's YAML, parsed.
    """
    from jsonschema import ValidationError

    try:
        validate_launcher_config(copy.deepcopy(dict(config)))
    except ValidationError as error:
        yield Problem(".".join(map(str, error.absolute_path)) or "the file", f"{error.message}.")
    except Exception as error:  # Ray's own, of many kinds: assertions, KeyErrors, click's.
        yield Problem("the file", f"{type(error).__name__}: {error}.")


def start_problems(where: str, command: str) -> Iterator[Problem]:
    """Options in a shell command that `ray start` doesn't have."""
    words = shlex.split(command.replace("\n", " "))
    if words[:2] != ["ray", "start"]:
        return
    known = start_options()
    for word in words[2:]:
        name = word.partition("=")[0].removeprefix("--")
        if word.startswith("--") and name not in known:
            yield Problem(where, f"ray start has no --{name}.", did_you_mean(name, known))
