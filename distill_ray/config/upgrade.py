"""Rewrite a config of 0.1 with the keys of 0.2. Nothing but the renamed words changes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from distill_ray.config import document
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.renamed import FREE, RUN, STUDY, Renames

COMMAND = "distill-ray config upgrade"
GONE = "(left out)"
"""Instead of the new name of a key that is no more."""


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
        return f"line {self.line}: {self.path}: {self.old} → {self.new or GONE}"


def upgrade(text: str, name: str) -> tuple[str, list[Change]]:
    """The text with new keys and values, and what was changed, in the order of the file.

    Comments, order, quotes, anchors, line ends and spaces stay. A text without old words is
    returned as it is.

    Args:
        text: a run's or a study's YAML.
        name: of the file, for messages.

    Raises:
        InputError: it isn't YAML, isn't one mapping, gives a key under both names, or shares an
            anchor between places whose words have different new names.
    """
    title = f"{name} can't be upgraded:"
    try:
        document.parse(text)  # Refuses what is too large, too deep or ambiguous.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(title, [Problem(name, f"not YAML: {error}")]) from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(title, [Problem(name, "must hold one mapping of sections.")])
    walk = _Walk(text, _renames({key.value for key, _ in root.value}))
    walk.mapping(root, ())
    changes = walk.changes()
    if walk.problems:
        raise InputError(title, walk.problems)
    upgraded = text
    for change in reversed(changes):
        upgraded = upgraded[: change.start] + change.new + upgraded[change.end :]
    return upgraded, changes


def counts(changes: Sequence[Change]) -> dict[str, int]:
    """`old → new` → in how many places, in the order of the file."""
    return dict(Counter(f"{change.old} → {change.new or GONE}" for change in changes))


def renew(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """A run's or a study's values under new names, and a problem for each old word in them.

    What else is wrong with the values can so be reported beside the old words. An old key beside
    its new name stays out of the values. The problems' places are as written.
    """
    problems: list[Problem] = []
    renewed: dict[str, Any] = _renewed(data, (), (), _renames(data), problems)
    return renewed, problems


def _renames(keys: Any) -> Renames:
    return STUDY if "domains" in keys else RUN


def _renewed(
    node: Any,
    written: tuple[str, ...],
    path: tuple[str, ...],
    renames: Renames,
    problems: list[Problem],
) -> Any:
    """What is at `written`, which is `path` in new names; adds to `problems`."""
    if isinstance(node, Mapping):
        renewed = {}
        for key, value in node.items():
            new = renames.key(path, key) if isinstance(key, str) else None
            place = (*written, str(key))
            if isinstance(key, str) and (why := renames.without(path, key)) is not None:
                problems.append(Problem(_dotted(place), f"{why}."))
                continue
            if new is not None:
                problems.append(Problem(_dotted(place), f"renamed to {new} in 0.2."))
            if key not in FREE or _is_name(path):
                value = _renewed(value, place, (*path, new or str(key)), renames, problems)
            if new is None or new not in node:
                renewed[new or key] = value
        return renewed
    if isinstance(node, list):
        return [
            _renewed(item, (*written, str(i)), (*path, str(i)), renames, problems)
            for i, item in enumerate(node)
        ]
    if isinstance(node, str) and (new := renames.value(path, node)) is not None:
        what = f"the value {node} is renamed to {new} in 0.2."
        problems.append(Problem(_dotted(written), what))
        return new
    return node


@dataclass
class _Uses:
    """A scalar of the document, which several places may share through an anchor."""

    node: yaml.ScalarNode
    places: dict[str, str] = field(default_factory=dict)
    """What it is called → the first such place."""


class _Walk:
    """Every mapping of a document, with the section that it is."""

    def __init__(self, text: str, renames: Renames) -> None:
        self.text, self.renames = text, renames
        self.problems: list[Problem] = []
        self._uses: dict[int, _Uses] = {}
        self._removed: dict[int, tuple[yaml.ScalarNode, yaml.Node, str]] = {}
        self._visited: set[tuple[int, tuple[str, ...]]] = set()

    def mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> None:
        """Note what the words of a mapping, and of all below it, are called."""
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
            if self.renames.without(path, key.value) is not None:
                self._removed[id(key)] = (key, value, _dotted((*path, key.value)))
                continue
            new = self.renames.key(path, key.value)
            if new is not None and new in names:
                what = f"is given under both names, {key.value} and {new}."
                self.problems.append(Problem(_dotted((*path, new)), what, "Remove one of them."))
            below = (*path, new or key.value)
            self._use(key, below, new)
            renamed = key.value not in FREE or _is_name(path)
            self._value(value, below, renamed)

    def _value(self, node: yaml.Node, path: tuple[str, ...], renamed: bool) -> None:
        if isinstance(node, yaml.MappingNode) and renamed:
            self.mapping(node, path)
        elif isinstance(node, yaml.SequenceNode) and renamed:
            for i, item in enumerate(node.value):
                self._value(item, (*path, str(i)), renamed)
        elif isinstance(node, yaml.ScalarNode):
            self._use(node, path, self.renames.value(path, node.value))
        elif isinstance(node, (yaml.MappingNode, yaml.SequenceNode)):
            for scalar in _scalars(node):  # Another library's words stay what they are.
                self._use(scalar, path, None)

    def _use(self, node: yaml.ScalarNode, path: tuple[str, ...], new: str | None) -> None:
        uses = self._uses.setdefault(id(node), _Uses(node))
        uses.places.setdefault(new or node.value, _dotted(path))

    def changes(self) -> list[Change]:
        """In the order of the file."""
        changes = []
        for uses in self._uses.values():
            node, places = uses.node, uses.places
            if len(places) > 1:
                where = " and ".join(f"{name} at {place}" for name, place in places.items())
                what = f"{node.value} is {where}, through one anchor."
                where = f"line {node.start_mark.line + 1}"
                self.problems.append(Problem(where, what, "Write it out in each place."))
                continue
            ((new, path),) = places.items()
            if new != node.value:
                start, end = self._characters(node)
                line = node.start_mark.line + 1
                changes.append(Change(line, path, node.value, new, start, end))
        for key, value, path in self._removed.values():
            start, end = self._entry(key, value)
            line = key.start_mark.line + 1
            changes.append(Change(line, path, key.value, "", start, end))
        return sorted(changes, key=lambda change: change.start)

    def _entry(self, key: yaml.ScalarNode, value: yaml.Node) -> tuple[int, int]:
        """Where a key and its value are: their whole line, or up to the next key in braces."""
        start, end = key.start_mark.index, value.end_mark.index
        line_start = self.text.rfind("\n", 0, start) + 1
        line_end = self.text.find("\n", end)
        line_end = len(self.text) if line_end < 0 else line_end + 1
        rest = self.text[end:line_end].strip()
        if not self.text[line_start:start].strip() and (not rest or rest.startswith("#")):
            return line_start, line_end
        if (comma := re.match(r"\s*,\s*", self.text[end:])) is not None:
            return start, end + comma.end()
        before = re.search(r",\s*$", self.text[:start])
        return (before.start() if before else start), end

    def _characters(self, node: yaml.ScalarNode) -> tuple[int, int]:
        """Where a word is, without its anchor, tag and quotes."""
        start, end = node.start_mark.index, node.end_mark.index
        if node.style in ("'", '"'):
            return self.text.index(node.style, start) + 1, end - 1
        return self.text.rindex(node.value, start, end), end


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(key)
            yield from _scalars(value)


def _is_name(path: tuple[str, ...]) -> bool:
    """Whether the keys of the mapping at `path` are the user's names, not the config's keys."""
    return path[-1:] in (("recipes",), ("domains",), ("arms",))


def _merged(value: yaml.Node) -> Iterator[yaml.MappingNode]:
    nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
    yield from (node for node in nodes if isinstance(node, yaml.MappingNode))


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)
