"""Rewrite a config of 0.1 with the keys of 0.2. Nothing but the renamed words changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.renamed import FREE, RUN, STUDY, Renames


@dataclass(frozen=True)
class Change:
    """One renamed word of a file."""

    line: int
    """Counted from 1."""
    path: str
    """The key, with the new names of the sections above it."""
    old: str
    new: str
    start: int
    """Characters of the file that it replaces: [start, end)."""
    end: int

    def __str__(self) -> str:
        return f"line {self.line}: {self.path}: {self.old} → {self.new}"


def upgrade(text: str, name: str) -> tuple[str, list[Change]]:
    """The text with new keys and values, and what was changed, in the order of the file.

    Comments, order, quotes, anchors, line ends and spaces stay. A text without old words is
    returned as it is.

    Args:
        text: a run's or a study's YAML.
        name: of the file, for messages.

    Raises:
        InputError: it isn't YAML, isn't one mapping, or gives a key under both names.
    """
    title = f"{name} can't be upgraded:"
    try:
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(title, [Problem(name, f"not YAML: {error}")]) from None
    if len(documents) != 1 or not isinstance(documents[0], yaml.MappingNode):
        raise InputError(title, [Problem(name, "must hold one mapping of sections.")])
    root = documents[0]
    is_study = any(key.value == "domains" for key, _ in root.value)
    walk = _Walk(STUDY if is_study else RUN)
    walk.mapping(root, ())
    if walk.problems:
        raise InputError(title, walk.problems)
    changes = sorted(walk.changes.values(), key=lambda change: change.start)
    # PyYAML drops a byte order mark before it counts characters.
    offset = 1 if text.startswith("\ufeff") else 0
    for change in reversed(changes):
        text = text[: change.start + offset] + change.new + text[change.end + offset :]
    return text, changes


class _Walk:
    """Every mapping of a document, with the section that it is."""

    def __init__(self, renames: Renames) -> None:
        self.renames = renames
        self.changes: dict[int, Change] = {}
        self.problems: list[Problem] = []
        self._visited: set[tuple[int, tuple[str, ...]]] = set()

    def mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> None:
        """Rename the keys of a mapping and go on below it."""
        if (id(node), path) in self._visited:
            return
        self._visited.add((id(node), path))
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.tag == "tag:yaml.org,2002:merge":
                for merged in _merged(value):
                    self.mapping(merged, path)
                continue
            new = self.renames.key(path, key.value)
            if new is not None and new in names:
                what = f"is given under both names, {key.value} and {new}."
                self.problems.append(Problem(_dotted((*path, new)), what, "Remove one of them."))
            elif new is not None:
                self._rename(key, (*path, new), key.value, new)
            below = (*path, new or key.value)
            if key.value not in FREE or _is_name(path):
                self._value(value, below)

    def _value(self, node: yaml.Node, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            self.mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self._value(item, (*path, str(i)))
        elif isinstance(node, yaml.ScalarNode):
            new = self.renames.value(path, node.value)
            if new is not None:
                self._rename(node, path, node.value, new)

    def _rename(self, node: yaml.ScalarNode, path: tuple[str, ...], old: str, new: str) -> None:
        quote = 1 if node.style in ("'", '"') else 0
        start, end = node.start_mark.index + quote, node.end_mark.index - quote
        change = Change(node.start_mark.line + 1, _dotted(path), old, new, start, end)
        before = self.changes.setdefault(start, change)
        if before.new != new:
            what = f"{old} is {before.new} at {before.path} and {new} here, through one anchor."
            self.problems.append(Problem(_dotted(path), what, "Write the mapping out twice."))


def _is_name(path: tuple[str, ...]) -> bool:
    """Whether the keys of the mapping at `path` are the user's names, not the config's keys."""
    return path[-1:] in (("recipes",), ("domains",), ("arms",))


def _merged(value: yaml.Node) -> Iterator[yaml.MappingNode]:
    nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
    yield from (node for node in nodes if isinstance(node, yaml.MappingNode))


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)
