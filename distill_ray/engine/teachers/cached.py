"""Teacher targets read from disk. R rows of a checkpoint's targets, B rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from distill_ray.core.sparse import SparseTargets, concatenate
from distill_ray.core.sparse_bytes import decode
from distill_ray.data.batches import Batch
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.engine.teachers.targets import TargetSpec, read_footer, supervised_per_row

OPEN_FILES = 256
"""Files that stay open; each is memory-mapped."""


class TargetsError(ValueError):
    """The cache has no targets for a row, or other targets than requested."""


class Cached:
    """Reads targets that were computed beforehand, one folder per checkpoint."""

    lookahead = 0

    def __init__(
        self, folders: Mapping[tuple[str, int], Path], device: torch.device | str = "cpu"
    ) -> None:
        self._folders, self._device = folders, device
        self._current: tuple[str, int] | None = None
        self._files: TargetFiles | None = None

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Read from this checkpoint's folder.

        Raises:
            TargetsError: the folder is missing, or a file in it is truncated.
        """
        if self._current == (teacher, checkpoint_index):
            return
        self._files = self._current = None
        if (teacher, checkpoint_index) not in self._folders:
            available = ", ".join(_name(*checkpoint) for checkpoint in self._folders)
            raise TargetsError(
                f"no targets of {_name(teacher, checkpoint_index)}, only of {available or 'none'}"
            )
        self._files = TargetFiles(self._folders[teacher, checkpoint_index])
        self._current = (teacher, checkpoint_index)

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Do nothing: files are read row by row."""

    def forget(self) -> None:
        """Do nothing: nothing is announced."""

    def announce(self, batches: Sequence[Batch]) -> None:
        """Do nothing: nothing works ahead here."""

    def reference(
        self, batch: Batch, supervised: SupervisedTokens, *, temperature: float
    ) -> SparseTargets:
        """Read the stored targets of the supervised predictions, row after row.

        Raises:
            TargetsError: a row has no targets, or other ones than requested.
            RuntimeError: no checkpoint is in use.
        """
        if self._files is None or self._current is None:
            raise RuntimeError("no teacher in use: call use() first")
        # A padding row has no supervised prediction, whatever is stored for its id.
        row_counts = [
            (r, n) for r, n in zip(batch.row_ids, supervised_per_row(batch, supervised)) if n
        ]
        try:
            parts = [self._files.row(row_id, n, temperature) for row_id, n in row_counts]
        except TargetsError as error:
            raise TargetsError(f"{_name(*self._current)}: {error}") from None
        if not parts:
            spec, none = self._files.spec, torch.zeros(0)
            entries = torch.zeros(0, spec.k)
            parts = [SparseTargets(entries.long(), entries, none, none, none, kind=spec.kind)]
        return concatenate(parts).to(self._device)


class TargetFiles:
    """The targets of one checkpoint: indexed by row id, read on demand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths = sorted(folder.rglob("*.parquet"))
        if not self._paths:
            raise TargetsError(f"{folder} holds no file of targets")
        keys: list[NDArray[np.uint64]] = []
        self._specs = [self._index(path, keys) for path in self._paths]
        self._ends = np.cumsum([len(file_keys) for file_keys in keys])  # [files]
        # Two numbers a row: ten million rows are 160 MB, where a dict of their ids is gigabytes.
        all_keys = np.concatenate(keys)
        self._order = np.argsort(all_keys, kind="stable")
        self._keys = all_keys[self._order]
        self._open = lru_cache(maxsize=OPEN_FILES)(_File)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def spec(self) -> TargetSpec:
        """How the targets were made; the temperature is that of the first file."""
        return self._specs[0]

    def row(self, row_id: str, count: int, temperature: float) -> SparseTargets:
        """Read the targets of one row.

        Args:
            row_id: id of the row.
            count: number of the row's supervised predictions.
            temperature: requested τ.
        """
        file, start, tokens, payload = self._find(row_id)
        path, stored = self._paths[file], self._specs[file].temperature
        if stored != temperature:
            what = f"row {row_id}: the targets in {path} are of temperature {stored:g}"
            raise TargetsError(f"{what}, requested are those of {temperature:g}")
        if tokens != count:
            what = f"row {row_id} keeps {count} predictions, {path} has targets of {tokens}"
            raise TargetsError(f"{what}: they were made from other rows")
        try:
            return decode(payload)[start : start + tokens]
        except ValueError as error:
            raise TargetsError(f"row {row_id} in {path}: {error}") from None

    def _find(self, row_id: str) -> tuple[int, int, int, bytes]:
        """Find a row's file, start, tokens and payload."""
        # As an array's number: compared with a Python int, keys would be rounded to float64.
        key = np.uint64(_key(row_id))
        place = int(np.searchsorted(self._keys, key))
        while place < len(self._keys) and self._keys[place] == key:
            file = int(np.searchsorted(self._ends, self._order[place], side="right"))
            first = int(self._ends[file - 1]) if file else 0
            row = self._open(self._paths[file]).row(int(self._order[place]) - first, row_id)
            if row is not None:
                return file, *row
            place += 1  # Another row with the same key.
        raise TargetsError(f"row {row_id} has no targets in {self._folder}")

    @staticmethod
    def _index(path: Path, keys: list[NDArray[np.uint64]]) -> TargetSpec:
        """Add the keys of a file's rows to `keys`; returns the file's spec."""
        try:
            with pq.ParquetFile(path, memory_map=True) as file:
                ids = file.read(columns=["row_id"])["row_id"].to_pylist()
                spec, _ = read_footer(file)
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError.
            raise TargetsError(f"{path} is not a whole file of targets ({error})") from None
        keys.append(np.fromiter(map(_key, ids), np.uint64, len(ids)))
        return spec


class _File:
    """One open file."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, memory_map=True)
        groups = range(self._file.num_row_groups)
        self._ends = np.cumsum([self._file.metadata.row_group(g).num_rows for g in groups])

    def row(self, number: int, row_id: str) -> tuple[int, int, bytes] | None:
        """Read start, tokens and payload of a row; None if it has another id."""
        group = int(np.searchsorted(self._ends, number, side="right"))
        place = number - (int(self._ends[group - 1]) if group else 0)
        rows = self._file.read_row_group(group)
        if rows["row_id"][place].as_py() != row_id:
            return None
        starts = rows["start"].to_numpy()
        first = int(np.flatnonzero(starts[: place + 1] == 0)[-1])
        return int(starts[place]), rows["tokens"][place].as_py(), rows["payload"][first].as_py()


def _key(row_id: str) -> int:
    return int.from_bytes(blake2b(row_id.encode(), digest_size=8).digest(), "little")


def _name(teacher: str, checkpoint_index: int) -> str:
    return f"{teacher} checkpoint {checkpoint_index + 1}"
