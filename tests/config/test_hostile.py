"""Configs that mean harm: refused at once, in little memory, and no secret is repeated."""

from __future__ import annotations

import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import pytest
import yaml

from distill_ray.config import InputError, RunConfig, load_config
from distill_ray.config.document import LARGEST, parse

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefghi", "bcdefghij")
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}\n" for a, b in zip("abcdefghi", "bcdefghij")
)
BOMBS = {
    "aliases": (LAUGHS, "with its aliases written out"),
    "merges": (MERGES, "with its aliases written out"),
    "long texts": (f"a: &a {'x' * 9000}\nb: [{', '.join(['*a'] * 1000)}]", "written out"),
    "lists in lists": ("[" * 100_000, "nested more than 64 deep"),
    "mappings in mappings": ("".join(" " * i + "a:\n" for i in range(300)), "nested more than 64"),
    "an anchor in itself": ("a: &a\n  b: *a", "holds itself"),
    "a large file": ("#" * (LARGEST + 1), "larger than 128 KiB"),
    "many digits": (f"seed: {'9' * 100_000}", "digits"),
    "no such date": ("seed: 2024-13-45", "month must be in 1..12"),
    "a key twice among many": (
        "".join(f"k{i}: 0\n" for i in range(7_000)) + "k7: 1",
        "key 'k7' is given twice",
    ),
    "a program": ("a: !!python/object/apply:os.system ['true']", "could not determine"),
    "no text": ("\x00", "unacceptable character"),
}


@pytest.fixture
def minimal() -> dict[str, Any]:
    return dict(yaml.safe_load((Path(__file__).parent / "minimal.yaml").read_text()))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_bounds(tmp_path: Path, name: str) -> None:
    text, said = BOMBS[name]
    (file := tmp_path / "run.yaml").write_text(text)
    started, before = time.process_time(), getrusage(RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as refused:
        load_config(file)
    assert time.process_time() - started < 2
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 200e3, "KiB"
    assert said in str(refused.value) and str(file) in str(refused.value)
    assert len(str(refused.value)) < 120_000


def test_aliases_of_a_common_size_are_as_if_written_out() -> None:
    text = "base: &base {a: 1, b: 2}\none: {<<: *base, b: 3}\ntwo: [*base, *base]"
    base = {"a": 1, "b": 2}
    assert parse(text) == {"base": base, "one": {"a": 1, "b": 3}, "two": [base, base]}


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hunter2@bucket/runs",
        "s3://hunter2@bucket/runs",
        "s3://bucket/runs?secret_key=hunter2&region=x",
        "s3://bucket/runs?access_key=hunter2",
        "https://me:hunter2@host/rows.jsonl",
        "abfs://bucket/x?account_key=hunter2",
        "gs://bucket/x?access_token=hunter2",
    ],
)
@pytest.mark.parametrize("where", ["storage", "corpora.sources.0.source.text"])
def test_a_uri_with_credentials_is_refused_and_they_are_not_repeated(
    minimal: dict[str, Any], tmp_path: Path, uri: str, where: str
) -> None:
    if where == "storage":
        minimal["storage"] = uri
    else:
        minimal["corpora"]["sources"][0]["source"] = {"text": uri}
    (file := tmp_path / "run.yaml").write_text(yaml.safe_dump(minimal))
    with pytest.raises(InputError) as refused:
        load_config(file)
    assert where in str(refused.value)
    assert "credentials belong into the environment" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("uri", ["file://runs", "file://server/share/runs"])
def test_a_folder_of_another_machine_is_refused(minimal: dict[str, Any], uri: str) -> None:
    with pytest.raises(ValueError, match="isn't this machine"):
        RunConfig.model_validate({**minimal, "storage": uri})


def test_other_uris_pass(minimal: dict[str, Any]) -> None:
    for uri in (
        "runs",
        "~/runs",
        "file:///data/my%20runs",
        "file://~/runs",
        "/mnt/a:b@c/runs",
        "s3://bucket/runs?scheme=http&endpoint_override=127.0.0.1:9000&region=x",
        "gs://anonymous@bucket/runs",
        "hdfs://someone@host:8020/runs",
    ):
        assert RunConfig.model_validate({**minimal, "storage": uri}).storage == uri


def test_options_with_credentials_are_refused(minimal: dict[str, Any], tmp_path: Path) -> None:
    source = {"dataset": "org/rows", "options": {"token": "hunter2"}}
    minimal["corpora"]["sources"][0]["source"] = source
    (file := tmp_path / "run.yaml").write_text(yaml.safe_dump(minimal))
    with pytest.raises(InputError) as refused:
        load_config(file)
    assert "options with token" in str(refused.value) and "hunter2" not in str(refused.value)
