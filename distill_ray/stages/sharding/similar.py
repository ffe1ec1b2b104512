"""Near copies and contaminated rows over all parts: found on Ray, as train rows that go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill_ray.config.data import RowSource
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig
from distill_ray.data.rows import SPLITS
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import Storage
from distill_ray.stages.reading.batches import Part
from distill_ray.stages.reading.decontamination import Contamination, ngrams
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.inspection import row_format
from distill_ray.stages.reading.near_duplicates import MinHashLsh, removed
from distill_ray.stages.reading.parts import plan_parts, read
from distill_ray.stages.reading.values import MISSING, as_strings
from distill_ray.stages.sharding.deduplicate import (
    CONTAMINATED,
    NEAR_DUPLICATE,
    REMOVED,
    Removals,
)
from distill_ray.stages.sharding.files import (
    CONTAMINATION,
    NEAR,
    kept_rows,
    read_table,
    removed_file,
    write_table,
)
from distill_ray.stages.sharding.parts import LARGEST, Piece, fault_problem
from distill_ray.stages.sharding.removal import NUM_EXAMPLES, Comparison, compare
from distill_ray.stages.sharding.runner import over_parts

BANDS = pa.schema(
    [("band", pa.int16()), ("hash", pa.uint64()), ("rank", pa.uint64()), ("row", pa.uint64())]
)
"""`row` is a part and a place in it; of rows that share a band, the smallest rank stays."""
ALL_NGRAMS, RARE_NGRAMS = "ngrams/all.parquet", "ngrams/rare.parquet"
"""N-grams of all tests, and those of them that few train rows have."""


def remove_contaminated(run: Run, out: Storage, pieces: Sequence[Piece]) -> Removals:
    """Find train rows that share text with the tasks' test rows or with benchmarks."""
    config = run.cfg.corpora.decontaminate
    if config is None:
        return Removals({}, [])
    _collect_ngrams(run, out, pieces, config.ngram)
    items = [(piece.number, (piece.number, piece.reader.number)) for piece in pieces]
    _leave_out_common(run, out, items, config.ngram)
    work = FindContaminated(out.uri, config.ngram, config.min_share)
    streams = {piece.number: piece.reader.number for piece in pieces}
    counts: Counter[tuple[int, int, str]] = Counter()
    examples: list[dict[str, Any]] = []
    for number, report in over_parts(run, out, "contamination", items, work):
        kind = (streams[number], SPLITS.index("train"), "contaminated")
        counts[kind] += report["rows"]
        examples += report["examples"]
    return Removals(dict(+counts), examples)


def remove_near_duplicates(run: Run, out: Storage, pieces: Sequence[Piece]) -> Removals:
    """Find train rows that are nearly equal to another row of their stream."""
    config = run.cfg.corpora.near_duplicates
    if config is None:
        return Removals({}, [])
    lsh = MinHashLsh(config.threshold, config.ngram)
    items = [(piece.number, (piece.number, piece.reader.number)) for piece in pieces]
    reports = over_parts(run, out, "bands", items, WriteBands(out.uri, lsh))
    num_rows = sum(report["bands"] for _, report in reports)
    files = [_bands_file(piece.number) for piece in pieces]
    find = partial(_near_rows, streams={piece.number: piece.reader.number for piece in pieces})
    return compare(run, out, Comparison(NEAR, files, BANDS, ["band", "hash"], find), num_rows)


@dataclass(frozen=True)
class WriteBands:
    """Writes the hashes of a part's rows that near copies share."""

    uri: str
    lsh: MinHashLsh

    def __call__(self, item: tuple[int, int]) -> dict[str, Any]:
        """Write BANDS of the part of this number and stream."""
        number, stream = item
        out = Storage(self.uri)
        table = kept_rows(out, number, ["text", "split"], with_place=True)
        bands = self.lsh.bands(table["text"].to_pylist())
        # Of different streams, nothing is compared.
        bands ^= np.uint64(stream + 1) * np.uint64(0x9E3779B97F4A7C15)
        count, width = bands.shape
        split = np.array([SPLITS.index(s) for s in table["split"].to_pylist()], np.uint64)
        row = (np.uint64(number) << np.uint64(32)) | table["place"].to_numpy().astype(np.uint64)
        rank = ((np.uint64(2) - split) << np.uint64(62)) | row
        columns = {
            "band": np.tile(np.arange(width, dtype=np.int16), count),
            "hash": bands.ravel(),
            "rank": np.repeat(rank, width),
            "row": np.repeat(row, width),
        }
        write_table(out, _bands_file(number), pa.table(columns, schema=BANDS))
        return {"bands": int(bands.size)}


