"""Which files a source names: paths, `~`, globs, folders and URIs."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from pyarrow import fs as pafs

from distill_ray.config import uris
from distill_ray.config.data import FILE_FORMATS, RowSource
from distill_ray.config.errors import did_you_mean
from distill_ray.runtime.filesystems import unreachable
from distill_ray.stages.reading.compression import HUB, SUFFIXES, file_system
from distill_ray.stages.reading.faults import ReadError, unreadable

FORMAT_SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".json", ".jl"),
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "parquet": (".parquet", ".pq", ".parq"),
    "arrow": (".arrow", ".feather", ".ipc", ".arrows"),
    "text": (".txt", ".text"),
}
_NOT_DATA = ("readme*", "license*", "licence*", "*.md", "*.crc", "*.sha256", "*.md5", "*.lock")
_MAGIC = "*?["


@dataclass(frozen=True)
class SourceFile:
    """A file that is read."""

    uri: str
    """A local path, or a URI for what is elsewhere."""
    size: int
    """Bytes, as it is stored."""


def expand(source: RowSource) -> list[SourceFile]:
    """The files of a source, sorted by name.

    A folder is read with its folders. Hidden names, names that begin with `_`, README, LICENSE,
    Markdown, checksums and empty files in it aren't data. Where a folder holds several kinds of
    file, the source must say which are meant: none is left out without a word.

    Raises:
        ReadError: a file or folder isn't there, a glob matches nothing, or a folder holds several
            kinds of files, or none.
        OSError: a storage is unreachable.
    """
    files: dict[str, SourceFile] = {}
    for location in source.locations:
        for file in _files_at(source.format, location):
            files[file.uri] = file
    return [files[uri] for uri in sorted(files)]


def local_paths(source: RowSource) -> list[Path]:
    """The files on a disk that a source names: all files of a data set's folder.

    Raises:
        ReadError: see `expand`.
    """
    if source.format in FILE_FORMATS:
        return [Path(file.uri) for file in expand(source) if "://" not in file.uri]
    folder = local_path(source.location)
    if source.format != "dataset" or folder is None or not Path(folder).is_dir():
        return []
    return sorted(Path(info.path) for info in _below(pafs.LocalFileSystem(), folder))


def local_path(location: str) -> str | None:
    """The absolute path of a location on a disk; None for a URI elsewhere.

    Raises:
        ReadError: a `file://` URI of another machine.
    """
    try:
        path = uris.local_path(location)
    except ValueError as error:
        raise unreadable(location, f"it can't be opened ({error})", "Mend it.") from error
    return None if path is None else str(path.absolute())


def _files_at(kind: str, location: str) -> list[SourceFile]:
    if location.startswith(HUB):
        filesystem, path = file_system(location)
        return [SourceFile(location, filesystem.get_file_info(path).size)]
    local = local_path(location)
    # What follows the "?" of a URI are options: it can't be a wildcard there.
    address, _, options = (location, "", "") if local is not None else location.partition("?")
    try:
        filesystem, path = file_system(local if local is not None else location)
        info = filesystem.get_file_info(path)
        infos = [info]
        if info.type == pafs.FileType.NotFound:
            if not any(sign in path for sign in _MAGIC):
                raise _missing(location, filesystem, path)
            infos = _matching(filesystem, path)
            if not infos:
                raise unreadable(location, "no file matches this glob", "Mend it.")
        files: list[Any] = []
        for info in infos:
            if info.type == pafs.FileType.Directory:
                files += _data_of(kind, location, filesystem, info.path)
            else:
                files.append(info)
    except ReadError:
        raise
    except (OSError, ValueError) as error:
        if unreachable(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise unreadable(location, f"it can't be listed ({reason})") from error
    if local is not None:
        return [SourceFile(info.path, info.size) for info in files]
    prefix = address[: address.index("://") + 3]
    # Local file systems behind URIs have absolute paths; buckets begin with their name.
    tail = f"?{options}" if options else ""
    return [SourceFile(f"{prefix}{quote(info.path)}{tail}", info.size) for info in files]


def _missing(location: str, filesystem: pafs.FileSystem, path: str) -> ReadError:
    parent = PurePosixPath(path).parent
    selector = pafs.FileSelector(str(parent), allow_not_found=True)
    names = [info.base_name for info in filesystem.get_file_info(selector)]
    near = did_you_mean(PurePosixPath(path).name, names)
    if not near.startswith("Did you mean"):
        near = "" if names else f"Its folder {parent} isn't there, or is empty."
    return unreadable(location, "no such file or folder", near)


def _matching(filesystem: pafs.FileSystem, pattern: str) -> list[Any]:
    """What matches a glob; `**` stands for any folders. Hidden names need a dot in the pattern."""
    parts = PurePosixPath(pattern).parts
    first = next(i for i, part in enumerate(parts) if any(sign in part for sign in _MAGIC))
    base = str(PurePosixPath(*parts[:first])) if first else ""
    infos: list[Any] = [pafs.FileInfo(base, pafs.FileType.Directory)]
    for part in parts[first:]:
        folders = [info for info in infos if info.type == pafs.FileType.Directory]
        if part == "**":
            below = [info for folder in folders for info in _below(filesystem, folder.path, True)]
            infos = folders + [i for i in below if i.type == pafs.FileType.Directory]
            if part is parts[-1]:
                infos = [info for info in below if info.type != pafs.FileType.Directory]
            continue
        children = [
            info
            for folder in folders
            for info in filesystem.get_file_info(pafs.FileSelector(folder.path))
        ]
        infos = [info for info in children if _is_match(info.base_name, part)]
    if parts[-1] in ("*", "**"):  # What no pattern names is chosen as in a folder.
        infos = [info for info in infos if _is_data(info)]
    unique = {info.path: info for info in infos}
    return list(unique.values())


def _is_data(info: Any) -> bool:
    """Whether a file isn't empty, or there for a reader; a folder is."""
    name = info.base_name.lower()
    is_folder = info.type == pafs.FileType.Directory
    return is_folder or (info.size and not any(fnmatch.fnmatch(name, p) for p in _NOT_DATA))


