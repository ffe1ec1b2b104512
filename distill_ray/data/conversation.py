"""A conversation: turns of text, with reasoning and tool calls, as one row of data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

Role = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)

TURNS = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("reasoning", pa.string()),
            ("tool_calls", pa.string()),
            ("name", pa.string()),
            ("tool_call_id", pa.string()),
            ("train", pa.bool_()),
        ]
    )
)
"""Arrow type of a conversation's turns. Its tools are a string column of their own."""


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Role
    content: str
    """Empty where there is nothing but tool calls or reasoning."""
    reasoning: str | None = None
    """The assistant's thought before its answer."""
    tool_calls: str | None = None
    """JSON list of `{"id"?: str, "name": str, "arguments": object}`."""
    name: str | None = None
    """Who speaks; the tool's name where a tool does."""
    tool_call_id: str | None = None
    """Which call a tool answers."""
    train: bool | None = None
    """Whether the data say that the turn is learnt; None where they say nothing."""

    def __post_init__(self) -> None:
        if self.tool_calls is not None:
            object.__setattr__(self, "tool_calls", _spelled_out(self.tool_calls))


@dataclass(frozen=True)
class Conversation:
    """Turns, and the tools that the assistant may call."""

    turns: tuple[Turn, ...]
    tools: str | None = None
    """JSON list of tool schemas."""

    def __post_init__(self) -> None:
        if self.tools is not None:
            object.__setattr__(self, "tools", _spelled_out(self.tools))

    def to_row(self) -> dict[str, Any]:
        """Columns `turns`, of type `TURNS`, and `tools`."""
        return {"turns": [asdict(turn) for turn in self.turns], "tools": self.tools}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Conversation:
        """The conversation of a row with columns `turns` and `tools`."""
        return cls(tuple(Turn(**turn) for turn in row["turns"]), row["tools"])

    def to_messages(self) -> list[dict[str, Any]]:
        """The turns as `apply_chat_template` of transformers takes them."""
        return [_message(turn) for turn in self.turns]

    def to_tools(self) -> list[dict[str, Any]] | None:
        """The tools as `apply_chat_template` of transformers takes them."""
        return None if self.tools is None else json.loads(self.tools)


def content_text(conversation: Conversation) -> str:
    """What makes two conversations equal: all that a model reads, without ids and marks.

    It is JSON, so no text can be taken for the border of two turns.
    """
    turns = []
    for turn in conversation.turns:
        calls = [[c["name"], c["arguments"]] for c in json.loads(turn.tool_calls or "[]")]
        turns.append([turn.role, turn.name, turn.content, turn.reasoning, calls])
    return json.dumps([turns, conversation.tools], ensure_ascii=False)


def plain_text(conversation: Conversation) -> str:
    """The turns' words, a blank line between them, for what compares or judges text."""
    words = [
        text
        for turn in conversation.turns
        for text in (turn.reasoning, turn.content, turn.tool_calls)
        if text
    ]
    return "\n\n".join(words)


def _spelled_out(text: str) -> str:
    """JSON without escaped characters: what it spells can be found in it."""
    return json.dumps(json.loads(text), ensure_ascii=False) if "\\u" in text else text


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.reasoning is not None:
        message["reasoning_content"] = turn.reasoning
    if turn.tool_calls is not None:
        message["tool_calls"] = [
            {
                **({"id": call["id"]} if "id" in call else {}),
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in json.loads(turn.tool_calls)
        ]
    if turn.name is not None:
        message["name"] = turn.name
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    return message
