"""What Ray's cluster launcher accepts, asked of Ray. Its checks aren't public: one adapter."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from distill_ray.config.errors import Problem, did_you_mean


def launcher_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """What keeps `ray up` from starting such a cluster, as far as it shows without a cloud.

    Args:
        config: a cluster's YAML, as it was read.
    """
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(dict(config))))
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


def start_options() -> frozenset[str]:
    """The options of `ray start`, without their dashes."""
    from ray.scripts.scripts import start

    names = [option for parameter in start.params for option in parameter.opts]
    names += [option for parameter in start.params for option in parameter.secondary_opts]
    return frozenset(name.removeprefix("--") for name in names)
