"""The shard stage: what is in the files, and which inputs it refuses."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny_run import config, rows, write_jsonl

from distill_ray.config import InputError, RunConfig
from distill_ray.runtime.run import Run
from distill_ray.stages.results.shard_set import ShardSet, held_out_questions
from distill_ray.stages.shard import shard

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


def made(data: dict[str, Any]) -> ShardSet:
    cfg = RunConfig.model_validate(data)
    return shard(Run.open(cfg, "tiny.yaml"))


@pytest.fixture(scope="module")
def shards(tiny: RunConfig, ray_here: None) -> ShardSet:
    return shard(Run.open(tiny, "tiny.yaml"))


def packed(shards: ShardSet, stream: str, split: str) -> list[dict[str, Any]]:
    folder = shards.artifact.local() / "packed" / stream / split
    return [row for f in sorted(folder.glob("*.parquet")) for row in pq.read_table(f).to_pylist()]


def test_no_text_is_in_two_splits_and_none_is_lost(shards: ShardSet) -> None:
    keys = [set(shards.text(split)["key"].to_pylist()) for split in ("train", "validation", "test")]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    assert sum(map(len, keys)) == 2 * len({r["text"] for r in rows()})


def test_the_labelled_budget_is_exact_and_the_rest_become_prompts(shards: ShardSet) -> None:
    labelled = {s for row in packed(shards, "organ.labelled", "train") for s in row["sources"]}
    prompts = {s for row in packed(shards, "organ.prompts", "train") for s in row["sources"]}
    assert len(labelled) == 120
    assert not labelled & prompts
    assert len(labelled | prompts) == shards.counts.rows["organ.labelled/train"]


def test_rows_decode_to_prompt_and_answer_and_only_the_answer_is_supervised(
    shards: ShardSet,
) -> None:
    tokenizer = shards.tokenizer()
    texts = {r["row_id"]: r for r in shards.text("train").to_pylist()}
    row = packed(shards, "organ.labelled", "train")[0]
    starts = [i for i, p in enumerate(row["position_ids"]) if p == 0]
    ids = row["input_ids"][: starts[1]]
    source = texts[row["sources"][0]]
    answer = f" {source['label']}"
    assert tokenizer.decode(ids) == f"{source['text']}\nOrgan:{answer}{tokenizer.eos_token}"
    supervised = [ids[i + 1] for i in range(len(ids) - 1) if row["label_mask"][i]]
    assert tokenizer.decode(supervised) == answer + tokenizer.eos_token


def test_the_same_input_gives_the_same_bytes(shards: ShardSet, tmp_path: Path) -> None:
    again = made({**shards.cfg.model_dump(mode="json"), "storage": str(tmp_path / "again")})
    assert again.artifact.fingerprint == shards.artifact.fingerprint
    assert again.artifact.manifest().files == shards.artifact.manifest().files


def test_csv_parquet_and_callable_sources_give_the_rows_of_jsonl(
    shards: ShardSet, tmp_path: Path
) -> None:
    items = rows()
    with (tmp_path / "task.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=["text", "label"])
        writer.writeheader()
        writer.writerows(items)
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(items), tmp_path / "task.parquet")
    expected = shards.text("train").sort_by("row_id")
    for source in ({"csv": "task.csv"}, {"parquet": "task.parquet"}):
        data = config(tmp_path)
        location = {key: str(tmp_path / name) for key, name in source.items()}
        data["tasks"][0]["source"] = location
        data["name"] = next(iter(source))
        assert made(data).text("train").sort_by("row_id").equals(expected)


def test_held_out_questions_have_one_right_option_each(shards: ShardSet) -> None:
    (questions,) = held_out_questions(shards, "validation")
    assert questions.labels == sorted({r["label"] for r in rows()})
    texts = {r["row_id"]: r["label"] for r in shards.text("validation").to_pylist()}
    gold = [questions.labels[g] for g in questions.answer_index]
    assert gold == [texts[row_id] for row_id in questions.row_ids]


def test_a_file_that_cannot_be_parsed_is_one_message_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = config(tmp_path)
    (tmp_path / "ragged.csv").write_text("text,label\npain,heart\nachep\n")
    data["tasks"][0]["source"] = {"csv": str(tmp_path / "ragged.csv")}
    with pytest.raises(InputError, match=r"the input can't be read:\n.*ragged\.csv") as refusal:
        made(data)
    assert len(str(refusal.value).splitlines()) == 2
    assert "Traceback" not in capfd.readouterr().err
    assert not list((tmp_path / "runs/tiny").glob("shard/*"))


def test_rows_without_a_label_serve_as_prompts(tmp_path: Path) -> None:
    items = [{**row, "label": None if i % 7 == 0 else row["label"]} for i, row in enumerate(rows())]
    data = config(tmp_path)
    data["name"] = "unlabelled"
    write_jsonl(tmp_path / "task.jsonl", items)
    del data["tasks"][0]["num_labelled_rows"]
    shards = made(data)
    bare = {row["row_id"] for row in shards.text("train").to_pylist() if row["label"] is None}
    of_task = {row_id for row_id in bare if row_id.startswith("organ.labelled")}
    prompts = {s for row in packed(shards, "organ.prompts", "train") for s in row["sources"]}
    assert prompts == of_task != set()


def test_a_teacher_that_reads_other_ids_is_refused_when_its_tokenizer_is_loaded(
    tmp_path: Path,
) -> None:
    from distill_ray.data.tokenizer import train_tokenizer

    train_tokenizer(["zwölf boxkämpfer"] * 9, 300).save_pretrained(str(tmp_path / "other"))
    data = config(tmp_path)
    data["name"] = "others"
    data["teachers"][0]["tokenizer"] = {"path": str(tmp_path / "other")}
    with pytest.raises(InputError, match=r"wide's tokenizer differs.*% of the student's tokens"):
        made(data)


def test_a_corpus_without_text_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    data = config(tmp_path)
    empty = write_jsonl(tmp_path / "empty.jsonl", [{"body": "x"}, {"body": "y"}])
    data["corpora"]["sources"].append({"name": "hollow", "source": {"jsonl": str(empty)}})
    with pytest.raises(InputError, match=r"no column 'text'; columns: body \(text\)"):
        made(data)
    assert not list((tmp_path / "runs/tiny").glob("shard/*"))


def test_a_label_that_never_occurs_is_refused_with_those_that_do(tmp_path: Path) -> None:
    data = config(tmp_path)
    labels = [*sorted({r["label"] for r in rows()}), "spleen"]
    data["tasks"][0]["labels"] = labels
    with pytest.raises(InputError, match=r"label 'spleen' never occurs.*eye, heart"):
        made(data)
    assert not list((tmp_path / "runs/tiny").glob("shard/*"))


def test_a_label_without_an_answer_is_refused(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["tasks"][0]["answers"] = {"heart": " heart", "lung": " lung"}
    with pytest.raises(InputError, match="the data's label 'eye' has no answer"):
        made(data)


@pytest.mark.slow
def test_keys_that_are_shuffled_by_ray_data_give_what_one_task_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = config(tmp_path)
    items = rows()
    near = [{**row, "text": f"{row['text']}, as before"} for row in items]
    write_jsonl(tmp_path / "task.jsonl", [*items, *items[:40], *near, *near[::-1]])
    (tmp_path / "corpus.txt").write_text("\n".join(row["text"] for row in [*near, *items]))
    data["corpora"]["near_duplicates"] = {"threshold": 0.85, "ngram": 2}
    made_by_one = made(data | {"name": "one"})
    monkeypatch.setattr("distill_ray.stages.sharding.removal.PARTITION_ROWS", 150)
    shuffled = made(data | {"name": "several"})
    assert shuffled.artifact.manifest().files == made_by_one.artifact.manifest().files
    left_out = shuffled.counts.streams["organ.labelled"].left_out
    assert left_out["duplicate"].rows == 40 + len(near)
    assert left_out["near_duplicate"].rows > 10
    assert shuffled.counts == made_by_one.counts
