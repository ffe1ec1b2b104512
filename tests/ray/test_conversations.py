"""Conversations with tools: sharded, shown and trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chat_tokenizer as chats
import pytest
from tiny_run import config, write_jsonl

from distill_ray.config import InputError, RunConfig
from distill_ray.data.batches import Rows
from distill_ray.runtime.run import Run
from distill_ray.stages.pipeline import run_until
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.shard import shard
from distill_ray.stages.sharding.show import show

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_bed",
            "description": "Finds a free bed.",
            "parameters": {"type": "object", "properties": {"ward": {"type": "string"}}},
        },
    }
]
CALL = {"type": "function", "function": {"name": "find_bed", "arguments": {"ward": "heart"}}}


def chat(number: int) -> dict[str, Any]:
    """Three turns of the assistant, the first of which calls a tool."""
    return {
        "messages": [
            {"role": "system", "content": "You assign beds."},
            {"role": "user", "content": f"A bed for patient {number}?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "find_bed", "content": f'{{"bed": {number}}}'},
            {"role": "assistant", "content": f"Bed {number}."},
            {"role": "user", "content": "Is it <|im_end|> free?"},
            {"role": "assistant", "content": f"Yes, bed {number} is."},
        ],
        "tools": TOOLS,
    }


def chat_config(folder: Path, **conversation: Any) -> dict[str, Any]:
    data = config(folder)
    chats.of_family("qwen3").save_pretrained(str(folder / "tokenizer"))
    data["student"]["tokenizer"] = {"path": str(folder / "tokenizer")}
    write_jsonl(folder / "chats.jsonl", [chat(number) for number in range(120)])
    source = {"jsonl": str(folder / "chats.jsonl")}
    data["corpora"]["sources"].append(
        {"name": "chats", "source": source, "conversation": conversation}
    )
    data["corpora"]["sequence_length"] = 1024
    trainings = (*data["adapt"]["recipes"].values(), data["probe"], data["distill"])
    for each in trainings:
        each |= {"token_budget": 81920, "global_batch_size": 4}
    for model in (data["student"]["model"], *(t["model"] for t in data["teachers"])):
        model["init"]["max_position_embeddings"] = 1024
    return data


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> ShardSet:
    data = chat_config(tmp_path_factory.mktemp("chats"))
    return shard(Run.open(RunConfig.model_validate(data), "chats.yaml"))


def test_a_sample_is_the_templates_rendering_and_the_assistants_turns_are_learnt(
    shards: ShardSet, tmp_path: Path
) -> None:
    tokenizer = shards.tokenizer()
    rows = Rows(shards.artifact.local() / "packed/chats/train", tmp_path)
    texts = {row["row_id"]: row for row in shards.text("train", ["chats"]).to_pylist()}
    packed = rows[[0]]
    starts = [i for i, p in enumerate(packed["position_ids"][0]) if p == 0]
    ids = packed["input_ids"][0][: starts[1]]
    row = texts[packed["sources"][0][0]]
    number = int(row["turns"][1]["content"].split()[-1][:-1])
    messages = [dict(turn) for turn in chat(number)["messages"]]
    rendered = tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False)
    assert tokenizer.decode(ids) == rendered
    ends = [i for i in ids if i == tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert len(ends) == len(messages), "the one that is spelled in a text is none"
    mask = packed["label_mask"][0][: starts[1]]
    learnt = tokenizer.decode([ids[i + 1] for i in range(len(ids) - 1) if mask[i]])
    said = learnt.split("<|im_end|>")
    assert "find_bed" in said[0]
    assert said[1:] == [f"Bed {number}.", f"Yes, bed {number} is.", ""]
    assert packed["teacher_mask"][0] == packed["label_mask"][0]


def test_conversations_are_shown_with_their_tools(shards: ShardSet) -> None:
    (row,) = show(shards, rows=1, split="train", stream="chats")
    text = "".join(token.text for token in row.samples[0].tokens)
    assert "find_bed" in text and "You assign beds." in text
    learnt = "".join(token.text for token in row.samples[0].tokens if token.by == "both")
    assert "You assign" not in learnt and "Bed " in learnt


def test_what_was_guessed_and_counted_is_told(shards: ShardSet) -> None:
    counts = shards.counts.streams["chats"]
    assert counts.kept == counts.num_read == 120
    assert 0 < counts.supervised < counts.tokens
    assert any("row_format: messages" in note for note in shards.counts.notes)


def test_each_turn_may_be_a_sample_of_its_own(tmp_path: Path) -> None:
    data = chat_config(tmp_path, supervise="each")
    made = shard(Run.open(RunConfig.model_validate(data), "chats.yaml"))
    rows = Rows(made.artifact.local() / "packed/chats/train", tmp_path / "cache")
    sources = [source for row in rows[range(len(rows))]["sources"] for source in row]
    kept = len(made.text("train", ["chats"]))
    assert len(sources) == 3 * kept == 3 * len(set(sources))


def test_a_conversation_that_is_no_conversation_is_named(tmp_path: Path) -> None:
    data = chat_config(tmp_path)
    rows = [chat(number) for number in range(20)]
    rows[7]["messages"][2]["role"] = "robot"
    write_jsonl(tmp_path / "chats.jsonl", rows)
    with pytest.raises(
        InputError, match=r"chats\.jsonl, line 8, column 'messages\[2\]': role 'robot'"
    ):
        shard(Run.open(RunConfig.model_validate(data), "chats.yaml"))


@pytest.mark.slow
def test_a_student_is_distilled_on_conversations(tmp_path: Path) -> None:
    data = chat_config(tmp_path)
    data["teachers"] = data["teachers"][:1]
    data["teachers"][0]["recipes"] = ["chats"]
    mix = {"chats": 2, "organ.labelled": 1}
    recipe = data["adapt"]["recipes"]["full"] | {"mix": mix}
    data["adapt"]["recipes"] = {"chats": recipe}
    data["probe"] |= {"mix": mix}
    data["distill"] |= {"mix": mix}
    data["cluster"]["num_workers"] = 1
    run = Run.open(RunConfig.model_validate(data), "chats.yaml")
    students = run_until(run, "distill")
    curve = students.distilled.curve
    assert curve.streams["chats"].tokens > curve.streams["organ.labelled"].tokens > 0
    assert curve.skipped_steps == 0
    assert students.distilled.teacher == "wide"
