"""A mirror, not a rule: how much of the code is named by words that say nothing, and how often one
must hop to a private function that is called once.

    python tests/mirror.py [FOLDER]

Prints for each package: bindings (variables, parameters, attributes) that are named by one of the
24 words, in 10,000 lines; private module functions that are called once, in 1,000 lines; lines with
`dict[str, Any]` or `Mapping[str, Any]`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

WORDS = {
    "found",
    "made",
    "said",
    "kept",
    "there",
    "asked",
    "given",
    "mine",
    "theirs",
    "told",
    "seen",
    "left",
    "whole",
    "left_out",
    "taken",
    "wanted",
    "chosen",
    "at",
    "of",
    "done",
    "rest",
    "both",
    "other",
    "others",
}
UNTYPED = re.compile(r"\b(dict|Mapping)\[str, Any\]")


@dataclass
class Counts:
    """What one file, or several, hold."""

    lines: int = 0
    bindings: Counter[str] = field(default_factory=Counter)
    called_once: int = 0
    untyped: int = 0

    def __iadd__(self, more: Counts) -> Counts:
        self.lines += more.lines
        self.bindings += more.bindings
        self.called_once += more.called_once
        self.untyped += more.untyped
        return self

    def row(self, name: str) -> str:
        """A line of the table."""
        words, lines = sum(self.bindings.values()), max(self.lines, 1)
        return (
            f"{name:24}{self.lines:8,}{words:8}{1e4 * words / lines:10.1f}"
            f"{self.called_once:9}{1e3 * self.called_once / lines:10.1f}{self.untyped:9}"
        )


def count(file: Path) -> Counts:
    """Counts of one file."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    bindings = Counter(name for name in _bindings(tree) if name in WORDS)
    private = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_")
    }
    uses = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return Counts(
        lines=text.count("\n"),
        bindings=bindings,
        called_once=sum(uses[name] == 1 for name in private),
        untyped=sum(bool(UNTYPED.search(line)) for line in text.splitlines()),
    )


def _bindings(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.append(node.attr)
    return names


def main(root: Path) -> None:
    """Print the table."""
    packages: dict[str, Counts] = {}
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).parts[0]
        packages.setdefault(name, Counts()).__iadd__(count(file))
    total = Counts()
    print(f"{'':24}{'lines':>8}{'words':>8}{'/10,000':>10}{'once':>9}{'/1,000':>10}{'untyped':>9}")
    for name, counts in packages.items():
        print(counts.row(name))
        total += counts
    print(total.row("all"))
    print(", ".join(f"{word} {n}" for word, n in total.bindings.most_common()))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "distill_ray"))
