"""What a source's first rows say of it, before anything is read in earnest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from distill_ray.config.data import FILE_FORMATS, RowSource
from distill_ray.stages.reading.faults import ReadError, RowFault, unreadable
from distill_ray.stages.reading.files import local_path
from distill_ray.stages.reading.parts import peek
from distill_ray.stages.reading.row_formats import ROW_FORMATS, detect_format
from distill_ray.stages.reading.shapes import describe, kinds_of, wrong_shape

TEXT_FORMAT = "text"
"""The row format of rows whose text is one column."""
AS_CORPUS = "A task asks about a text. Give conversations as one of corpora.sources."


def row_format(source: RowSource, *, is_corpus: bool) -> str:
    """`text`, or the format of the conversations that a source holds.

    Args:
        source: what is read.
        is_corpus: whether conversations are welcome.

    Raises:
        ReadError: its rows can't be read, or aren't what the config says.
    """
    first = peek(source)
    if not first.num_met:
        raise unreadable(source.location, "it has no rows", "Give files with rows.")
    kinds = kinds_of(first)
    name: str | None = source.row_format
    has_text = kinds.get(source.text_column, "nothing") != "nothing"
    if name is None and is_corpus and not has_text:
        name = detect_format(kinds)
    fault = None
    if name is None or name == TEXT_FORMAT:
        fault = wrong_shape(source, first)
        if fault is not None and not is_corpus and detect_format(kinds) is not None:
            fault = replace(fault, fix=AS_CORPUS)
    elif not is_corpus:
        what = f"`row_format: {name}` reads conversations"
        fault = RowFault(source.location, "", "", what, AS_CORPUS)
    elif first.num_rows and not ROW_FORMATS[name].detect(kinds):
        needs = " or ".join(", ".join(names) for names in ROW_FORMATS[name].required)
        what = f"`row_format: {name}` reads {needs}; {describe(first)}"
        fault = RowFault(first.file, "", "", what, "Set the row_format that the columns have.")
    if fault is not None:
        raise ReadError(fault)
    return name or TEXT_FORMAT


def is_here(source: RowSource) -> bool:
    """Whether a source's files are on this machine's disks."""
    if source.format in FILE_FORMATS:
        return all(local_path(location) is not None for location in source.locations)
    folder = local_path(source.location)
    return source.format == "dataset" and folder is not None and Path(folder).is_dir()
