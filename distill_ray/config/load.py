"""From a YAML file and `--set` flags to a RunConfig, or to every problem in it at once."""

from __future__ import annotations

import json
import shlex
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distill_ray.config import document
from distill_ray.config.base import Section
from distill_ray.config.errors import InputError, Problem, did_you_mean
from distill_ray.config.run import RunConfig
from distill_ray.config.study import ARMS, ArmConfig, ScheduleStudy, StudyConfig
from distill_ray.config.training import DistillConfig
from distill_ray.config.upgrade import COMMAND, renew

Config = TypeVar("Config", bound=Section)
Study = TypeVar("Study", bound=StudyConfig)


def flags(overrides: Sequence[str] | None, storage: str | None) -> list[str]:
    """Overrides, `--storage` among them."""
    return [
        *(overrides or ()),
        *([f"storage={json.dumps(storage)}"] if storage is not None else []),
    ]


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override and check a config.

    Args:
        path: the YAML file.
        overrides: `section.key=value`, values in YAML; list items by index.

    Raises:
        InputError: the file or an override can't be used; carries every problem.
    """
    data, renamed = _overridden(path, overrides)
    return _valid(RunConfig, data, f"{path} is not a valid run:", renamed)


def load_study(
    section: type[Study], path: Path, overrides: Sequence[str] = ()
) -> tuple[Study, dict[str, RunConfig]]:
    """Read, override and check a study, and the run that each of its domains is.

    Args:
        section: of which kind it is.
        path: the YAML file.
        overrides: as in `load_config`.

    Raises:
        InputError: as in `load_config`.
    """
    data, renamed = _overridden(path, overrides)
    title = f"{path} is not a valid study:"
    study, problems = _checked(section, data)
    if study is None:
        raise InputError(title, [*renamed, *problems])
    base, question, query = study.storage.partition("?")
    runs: dict[str, RunConfig] = {}
    domains_of: dict[Problem, list[str]] = {}
    for name, domain in study.domains.items():
        identity = {"name": name, "storage": f"{base.rstrip('/')}/{study.name}{question}{query}"}
        run, problems = _checked(RunConfig, _merged(study.run, domain) | identity)
        for problem in problems:
            domains_of.setdefault(problem, []).append(name)
        if run is not None:
            runs[name] = run
    in_domains = [
        Problem(f"domain {', '.join(names)}: {problem.where}", problem.what, problem.fix)
        for problem, names in domains_of.items()
    ]
    if renamed or in_domains:
        raise InputError(title, [*renamed, *in_domains])
    return study, runs


def load_arms(
    study: ScheduleStudy, runs: Mapping[str, RunConfig]
) -> dict[str, dict[str, tuple[ArmConfig, DistillConfig]]]:
    """Domain → arm → what begins, and the domain's `distill` section with the arm's changes.

    Raises:
        InputError: an arm can't be used; carries every problem of it.
    """
    changes: dict[str, Any] = {**{name: {} for name in ARMS}, **study.arms}
    arms = {
        name: _valid(ArmConfig, _merged(ARMS.get(name, {}), change), f"arm {name} can't be used:")
        for name, change in changes.items()
        if change is not None
    }
    if study.default not in arms:
        what = f"no arm {study.default!r}. {did_you_mean(study.default, arms)}"
        raise InputError("the study can't start:", [Problem("default", what)])
    return {
        domain: {name: (arm, _changed(domain, cfg, name, arm)) for name, arm in arms.items()}
        for domain, cfg in runs.items()
    }


def _changed(domain: str, cfg: RunConfig, name: str, arm: ArmConfig) -> DistillConfig:
    title = f"domain {domain}: arm {name} can't be used:"
    changed = _valid(DistillConfig, _merged(cfg.distill.model_dump(), arm.distill), title)
    if changed.token_budget != cfg.distill.token_budget:
        budget = changed.token_budget
        what = f"all arms have equal tokens, {cfg.distill.token_budget}, got {budget}."
        raise InputError(title, [Problem("token_budget", what)])
    return changed


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings of one kind are merged key by key, anything else is replaced."""
    nested = {
        key: _merged(shared[key], value)
        for key, value in own.items()
        if isinstance(value, dict) and isinstance(shared.get(key), dict)
        if value.get("kind") in (None, shared[key].get("kind"))
    }
    return {**shared, **own, **nested}


