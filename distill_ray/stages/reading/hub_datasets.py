"""Hugging Face data sets: of the hub, saved to a disk, or a cloned repository."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill_ray.config.data import RowSource
from distill_ray.config.errors import did_you_mean
from distill_ray.stages.reading.batches import (
    BATCH_BYTES,
    BATCH_ROWS,
    RawBatch,
    SliceRequest,
    table_batches,
)
from distill_ray.stages.reading.columnar import decoded, wanted_columns
from distill_ray.stages.reading.faults import ReadError, unreadable
from distill_ray.stages.reading.files import data_suffix, local_path, local_paths

SAVED = ("dataset_dict.json", "state.json")
"""One of them is in each folder that `save_to_disk` made."""
_BUILDERS = {"csv": "csv", "json": "jsonl", "text": "text", "parquet": "parquet", "arrow": "arrow"}
"""Builders of `datasets` whose files are read here → the key of their format."""
_UNTYPED = ("csv", "json", "text")
"""Of these, the builders of files without types."""
_LOCATING = {"name", "data_dir", "data_files", "revision"}
"""Options of `load_dataset` that say which files, and not how they are read."""


@dataclass(frozen=True)
class DataFiles:
    """The files of one split of a data set, read like any others.

    `datasets` guesses types: of "0101" in a CSV it makes the number 101.
    """

    source: RowSource
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column → names of its classes, as the repository's card has them."""


def data_files(source: RowSource) -> DataFiles | None:
    """A split's files, where a data set is no more than files that are read here.

    Raises:
        ReadError: the data set can't be found, or has no such split.
    """
    if "streaming" in source.options:
        raise unreadable(source.location, "the option streaming", "Leave it out.")
    if _saved_folder(source) is not None or not set(source.options) <= _LOCATING:
        return None
    builder = _builder(source.location, json.dumps(dict(source.options), sort_keys=True))
    kind = type(builder).__module__.rpartition(".")[2]
    files = builder.config.data_files
    if kind not in _BUILDERS or not files or not _plain(builder.config):
        return None
    _refuse_left_out(source, files)
    if source.split not in files:
        raise _no_split(source, files)
    names = tuple(str(file) for file in files[source.split])
    if kind not in _UNTYPED and any("://" in name for name in names):
        return None  # Typed already: `datasets` reads it from its own cache, without a network too.
    options: dict[str, Any] = {_BUILDERS[kind]: names}
    if kind == "csv":
        separator = builder.config.delimiter or builder.config.sep
        options |= {} if separator == "," else {"delimiter": separator}
    encoding = getattr(builder.config, "encoding", None)
    if source.encoding is None and encoding not in (None, "utf-8"):
        options["encoding"] = encoding
    kept = {
        name: getattr(source, name)
        for name in RowSource.model_fields
        if name not in ("dataset", "options", "split") and getattr(source, name) is not None
    }
    return DataFiles(RowSource(**{**kept, **options}), _classes(builder.info.features))


def _refuse_left_out(source: RowSource, files: Mapping[str, Iterable[Any]]) -> None:
    """Refuse a folder of which `datasets` takes some files for splits, by their names, alone.

    `train-schedules.jsonl` makes it a data set of that file, and its neighbours vanish.

    Raises:
        ReadError: names one of the others.
    """
    folder = local_path(source.location)
    if folder is None or not Path(folder).is_dir() or set(source.options) - {"name"}:
        return
    card = Path(folder) / "README.md"
    if card.is_file() and "configs:" in card.read_text("utf-8", "replace").split("\n---", 1)[0]:
        return
    taken = {str(file) for names in files.values() for file in names}
    suffixes = {data_suffix(Path(file).name) for file in taken}
    left = [
        str(path)
        for path in local_paths(source)
        if data_suffix(path.name) in suffixes
        and str(path) not in taken
        and path.name != "dataset_infos.json"
    ]
    if left:
        splits = ", ".join(f"{name}: {len(list(names))}" for name, names in files.items())
        what = f"files whose names are of no split, such as {left[0]} (files by split: {splits})"
        fix = "Read all with the key of their format, such as `jsonl`, or say which are meant: "
        fix += "`options: {data_files: ...}`."
        raise unreadable(source.location, what, fix)


