"""Named functions: ours by a short name, a user's own by import path, options checked up front."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distill_ray.config.checksums import file_sha256
from distill_ray.config.errors import did_you_mean


class PluginError(ValueError):
    """A name that resolves to no function, or options that the function doesn't accept."""


def find(name: str, table: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The function of that name in `table`, or the one at `package.module:function`.

    Raises:
        PluginError: no such function; the message suggests similar names.
    """
    if ":" in name:
        return import_path(name)
    if name not in table:
        raise PluginError(f"no {name!r}. {did_you_mean(name, table)}")
    return table[name]


def import_path(path: str) -> Callable[..., Any]:
    """Import `package.module:function`.

    Raises:
        PluginError: the module or the function isn't there, or isn't callable.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, TypeError, ValueError) as error:  # The last two: '.x:f' and ':f'.
        raise PluginError(f"{path!r} can't be imported: {error}") from error
    if not hasattr(module, attribute):
        raise PluginError(f"{module_name} has no {attribute!r}")
    function = getattr(module, attribute)
    if not callable(function):
        raise PluginError(f"{path!r} is not a function")
    return function  # type: ignore[no-any-return]


def source_digest(path: str) -> str:
    """SHA-256 of the source of the module that an import path leads to."""
    file = inspect.getsourcefile(inspect.unwrap(import_path(path)))
    return file_sha256(Path(file)) if file else ""


def own_functions(*names: str | None) -> dict[str, dict[str, str]]:
    """Identify a user's own functions among these names by their source.

    Empty where all are ours, or else `own_functions`: import path → `source_digest`.
    """
    digests = {name: source_digest(name) for name in names if name is not None and ":" in name}
    return {"own_functions": digests} if digests else {}


def check_options(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check `options` against the keyword-only parameters of `function`.

    Raises:
        PluginError: an option is unknown, or a required one is missing.
    """
    parameters = inspect.signature(function).parameters.values()
    allowed = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    for option in options:
        if option not in allowed:
            raise PluginError(f"unknown option {option!r}. {did_you_mean(option, allowed)}")
    for name, parameter in allowed.items():
        if parameter.default is parameter.empty and name not in options:
            raise PluginError(f"option {name!r} is required")
