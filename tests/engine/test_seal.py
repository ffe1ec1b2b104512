"""A checkpoint that was cut off or changed is known as such."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.engine.seal import TornError, seal, verify


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """What two ranks have written, each in a folder of its own, merged."""
    for rank in range(2):
        own = tmp_path / str(rank)
        (own / "weights").mkdir(parents=True)
        (own / "weights" / f"shard-{rank}.pt").write_bytes(bytes(range(200)))
        seal(own, rank)
    whole = tmp_path / "whole"
    for rank in range(2):
        for file in (tmp_path / str(rank)).rglob("*"):
            if file.is_file():
                place = whole / file.relative_to(tmp_path / str(rank))
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read_bytes())
    return whole


def test_what_all_ranks_have_written_is_whole(sealed: Path) -> None:
    verify(sealed, 2)
    (sealed / "added-later").write_text("by somebody else")
    verify(sealed, 2)


@pytest.mark.parametrize("name", ["weights/shard-0.pt", "weights/shard-1.pt"])
@pytest.mark.parametrize("bit", [0, 7, 199 * 8])
def test_one_flipped_bit_is_seen(sealed: Path, name: str, bit: int) -> None:
    data = bytearray((sealed / name).read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    (sealed / name).write_bytes(data)
    with pytest.raises(TornError, match=f"{name} has changed"):
        verify(sealed, 2)


@pytest.mark.parametrize("left", [0, 1, 199])
def test_a_file_that_was_cut_off_is_seen(sealed: Path, left: int) -> None:
    shard = sealed / "weights" / "shard-1.pt"
    shard.write_bytes(shard.read_bytes()[:left])
    with pytest.raises(TornError, match=f"shard-1.pt has {left} bytes of 200"):
        verify(sealed, 2)


@pytest.mark.parametrize("name", ["weights/shard-0.pt", "seal-0.json", "seal-1.json"])
def test_what_has_not_arrived_is_missed(sealed: Path, name: str) -> None:
    (sealed / name).unlink()
    with pytest.raises(TornError, match=r"missing"):
        verify(sealed, 2)


@pytest.mark.parametrize("text", ["", "{", "[]x", "[1]", '{"a": 1}', "null", '{"a": ["x", "y"]}'])
def test_a_seal_that_is_no_seal_is_refused(sealed: Path, text: str) -> None:
    (sealed / "seal-1.json").write_text(text)
    with pytest.raises(TornError, match=r"seal-1\.json is missing or cut off"):
        verify(sealed, 2)
