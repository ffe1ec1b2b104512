"""A sealed checkpoint is whole, or it is refused, whatever became of its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from distill_ray.engine.checksums import UnsoundError, seal, verify


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of two ranks, each sealed in a folder of its own and merged as in a storage."""
    merged = tmp_path / "merged"
    for rank in range(2):
        own = tmp_path / str(rank)
        (own / "step").mkdir(parents=True)
        content = np.random.default_rng(rank).bytes(5000)
        (own / f"step/shard-{rank}.pt").write_bytes(content)
        (own / "latest").write_text("step")
        seal(own, rank, 2)
        shutil.copytree(own, merged, dirs_exist_ok=True)
    verify(merged)
    return merged


def test_every_file_that_is_missing_or_cut_off_is_seen(checkpoint: Path) -> None:
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file())
    assert len(files) == 5
    for file in files:
        whole = file.read_bytes()
        for left in (b"", whole[: len(whole) // 2], whole[:-1]):
            file.write_bytes(left)
            with pytest.raises(UnsoundError, match=file.name):
                verify(checkpoint)
        file.unlink()
        with pytest.raises(UnsoundError, match=file.name):
            verify(checkpoint)
        file.write_bytes(whole)
    verify(checkpoint)


def test_every_bit_counts(checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    for file in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for at in rng.integers(0, len(whole), size=40).tolist():
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(bytes(damaged))
            with pytest.raises(UnsoundError):
                verify(checkpoint)
        file.write_bytes(whole)
    verify(checkpoint)


def test_a_folder_without_a_seal_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"1")
    with pytest.raises(UnsoundError, match=r"seal-0\.json is missing"):
        verify(tmp_path)


def test_parts_of_two_checkpoints_are_not_one(checkpoint: Path, tmp_path: Path) -> None:
    (alone := tmp_path / "alone").mkdir()
    shutil.copytree(checkpoint / "step", alone / "step")
    (alone / "latest").write_text("step")
    seal(alone, 1, 3)
    shutil.copyfile(alone / "seal-1.json", checkpoint / "seal-1.json")
    with pytest.raises(UnsoundError, match="two checkpoints"):
        verify(checkpoint)
