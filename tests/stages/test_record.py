"""Result files are checked where they are read."""

from __future__ import annotations

import json
import math
import random
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from distill_ray.core.intervals import Interval
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.checksums import DamagedError
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.record import Record


@dataclass(frozen=True)
class Diagram:
    count: list[int]


class Row(Record):
    temperature: float
    accuracy: Interval | None
    reliability: Diagram


class Table(Record):
    rows: dict[str, Row]
    matrix: list[list[float]]


def written(tmp_path: Path, value: object) -> Artifact:
    """An artifact that holds a value as `table.json`."""
    artifact = Artifact(Storage(str(tmp_path)), "table", "", {})
    with artifact.building() as building:
        building.write_json("table.json", value)
    return artifact


def plain() -> dict[str, object]:
    row = {
        "temperature": 1,
        "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6},
        "reliability": {"count": [3, 4]},
    }
    return {"rows": {"t1": row}, "matrix": [[0.25, -1.5]]}


def test_a_record_reads_what_was_written(tmp_path: Path) -> None:
    table = Table.read(written(tmp_path, plain()), "table.json")
    row = table.rows["t1"]
    assert (row.temperature, row.accuracy) == (1.0, Interval(0.5, 0.4, 0.6))
    assert row.reliability == Diagram([3, 4])
    assert table.matrix == [[0.25, -1.5]]


def test_a_missing_and_a_misspelt_field_are_named_with_the_file_and_the_nearest_name(
    tmp_path: Path,
) -> None:
    table = plain()
    table["rows"]["t1"]["temprature"] = table["rows"]["t1"].pop("temperature")  # type: ignore[index]
    artifact = written(tmp_path, table)
    with pytest.raises(DamagedError) as error:
        Table.read(artifact, "table.json")
    place = f"{artifact.uri}/table.json"
    assert str(error.value).splitlines() == [
        "result file invalid:",
        f"  {place}: rows.t1.temperature: missing field.",
        f"  {place}: rows.t1.temprature: unknown field. Did you mean 'temperature'? "
        f"Delete {artifact.uri} and rerun to rebuild it.",
    ]


def test_a_field_inside_a_dataclass_is_checked_too(tmp_path: Path) -> None:
    table = plain()
    table["rows"]["t1"]["accuracy"] = {"value": 0.5, "low": 0.4, "hihg": 0.6}  # type: ignore[index]
    with pytest.raises(DamagedError) as error:
        Table.read(written(tmp_path, table), "table.json")
    assert "rows.t1.accuracy.high: missing field." in str(error.value)
    assert "rows.t1.accuracy.hihg: unknown field. Did you mean 'high'?" in str(error.value)


@pytest.mark.parametrize("value", ["1.5", None, [1.5], True])
def test_a_number_of_another_type_is_refused(tmp_path: Path, value: object) -> None:
    table = plain()
    table["matrix"] = [[0.25, value]]
    with pytest.raises(DamagedError, match=r"table\.json: matrix\.0\.1: Input should be a valid"):
        Table.read(written(tmp_path, table), "table.json")


@pytest.mark.parametrize("text", [b'{"rows": {}', b"[]", b"", b"{}"])
def test_a_file_that_is_no_record_is_refused_with_its_location(tmp_path: Path, text: bytes) -> None:
    artifact = Artifact(Storage(str(tmp_path)), "table", "", {})
    with artifact.building() as building:
        building.storage.write_bytes("table.json", text)
    with pytest.raises(DamagedError) as error:
        Table.read(artifact, "table.json")
    assert f"{artifact.uri}/table.json" in str(error.value)


def test_numpy_numbers_are_written_as_plain_ones(tmp_path: Path) -> None:
    row = Row(
        temperature=np.float32(0.5),
        accuracy=Interval(np.float64(1.0), np.float64(0.5), np.float64(1.5)),
        reliability=Diagram([np.int64(2)]),
    )
    artifact = Artifact(Storage(str(tmp_path)), "table", "", {})
    with artifact.building() as building:
        Table(rows={"t1": row}, matrix=np.eye(2).tolist()).write(building, "table.json")
    stored = json.loads(artifact.read_bytes("table.json"))
    assert stored["rows"]["t1"] == {
        "temperature": 0.5,
        "accuracy": {"value": 1.0, "low": 0.5, "high": 1.5},
        "reliability": {"count": [2]},
    }
    assert Table.read(artifact, "table.json").matrix == [[1.0, 0.0], [0.0, 1.0]]


def any_float(rng: random.Random) -> float:
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308, 0.1]
    (bits,) = struct.unpack("d", rng.randbytes(8))
    return float(rng.choice([*special, rng.gauss(0, 1), bits]))


def any_table(rng: random.Random) -> Table:
    names = ["", "t1", "ünï", 'quo"te', "new\nline", "a.b", "\u2028", "\U0001f600"]
    rows = {
        name: Row(
            temperature=any_float(rng),
            accuracy=rng.choice([None, Interval(any_float(rng), any_float(rng), any_float(rng))]),
            reliability=Diagram([rng.randrange(2**40) for _ in range(rng.randrange(4))]),
        )
        for name in rng.sample(names, rng.randrange(len(names)))
    }
    matrix = [[any_float(rng) for _ in range(rng.randrange(5))] for _ in range(rng.randrange(5))]
    return Table(rows=rows, matrix=matrix)


@pytest.mark.parametrize("seed", range(50))
def test_every_record_reads_back_as_it_was_written(tmp_path: Path, seed: int) -> None:
    table = any_table(random.Random(seed))
    artifact = Artifact(Storage(str(tmp_path)), "table", "", {})
    with artifact.building() as building:
        table.write(building, "table.json")
    # NaN differs from itself, but not in its repr.
    assert repr(Table.read(artifact, "table.json")) == repr(table)


@pytest.mark.parametrize("seed", range(50))
def test_no_field_can_be_dropped_or_renamed_unnoticed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    table = json.loads(json.dumps(plain()))
    row = table["rows"]["t1"]
    parent = rng.choice([table, row, row["accuracy"], row["reliability"]])
    field = rng.choice(list(parent))
    value = parent.pop(field)
    if rng.random() < 0.5:
        parent[f"{field}s"] = value
    with pytest.raises(DamagedError, match=rf"table\.json: .*{field}: missing field"):
        Table.read(written(tmp_path, table), "table.json")


def test_a_record_is_frozen() -> None:
    table = Table(rows={}, matrix=[[math.inf]])
    with pytest.raises(ValueError, match="frozen"):
        table.matrix = []  # type: ignore[misc]