def _bands_file(number: int) -> str:
    return f"bands/{number:06d}.parquet"


def _near_rows(table: pa.Table, streams: Mapping[int, int]) -> pa.Table:
    """The train rows of BANDS that go, as REMOVED."""
    gone = removed({name: table[name].to_numpy() for name in BANDS.names})
    is_train = table["rank"].to_numpy() >> np.uint64(62) == 2
    in_train = np.isin(gone["row"], table["row"].to_numpy()[is_train])
    row, kept = gone["row"][in_train], gone["duplicate_of"][in_train]
    part = (row >> np.uint64(32)).astype(np.int32)
    low = np.uint64(0xFFFFFFFF)
    columns = {
        "part": part,
        "row": (row & low).astype(np.int32),
        "stream": np.array([streams[p] for p in part.tolist()], np.int16),
        "split": np.zeros(len(row), np.int8),
        "reason": np.full(len(row), NEAR_DUPLICATE, np.int8),
        "kept_part": (kept >> np.uint64(32)).astype(np.int32),
        "kept_row": (kept & low).astype(np.int32),
    }
    return pa.table(columns, schema=REMOVED)


@dataclass(frozen=True)
class CollectNgrams:
    """Writes the n-grams of a test set's part."""

    uri: str
    ngram: int

    def __call__(self, item: tuple[int, str | Part, str]) -> dict[str, Any]:
        """Write them: of a stream's part by its number, or of a benchmark's by its part."""
        number, where, column = item
        out = Storage(self.uri)
        hashes = [np.empty(0, np.uint64)]
        if isinstance(where, Part):
            try:
                for batch in read(where):
                    values = batch.columns.get(column, [MISSING] * batch.num_rows)
                    strings, bad_cells = as_strings(
                        values, "text", batch.file, batch.places, batch.unit, column
                    )
                    faults = [*batch.faults, *(fault for _, fault in bad_cells)]
                    if faults and where.source.on_bad_row == "error":
                        return {"fault": str(faults[0])}
                    hashes.append(ngrams(strings.drop_null().to_pylist(), self.ngram))
            except ReadError as error:
                return {"fault": str(error.fault)}
        else:
            table = kept_rows(out, int(where), ["text", "split"])
            texts = table.filter(pc.field("split") == "test")["text"].to_pylist()
            hashes.append(ngrams(texts, self.ngram))
        table = pa.table({"hash": np.unique(np.concatenate(hashes))})
        write_table(out, f"ngrams/{number:06d}.parquet", table)
        return {"ngrams": len(table)}


def _collect_ngrams(run: Run, out: Storage, pieces: Sequence[Piece], ngram: int) -> None:
    """Write the n-grams of all test sets as one file."""
    if out.exists(ALL_NGRAMS):
        return
    corpora = {corpus.name for corpus in run.cfg.corpora.sources}
    tested: list[tuple[str | Part, str, str]] = [
        (str(piece.number), "", piece.reader.where)
        for piece in pieces
        if piece.reader.stream not in corpora
    ]
    for where, source in benchmarks(run.cfg):
        column = source.text_column
        try:
            row_format(source, is_corpus=False)
            tested += [(part, column, where) for part in plan_parts(source, LARGEST, [column])]
        except ReadError as error:
            raise InputError("the input can't be read:", [fault_problem(where, error)]) from error
    items = [(i, (i, where, column)) for i, (where, column, _) in enumerate(tested)]
    for number, report in over_parts(run, out, "ngrams", items, CollectNgrams(out.uri, ngram)):
        if "fault" in report:
            problem = Problem(tested[number][2], report["fault"])
            raise InputError("the input can't be read:", [problem])
    files = [f"ngrams/{number:06d}.parquet" for number, _ in items]
    hashes = [np.empty(0, np.uint64), *(_hashes(out, file) for file in files)]
    write_table(out, ALL_NGRAMS, pa.table({"hash": np.unique(np.concatenate(hashes))}))