def _plain(config: Any) -> bool:
    """Whether a repository's card asks for nothing else than which files and which delimiter."""
    known = {"name", "version", "data_dir", "data_files", "description", "features"}
    known |= {"sep", "delimiter", "encoding"}
    default = type(config)()
    separator: str = getattr(config, "delimiter", None) or getattr(config, "sep", None) or ","
    return len(separator) == 1 and all(
        getattr(config, f.name) == getattr(default, f.name)
        for f in fields(config)
        if f.name not in known
    )


def _classes(features: Any) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(map(str, feature.names))
        for name, feature in (features or {}).items()
        if type(feature).__name__ == "ClassLabel"
    }


@lru_cache(maxsize=16)
def _builder(location: str, options: str) -> Any:
    from datasets import load_dataset_builder

    path = _folder(location)
    with _Loading(location):
        return load_dataset_builder(path, **json.loads(options))


def num_rows(source: RowSource) -> int:
    """Rows of a data set that isn't read by its files.

    Raises:
        ReadError: it can't be loaded.
    """
    return int(_dataset(source).num_rows)


def num_bytes(source: RowSource) -> int:
    """Bytes of its Arrow data, about.

    Raises:
        ReadError: it can't be loaded.
    """
    return int(_dataset(source).data.nbytes)


def read_dataset(request: SliceRequest) -> Iterator[RawBatch]:
    """Rows of a contiguous slice of a data set. Classes are read by their names.

    Raises:
        ReadError: it can't be loaded, or lacks a required column.
    """
    source, piece = request.source, request.slice
    dataset = _dataset(source)
    names = wanted_columns(request, dataset.column_names)
    classes = _classes(dataset.features)
    end = len(dataset) if piece.end is None else piece.end
    number = piece.start + 1
    if not names or number > end:
        return
    size = BATCH_BYTES * len(dataset) // max(1, dataset.data.nbytes)
    rows = dataset.select(range(piece.start, end)).select_columns(names).with_format("arrow")
    for table in rows.iter(batch_size=max(1, min(BATCH_ROWS, size))):
        columns = {n: decoded(table[n], classes.get(n), source.encoding) for n in names}
        places = range(number, number + table.num_rows)
        yield from table_batches(columns, places, "row", piece.uri)
        number += table.num_rows


def _dataset(source: RowSource) -> Any:
    """One split of a data set, memory-mapped."""
    options = json.dumps(dict(source.options), sort_keys=True, default=str)
    data: Any = _loaded(source.location, options, _saved_folder(source))
    if not isinstance(data, Mapping):
        return data
    if source.split not in data:
        raise _no_split(source, data)
    return data[source.split]


@lru_cache(maxsize=16)
def _loaded(location: str, options: str, saved: str | None) -> Any:
    from datasets import load_dataset, load_from_disk

    with _Loading(location):
        if saved is not None:
            return load_from_disk(saved)
        return load_dataset(_folder(location), **json.loads(options))


class _Loading:
    """Names the data set in what its loading raises."""

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        if "://" in _folder(self._location):
            what = "a data set behind a URI"
            fix = "Name its files with the key of their format, such as `parquet` or `arrow`."
            raise unreadable(self._location, what, fix)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, ReadError):
            reason = str(error).partition("\n")[0].rstrip(". ")
            what = f"the data set can't be loaded ({type(error).__name__}: {reason})"
            raise unreadable(self._location, what) from error


def _folder(location: str) -> str:
    """The folder of a location, if there is one, or else the hub's id."""
    path = local_path(location)
    return path if path is not None and Path(path).is_dir() else location


def _saved_folder(source: RowSource) -> str | None:
    """The folder that `save_to_disk` made, if this is one."""
    folder = _folder(source.location)
    return folder if any((Path(folder) / name).is_file() for name in SAVED) else None


def _no_split(source: RowSource, splits: Iterable[str]) -> ReadError:
    names = sorted(map(str, splits))
    what = f"no split {source.split!r}; its splits are {', '.join(map(repr, names))}"
    near = did_you_mean(source.split, names)
    fix = f"{near} Set `split`." if near.startswith("Did you mean") else "Set `split`."
    return unreadable(source.location, what, fix)