def _is_match(name: str, pattern: str) -> bool:
    hidden = name[:1] in (".", "_") and pattern[:1] != name[:1]
    return fnmatch.fnmatchcase(name, pattern) and not hidden


def _below(filesystem: pafs.FileSystem, folder: str, folders: bool = False) -> list[Any]:
    """The files below a folder that aren't hidden."""
    selector = pafs.FileSelector(folder, recursive=True)
    length = len(folder.rstrip("/")) + 1
    return [
        info
        for info in filesystem.get_file_info(selector)
        if (folders or info.type != pafs.FileType.Directory)
        and not any(part[:1] in (".", "_") for part in PurePosixPath(info.path[length:]).parts)
    ]


def _data_of(kind: str, location: str, filesystem: pafs.FileSystem, folder: str) -> list[Any]:
    """The data files of a folder.

    Raises:
        ReadError: there are none, or some are of another kind.
    """
    files = [info for info in _below(filesystem, folder) if _is_data(info)]
    if not files:
        raise unreadable(location, "a folder without files of data")
    kinds = Counter(data_suffix(info.base_name) for info in files)
    own = FORMAT_SUFFIXES[kind]
    others = {suffix: n for suffix, n in kinds.items() if suffix not in own}
    # One unknown suffix, or none at all, as in `part-00000`: the source says what they are.
    known = {suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes}
    if others and (len(kinds) > 1 or known & {*others}):
        held = ", ".join(f"{n} {suffix or 'without a suffix'}" for suffix, n in kinds.items())
        example = next(
            (info.base_name for info in files if data_suffix(info.base_name) in others), ""
        )
        suffix = next((suffix for suffix in own if suffix in kinds), None)
        fix = (
            f"Name them with a glob, such as {folder.rstrip('/')}/**/*{suffix}."
            if suffix
            else " ".join(_keys_of(others))
        )
        what = f"a folder with files that aren't {kind} ({held}; such as {example})"
        raise unreadable(location, what, fix)
    return files


def _keys_of(suffixes: dict[str, int]) -> Iterator[str]:
    for key, known in FORMAT_SUFFIXES.items():
        if suffix := next((s for s in suffixes if s in known), None):
            yield f"The key `{key}` reads {suffix}."


def data_suffix(name: str) -> str:
    """The suffix that says what a file is, without that of a compression."""
    path = PurePosixPath(name.lower())
    if path.suffix in SUFFIXES:
        path = path.with_suffix("")
    return path.suffix
