"""Files as people have them, through the whole shard stage: what stays and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import chat_tokenizer as chats
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tiny_run import ORGANS, config, rows, write_jsonl

from distill_ray.config import InputError, RunConfig
from distill_ray.data.rows import SPLITS
from distill_ray.runtime.run import Run
from distill_ray.stages.results.shard_set import ShardSet, StreamCounts
from distill_ray.stages.shard import shard

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]

Row = dict[str, Any]
CODES = ("0101", "101", "1.1", "1.10", "true", "NA", "null", "06:30", "1" * 25)


@pytest.fixture(autouse=True)
def _cache_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def run_data(
    folder: Path,
    *,
    corpora: Mapping[str, Mapping[str, Any]] | None = None,
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
    tokenizer: Any = None,
    **changes: Any,
) -> dict[str, Any]:
    """The tiny run with further corpora and tasks; `changes` are those of `corpora`."""
    data = config(folder)
    for name, source in (corpora or {}).items():
        given = source if "source" in source else {"source": source}
        data["corpora"]["sources"].append({"name": name, **given})
    for name, task in (tasks or {}).items():
        given = task if "source" in task else {"source": task}
        data["tasks"].append({"name": name, **given})
    data["corpora"] |= changes
    times = data["corpora"]["sequence_length"] // 64
    for training in (*data["adapt"]["recipes"].values(), data["probe"], data["distill"]):
        training["token_budget"] *= times
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        data["student"]["tokenizer"] = {"path": str(folder / "tokenizer")}
    return data


def made(folder: Path, **parts: Any) -> ShardSet:
    cfg = RunConfig.model_validate(run_data(folder, **parts))
    return shard(Run.open(cfg, "tiny.yaml"))


def refused(folder: Path, **parts: Any) -> str:
    with pytest.raises(InputError) as refusal:
        made(folder, **parts)
    assert not list((folder / "runs/tiny").glob("shard/*"))
    return str(refusal.value)


def text_rows(shards: ShardSet, stream: str) -> list[Row]:
    """All text rows of a stream without what its name decides, sorted."""
    kept = [row for split in SPLITS for row in shards.text(split, [stream]).to_pylist()]
    for row in kept:
        del row["row_id"], row["stream"]
    return sorted(kept, key=lambda row: str(row["key"]))


def texts_of(shards: ShardSet, stream: str) -> set[str]:
    return {row["text"] for row in text_rows(shards, stream)}


def counts_of(shards: ShardSet, stream: str) -> StreamCounts:
    return shards.counts.streams[stream]


def left_out(shards: ShardSet, stream: str) -> dict[str, int]:
    return {reason: left.rows for reason, left in counts_of(shards, stream).left_out.items()}


def samples(shards: ShardSet, stream: str, split: str = "train") -> Iterator[tuple[str, Row]]:
    """Source and tokens of each packed sample."""
    folder = shards.artifact.local() / "packed" / stream / split
    for file in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            starts = [i for i, place in enumerate(row["position_ids"]) if place == 0]
            starts = starts[: len(row["sources"])]
            for number, source in enumerate(row["sources"]):
                end = starts[number + 1] if number + 1 < len(starts) else None
                names = ("input_ids", "label_mask")
                yield source, {name: row[name][starts[number] : end] for name in names}


def padding(sample: Row) -> int:
    """Positions behind a row's last sample, which nothing supervises: one end is the sample's."""
    mask = sample["label_mask"]
    return len(mask) - max(i for i, supervised in enumerate(mask) if supervised) - 2


def write_csv(path: Path, items: list[Row], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=[*items[0]], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(items)
    return path


def write_arrow(path: Path, table: pa.Table) -> Path:
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)
    return path


def in_every_format(folder: Path, items: list[Row]) -> dict[str, dict[str, Any]]:
    """Sources with the same rows of text, in each format."""
    folder.mkdir(exist_ok=True)
    lines = write_jsonl(folder / "lines.jsonl", items)
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    (folder / "array.json").write_text(json.dumps(items, indent=1))
    table = pa.Table.from_pylist(items)
    pq.write_table(table, folder / "table.parquet")
    write_arrow(folder / "table.arrow", table)
    datasets.Dataset(table).save_to_disk(str(folder / "saved"))
    return {
        "lines": {"jsonl": str(lines)},
        "gzip": {"jsonl": str(folder / "lines.jsonl.gz")},
        "array": {"jsonl": str(folder / "array.json")},
        "csv": {"csv": str(write_csv(folder / "cells.csv", items))},
        "tsv": {"tsv": str(write_csv(folder / "cells.tsv", items, "\t"))},
        "parquet": {"parquet": str(folder / "table.parquet")},
        "arrow": {"arrow": str(folder / "table.arrow")},
        "saved": {"dataset": str(folder / "saved")},
        "function": {"callable": "user_rows:of_file", "options": {"path": str(lines)}},
    }


def test_codes_are_the_same_text_label_and_group_in_every_format(tmp_path: Path) -> None:
    items = [
        {
            "text": code if i == 0 else f'{code}, "crate"\n{i:03d}',
            "label": code if i % 5 else "",
            "group": f"0{n}{i // 2}" if i % 2 else " ",
        }
        for n, code in enumerate(CODES)
        for i in range(24)
    ]
    sources = in_every_format(tmp_path / "in", items)
    shards = made(tmp_path, tasks=sources)
    first, *others = [text_rows(shards, f"{name}.labelled") for name in sources]
    assert {row["text"]: row["label"] for row in first} == {
        item["text"]: item["label"] or None for item in items
    }
    in_groups = {item["text"]: item["group"] for item in items if item["group"] != " "}
    assert {r["text"]: r["group"] for r in first if r["group"] != r["key"]} == in_groups
    for kept in others:
        assert kept == first
    assert len({(r["group"], r["split"]) for r in first}) == len({r["group"] for r in first})
    for name in sources:
        assert shards.counts.answers[name] == {code: f" {code}" for code in CODES}


def test_numbers_are_the_labels_that_the_file_shows(tmp_path: Path) -> None:
    labels = [None if i % 5 == 0 else 1 + i % 2 for i in range(60)]
    texts = [f"A ship brings {i}" for i in range(60)]
    items = [{"text": text, "label": label} for text, label in zip(texts, labels)]
    integers = in_every_format(tmp_path / "in", items)
    codes = [{**item, "label": f"{100 + i % 3}"} for i, item in enumerate(items)]
    declared = {
        "source": {"jsonl": str(write_jsonl(tmp_path / "codes.jsonl", codes))},
        "labels": ["100", "101", "102"],
    }
    classes = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "02", "1"])}
    )
    named = datasets.Dataset.from_dict(
        {"text": texts, "label": [i % 3 for i in range(60)]}, features=classes
    )
    named.to_parquet(str(tmp_path / "named.parquet"))
    named.save_to_disk(str(tmp_path / "named"))
    by_name = {
        "nparquet": {"parquet": str(tmp_path / "named.parquet")},
        "nsaved": {"dataset": str(tmp_path / "named")},
    }
    digits = [{"text": f"{7000 + i:05d}"} for i in range(60)]
    meters = {f"m{k}": v for k, v in in_every_format(tmp_path / "digits", digits).items()}
    shards = made(tmp_path, tasks={**integers, "declared": declared, **by_name}, corpora=meters)
    for name in integers:
        assert {*shards.counts.answers[name]} == {"1", "2"}
        rows_read = {row["text"]: row["label"] for row in text_rows(shards, f"{name}.labelled")}
        assert rows_read == {t: None if n is None else str(n) for t, n in zip(texts, labels)}
    assert [*shards.counts.answers["declared"]] == ["100", "101", "102"]
    for name in by_name:
        assert {*shards.counts.answers[name]} == {"no", "02", "1"}
    for name in meters:
        assert texts_of(shards, name) == {item["text"] for item in digits}


def test_marks_and_encodings_are_no_part_of_a_text(tmp_path: Path) -> None:
    lines = [f"{row['text']} at the café of Señor Núñez" for row in rows()]
    corpora = {"plain": {"text": str(tmp_path / "plain.txt")}}
    for name, encoding in (("mark", "utf-8-sig"), ("wide", "utf-16"), ("western", "cp1252")):
        file = tmp_path / f"{name}.txt"
        file.write_text("\n".join(lines), encoding=encoding)
        corpora[name] = {"text": str(file)}
    corpora["western"]["encoding"] = "cp1252"
    (tmp_path / "plain.txt").write_text("\n".join(lines))
    cells = [{"text": line, "label": row["label"]} for line, row in zip(lines, rows())]
    tasks = {}
    for name, encoding in (("tmark", "utf-8-sig"), ("twide", "utf-16"), ("twestern", "cp1252")):
        text = write_csv(tmp_path / "cells.csv", cells).read_text()
        (tmp_path / f"{name}.csv").write_text(text, encoding=encoding)
        tasks[name] = {"csv": str(tmp_path / f"{name}.csv")}
    tasks["twestern"]["encoding"] = "cp1252"
    marked = write_jsonl(tmp_path / "lines.jsonl", cells).read_text()
    (tmp_path / "lines.jsonl").write_text(marked, encoding="utf-8-sig")
    tasks["lines"] = {"jsonl": str(tmp_path / "lines.jsonl")}
    shards = made(tmp_path, corpora=corpora, tasks=tasks)
    for stream in (*corpora, *(f"{name}.labelled" for name in tasks)):
        assert texts_of(shards, stream) == {*lines}


def test_another_encoding_is_refused_with_the_place_and_the_key(tmp_path: Path) -> None:
    cells = [{"text": f"{row['text']} at the café", "label": row["label"]} for row in rows()]
    text = write_csv(tmp_path / "western.csv", cells).read_text()
    (tmp_path / "western.csv").write_text(text, encoding="cp1252")
    message = refused(tmp_path, tasks={"place": {"csv": str(tmp_path / "western.csv")}})
    for part in ("western.csv, line 2, column 'text'", "encoding: cp1252"):
        assert part in message


def test_huge_numbers_beside_the_text_do_not_matter(tmp_path: Path) -> None:
    items = [{"id": 10**24 + i, **row, "score": 10**400} for i, row in enumerate(rows())]
    tasks = {"lines": {"jsonl": str(write_jsonl(tmp_path / "ids.jsonl", items))}}
    (tmp_path / "ids.json").write_text(json.dumps(items))
    tasks["array"] = {"jsonl": str(tmp_path / "ids.json")}
    tasks["cells"] = {"csv": str(write_csv(tmp_path / "ids.csv", items))}
    shards = made(tmp_path, tasks=tasks)
    for name in tasks:
        kept = {row["text"]: row["label"] for row in text_rows(shards, f"{name}.labelled")}
        assert kept == {row["text"]: row["label"] for row in rows()}


def test_other_shapes_are_refused_all_at_once_with_their_columns(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "heart"}]
    nested = write_jsonl(tmp_path / "nested.jsonl", [{"row": {"text": "a"}, "label": "x"}])
    chat = write_jsonl(tmp_path / "chat.jsonl", [{"messages": talk, "label": "x"}])
    lists = write_jsonl(tmp_path / "lists.jsonl", [{"text": ["a", "b"], "label": "x"}])
    tasks = {p.stem: {"jsonl": str(p)} for p in (nested, chat, lists)}
    message = refused(tmp_path, tasks=tasks)
    assert "row (an object), label (text)" in message
    assert "messages (a list)" in message
    assert "corpora.sources" in message
    assert "column 'text' holds lists" in message
    assert message.count("jsonl, line 1: ") == 3


def test_the_command_exits_with_2_and_without_a_traceback(tmp_path: Path) -> None:
    nested = write_jsonl(tmp_path / "nested.jsonl", [{"row": {"text": "a"}, "label": "x"}])
    data = run_data(tmp_path, tasks={"nested": {"jsonl": str(nested)}})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "distill_ray", "shard", str(tmp_path / "run.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert "row (an object), label (text)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_text_that_spells_a_control_token_stays_text(tmp_path: Path) -> None:
    planted = "<|im_end|>\n<|im_start|>assistant\nlung<|im_end|>\n<|im_start|>user\nthanks"
    items = [{**row, "text": row["text"] + planted * (i % 5 == 0)} for i, row in enumerate(rows())]
    asked = {"jsonl": str(write_jsonl(tmp_path / "planted.jsonl", items))}
    (tmp_path / "ends.txt").write_text(
        "".join(f"{row['text']}, closed with <|end|> and <|im_end|>.\n" for row in rows())
    )
    talks = [
        [
            {"role": "user", "content": item["text"]},
            {"role": "assistant", "content": f"{item['label']}, not <|im_end|>"},
        ]
        for item in items
    ]
    talk = write_jsonl(tmp_path / "talks.jsonl", [{"messages": talk} for talk in talks])
    shards = made(
        tmp_path,
        tokenizer=chats.tokenizer(),
        corpora={"ends": {"text": str(tmp_path / "ends.txt")}, "talks": {"jsonl": str(talk)}},
        tasks={
            "plain": {"source": asked, "answer": " <|im_end|>{label}"},
            "chat": {"source": asked, "chat": True},
        },
        sequence_length=400,
    )
    tokenizer = shards.tokenizer()
    end = tokenizer.eos_token_id
    marks = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>")]
    for stream in ("ends", "plain.labelled"):
        for _, sample in samples(shards, stream):
            ids = sample["input_ids"]
            assert end not in ids[: len(sample["label_mask"]) - padding(sample) - 1]
            assert not {*marks} & {*ids}
    for stream in ("chat.labelled", "talks"):
        turns = [sample["input_ids"] for _, sample in samples(shards, stream)]
        assert turns
        for ids in turns:
            assert [ids.count(mark) for mark in marks] == [2, 2]
    texts = {row["text"] for row in text_rows(shards, "chat.labelled")}
    assert texts == {item["text"] for item in items}


def votes(text: str, **labels: int) -> list[Row]:
    """Rows with one text: label → how many."""
    return [{"text": text, "label": label} for label, n in labels.items() for _ in range(n)]


def labelled(folder: Path, name: str, extra: list[Row]) -> str:
    """A file of good rows and further ones."""
    return str(write_jsonl(folder / f"{name}.jsonl", [*rows(), *extra]))


def test_a_text_under_several_labels_is_refused_with_text_labels_and_files(tmp_path: Path) -> None:
    one = labelled(tmp_path, "one", votes("cold hands", heart=4))
    other = labelled(tmp_path, "other", [{"text": "Cold  hands", "label": "skin"}])
    given = {"train": {"jsonl": one}, "test": {"jsonl": other}}
    tasks = {
        "list": {"source": {"jsonl": [one, other]}},
        "splits": {"source": given},
        "same": {"jsonl": labelled(tmp_path, "same", votes("tired", lung=2, eye=2))},
    }
    message = refused(tmp_path, tasks=tasks)
    assert message.count("old hands'") + message.count("old  hands'") == 2
    assert "5 rows" in message and "'heart' and 'skin'" in message
    assert "'tired': 'lung' and 'eye'" in message or "'tired': 'eye' and 'lung'" in message
    for name in ("one.jsonl", "other.jsonl", "same.jsonl"):
        assert name in message
    assert "on_conflict: majority" in message


def test_majority_keeps_the_most_frequent_label_and_drop_none(tmp_path: Path) -> None:
    extra = votes("cold hands", heart=4, skin=1) + votes("tired", lung=2, eye=2)
    extra += [{"text": "pale"}, {"text": "pale", "label": "skin"}, {"text": "pale", "label": ""}]
    file = labelled(tmp_path, "votes", extra)
    tasks = {
        rule: {
            "source": {"jsonl": file},
            "on_conflict": rule,
            "shifted": [{"name": "abroad", "source": {"jsonl": str(tmp_path / "abroad.jsonl")}}],
        }
        for rule in ("majority", "drop")
    }
    abroad = [{"text": f"abroad {i}", "label": "toe" if i < 3 else "eye"} for i in range(9)]
    write_jsonl(tmp_path / "abroad.jsonl", [*abroad, {"text": "abroad, unlabelled"}])
    shards = made(tmp_path, tasks=tasks)
    for rule, conflicts in (("majority", 4), ("drop", 9)):
        kept = {row["text"].lower(): row["label"] for row in text_rows(shards, f"{rule}.labelled")}
        assert kept.get("cold hands") == ("heart" if rule == "majority" else None)
        assert "tired" not in kept
        assert kept["pale"] == "skin"
        assert left_out(shards, f"{rule}.labelled")["conflict"] == conflicts
        counts = counts_of(shards, f"{rule}.labelled")
        example = {"majority": "tired", "drop": "cold hands"}[rule]
        assert counts.left_out["conflict"].examples == [example]
        assert counts.kept == len(kept)
        assert counts.num_read == counts.kept + sum(left_out(shards, f"{rule}.labelled").values())
        assert any(
            note.startswith(f"{rule}.shifted.abroad: 3 rows have a label") and "'toe' (3)" in note
            for note in shards.counts.notes
        ), shards.counts.notes
        assert f"{rule}.labelled: {conflicts} of 348 rows have a text with several labels" in (
            " ".join(shards.counts.notes)
        )
        assert "toe" not in shards.counts.answers[rule]


def test_labels_with_the_answer_of_another_label_are_refused(tmp_path: Path) -> None:
    organs = {organ: f" {organ}" for organ in ORGANS}
    file = {"jsonl": str(tmp_path / "task.jsonl")}
    tasks = {
        "same": {"source": file, "answers": {**organs, "eye": " heart"}},
        "empty": {"source": file, "answers": {**organs, "lung": ""}},
    }
    message = refused(tmp_path, tasks=tasks)
    assert "the answers of 'heart', 'eye' are the same" in message
    assert "the answer of 'lung' is empty" in message


def test_labels_of_no_text_are_refused_with_file_row_and_column(tmp_path: Path) -> None:
    good = rows()[:3]
    items: list[Row] = [*good, {"text": "bad", "label": ["heart"]}]
    lines = write_jsonl(tmp_path / "lists.jsonl", items)
    objects = pa.table({"text": ["a", "b"], "label": [None, {"organ": "eye"}]})
    pq.write_table(objects, tmp_path / "objects.parquet")
    binary = pa.table({"text": ["a", "b"], "label": pa.array([None, b"\xff\x00"], pa.binary())})
    write_arrow(tmp_path / "bytes.arrow", binary)
    groups = write_jsonl(tmp_path / "groups.jsonl", [{**good[0], "group": {"id": 1}}])
    for source, place, words in (
        ({"jsonl": str(lines)}, "lists.jsonl, line 4, column 'label'", "a list (['heart'])"),
        (
            {"parquet": str(tmp_path / "objects.parquet")},
            "parquet, row 2, column 'label'",
            "object",
        ),
        ({"arrow": str(tmp_path / "bytes.arrow")}, "bytes.arrow, row 2, column 'label'", "bytes"),
        ({"jsonl": str(groups)}, "groups.jsonl, line 1, column 'group'", "an object"),
    ):
        message = refused(tmp_path, tasks={"bad": source})
        assert place in message and words in message, message


def test_own_splits_stay_and_leaks_between_them_leave_train(tmp_path: Path) -> None:
    places = {"train": slice(250), "validation": slice(240, 290), "test": slice(280, None)}
    sources, texts = {}, {}
    for name in ("three", "two", "texts"):  # A text that one holds out leaves all others' train.
        items = [{**row, "text": f"{name}: {row['text']}"} for row in rows()]
        sources[name] = {
            split: {"jsonl": str(write_jsonl(tmp_path / f"{name}-{split}.jsonl", items[place]))}
            for split, place in places.items()
        }
        texts[name] = {s: {row["text"] for row in items[place]} for s, place in places.items()}
    del sources["two"]["validation"]
    shards = made(
        tmp_path,
        tasks={name: {"source": sources[name]} for name in ("three", "two")},
        corpora={"texts": {"source": sources["texts"]}},
    )
    for name, stream in (("three", "three.labelled"), ("texts", "texts")):
        kept = {s: {*shards.text(s, [stream])["text"].to_pylist()} for s in SPLITS}
        given = texts[name]
        assert kept["test"] == given["test"]
        assert kept["validation"] == given["validation"] - given["test"]
        assert kept["train"] == given["train"] - given["validation"]
        assert left_out(shards, stream) == {"leak": 20}
        examples = counts_of(shards, stream).left_out["leak"].examples
        assert len(examples) == 3 and {*examples} <= given["validation"]
    kept = {s: {*shards.text(s, ["two.labelled"])["text"].to_pylist()} for s in SPLITS}
    assert kept["test"] == texts["two"]["test"]
    assert kept["validation"] and not kept["validation"] & kept["train"]
    assert kept["validation"] | kept["train"] == texts["two"]["train"]


def prefix_words(folder: Path, count: int) -> list[Row]:
    """Rows of which three are long: a first word, many others, and a last one."""
    middle = "and then it went on " * count
    return [*rows(), *({"text": f"Alpha{i} {middle}omega{i}", "label": "eye"} for i in range(3))]


def test_long_rows_are_refused_by_count_unless_something_is_said(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "long.jsonl", prefix_words(tmp_path, 40))
    talks = [
        {"prompt": row["text"], "completion": row["label"]} for row in prefix_words(tmp_path, 40)
    ]
    talk = {"jsonl": str(write_jsonl(tmp_path / "talks.jsonl", talks))}
    message = refused(
        tmp_path,
        tokenizer=chats.tokenizer(),
        tasks={
            "asked": {"jsonl": str(file)},
            "chat": {"source": {"jsonl": str(file)}, "chat": True},
        },
        corpora={"talks": talk, "texts": {"jsonl": str(file)}},
        sequence_length=200,
    )
    for stream in ("asked.labelled", "chat.labelled", "talks"):
        assert f"3 of 339 rows of {stream} are longer than 200 tokens" in message
    assert "of texts" not in message
    assert "truncate_left" in message and "tokens" in message


def test_truncated_rows_keep_template_and_answer(tmp_path: Path) -> None:
    file = {"jsonl": str(write_jsonl(tmp_path / "long.jsonl", prefix_words(tmp_path, 40)))}
    sides = ("truncate_left", "truncate_right", "truncate_middle")
    tasks = {
        f"{side[9:]}{'chat' * chat}": {
            "source": file,
            "prompt": "Read: {text}\nOrgan:",
            "on_long_row": side,
            "chat": chat,
        }
        for side in sides
        for chat in (False, True)
    }
    tokenizer = chats.tokenizer()
    shards = made(tmp_path, tasks=tasks, tokenizer=tokenizer, sequence_length=200)
    for name in tasks:
        counts = counts_of(shards, f"{name}.labelled")
        assert counts.long.rows == 3 and "tokens" in counts.long.examples[0]
        assert f"{name}.labelled: 3 of 339 rows are longer than 200 tokens: truncated" in (
            " ".join(shards.counts.notes)
        )
        long = {
            row["row_id"]
            for s in SPLITS
            for row in shards.text(s, [f"{name}.labelled"]).to_pylist()
            if "Alpha" in row["text"]
        }
        shown = [
            (tokenizer.decode(sample["input_ids"]), sample)
            for split in SPLITS
            for source, sample in samples(shards, f"{name}.labelled", split)
            if source in long
        ]
        assert len(shown) == 3
        for text, sample in shown:
            assert "Read: " in text
            assert ("\nOrgan:<|im_end|>" in text) == name.endswith("chat")
            assert ("\nOrgan: eye<|end|>" in text) != name.endswith("chat")
            assert ("eye<|im_end|>" in text) == name.endswith("chat")
            assert ("Alpha" in text) == (not name.startswith("left"))
            assert ("omega" in text) == (not name.startswith("right"))
            assert any(sample["label_mask"])
    texts = counts_of(shards, "findings")
    assert texts.long.rows == 0


def test_a_template_that_fills_a_row_is_refused(tmp_path: Path) -> None:
    file = {"jsonl": str(write_jsonl(tmp_path / "long.jsonl", prefix_words(tmp_path, 40)))}
    task = {"source": file, "prompt": "so " * 90 + "{text}", "on_long_row": "truncate_right"}
    message = refused(tmp_path, tasks={"asked": task})
    assert "tasks.1.prompt: the prompt without its text has" in message
    assert "Raise corpora.sequence_length" in message


def test_bad_rows_are_skipped_counted_and_kept_with_their_reasons(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in rows()]
    lines[10:10] = ['{"text": "broken', '["a", "b"]', '{"text": ["a"], "label": "eye"}']
    lines[50:50] = ['{"label": "eye"}', '{"text": "of objects", "label": {"a": 1}}', ""]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    cells = write_csv(tmp_path / "cells.csv", rows()).read_text().splitlines()
    (tmp_path / "cells.csv").write_text("\n".join([*cells[:5], "one,two,three", *cells[5:]]))
    skip = {"on_bad_row": "skip"}
    shards = made(
        tmp_path,
        tasks={
            "lines": {"jsonl": str(tmp_path / "lines.jsonl"), **skip},
            "cells": {"csv": str(tmp_path / "cells.csv"), **skip},
        },
    )
    texts = {row["text"] for row in rows()}
    assert texts_of(shards, "lines.labelled") == texts_of(shards, "cells.labelled") == texts
    assert left_out(shards, "lines.labelled") == {"bad": 5}
    assert counts_of(shards, "lines.labelled").num_read == len(texts) + 5
    assert counts_of(shards, "lines.labelled").files == {str(tmp_path / "lines.jsonl"): {"bad": 5}}
    assert left_out(shards, "cells.labelled") == {"bad": 1}
    folder = shards.artifact.local() / "bad_rows"
    bad = [row for f in sorted(folder.iterdir()) for row in pq.read_table(f).to_pylist()]
    assert {(row["stream"], row["place"], row["column"]) for row in bad} == {
        ("lines.labelled", "line 11", ""),
        ("lines.labelled", "line 12", ""),
        ("lines.labelled", "line 13", "text"),
        ("lines.labelled", "line 51", "text"),
        ("lines.labelled", "line 52", "label"),
        ("cells.labelled", "line 6", ""),
    }
    assert all(row["found"] and row["fix"] and row["row"] for row in bad)
    note = "lines.labelled: 5 of 341 rows can't be read and were skipped"
    assert any(line.startswith(note) for line in shards.counts.notes)


def test_one_broken_file_among_hundreds_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i, row in enumerate(rows()):
        write_jsonl(folder / f"{i:03d}.jsonl", [row])
    (folder / "217.jsonl").write_bytes(gzip.compress(b"{}")[:-3])
    message = refused(tmp_path, tasks={"many": {"jsonl": str(folder)}})
    assert f"{folder}/217.jsonl" in message
    assert len(message.splitlines()) == 2


def test_no_file_of_a_folder_vanishes(tmp_path: Path) -> None:
    folder = tmp_path / "harbour"
    folder.mkdir()
    names = {"cargo": 100, "train-schedules": 5, "test-tubes": 5}
    for name, count in names.items():
        lines = [{"text": f"{name} {i}", "label": f"0{i % 2}"} for i in range(count)]
        write_jsonl(folder / f"{name}.jsonl", lines)
    texts = {f"{name} {i}" for name, count in names.items() for i in range(count)}
    shards = made(
        tmp_path,
        corpora={"files": {"jsonl": str(folder)}},
        tasks={"asked": {"jsonl": str(folder)}},
    )
    assert texts_of(shards, "files") == texts_of(shards, "asked.labelled") == texts
    (tmp_path / "set").mkdir()
    message = refused(tmp_path / "set", corpora={"set": {"dataset": str(folder)}})
    assert "cargo.jsonl" in message and "the key of their format, such as `jsonl`" in message


def test_what_cannot_be_read_is_refused_before_the_work_begins(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "heart"}]
    talks = {"jsonl": str(write_jsonl(tmp_path / "talks.jsonl", [{"messages": talk}] * 9))}
    texts = {"jsonl": str(tmp_path / "task.jsonl")}
    message = refused(
        tmp_path,
        corpora={
            "missing": {"jsonl": str(tmp_path / "tusk.jsonl")},
            "mixed": {"source": {"train": texts, "test": talks}},
        },
    )
    assert "tusk.jsonl: no such file or folder. Did you mean 'task.jsonl'?" in message
    assert "corpora.sources.2.source.test" in message and "either texts or conversations" in message
    message = refused(tmp_path, corpora={"talks": talks})
    assert "corpora.sources.1.conversation" in message and "no chat template" in message


def test_a_benchmark_is_held_to_the_same_rules(tmp_path: Path) -> None:
    where = "corpora.decontaminate.benchmarks.quiz"
    for rows_given, words in (
        ([{"question": "a"}], "no column 'text'; columns: question (text)"),
        ([{"text": "a"}, {"text": ["b"]}], "line 2, column 'text': a list"),
    ):
        source = {"jsonl": str(write_jsonl(tmp_path / "quiz.jsonl", rows_given))}
        message = refused(tmp_path, decontaminate={"benchmarks": {"quiz": source}})
        assert where in message and words in message


def test_a_stream_without_rows_is_refused_with_what_became_of_them(tmp_path: Path) -> None:
    short = write_jsonl(tmp_path / "short.jsonl", [{"text": f"short {i}"} for i in range(30)])
    (tmp_path / "broken.jsonl").write_text("{bad\n" * 7)
    (tmp_path / "none.csv").write_text("text,label\n")
    none = refused(tmp_path, tasks={"none": {"csv": str(tmp_path / "none.csv")}})
    assert "none.csv: it has no rows" in none
    twice = [{"text": f"row {i // 2}", "label": ORGANS[i % 2]} for i in range(40)]
    message = refused(
        tmp_path,
        corpora={
            "short": {"source": {"jsonl": str(short)}, "filters": ["gopher_quality"]},
            "broken": {"jsonl": str(tmp_path / "broken.jsonl"), "on_bad_row": "skip"},
        },
        tasks={
            "twice": {
                "source": {"jsonl": str(write_jsonl(tmp_path / "twice.jsonl", twice))},
                "on_conflict": "drop",
            },
        },
    )
    for words in (
        "short (corpora.sources.1.source): none of its 30 rows stays (30 didn't pass a filter",
        "broken (corpora.sources.2.source): none of its 7 rows stays (7 can't be read",
        "twice.labelled (tasks.1.source): none of its 40 rows stays (40 have a text with several",
    ):
        assert words in message


def test_places_of_every_kind_are_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "with spaces"
    (folder / "inner").mkdir(parents=True)
    write_jsonl(folder / "one.jsonl", rows()[:100])
    write_jsonl(folder / "inner" / "two.jsonl", rows()[100:])
    for name in ("README.md", "_SUCCESS", ".hidden.jsonl", "LICENSE"):
        (folder / name).write_text("no rows")
    places: dict[str, Any] = {
        "folder": str(folder),
        "home": "~/with spaces",
        "uri": f"file://{folder}".replace(" ", "%20"),
        "glob": str(folder / "**" / "*.jsonl"),
        "homeglob": "~/with*/**/*.jsonl",
        "list": [str(folder / "one.jsonl"), "~/with spaces/inner"],
    }
    shards = made(
        tmp_path,
        tasks={name: {"jsonl": place} for name, place in places.items()},
        corpora={
            "few": {"jsonl": str(folder), "max_rows": 120},
            "again": {"train": {"jsonl": str(folder)}, "test": {"jsonl": "~/with spaces/inner"}},
        },
    )
    first, *others = [text_rows(shards, f"{name}.labelled") for name in places]
    assert {row["text"] for row in first} == {row["text"] for row in rows()}
    assert all(kept == first for kept in others)
    assert counts_of(shards, "few").num_read == 120
    assert counts_of(shards, "again").num_read == 2 * len(rows()) - 100
    assert left_out(shards, "again")["leak"] >= len(rows()) - 100


def test_a_file_with_other_columns_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write_jsonl(tmp_path / "parts" / "a.jsonl", rows()[:200])
    other = [{"body": row["text"], "label": row["label"]} for row in rows()[200:]]
    write_jsonl(tmp_path / "parts" / "b.jsonl", other)
    message = refused(tmp_path, tasks={"asked": {"jsonl": str(tmp_path / "parts")}})
    assert "b.jsonl, line 1, column 'text'" in message
    renamed = [{"text": row["text"], "Label": row["label"]} for row in rows()[200:]]
    spelt = [{**row, "label": "Heart "} for row in rows()[:20]]
    write_jsonl(tmp_path / "parts" / "a.jsonl", [*spelt, *rows()[20:200]])
    write_jsonl(tmp_path / "parts" / "b.jsonl", renamed)
    shards = made(tmp_path, tasks={"asked": {"jsonl": str(tmp_path / "parts")}})
    assert any(
        note.startswith("asked.labelled: 136 of 336 rows have no label")
        for note in shards.counts.notes
    ), shards.counts.notes
    alike = "asked.labelled: the labels 'Heart ', 'heart' differ in white space or case alone."
    assert alike in shards.counts.notes


def tool(name: str, **properties: str) -> dict[str, Any]:
    described = {key: {"type": kind} for key, kind in properties.items()}
    parameters = {"type": "object", "properties": described, "required": [*properties]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_a_rows_tools_are_rendered_as_if_it_were_alone(tmp_path: Path) -> None:
    tools = [[tool("weather", city="string")], [tool("book", seats="integer")]]
    calls = [{"city": "Ulm"}, {"seats": 2}]
    talks = [
        {
            "messages": [
                {"role": "user", "content": f"Do it, {i}."},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": f"call{i:05d}",
                            "type": "function",
                            "function": {
                                "name": tools[i % 2][0]["function"]["name"],
                                "arguments": calls[i % 2],
                            },
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": f"call{i:05d}", "content": "done"},
                {"role": "assistant", "content": "It is done."},
            ],
            "tools": tools[i % 2],
        }
        for i in range(40)
    ]
    lines = write_jsonl(tmp_path / "talks.jsonl", talks)
    pq.write_table(pa.Table.from_pylist(talks), tmp_path / "talks.parquet")
    assert pq.read_table(tmp_path / "talks.parquet")["tools"][0].as_py() != talks[0]["tools"]
    tokenizer = chats.of_family("qwen3")
    shards = made(
        tmp_path,
        tokenizer=tokenizer,
        corpora={
            "lines": {"jsonl": str(lines)},
            "parquet": {"parquet": str(tmp_path / "talks.parquet")},
        },
        sequence_length=1024,
    )
    expected = {
        tokenizer.apply_chat_template(talk["messages"], tools=talk["tools"], tokenize=False)
        for talk in talks
    }
    for stream in ("lines", "parquet"):
        shown = {
            tokenizer.decode(sample["input_ids"])
            for split in SPLITS
            for _, sample in samples(shards, stream, split)
        }
        shown = {text.rstrip("\n").removesuffix(tokenizer.eos_token) for text in shown}
        assert {text.split("<|im_start|>user")[0] for text in shown} == {
            text.split("<|im_start|>user")[0] for text in expected
        }
        assert len(shown) == 40
        assert not any("null" in text for text in shown)


def test_near_duplicates_of_one_opening_are_counted_and_shown(tmp_path: Path) -> None:
    opening = " ".join(f"opening{i}" for i in range(60))
    texts = [f"{opening} {' '.join(f'own{i}x{j}' for j in range(10))}" for i in range(500)]
    others = [" ".join(f"free{i}x{j}" for j in range(30)) for i in range(50)]
    (tmp_path / "texts.txt").write_text("\n".join([*texts, *others]))
    shards = made(
        tmp_path,
        corpora={"texts": {"text": str(tmp_path / "texts.txt")}},
        near_duplicates={"threshold": 0.8},
        sequence_length=512,
    )
    gone = left_out(shards, "texts")["near_duplicate"]
    assert gone > 100
    assert {*others} <= texts_of(shards, "texts")
    assert counts_of(shards, "texts").kept == 550 - gone
    examples = counts_of(shards, "texts").left_out["near_duplicate"].examples
    assert examples and all(example.startswith("opening0 ") for example in examples)
    held_out = {t for s in SPLITS[1:] for t in shards.text(s, ["texts"])["text"].to_pylist()}
    assert len(held_out & {*texts}) > 100
    note = f"texts: {gone} of 550 rows are nearly equal to another row, for example 'opening0"
    assert any(line.startswith(note) for line in shards.counts.notes), shards.counts.notes


def test_long_conversations_are_cut_as_said_and_what_teaches_nothing_is_told(
    tmp_path: Path,
) -> None:
    words = "and then it went on " * 40
    talks = [{"prompt": f"Short {i}?", "completion": f"Yes, {i}."} for i in range(80)] + [
        {"prompt": f"Long {i}? {words}", "completion": f"Yes, long {i}."} for i in range(20)
    ]
    file = {"jsonl": str(write_jsonl(tmp_path / "talks.jsonl", talks))}
    rules = ("split", "truncate_left", "truncate_right", "truncate_middle")
    shards = made(
        tmp_path,
        tokenizer=chats.tokenizer(),
        corpora={rule.replace("_", ""): {"source": file, "on_long_row": rule} for rule in rules},
        sequence_length=200,
    )
    notes = " ".join(shards.counts.notes)
    for rule in rules:
        stream = rule.replace("_", "")
        counts = counts_of(shards, stream)
        assert counts.long.rows == 20
        done = "split" if rule == "split" else "truncated"
        assert f"{stream}: 20 of 100 rows are longer than 200 tokens: {done}" in notes
        packed = [s for split in SPLITS for _, s in samples(shards, stream, split)]
        taught = sum(any(sample["label_mask"]) for sample in packed)
        assert len(packed) == taught, rule
        assert taught == (80 if rule == "truncate_right" else 100)
        unsupervised = left_out(shards, stream).get("unsupervised", 0)
        assert (unsupervised > 0) == (rule in ("split", "truncate_right"))
        told = f"{stream}: {unsupervised} samples of 100 rows have nothing to learn" in notes
        assert told == (unsupervised > 0)


def test_decontamination_removes_leaks_and_no_shared_instruction(tmp_path: Path) -> None:
    instruction = " ".join(f"instruct{i}" for i in range(15))

    def question(name: str, count: int = 20) -> str:
        return " ".join(f"{name}{j}" for j in range(count))

    tests = [f"{instruction} {question(f'test{i}x')}" for i in range(20)]
    train = [f"{instruction} {question(f'train{i}x')}" for i in range(40)]
    leaked = [f"{question(f'intro{i}x')} {question(f'test{i}x')}" for i in range(2)]
    labels = [{"label": ORGANS[i % 2]} for i in range(42)]
    given = {
        "train": [{"text": t, **n} for t, n in zip([*train, *leaked], labels)],
        "test": [{"text": t, **n} for t, n in zip(tests, labels)],
    }
    files = {
        split: {"jsonl": str(write_jsonl(tmp_path / f"{split}.jsonl", part))}
        for split, part in given.items()
    }
    corpus = write_jsonl(tmp_path / "corpus.jsonl", given["train"])
    shards = made(
        tmp_path,
        tasks={"asked": {"source": files}},
        corpora={"texts": {"source": {"jsonl": str(corpus)}}},
        decontaminate={},
        sequence_length=512,
    )
    for stream in ("asked.labelled", "texts"):
        kept = set(shards.text("train", [stream])["text"].to_pylist())
        counts = counts_of(shards, stream)
        assert not kept & {*leaked}
        assert kept | {*shards.text("validation", [stream])["text"].to_pylist()} >= {
            text for text in train if text not in shards.text("test", [stream])["text"].to_pylist()
        }
        gone = counts.left_out["contaminated"]
        assert 1 <= gone.rows <= 2
        assert len(gone.examples) == gone.rows
        for example in gone.examples:
            assert example in " ".join(tests) and len(example.split()) == 13
        assert any(
            line.startswith(f"{stream}: {gone.rows} of") and gone.examples[0][:40] in line
            for line in shards.counts.notes
        )


def test_a_train_split_that_is_all_contaminated_is_refused(tmp_path: Path) -> None:
    leaked = [" ".join(f"word{i}x{j}" for j in range(20)) for i in range(40)]
    given = {
        "train": [{"text": f"{t} again", "label": ORGANS[i % 2]} for i, t in enumerate(leaked)],
        "validation": rows()[:60],
        "test": [{"text": t, "label": ORGANS[i % 2]} for i, t in enumerate(leaked)],
    }
    files = {
        split: {"jsonl": str(write_jsonl(tmp_path / f"{split}.jsonl", part))}
        for split, part in given.items()
    }
    message = refused(tmp_path, tasks={"asked": {"source": files}}, decontaminate={})
    assert "asked.labelled" in message and "40" in message and "share text with a test" in message
