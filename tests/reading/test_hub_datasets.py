"""Data sets of Hugging Face: saved to a disk, or cloned repositories."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import datasets
import pytest
from hub_server import COMMIT, NAME, hub_of
from read_rows import read_rows, write

from distill_ray.config.data import RowSource
from distill_ray.stages.reading.faults import ReadError
from distill_ray.stages.reading.files import local_paths
from distill_ray.stages.reading.parts import input_bytes, peek, plan_parts, read

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train*.csv
  - split: test
    path: data/test.csv
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': neg
          '1': pos
---
# A card
"""


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def _dataset(num_rows=100):
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cloth", "fruit", "grain"]),
            "code": datasets.Value("string"),
        }
    )
    rows = {
        "text": [f"row {i}" for i in range(num_rows)],
        "label": [(i % 4) - 1 for i in range(num_rows)],
        "code": [f"{i:04d}" for i in range(num_rows)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


NAMES = [None, "cloth", "fruit", "grain"]


@pytest.mark.parametrize("part_bytes", [100, 1 << 30])
def test_a_saved_data_set_is_read_by_its_class_names(tmp_path, part_bytes):
    _dataset().save_to_disk(tmp_path / "saved")
    rows = read_rows(RowSource(dataset=str(tmp_path / "saved")), part_bytes)
    assert (rows.parts == 1) == (part_bytes > 100)
    assert rows.texts == [f"row {i}" for i in range(100)]
    assert rows.labels == NAMES * 25 and rows.places == [*range(1, 101)]
    uri = RowSource(dataset=f"file://{tmp_path}/saved")
    assert read_rows(uri).labels == rows.labels and input_bytes(uri) > 0
    assert len(local_paths(uri)) >= 3


def test_a_saved_dictionary_has_splits(tmp_path):
    both = datasets.DatasetDict({"train": _dataset(4), "validation": _dataset(8)})
    both.save_to_disk(tmp_path / "saved")
    where = str(tmp_path / "saved")
    assert len(read_rows(RowSource(dataset=where, split="validation")).texts) == 8
    with pytest.raises(ReadError, match=r"no split 'validaton'.*Did you mean 'validation'"):
        read_rows(RowSource(dataset=where, split="validaton"))


def test_the_rows_of_a_selection_are_those_of_the_selection(tmp_path):
    _dataset().shuffle(seed=3).select(range(10)).save_to_disk(tmp_path / "saved")
    expected = _dataset().shuffle(seed=3).select(range(10))["code"]
    source = RowSource(dataset=str(tmp_path / "saved"), text_column="code")
    assert read_rows(source).texts == [*expected]


def test_a_cloned_repository_is_read_as_its_card_says_and_codes_stay_codes(tmp_path):
    write(tmp_path / "README.md", CARD)
    write(tmp_path / "data/train-0.csv", "text,label\n0101,0\n1.10,1\nNA,\n")
    write(tmp_path / "data/train-1.csv", "text,label\ntrue,pos\n")
    write(tmp_path / "data/test.csv", "text,label\nx,1\n")
    rows = read_rows(RowSource(dataset=str(tmp_path)))
    assert rows.texts == ["0101", "1.10", "NA", "true"]
    assert rows.labels == ["neg", "pos", None, "pos"]
    assert read_rows(RowSource(dataset=str(tmp_path), split="test")).labels == ["pos"]
    with pytest.raises(ReadError, match=r"no split 'tests'.*Did you mean 'test'"):
        read_rows(RowSource(dataset=str(tmp_path), split="tests"))
    assert peek(RowSource(dataset=str(tmp_path))).columns["label"] == ["neg", "pos", ""]


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "parquet"])
def test_a_repository_without_a_card_is_read_too(tmp_path, kind):
    path = tmp_path / f"train.{kind}"
    if kind == "jsonl":
        write(path, '{"text": "0101", "label": "2024-01-05"}\n{"text": "b", "label": 1.10}\n')
    elif kind == "tsv":
        write(path, "text\tlabel\n0101\t2024-01-05\nb\t1.10\n")
    else:
        rows = {"text": ["0101", "b"], "label": ["2024-01-05", "1.10"]}
        datasets.Dataset.from_dict(rows).to_parquet(path)
    rows = read_rows(RowSource(dataset=str(tmp_path)))
    assert rows.texts == ["0101", "b"] and rows.labels == ["2024-01-05", "1.10"]


