"""JSON Lines of real text for `bench shard`, made from what every installation ships.

Rows are pieces of the standard library's sources and of docstrings of scientific packages. Each
round cuts the same documents at other places, so that any size can be reached without two equal
rows; exact duplicates are added on purpose. Equal arguments and packages give equal bytes.
"""

from __future__ import annotations

import ast
import json
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from distill_ray.data.transforms import content_key

PACKAGES = ("numpy", "pandas", "scipy")
"""Packages whose docstrings are read; all come with this project."""
NOT_READ = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"})
"""Folders whose files aren't read."""
MAX_FILE_BYTES = 200_000
BASE_BYTES = 16 * 2**20
"""Text that is cut again and again where more is wanted."""
MEDIAN_CHARS, SIGMA = 330, 0.95
"""Of the log-normal lengths of rows: 520 characters on average, one in a hundred over 3,000."""
MIN_CHARS = 30
DUPLICATES = 0.03
"""Share of rows that are copies of an earlier one."""
REMEMBERED = 10_000
"""Rows that a copy may be of; they are spread over all that came before."""
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Corpus:
    """Files of rows with a `text`, and what is in them."""

    files: tuple[str, ...]
    rows: int
    duplicates: int
    size_bytes: int


def write_corpus(folder: Path, size_bytes: int, num_files: int = 4) -> Corpus:
    """Write JSON Lines of about this size, in files of equal size.

    Args:
        folder: an existing folder.
        size_bytes: of all files together; the last row of each may exceed its share.
        num_files: how many files.
    """
    stream, files = rows(), []
    num_rows = duplicates = total = 0
    for number in range(num_files):
        path, size = folder / f"{number:02d}.jsonl", 0
        with path.open("wb") as file:
            for text, is_copy in stream:
                line = json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
                size += file.write(line)
                num_rows += 1
                duplicates += is_copy
                if size >= size_bytes / num_files:
                    break
        total += size
        files.append(str(path))
    return Corpus(tuple(files), num_rows, duplicates, total)


def rows(seed: int = 0) -> Iterator[tuple[str, bool]]:
    """Yield texts without end, and whether each is a copy of an earlier one.

    Texts that aren't copies have content keys of their own.
    """
    rng = random.Random(seed)
    known: set[int] = set()
    earlier: list[str] = []
    for count, text in enumerate(_unequal(_pieces(rng), known)):
        yield text, False
        if len(earlier) < REMEMBERED:
            earlier.append(text)
        elif (place := rng.randrange(count + 1)) < REMEMBERED:
            earlier[place] = text
        if rng.random() < DUPLICATES / (1 - DUPLICATES):
            yield rng.choice(earlier), True


def _unequal(texts: Iterator[str], known: set[int]) -> Iterator[str]:
    """Drop texts that count as one that came before."""
    for text in texts:
        key = int(content_key(text)[:16], 16)
        if key not in known:
            known.add(key)
            yield text


def _pieces(rng: random.Random) -> Iterator[str]:
    """Cut documents at white space into pieces of log-normal length, round after round."""
    base: list[str] = []
    size = 0
    for document in _documents():
        base.append(document)
        size += len(document)
        yield from _cut(document, rng)
        if size >= BASE_BYTES:
            break
    while base:
        for document in base:
            yield from _cut(document, rng)


def _cut(document: str, rng: random.Random) -> Iterator[str]:
    start = 0
    while start < len(document):
        end = start + int(rng.lognormvariate(0, SIGMA) * MEDIAN_CHARS)
        while end < len(document) and not document[end].isspace():
            end += 1
        piece = document[start:end].strip()
        if len(piece) >= MIN_CHARS:
            yield piece
        start = end + 1


def _documents() -> Iterator[str]:
    """Yield sources of the standard library and docstrings of packages in turn."""
    streams = [_sources(), *(_docstrings(package) for package in PACKAGES)]
    while streams:
        for stream in list(streams):
            document = next(stream, None)
            if document is None:
                streams.remove(stream)
            else:
                yield document


def _sources() -> Iterator[str]:
    for file in _modules(Path(sysconfig.get_path("stdlib"))):
        yield file.read_bytes().decode(errors="ignore")


def _docstrings(package: str) -> Iterator[str]:
    """Yield the docstrings of a package, those of a file joined; nothing is imported."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is a dependency"
    for file in _modules(Path(spec.origin).parent):
        tree = ast.parse(file.read_bytes())
        documented = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)]
        if document := "\n\n".join(filter(None, map(ast.get_docstring, documented))):
            yield document


def _modules(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*.py")):
        inside = file.relative_to(folder).parts[:-1]
        if NOT_READ.isdisjoint(inside) and file.stat().st_size <= MAX_FILE_BYTES:
            yield file


def write_tokenizer(folder: Path, corpus: Corpus, vocab_size: int, sample_rows: int = 4000) -> None:
    """Train a tokenizer on the first rows of a corpus, and save it in a folder, which is made."""
    from distill_ray.data.tokenizer import train_tokenizer

    with Path(corpus.files[0]).open("rb") as lines:
        sample = (json.loads(line)["text"] for line in islice(lines, sample_rows))
        train_tokenizer(sample, vocab_size).save_pretrained(str(folder))
