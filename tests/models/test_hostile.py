"""Model folders and files that mean harm, or are garbage: one sentence, and none of it is run."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf
import tiny_models as tiny

from distill_ray.config.models import ModelSource
from distill_ray.models.folder import tensors_of
from distill_ray.models.gguf import read_header
from distill_ray.models.inspect import check_model
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    load_model(tiny.ref()).save_pretrained(str(made), max_shard_size="50KB")
    return made


def problems(folder: Path) -> list[str]:
    return [str(p) for p in check_model(ModelSource(path=str(folder)), "student.model")]


def test_a_sound_folder_is_sound(folder: Path) -> None:
    assert problems(folder) == []
    assert len(list(folder.glob("*.safetensors"))) > 1


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_an_index_names_files_of_its_folder_alone(folder: Path, name: str) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    file.write_text(json.dumps(index))
    (problem,) = problems(folder)
    assert f"names {name!r}, which isn't a file of the model's folder" in problem


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    weights = sorted(folder.glob("*.safetensors"))[0]
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    (problem,) = problems(folder)
    assert f"{weights} is a link to {tmp_path / 'elsewhere'}, out of the model's folder" in problem


def test_a_snapshot_of_the_hub_s_cache_is_links_and_is_sound(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hub/blobs").mkdir(parents=True)
    (tmp_path / "hub/snapshots").mkdir()
    snapshot = folder.rename(tmp_path / "hub/snapshots/main")
    for file in list(snapshot.iterdir()):
        blob = file.rename(tmp_path / "hub/blobs" / file.name)
        file.symlink_to(Path("../../blobs") / blob.name)
    assert problems(snapshot) == []


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 200_000])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_description_that_is_garbage_is_named(folder: Path, name: str, garbage: bytes) -> None:
    (folder / name).write_bytes(garbage)
    (problem,) = problems(folder)
    assert f"{name} can't be read" in problem and len(problem) < 500


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x01",
        struct.pack("<Q", 1 << 62),
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 40) + b'{"w": {"dtype": "F32", "shape": [-1, 2]}}'[:40],
        struct.pack("<Q", 15) + b'{"w": {"a": 1}}',
    ],
)
def test_a_header_of_weights_that_is_garbage_is_refused_at_once(
    folder: Path, header: bytes
) -> None:
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(header)
    (problem,) = problems(folder)
    assert f"{file} is damaged" in problem


def test_code_of_a_folder_is_not_run_unless_it_is_trusted(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import LlamaForCausalLM\n"
        "class Own(LlamaForCausalLM): pass\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    assert problems(folder) == []
    assert type(load_model(ModelRef("path", str(folder)))).__name__ == "LlamaForCausalLM"
    assert not mark.exists()
    load_model(ModelRef("path", str(folder), trust_remote_code=True))
    assert mark.exists()


def test_a_pickle_beside_sound_weights_is_never_opened(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    program = f"cbuiltins\nexec\n(Vopen({str(mark)!r}, 'w').close()\ntR."
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(program.encode())
    load_model(ModelRef("path", str(folder)))
    assert not mark.exists()
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    assert "pickled weights only" in problems(folder)[0]
    with pytest.raises(OSError, match="safetensors"):
        load_model(ModelRef("path", str(folder)))
    assert not mark.exists()


def test_a_gguf_file_with_any_byte_changed_is_read_or_refused_within_bounds(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf.write(file)
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    started, refused = time.process_time(), 0
    for number in range(300):
        damaged = bytearray(whole)
        at = int(rng.integers(4, 2000))
        damaged[at : at + 8] = rng.bytes(8) if number % 2 else b"\xff" * 8
        other = tmp_path / f"{number}.gguf"
        other.write_bytes(bytes(damaged))
        try:
            read_header(other)
        except ValueError as error:
            refused += 1
            assert str(other) in str(error)
        other.unlink()
    assert refused > 50
    assert time.process_time() - started < 20


def test_arrays_in_arrays_without_end_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "deep.gguf"
    array = struct.pack("<IQ", 9, 1) * 50_000
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + array)
    (problem,) = check_model(ModelSource(gguf=str(file)), "student.model")
    assert "is damaged or cut off" in str(problem)


def test_tensors_are_those_that_were_saved(folder: Path) -> None:
    from safetensors.torch import load_file

    for file in folder.glob("*.safetensors"):
        expected = {name: list(tensor.shape) for name, tensor in load_file(file).items()}
        assert tensors_of(file) == expected