def _overridden(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
    """The file's values with the flags', all in new words, and a problem for each old word."""
    data = _read(path)
    _, in_file = renew(data)
    places = {problem.where for problem in in_file}
    for override in overrides:
        _override(data, override)
    renewed, old_words = renew(data)
    in_flags = [
        Problem(f"--set {problem.where}", problem.what)
        for problem in old_words
        if problem.where not in places
    ]
    problems = [*in_file, *in_flags]
    if in_file:
        what, fix = "is written for version 0.1.", f"Run {COMMAND} {shlex.quote(str(path))}"
        problems.append(Problem(str(path), what, fix))
    return renewed, problems


def _valid(
    section: type[Config],
    data: Mapping[str, Any],
    title: str,
    problems: Sequence[Problem] = (),
) -> Config:
    """The section, unless it is invalid or there are problems already."""
    config, wrong = _checked(section, data)
    if config is None or problems:
        raise InputError(title, [*problems, *wrong])
    return config


def _checked(section: type[Config], data: Mapping[str, Any]) -> tuple[Config | None, list[Problem]]:
    """The section, or every problem in it."""
    try:
        return section.model_validate(data), []
    except ValidationError as error:
        causes = _causes(error.errors(include_url=False))
        return None, [_problem(section, details) for details in causes]


def _read(path: Path) -> dict[str, Any]:
    try:
        data = document.read(path)
    except FileNotFoundError:
        raise InputError(f"{path} can't be read:", [_no_file(path)]) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} can't be read:", [Problem(str(path), str(error))]) from None
    if not isinstance(data, dict):
        what = f"must hold a mapping of sections, got {type(data).__name__}."
        raise InputError(f"{path} is not a valid run:", [Problem(str(path), what)])
    return data


def _no_file(path: Path) -> Problem:
    near = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    return Problem(str(path), "no such file.", did_you_mean(str(path), near))


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        what = f"got {override!r}; write section.key=value."
        raise InputError("a flag can't be used:", [Problem("--set", what)])
    *parents, last = key.split(".")
    node: Any = data
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = _value(text, override)
    elif isinstance(node, dict):
        node[last] = _value(text, override)
    else:
        raise _bad_override(override, f"{'.'.join(parents)} is a {type(node).__name__}")


def _value(text: str, override: str) -> Any:
    try:
        return document.parse(text)
    except yaml.YAMLError as error:
        raise _bad_override(override, f"not YAML: {error}") from None


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if not isinstance(node, dict):
        raise _bad_override(override, f"{part!r} can't be below a {type(node).__name__}")
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _index(items: list[Any], part: str, override: str) -> int:
    """A position in a list, or the `name` of one of its items."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    allowed = [name for name in names if name] or [str(i) for i in range(len(items))]
    raise _bad_override(override, f"no item {part!r}. {did_you_mean(part, allowed)}")


def _bad_override(override: str, what: str) -> InputError:
    return InputError("a flag can't be used:", [Problem(f"--set {override}", what)])


def _causes(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without lists that are too short only because a bad item in them was dropped."""

    def follows(error: ErrorDetails) -> bool:
        place = error["loc"]
        deeper = (e["loc"] for e in errors if len(e["loc"]) > len(place))
        return error["type"] == "too_short" and any(loc[: len(place)] == place for loc in deeper)

    return [error for error in errors if not follows(error)]


def _problem(root: type[Section], details: ErrorDetails) -> Problem:
    location = [str(part) for part in details["loc"]]
    if details["type"] == "extra_forbidden":
        what = f"unknown key, got {_short(details['input'])}."
        return Problem(
            ".".join(location), what, did_you_mean(location[-1], keys_at(root, location))
        )
    if details["type"] == "union_tag_not_found":
        place, key = ".".join(location), str(details.get("ctx", {})["discriminator"]).strip("'")
        what = f"has no {key}, got {_short(details['input'])}."
        return Problem(place, what, f"Set its {key}; `distill-ray schema` lists what there is.")
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] in ("missing", "value_error"):
        return Problem(".".join(location) or "the config", message[:1].lower() + message[1:] + ".")
    return Problem(".".join(location), f"{message}, got {_short(details['input'])}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def keys_at(root: type[Section], location: Sequence[str]) -> Iterable[str]:
    """The allowed keys beside the last one of an error's location."""
    candidates: list[Any] = [root]
    for part in location[:-1]:
        candidates = [deeper for item in candidates for deeper in _descend(item, part)]
    sections = [item for c in candidates for item in _sections(c)]
    return sorted({name for section in sections for name in section.model_fields})


def _descend(annotation: Any, part: str) -> list[Any]:
    """What lies under `part`: a field's type, the items of a container, a union's member."""
    below: list[Any] = []
    for section in _sections(annotation):
        if part in section.model_fields:
            below.append(section.model_fields[part].rebuild_annotation())
        kind = section.model_fields.get("kind")
        if kind is not None and kind.default == part:
            below.append(section)
    if not below:
        below = [a for a in _containers(annotation) if a is not None]
    return below


def _containers(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Annotated, typing.Union, types.UnionType):
        return [c for arg in typing.get_args(annotation) for c in _containers(arg)]
    if origin is dict:
        return [typing.get_args(annotation)[1]]
    return [typing.get_args(annotation)[0]] if origin in (tuple, list) else []


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        return [s for arg in typing.get_args(annotation) for s in _sections(arg)]
    return []
