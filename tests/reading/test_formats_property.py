"""What is written in any format comes back equal, and what is broken is named."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from read_rows import compressed, read_rows, write

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.faults import ReadError

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
SUFFIXES = ("", ".gz", ".zst", ".bz2", ".xz")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be-sig", "utf-32")
PIECES = st.sampled_from(
    [
        *"\",\t;\u2028\x85\x0c\x1c\ufeff\x00 \\é语😀{}[]#'",
        "\n",
        "\r\n",
        "0101",
        "1.10",
        "NA",
        "null",
    ]
)
TEXT = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.lists(PIECES, max_size=6).map("".join),
    st.integers(0, 10**25).map(str),
)
ROWS = st.lists(st.tuples(TEXT, st.one_of(st.none(), TEXT)), min_size=1, max_size=12)


def _or_none(text: str | None) -> str | None:
    """Blank cells are nothing, by Unicode's notion of white space."""
    return None if text is None or not text.strip() else text


def _check(rows, source, part_bytes=1 << 20):
    read = read_rows(source, part_bytes)
    assert not read.faults
    assert read.texts == [_or_none(text) for text, _ in rows]
    assert read.labels == [_or_none(label) for _, label in rows]
    return read


def _encode(text: str, encoding: str) -> bytes:
    if encoding == "utf-16-be-sig":
        return b"\xfe\xff" + text.encode("utf-16-be")
    return text.encode(encoding)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def _json_lines(rows, ascii_only, end="\n"):
    dumped = (
        json.dumps({"id": 10**30, "text": t, "label": v}, ensure_ascii=ascii_only) for t, v in rows
    )
    return "".join(line + end for line in dumped)


@EXAMPLES
@given(ROWS, st.sampled_from(SUFFIXES), st.sampled_from(ENCODINGS), st.booleans())
def test_json_lines_come_back_in_every_compression_and_encoding(
    folder, rows, suffix, encoding, ascii_only
):
    data = _encode(_json_lines(rows, ascii_only), encoding)
    path = write(folder / f"a.jsonl{suffix}", compressed(data, suffix))
    assert _check(rows, RowSource(jsonl=str(path))).places == [*range(1, len(rows) + 1)]


@EXAMPLES
@given(ROWS, st.integers(1, 200), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_json_lines_come_back_from_parts_of_every_size(folder, rows, part_bytes, end):
    path = write(folder / "b.jsonl", _json_lines(rows, False, end))
    read = _check(rows, RowSource(jsonl=str(path)), part_bytes)
    step = len(end.replace("\r", ""))
    assert read.places == [1 + step * i for i in range(len(rows))]


@EXAMPLES
@given(ROWS, st.sampled_from(SUFFIXES), st.sampled_from([None, 2]))
def test_a_json_array_comes_back(folder, rows, suffix, indent):
    array = [{"text": text, "label": label, "n": [1.5, {}]} for text, label in rows]
    data = json.dumps(array, indent=indent).encode()
    path = write(folder / f"c.json{suffix}", compressed(data, suffix))
    assert _check(rows, RowSource(jsonl=str(path))).places == [*range(1, len(rows) + 1)]


@EXAMPLES
@given(ROWS, st.sampled_from(SUFFIXES), st.sampled_from(ENCODINGS), st.sampled_from(",;\t|"))
def test_delimited_cells_come_back(folder, rows, suffix, encoding, delimiter):
    # A lone carriage return ends a line in a spreadsheet's eyes, so writers quote it.
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label", "x"), *((t, v or "", "1") for t, v in rows)])
    data = _encode(buffer.getvalue(), encoding)
    path = write(folder / f"d.csv{suffix}", compressed(data, suffix))
    if delimiter == "\t":
        _check(rows, RowSource(tsv=str(path)))
    else:
        _check(rows, RowSource(csv=str(path), delimiter=delimiter))


@EXAMPLES
@given(
    st.lists(TEXT.map(lambda t: re.sub(r"\r*\n|\r+$", "", t)).map(lambda t: t.rstrip("\r"))),
    st.sampled_from(SUFFIXES),
    st.sampled_from(ENCODINGS),
    st.integers(1, 50),
    st.sampled_from(["\n", "\r\n"]),
)
def test_lines_of_text_come_back(folder, texts, suffix, encoding, part_bytes, end):
    data = _encode("".join(text + end for text in texts), encoding)
    path = write(folder / f"e.txt{suffix}", compressed(data, suffix))
    read = read_rows(RowSource(text=str(path)), part_bytes)
    assert read.texts == [_or_none(text) for text in texts]
    assert read.places == [*range(1, len(texts) + 1)]


COLUMN_TYPES = [pa.string(), pa.large_string(), pa.string_view()]
COLUMN_TYPES += [pa.dictionary(pa.int32(), pa.string())]


@EXAMPLES
@given(ROWS, st.sampled_from(COLUMN_TYPES), st.integers(1, 5), st.integers(1, 3000))
def test_columns_of_parquet_and_arrow_come_back(folder, rows, kind, group, part_bytes):
    texts, labels = pa.array([t for t, _ in rows]), pa.array([v for _, v in rows], pa.string())
    table = pa.table({"x": range(len(rows)), "text": texts.cast(kind), "label": labels.cast(kind)})
    path = folder / "f.parquet"
    pq.write_table(table, path, row_group_size=group)
    read = _check(rows, RowSource(parquet=str(path)), part_bytes)
    assert read.places == [*range(1, len(rows) + 1)]
    path = folder / "f.arrow"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=group)
    read = _check(rows, RowSource(arrow=str(path)), part_bytes)
    assert read.places == [*range(1, len(rows) + 1)]
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=group)
    _check(rows, RowSource(arrow=str(path)), part_bytes)


