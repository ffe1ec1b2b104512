"""A task worded as a chat, in rows of its own: what is written, scored and shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chat_tokenizer as chats
import pytest
import yaml
from tiny_run import config

from distill_ray.config import RunConfig
from distill_ray.data.batches import Rows
from distill_ray.runtime.run import Run
from distill_ray.stages.results.shard_set import ShardSet, held_out_questions
from distill_ray.stages.shard import shard

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's config: its task is a chat, and each sample has a row of its own."""
    folder = tmp_path_factory.mktemp("chat")
    data = config(folder)
    chats.tokenizer().save_pretrained(str(folder / "tokenizer"))
    data["student"]["tokenizer"] = {"path": str(folder / "tokenizer")}
    data["corpora"] |= {"batching": "grouped", "sequence_length": 128}
    data["tasks"][0] |= {"chat": True, "system": "Name the organ."}
    path = folder / "chat.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def shards(file: Path, ray_here: None) -> Iterator[ShardSet]:
    cfg = RunConfig.model_validate(yaml.safe_load(file.read_text()))
    yield shard(Run.open(cfg, file.name))


def rows_of(shards: ShardSet, stream: str, cache: Path) -> Rows:
    return Rows(shards.artifact.local() / "packed" / stream / "train", cache)


def test_a_row_is_one_conversation_and_no_row_is_padded(shards: ShardSet, tmp_path: Path) -> None:
    tokenizer = shards.tokenizer()
    texts = {r["row_id"]: r for r in shards.text("train").to_pylist()}
    rows = rows_of(shards, "organ.labelled", tmp_path)
    assert len(rows) == 120
    assert len(set(rows.lengths.tolist())) > 10
    found = rows[range(len(rows))]
    for ids, gold, (source,) in zip(found["input_ids"], found["label_mask"], found["sources"]):
        row = texts[source]
        assert tokenizer.decode(ids) == (
            "<|im_start|>system\nName the organ.<|im_end|>\n"
            f"<|im_start|>user\n{row['text']}\nOrgan:<|im_end|>\n"
            f"<|im_start|>assistant\n{row['label']}<|im_end|>\n"
        )
        supervised = [ids[i + 1] for i, kept in enumerate(gold) if kept]
        assert tokenizer.decode(supervised) == f"{row['label']}<|im_end|>"


def test_questions_are_the_same_tokens_as_rows(shards: ShardSet) -> None:
    tokenizer = shards.tokenizer()
    (asked,) = held_out_questions(shards, "validation")
    texts = {r["row_id"]: r["text"] for r in shards.text("validation").to_pylist()}
    for row_id, prompt in zip(asked.row_ids, asked.prompts):
        assert tokenizer.decode(prompt) == (
            "<|im_start|>system\nName the organ.<|im_end|>\n"
            f"<|im_start|>user\n{texts[row_id]}\nOrgan:<|im_end|>\n<|im_start|>assistant\n"
        )
    assert [tokenizer.decode(option) for option in asked.options] == asked.labels


def test_another_wording_is_another_shard_set(shards: ShardSet, file: Path) -> None:
    from distill_ray.stages.shard import _identity

    def identity(change: dict[str, Any]) -> str:
        data = yaml.safe_load(file.read_text())
        data["tasks"][0] |= change
        return json.dumps(_identity(RunConfig.model_validate(data)), default=str)

    template = file.parent / "tokenizer" / "chat_template.jinja"
    before, text = identity({}), template.read_text()
    assert identity({"system": "Name it."}) != before
    assert identity({"chat": False, "system": None}) != before
    template.write_text(text.replace("'\n'", "' '"))
    try:
        assert identity({}) != before
    finally:
        template.write_text(text)
    assert identity({}) == before


def command(file: Path, *flags: str) -> list[str]:
    """What `data show` writes; the shards are there, so Ray isn't started."""
    done = subprocess.run(
        [sys.executable, "-m", "distill_ray", "data", "show", str(file), *flags],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_data_show_marks_the_supervised_tokens_where_there_are_no_colours(
    shards: ShardSet, file: Path
) -> None:
    lines = command(file, "--rows", "2")
    assert not any("starting" in line for line in lines)
    labelled = next(i for i, line in enumerate(lines) if line.startswith("organ.labelled/train"))
    assert lines[labelled + 1].startswith("   1 <|im_start|>system⏎Name the organ.<|im_end|>⏎")
    answer = lines[labelled + 1].partition("assistant⏎")[2]
    assert answer.startswith("[[")
    assert answer.endswith("[[<|im_end|>]]⏎")
    prompt = next(i for i, line in enumerate(lines) if line.startswith("organ.prompts/train"))
    assert lines[prompt + 1].endswith("<|im_start|>assistant⏎{{?}}")
    assert sum(line.startswith("findings/train") for line in lines) == 2


def test_data_show_gives_the_rows_as_json(shards: ShardSet, file: Path, tmp_path: Path) -> None:
    flags = ("--rows", "3", "--stream", "organ.labelled", "--json")
    result = json.loads(command(file, *flags)[-1])["result"]
    expected = rows_of(shards, "organ.labelled", tmp_path)[range(3)]
    assert [row["input_ids"] for row in result["rows"]] == expected["input_ids"]
    for row in result["rows"]:
        said = [t for t, by in zip(row["texts"], row["supervised_by"]) if by == "both"]
        assert said[-1] == "<|im_end|>"
        assert row["supervised_by"].count("both") == row["label_mask"].count(True)
    assert result["counts"]["organ.labelled"]["rows"] == 3
