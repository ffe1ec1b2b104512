"""Errors that are the input's, not ours: they end the command with exit code 2 and one message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input."""

    where: str
    """A config key (`student.model.path`), a file, or a flag."""
    what: str
    """What is wrong, with the value that was given."""
    fix: str = ""
    """What would do instead."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" {self.fix}" if self.fix else "")


class InputError(Exception):
    """The input can't be run. Carries every problem that was found."""

    def __init__(self, title: str, problems: Iterable[Problem]) -> None:
        self.title = title
        self.problems = tuple(problems)
        super().__init__(self.title, self.problems)

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {problem}" for problem in self.problems)])


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """`Did you mean 'x'?`, or the list of what is allowed when nothing is near."""
    names = sorted(allowed)
    near = get_close_matches(given, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Allowed: {', '.join(names)}." if names else ""