@EXAMPLES
@given(ROWS, st.data(), st.integers(1, 300))
def test_a_broken_line_is_named_and_the_others_are_read(folder, rows, data, part_bytes):
    lines = _json_lines(rows, False).split("\n")
    broken = data.draw(st.integers(0, len(rows) - 1))
    lines[broken] = lines[broken][: data.draw(st.integers(1, len(lines[broken]) - 1))]
    path = write(folder / "g.jsonl", "\n".join(lines))
    # A file whose first line is cut may look like objects over several lines: it has two lines.
    read = read_rows(RowSource(jsonl=str(path)), part_bytes)
    assert [(fault.file, fault.place) for fault in read.faults] == [
        (str(path), f"line {broken + 1}")
    ]
    others = [_or_none(text) for i, (text, _) in enumerate(rows) if i != broken]
    assert read.texts == others


@EXAMPLES
@given(ROWS, st.data(), st.sampled_from(["jsonl", "csv", "text"]), st.integers(1, 300))
def test_bytes_that_are_not_text_are_named_with_line_and_column(
    folder, rows, data, kind, part_bytes
):
    bad = data.draw(st.integers(0, len(rows) - 1))
    byte = data.draw(st.sampled_from([b"\xe9", b"\xff", b"\x80", b"\xed\xa0\x80", b"\xc3"]))
    texts = [f"row {i} MARK" if i == bad else f"row {i}" for i in range(len(rows))]
    content = {
        "jsonl": "".join(json.dumps({"text": t, "label": "a"}) + "\n" for t in texts),
        "csv": "text,label\n" + "".join(f"{t},a\n" for t in texts),
        "text": "".join(t + "\n" for t in texts),
    }[kind]
    path = write(folder / f"h.{kind}", content.encode().replace(b"MARK", byte))
    read = read_rows(RowSource(**{kind: str(path)}), part_bytes)
    (fault,) = read.faults
    assert fault.file == str(path) and fault.column == "text" and "`encoding:" in fault.fix
    assert fault.place == f"line {bad + (2 if kind == 'csv' else 1)}"
    assert read.texts == [None if i == bad else t for i, t in enumerate(texts)]


@EXAMPLES
@given(st.sampled_from(SUFFIXES[1:]), st.data(), st.booleans())
def test_a_compressed_file_that_is_cut_off_is_named(folder, suffix, data, two_members):
    whole = "".join(f'{{"text": "row {i}"}}\n' for i in range(200)).encode()
    stored = compressed(whole, suffix) * (2 if two_members else 1)
    cut = data.draw(st.integers(1, len(stored) - 1))
    path = write(folder / f"i.jsonl{suffix}", stored[:cut])
    if two_members and cut == len(stored) // 2:
        assert len(read_rows(RowSource(jsonl=str(path))).texts) == 200
        return
    with pytest.raises(ReadError) as caught:
        read_rows(RowSource(jsonl=str(path)))
    assert caught.value.fault.file == str(path)
    assert caught.value.fault.place.startswith("byte ")


@EXAMPLES
@given(st.sampled_from([".gz", ".bz2", ".xz"]), st.data())
def test_a_compressed_file_with_a_flipped_bit_is_named_or_unharmed(folder, suffix, data):
    whole = "".join(f'{{"text": "row {i}"}}\n' for i in range(200)).encode()
    stored = bytearray(compressed(whole, suffix))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = write(folder / f"j.jsonl{suffix}", bytes(stored))
    try:
        read = read_rows(RowSource(jsonl=str(path)))
    except ReadError as error:
        assert error.fault.file == str(path) and error.fault.place.startswith("byte ")
    else:  # Dates, names and levels in a header carry no data.
        assert read.texts == [f"row {i}" for i in range(200)] and not read.faults


FRAGMENTS = [
    '{"text": "a", "label": "b"}',
    '{"text": "c"}',
    '{"label": "d", "text": "e", "z": [{}]}',
]
FRAGMENTS += ['{"text": "f", "label": 5}', '{"text": "g", "label": null}', '{"text": null}', "{}"]
FRAGMENTS += ['{"text": 1.50, "label": true}', '{"text": "h", "label": {"text": "i"}}', "\\n", "5"]
FRAGMENTS += ['{"text": "j", "text": "k"}', '{"t\\u0065xt": "l"}', '{"text": "\\ud83d"}', "{", "}"]
FRAGMENTS += [
    '{"text": "m", "q": NaN, "r": 1e999}',
    '{"text": "n\\u0000"}',
    ",",
    "[",
    "]",
    '"',
    ":",
]
LINES = st.lists(st.one_of(st.sampled_from(FRAGMENTS[:7]), st.sampled_from(FRAGMENTS)), max_size=4)


@settings(EXAMPLES, max_examples=300)
@given(st.lists(LINES.map(" ".join), min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_arrow_reads_a_block_as_a_row_at_a_time_would(folder, lines, end):
    """A block in UTF-16 takes the way of a row at a time."""
    content = "".join(line + end for line in lines)
    results = []
    for encoding in ("utf-8", "utf-16"):
        path = write(folder / "k.jsonl", content.encode(encoding))
        try:
            read = read_rows(RowSource(jsonl=str(path)))
        except ReadError as error:
            results.append(str(error))
        else:
            results.append((read.texts, read.labels, read.places, read.faults))
    assert results[0] == results[1]
