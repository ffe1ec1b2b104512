"""YAML, from anyone: parsed in bounded time and memory, or refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from distill_ray.config.numbers import PlainText, looks_like_a_number

LARGEST = 1 << 17
"""Bytes of a file; configs have some ten thousand."""
LARGEST_EXPANDED = 1 << 20
"""Nodes and characters with each alias written out."""
DEEPEST = 64


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, and what is too deep or too large."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node with those in it."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    merge = "tag:yaml.org,2002:merge"
    keys = [loader.construct_object(k, deep=True) for k, _ in node.value if k.tag != merge]
    for key, count in Counter(key for key in keys if isinstance(key, Hashable)).items():
        if count > 1:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"key {key!r} is given twice in the mapping at line {line}")
    return loader.construct_mapping(node, deep=True)  # Merges `<<` too.


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """Text; what may be a number, and isn't quoted, is marked."""
    text = str(loader.construct_scalar(node))
    return PlainText(text) if node.style is None and looks_like_a_number(text) else text


def _int(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """A whole number. YAML 1.1 takes 0200 for 128 and 1:30 for 90; here they are what they say."""
    if re.fullmatch(r"[-+]?0[\d_]+|.*:.*", node.value):
        return PlainText(node.value)
    return loader.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG, _text)


def _measure(root: yaml.Node) -> None:
    """Refuse a document that is too large with its aliases written out.

    Each node is counted once, so that this is quick where expanding isn't.
    """
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in above:
            raise yaml.YAMLError(f"the anchor at line {node.start_mark.line + 1} holds itself")
        if id(node) not in sizes:
            above.add(id(node))
            inner = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
            sizes[id(node)] = 1 + inner + sum(size(part) for part in _parts(node))
            above.discard(id(node))
        return sizes[id(node)]

    if size(root) > LARGEST_EXPANDED:
        raise yaml.YAMLError(f"with its aliases written out, it exceeds {LARGEST_EXPANDED} nodes")


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def parse(text: str) -> Any:
    """The values of a YAML document.

    Raises:
        yaml.YAMLError: it is none, has a key twice, or is too large or too deep.
    """
    documents = parse_all(text)
    if len(documents) > 1:
        raise yaml.YAMLError("it holds several documents")
    return documents[0] if documents else None


def parse_all(text: str) -> list[Any]:
    """The values of every YAML document in a text.

    Raises:
        yaml.YAMLError: as in `parse`.
    """
    loader = _Loader(text)
    try:
        documents = []
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                _measure(node)
                documents.append(loader.construct_document(node))
        return documents
    except (ValueError, OverflowError) as error:  # No such date, a number of too many digits.
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def read_text(path: Path) -> str:
    """The text of a YAML file.

    Raises:
        OSError: it can't be read.
        UnicodeDecodeError: it isn't text.
        yaml.YAMLError: it is too large.
    """
    with path.open("rb") as stream:
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise yaml.YAMLError(f"it is larger than {LARGEST >> 10} KiB, which no config is")
    return data.decode()


def read(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        OSError, UnicodeDecodeError, yaml.YAMLError: as in `read_text` and `parse`.
    """
    return parse(read_text(path))
