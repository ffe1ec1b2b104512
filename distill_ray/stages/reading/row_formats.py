"""Rows that people have, as conversations: chat messages, ShareGPT, Alpaca, prompt and completion.

A value is null where a key is absent: Arrow gives every turn the keys of all turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill_ray.data.conversation import Conversation, Turn
from distill_ray.stages.reading.turns import (
    RowProblem,
    check_conversation,
    items_of,
    read_tools,
    read_turn,
    read_turns,
    text_of,
)

__all__ = ["PAIRS", "ROW_FORMATS", "RowFormat", "RowProblem", "detect_format"]

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
"""Columns of a prompt and its completion; the first pair that is there counts."""


@dataclass(frozen=True)
class RowFormat:
    """One way in which rows hold conversations."""

    columns: tuple[str, ...]
    """Columns that it reads, where they are there."""
    required: tuple[tuple[str, ...], ...]
    """Sets of columns, of which one must be there."""
    read: Callable[[Mapping[str, Any]], Conversation]

    def detect(self, columns: Mapping[str, str]) -> bool:
        """Whether rows with these columns (name → kind) are of this format."""
        return any(set(names) <= set(columns) for names in self.required)

    def convert(self, row: Mapping[str, Any]) -> Conversation:
        """The row's conversation.

        Raises:
            RowProblem: the row isn't a conversation; it names the column.
        """
        return check_conversation(self.columns[0], self.read(row))


def detect_format(columns: Mapping[str, str]) -> str | None:
    """The name of the first format that rows with these columns (name → kind) are of."""
    return next((name for name, form in ROW_FORMATS.items() if form.detect(columns)), None)


def _messages(row: Mapping[str, Any]) -> Conversation:
    tools = "tools" if row.get("tools") is not None else "functions"
    turns = _with_system(row, read_turns("messages", row.get("messages")))
    return Conversation(turns, read_tools(tools, row.get(tools)))


def _sharegpt(row: Mapping[str, Any]) -> Conversation:
    turns = _with_system(row, read_turns("conversations", row.get("conversations")))
    return Conversation(turns, read_tools("tools", row.get("tools")))


def _alpaca(row: Mapping[str, Any]) -> Conversation:
    history: list[Turn] = []
    for number, item in enumerate(items_of("history", row.get("history") or [])):
        place = f"history[{number}]"
        pair = items_of(place, item)
        if len(pair) != 2:
            raise RowProblem(place, f"{len(pair)} texts", "Give a question and its answer.")
        history.append(Turn("user", text_of(f"{place}[0]", pair[0])))
        history.append(Turn("assistant", text_of(f"{place}[1]", pair[1])))
    parts = [
        text_of(name, row[name])
        for name in ("instruction", "input")
        if row.get(name) is not None and row[name] != ""
    ]
    if not parts:
        raise RowProblem("instruction", "nothing", "Give a text.")
    turns = [*history, Turn("user", "\n".join(parts))]
    if row.get("output") is not None:
        turns.append(read_turn("output", {"role": "assistant", "content": row["output"]}))
    return Conversation(_with_system(row, tuple(turns)))


def _prompt_completion(row: Mapping[str, Any]) -> Conversation:
    prompt, completion = next(
        (pair for pair in PAIRS if all(name in row for name in pair)), PAIRS[0]
    )
    value = row.get(prompt)
    if value is None:
        raise RowProblem(prompt, "nothing", "Give a text, or a list of messages.")
    if isinstance(value, str):
        turns: list[Turn] = [Turn("user", text_of(prompt, value))]
    else:
        # Only the completion is learnt, whatever the assistant says in the prompt.
        turns = [
            replace(turn, train=False) if turn.role == "assistant" else turn
            for turn in read_turns(prompt, value)
        ]
    answer = row.get(completion)
    if isinstance(answer, str):
        turns.append(read_turn(completion, {"role": "assistant", "content": answer}))
    elif answer is not None:
        turns += read_turns(completion, answer)
    conversation = Conversation(tuple(turns), read_tools("tools", row.get("tools")))
    return replace(conversation, turns=_with_system(row, conversation.turns))


def _with_system(row: Mapping[str, Any], turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns behind what the row's own column `system` says."""
    value = row.get("system")
    if value is None or value == "":
        return turns
    return (Turn("system", text_of("system", value)), *turns)


ROW_FORMATS: dict[str, RowFormat] = {
    "messages": RowFormat(
        ("messages", "tools", "functions", "system"), (("messages",),), _messages
    ),
    "sharegpt": RowFormat(("conversations", "system", "tools"), (("conversations",),), _sharegpt),
    "alpaca": RowFormat(
        ("instruction", "input", "output", "system", "history"),
        (("instruction", "output"),),
        _alpaca,
    ),
    "prompt_completion": RowFormat(
        (*dict.fromkeys(name for pair in PAIRS for name in pair), "system", "tools"),
        PAIRS,
        _prompt_completion,
    ),
}
"""Formats by name, in the order in which columns are compared with them."""