def benchmarks(cfg: RunConfig) -> list[tuple[str, RowSource]]:
    """Place in the config and source of each benchmark."""
    config = cfg.corpora.decontaminate
    places = config.benchmarks.items() if config is not None else ()
    return [(f"corpora.decontaminate.benchmarks.{name}", source) for name, source in places]


@lru_cache(maxsize=2)
def _ngrams(uri: str, path: str) -> Any:
    return _hashes(Storage(uri), path)


def _train_texts(out: Storage, number: int) -> pa.Table:
    """A part's train rows, with their places."""
    table = kept_rows(out, number, ["text", "split"], with_place=True)
    return table.filter(pc.field("split") == "train")


@dataclass(frozen=True)
class FindHits:
    """Writes which of the tests' n-grams a part's train rows have."""

    uri: str
    ngram: int

    def __call__(self, item: tuple[int, int]) -> dict[str, Any]:
        """Write them of the part of this number."""
        out = Storage(self.uri)
        test = Contamination(_ngrams(self.uri, ALL_NGRAMS), self.ngram)
        hits = test.hits(_train_texts(out, item[0])["text"].to_pylist())
        write_table(out, _hits_file(item[0]), pa.table({"hash": hits}))
        return {"hits": len(hits)}


def _leave_out_common(
    run: Run, out: Storage, items: Sequence[tuple[int, tuple[int, int]]], ngram: int
) -> None:
    """Write the tests' n-grams without those that are common in train rows."""
    if out.exists(RARE_NGRAMS):
        return
    test = Contamination(_hashes(out, ALL_NGRAMS), ngram)
    reports = over_parts(run, out, "hits", items, FindHits(out.uri, ngram))
    hits = (_hashes(out, _hits_file(number)) for number, _ in reports)
    write_table(out, RARE_NGRAMS, pa.table({"hash": test.without_common(hits).hashes}))


def _hits_file(number: int) -> str:
    return f"ngrams/hits-{number:06d}.parquet"


def _hashes(out: Storage, path: str) -> Any:
    return read_table(out, path)["hash"].to_numpy()


@dataclass(frozen=True)
class FindContaminated:
    """Writes which of a part's train rows share text with a test."""

    uri: str
    ngram: int
    min_share: float

    def __call__(self, item: tuple[int, int]) -> dict[str, Any]:
        """Write REMOVED of the part of this number and stream."""
        number, stream = item
        out = Storage(self.uri)
        test = Contamination(_ngrams(self.uri, RARE_NGRAMS), self.ngram, self.min_share)
        table = _train_texts(out, number)
        texts = table["text"].to_pylist()
        hit = np.array([test.is_contaminated(share) for share in test.overlap(texts)], np.bool_)
        places = table["place"].to_numpy()[hit]
        count = len(places)
        columns = {
            "part": np.full(count, number, np.int32),
            "row": places.astype(np.int32),
            "stream": np.full(count, stream, np.int16),
            "split": np.zeros(count, np.int8),
            "reason": np.full(count, CONTAMINATED, np.int8),
            "kept_part": np.full(count, -1, np.int32),
            "kept_row": np.full(count, -1, np.int32),
        }
        if count:
            gone = pa.table(columns, schema=REMOVED)
            write_table(out, removed_file(CONTAMINATION, number), gone)
        examples = [texts[i] for i in np.flatnonzero(hit)[:NUM_EXAMPLES].tolist()]
        shared = [
            {"stream": stream, "reason": CONTAMINATED, "text": test.example(text) or text}
            for text in examples
        ]
        return {"rows": count, "examples": shared}
