"""Bytes and characters of files: compressions, marks, line ends."""

from __future__ import annotations

import pickle
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_rows import compressed, read_rows, write

from distill_ray.config.data import RowSource
from distill_ray.stages.reading import compression, streams
from distill_ray.stages.reading.batches import Slice
from distill_ray.stages.reading.faults import ReadError

SUFFIXES = [".gz", ".zst", ".bz2", ".xz"]


def _texts(path, **keys):
    return read_rows(RowSource(text=str(path), **keys)).texts


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_members_one_after_another_are_one_file(tmp_path, suffix):
    data = compressed(b"a\nb", suffix) + compressed(b"c\n", suffix) + compressed(b"d", suffix)
    assert _texts(write(tmp_path / f"a.txt{suffix}", data)) == ["a", "bc", "d"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_compression_is_known_by_its_bytes(tmp_path, suffix):
    assert _texts(write(tmp_path / "a.txt", compressed(b"a\n", suffix))) == ["a"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_name_that_promises_a_compression_is_held_to_it(tmp_path, suffix):
    with pytest.raises(ReadError, match="byte 0: its name says"):
        _texts(write(tmp_path / f"a.txt{suffix}", b"plain text\n"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_follows_the_last_member_is_not_lost_without_a_word(tmp_path, suffix):
    data = compressed(b"a\n" * 1000, suffix) + b"damaged member, which has no magic bytes"
    with pytest.raises(ReadError, match=rf"a\.txt\{suffix}, byte \d+"):
        _texts(write(tmp_path / f"a.txt{suffix}", data))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_zeros_that_grow_a_thousandfold_come_in_blocks(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", compressed(bytes(30 << 20), suffix))
    sizes = [len(block) for block in compression.blocks(str(path))]
    assert sum(sizes) == 30 << 20 and max(sizes) <= compression.BLOCK


def test_padding_between_members_is_skipped(tmp_path):
    data = compressed(b"a\n", ".gz") + bytes(512) + compressed(b"b\n", ".gz") + bytes(512)
    assert _texts(write(tmp_path / "a.gz", data)) == ["a", "b"]


def test_frames_to_skip_are_no_data(tmp_path):
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert _texts(write(tmp_path / "a.zst", skippable + compressed(b"a\n", ".zst"))) == ["a"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_says_the_encoding_and_is_no_text(tmp_path, encoding):
    path = write(tmp_path / "a.txt", "é\nb\n".encode(encoding))
    assert _texts(path) == _texts(path, encoding="cp1252") == ["é", "b"]


def test_a_mark_later_in_the_file_is_text(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeffa\n\ufeffb\n\ufeffc\n")
    assert read_rows(RowSource(text=str(path)), 6).texts == ["a", "\ufeffb", "\ufeffc"]


def test_utf16_without_a_mark_is_named(tmp_path):
    path = write(tmp_path / "a.txt", ("some plain words\n" * 5).encode("utf-16-le"))
    with pytest.raises(ReadError, match="`encoding: utf-16-le`"):
        _texts(path)
    assert _texts(path, encoding="utf-16-le") == ["some plain words"] * 5


def test_lines_end_at_line_feeds_alone(tmp_path):
    texts = ["a\u2028b", "c\x0cd", "e\x85f", "g\x1ch", "i\rj", "k\u2029l", "m\x0bn"]
    assert _texts(write(tmp_path / "a.txt", "\r\n".join(texts))) == texts


def test_a_character_on_the_border_of_two_blocks_stays_whole(tmp_path):
    line = "x" + "é" * (compression.BLOCK // 2 + 5)
    assert _texts(write(tmp_path / "a.txt", line + "\n😀")) == [line, "😀"]


@pytest.mark.parametrize("start", range(0, 12))
def test_a_line_belongs_to_the_slice_in_which_it_begins(tmp_path, start):
    data = b"ab\n\ncdef\ng\nh"
    path = str(write(tmp_path / "a.txt", data))
    begins = [i for i in range(len(data)) if i == 0 or data[i - 1 : i] == b"\n"]
    for end in range(start, len(data) + 1):
        pieces = [streams.lines_of(b) for b in streams.line_blocks(Slice(path, start, end), None)]
        expected = [data[i:].split(b"\n")[0].decode() for i in begins if start <= i < end]
        assert [line for piece in pieces for line in piece] == expected


def test_a_line_without_end_is_refused_before_memory_is(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MAX_LINE", 1 << 20)
    path = write(tmp_path / "a.gz", compressed(b"x" * (8 << 20), ".gz"))
    with pytest.raises(ReadError, match="a line of more than 1 MiB"):
        _texts(path)


def test_a_folder_or_missing_file_is_an_error_with_its_name(tmp_path):
    with pytest.raises(ReadError, match="nothing: it can't be opened") as caught:
        next(compression.blocks(str(tmp_path / "nothing")))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_files_that_are_no_text_are_told_by_their_first_bytes(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a")
    with pytest.raises(ReadError, match="The key `parquet` reads it"):
        _texts(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "b", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ReadError, match="a zip archive"):
        _texts(tmp_path / "b")
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "b", "b")
    with pytest.raises(ReadError, match="a tar archive"):
        _texts(tmp_path / "c.tar.gz")