def test_a_folder_whose_names_look_like_splits_loses_no_file(tmp_path):
    for name in ("cargo", "train-schedules", "test-tubes"):
        write(tmp_path / f"{name}.jsonl", f'{{"text": "{name}"}}\n')
    with pytest.raises(ReadError, match=r"of no split, such as .*cargo\.jsonl.*`jsonl`"):
        read_rows(RowSource(dataset=str(tmp_path)))
    options = {"data_files": str(tmp_path / "*.jsonl")}
    assert len(read_rows(RowSource(dataset=str(tmp_path), options=options)).texts) == 3
    write(tmp_path / "README.md", CARD.replace("---", "---\nconfigs: []", 1))
    assert read_rows(RowSource(dataset=str(tmp_path))).texts == ["train-schedules"]
    for name in ("train-0.json", "train-1.json", "eval.json"):
        write(tmp_path / "split" / name, f'{{"text": "{name}"}}\n')
    write(tmp_path / "split/dataset_infos.json", "{}")
    source = RowSource(dataset=str(tmp_path / "split"))
    assert read_rows(source).texts == ["train-0.json", "train-1.json"]


def test_options_that_say_how_files_are_read_are_those_of_load_dataset(tmp_path):
    write(tmp_path / "rows.json", '{"data": [{"text": "a", "label": "b"}]}')
    options = {"data_files": str(tmp_path / "rows.json"), "field": "data"}
    rows = read_rows(RowSource(dataset="json", options=options))
    assert rows.texts == ["a"] and rows.labels == ["b"]


def test_a_data_set_that_cannot_be_loaded_is_named(tmp_path):
    for where in (str(tmp_path / "nothing"), "no-one/no-such-data-set"):
        with pytest.raises(ReadError, match="the data set can't be loaded") as caught:
            read_rows(RowSource(dataset=where))
        assert caught.value.fault.file == where
    with pytest.raises(ReadError, match="a data set behind a URI"):
        read_rows(RowSource(dataset="s3://bucket/saved"))
    with pytest.raises(ReadError, match="streaming"):
        read_rows(RowSource(dataset="a/b", options={"streaming": True}))


def test_columns_that_are_not_wanted_are_not_read(tmp_path):
    _dataset().save_to_disk(tmp_path / "saved")
    source = RowSource(dataset=str(tmp_path / "saved"), max_rows=5)
    (part,) = plan_parts(source, 1, ("text", "group"))
    (batch,) = read(part)
    assert [*batch.columns] == ["text"] and batch.num_rows == 5
    with pytest.raises(ReadError, match=r"no column 'txt'.*Did you mean 'text'"):
        read_rows(source.model_copy(update={"text_column": "txt"}))


@pytest.mark.heavy
def test_a_data_set_of_the_hub_is_read_by_its_files_at_one_commit(tmp_path):
    """In a process of its own: the hub's client reads its endpoint when it is imported."""
    write(tmp_path / "hub/README.md", CARD)
    write(tmp_path / "hub/data/train-0.csv", "text,label\n0101,0\n1.10,1\n")
    write(tmp_path / "hub/data/test.csv", "text,label\nx,1\n")
    script = """
import json, sys
from read_rows import read_rows
from distill_ray.config.data import RowSource
from distill_ray.stages.reading.parts import plan_parts
source = RowSource(dataset=sys.argv[1])
(part,) = plan_parts(source, 1 << 20, ("text",))
rows = read_rows(source)
print(json.dumps([rows.texts, rows.labels, part.slices[0].uri]))
"""
    with hub_of(tmp_path / "hub") as environment:
        environment |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", script, NAME]
        printed = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout
    texts, labels, uri = json.loads(printed)
    assert texts == ["0101", "1.10"] and labels == ["neg", "pos"]
    assert uri == f"hf://datasets/{NAME}@{COMMIT}/data/train-0.csv"
