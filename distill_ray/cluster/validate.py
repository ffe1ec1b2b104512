"""Check cluster files before nodes are paid for: misspelt keys, placeholders, open doors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

from distill_ray.cluster.schemas import GPU, NODES, POD_RESOURCES, PROVIDERS, RESOURCES, kinds
from distill_ray.config.document import parse_all
from distill_ray.config.errors import InputError, Problem, did_you_mean

PLACE = re.compile(r"<[a-z][a-z-]*>")


@dataclass(frozen=True)
class Checked:
    """A valid cluster file."""

    file: Path
    objects: tuple[str, ...]
    """Kinds and names of what it describes."""
    open_places: tuple[str, ...]
    """Placeholders `<...>` that are still to be filled in."""


def validate(file: Path) -> Checked:
    """Check one cluster file.

    Raises:
        InputError: the file can't be used; lists every problem.
    """
    try:
        documents = parse_all(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = Problem(str(file), f"can't be read ({reason}).")
        raise InputError("a cluster file can't be used:", [problem]) from None
    if not documents or not all(isinstance(document, dict) for document in documents):
        problem = Problem(str(file), "is not a mapping.", "`distill-ray cluster render` makes one.")
        raise InputError("a cluster file can't be used:", [problem])
    problems = [problem for document in documents for problem in document_problems(document)]
    if problems:
        raise InputError(f"{file} is not a valid cluster file:", problems)
    places = dict.fromkeys(PLACE.findall("\n".join(map(str, _leaves(documents)))))
    objects = tuple(
        f"{document['kind']} {document['metadata']['name']}"
        if "kind" in document
        else f"{document['provider']['type']} cluster {document['cluster_name']}"
        for document in documents
    )
    return Checked(file, objects, tuple(places))


def document_problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Check one parsed document of a cluster file."""
    if "apiVersion" in document or "kind" in document:
        yield from _kubernetes(document)
    else:
        yield from _launcher(document)


def _launcher(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Check a file of Ray's cluster launcher."""
    provider = config.get("provider")
    kind = provider.get("type") if isinstance(provider, dict) else None
    if kind not in PROVIDERS:
        yield Problem(
            "provider.type", f"{kind!r} is not known.", did_you_mean(str(kind), PROVIDERS)
        )
        return
    from distill_ray.runtime.ray_launcher import launcher_problems, start_problems

    problems = list(launcher_problems(config))
    yield from problems
    yield from _of_schema(PROVIDERS[kind], provider, "provider")
    types = config.get("available_node_types")
    for name, node in types.items() if isinstance(types, dict) else ():
        where = f"available_node_types.{name}"
        if isinstance(node, dict) and isinstance(node.get("node_config"), dict):
            yield from _of_schema(NODES[kind], node["node_config"], f"{where}.node_config")
            yield from _near(f"{where}.resources", node.get("resources"), RESOURCES)
    if problems:
        return
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for i, command in enumerate(config.get(key, ())):
            yield from start_problems(f"{key}.{i}", command)


def _kubernetes(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Check a Kubernetes object."""
    kind = f"{document.get('apiVersion')} {document.get('kind')}"
    if kind not in kinds():
        yield Problem("kind", f"{kind!r} is not known.", did_you_mean(kind, kinds()))
        return
    yield from _of_schema(kinds()[kind], document, "")
    for where, key, value in _mappings(document, ""):
        if key in ("requests", "limits"):
            # Names without a `/` are Kubernetes' own; others are a device's, of which one is known.
            for name in (n for n in value if "/" not in n and n not in POD_RESOURCES):
                fix = did_you_mean(name, POD_RESOURCES)
                yield Problem(f"{where}.{name}", "no such resource.", fix)
            yield from _near(where, {name: 0 for name in value if "/" in name}, [GPU])
        if key == "rayStartParams":
            from distill_ray.runtime.ray_launcher import start_options

            known = start_options()
            for name in (name for name in value if name not in known):
                fix = did_you_mean(name, known)
                yield Problem(f"{where}.{name}", "ray start has no such option.", fix)


def _near(where: str, value: Any, known: Iterable[str]) -> Iterator[Problem]:
    """Report names that are nearly a known one; other names may be a user's own."""
    for name in value if isinstance(value, dict) else ():
        hint = did_you_mean(name, known)
        if name not in known and hint.startswith("Did you mean"):
            yield Problem(f"{where}.{name}", "no such resource.", hint)


def _of_schema(schema: Mapping[str, Any], value: Any, where: str) -> Iterator[Problem]:
    for error in Draft7Validator(schema).iter_errors(value):
        place = ".".join([*filter(None, [where]), *map(str, error.absolute_path)])
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            known = error.schema.get("properties", {})
            for key in (key for key in error.instance if key not in known):
                path = f"{place}.{key}".lstrip(".")
                yield Problem(path, "unknown key.", did_you_mean(str(key), known))
        else:
            yield Problem(place or "the file", f"{error.message}.")


def _mappings(node: Any, where: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield place, key and value of every mapping in a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        place = f"{where}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield place, str(key), value
        if isinstance(value, dict | list):
            yield from _mappings(value, place)


def _leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _leaves(value)
    else:
        yield node
