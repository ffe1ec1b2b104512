"""Which package a docstring is from, over packages that this project depends on.

Their files are parsed, never imported. Names of packages are blanked and dotted paths cut to
their last part, so what remains is what the docstring is about and how it is written. The `group`
of a row is its file. Rows are those of the installed versions: they change when a package does.
"""

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Row = dict[str, str]

PACKAGES = (
    "datasets",
    "deepspeed",
    "huggingface_hub",
    "networkx",
    "numpy",
    "pandas",
    "peft",
    "pydantic",
    "ray",
    "scipy",
    "sklearn",
    "sympy",
    "torch",
    "transformers",
)
"""Packages, keyed `A` to `N`; all come with this project or with its tests."""

PER_MODULE = 20
"""Most rows of one file; without it a few long modules would be most of a package."""

MAX_BYTES = 100_000
"""Larger files are not parsed: they take long, and rows of one file are alike."""

MAX_CHARS = 320
"""Length to which a row's docstring or message is cut."""

MIN_LETTERS = 30
"""Shorter texts ("Returns self.") say nothing about their package."""

_NOT_ITS_OWN = re.compile(
    r"/(?:tests?|_?testing|conftest|test_\w+|externals?|_?vendor\w*|third_?party\w*"
    r"|array_api_\w+)(?:/|\.py$)"
)
"""Tests, and other projects' code."""

_NAMES = re.compile(
    r"\b\w*(?:datasets|deepspeed|hugging[ _-]?face|networkx|numpy|pandas|peft|pydantic|rllib|scipy"
    r"|scikit[ -]?learn|sklearn|sympy|torch|transformers)\w*|🤗"
    r"|\b(?:ray|hf|np|pd|nx)(?:_\w+|\b)|(?-i:\b(?:Ray|Hf|HF)[A-Z]\w*)",
    re.IGNORECASE,
)
"""The packages' names, also within others ("PeftModel", "RAY_ADDRESS"), and their usual aliases."""

_URL = re.compile(r"\b(?:https?|ftp|hf|s3|gs)://\S+|\bwww\.\S+")
_PATH = re.compile(r"\b(?:[A-Za-z_]\w*[./])+(?=[A-Za-z_])")
_NOT_LETTER = re.compile(r"[^a-z]+")
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def labelled(*, rows: int = 6000) -> Iterator[Row]:
    """Yield first paragraphs of docstrings with the key of their package, `A` to `N`."""
    yield from islice(_distinct("docstrings"), rows)


def shifted(*, rows: int = 3000) -> Iterator[Row]:
    """Yield messages of the errors that the same packages raise, with the package's key."""
    yield from islice(_distinct("messages"), rows)


def text(*, rows: int = 800) -> Iterator[Row]:
    """Yield the rest of the docstrings, a file a row: arguments, notes, examples.

    Names of packages are blanked.
    """
    num_documents = 0
    for file in _in_turn([iter(_files(package)) for package in PACKAGES]):
        if num_documents >= rows:
            return
        # What the docstrings say after the start that `labelled` takes.
        blanked = [_blanked(docstring) for docstring in _parsed(file)[0]]
        remainders = [docstring[len(_start(docstring)) :].strip() for docstring in blanked]
        document = "\n\n".join(filter(None, remainders))
        if len(_letters(document)) > 200:
            num_documents += 1
            yield {"text": document, "group": file}


def _distinct(kind: str) -> Iterator[Row]:
    """Yield rows of all packages in turn; files are read one by one, as rows are needed."""
    known: set[str] = set()
    for row in _in_turn([_package_rows(package, kind) for package in PACKAGES]):
        key = _letters(row["text"])
        if len(key) >= MIN_LETTERS and key not in known:
            known.add(key)
            yield row


def _package_rows(package: str, kind: str) -> Iterator[Row]:
    """Yield a package's rows, at most `PER_MODULE` of each file."""
    for file in _files(package):
        raw = _parsed(file)[kind == "messages"]
        starts = dict.fromkeys(_start(_blanked(text)) for text in raw)
        for start in sorted(starts, key=_shuffle_key)[:PER_MODULE]:
            yield {"text": start, "label": key_of(package), "group": file}


def key_of(package: str) -> str:
    """Look up the label of one of `PACKAGES`."""
    return chr(ord("A") + PACKAGES.index(package))


def _in_turn(streams: list[Iterator[T]]) -> Iterator[T]:
    """Yield an item of each stream in turn, as long as any has items."""
    while streams:
        for stream in list(streams):
            try:
                yield next(stream)
            except StopIteration:
                streams.remove(stream)


@cache
def _files(package: str) -> tuple[str, ...]:
    """List a package's own modules in a fixed shuffled order, as paths below site-packages."""
    site = _site(package)
    files = (path for path in (site / package).rglob("*.py") if path.stat().st_size < MAX_BYTES)
    names = (path.relative_to(site).as_posix() for path in files)
    own = (name for name in names if not _NOT_ITS_OWN.search(name))
    return tuple(sorted(own, key=_shuffle_key))


def _site(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(
            f"The docstrings example needs {package}: pip install 'distill-ray[studies]'"
        )
    return Path(spec.origin).parents[1]


@cache
def _parsed(file: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Parse a file's docstrings and error messages."""
    tree = ast.parse((_site(file.split("/")[0]) / file).read_bytes())
    statements = list(_statements(tree))
    documented = [tree, *(s for s in statements if isinstance(s, _DOCUMENTED))]
    docstrings = (ast.get_docstring(node) for node in documented)
    messages = (_message(s) for s in statements if isinstance(s, ast.Raise))
    return tuple(filter(None, docstrings)), tuple(filter(None, messages))


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield all statements below a node; expressions, the bulk of a tree, are not entered."""
    for field in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, field, []):
            if isinstance(child, ast.stmt):
                yield child
            yield from _statements(child)


def _message(statement: ast.Raise) -> str | None:
    """The literal message of a raise, with `...` for what is filled in."""
    match statement.exc:
        case ast.Call(args=[ast.Constant(value=str(message)), *_]):
            return message
        case ast.Call(args=[ast.JoinedStr(values=parts), *_]):
            return "".join(str(p.value) if isinstance(p, ast.Constant) else "..." for p in parts)
    return None


def _start(text: str) -> str:
    """Cut a text to the first paragraphs that fit; at least to the start of the first."""
    cut = text[: MAX_CHARS + 1]
    if len(cut) <= MAX_CHARS:
        return cut
    for end in ("\n\n", "\n", " "):
        if end in cut:
            return cut[: cut.rindex(end)].rstrip()
    return cut[:MAX_CHARS]


def _blanked(text: str) -> str:
    return _NAMES.sub("_", _PATH.sub("", _URL.sub("_", text))).strip()


def _letters(text: str) -> str:
    return _NOT_LETTER.sub("", text.lower())


def _shuffle_key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
