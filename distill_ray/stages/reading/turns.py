"""Turns of a conversation, read from the lists of messages that data sets hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distill_ray.config.errors import did_you_mean
from distill_ray.data.conversation import Conversation, Role, Turn

ROLE_NAMES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
"""Names of roles in OpenAI's format, in ShareGPT's and in what is derived from them."""
TEXT_PARTS = ("text", "input_text", "output_text")
REASONING_PARTS = ("thinking", "reasoning")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
TRAIN_KEYS = ("train", "training", "weight", "loss")
MEDIA_KEYS = ("images", "image", "audio", "audios", "videos", "video")
THINK, END_THINK = "<think>", "</think>"


class RowProblem(Exception):  # noqa: N818
    """A row that isn't a conversation."""

    def __init__(self, column: str, what: str, fix: str) -> None:
        super().__init__(f"{column}: {what}. {fix}")
        self.column = column
        """Column, with the place in it: `messages[2].content`."""
        self.what = what
        self.fix = fix


def read_turns(column: str, value: Any) -> tuple[Turn, ...]:
    """Turns of a list of messages, which may be JSON in a string.

    Raises:
        RowProblem: it is no such list, or one of its messages can't be read.
    """
    items = items_of(column, value)
    if not items:
        raise RowProblem(column, "an empty list", "Give at least one message.")
    turns = tuple(read_turn(f"{column}[{i}]", item) for i, item in enumerate(items))
    if any(_present(item, "weight") is not None for item in items):
        # A turn without a weight has weight 1, where other turns have one.
        turns = tuple(
            replace(turn, train=True) if turn.role == "assistant" and turn.train is None else turn
            for turn in turns
        )
    return turns


def items_of(column: str, value: Any) -> list[Any]:
    """The items of a list, which may be JSON in a string."""
    if isinstance(value, str):
        value = _parsed(column, value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise RowProblem(column, _kind(value), "Give a list.")
    return list(value)


def text_of(column: str, value: Any) -> str:
    """A text, or the text of a list of parts."""
    return _content(column, value)[0]


def read_tools(column: str, value: Any) -> str | None:
    """Schemas of tools, a list or its JSON, as a JSON list in the form that templates expect."""
    if value is None or value == "":
        return None
    tools = []
    for number, item in enumerate(items_of(column, value)):
        place = f"{column}[{number}]"
        tool = _parsed(place, item) if isinstance(item, str) else item
        tool = tool if isinstance(value, str) else _without_nulls(tool)
        if not isinstance(tool, Mapping):
            raise RowProblem(place, _kind(tool), "Give a tool's schema.")
        if "function" not in tool:
            tool = {"type": "function", "function": tool}
        if not isinstance(tool["function"], Mapping) or not isinstance(
            tool["function"].get("name"), str
        ):
            raise RowProblem(place, "a schema without a name", "Give `function.name`.")
        tools.append(tool)
    return _json(column, tools) if tools else None


def check_conversation(column: str, conversation: Conversation) -> Conversation:
    """Refuse turns that can't follow each other. Who speaks first is the template's to judge.

    Raises:
        RowProblem: nobody asks or answers, the beginning has two system turns, or a tool answers
            what was never called.
    """
    roles = [turn.role for turn in conversation.turns]
    if not {"user", "assistant"} & set(roles):
        raise RowProblem(column, f"only {roles[0]} turns", "Give a user's or an assistant's turn.")
    if len(roles) > 1 and {roles[0], roles[1]} <= {"system", "developer"}:
        raise RowProblem(column, "two system turns at the beginning", "Leave one out.")
    call_ids: list[str | None] | None = None
    for number, turn in enumerate(conversation.turns):
        if turn.role == "assistant":
            # Calls may be spelled in the text, where they have no ids.
            call_ids = [c.get("id") for c in json.loads(turn.tool_calls or "[]")]
        elif turn.role != "tool":
            call_ids = None
        elif call_ids is None:
            what = f"turn {number} is a tool's and follows no call"
            raise RowProblem(column, what, "Put the call before it.")
        elif turn.tool_call_id and all(call_ids) and call_ids and turn.tool_call_id not in call_ids:
            what = f"turn {number} answers call {turn.tool_call_id!r}, which isn't before it"
            raise RowProblem(column, what, f"The calls are {', '.join(map(repr, call_ids))}.")
    return conversation


def read_turn(place: str, item: Any) -> Turn:
    """The turn of one message.

    Raises:
        RowProblem: it has no known role, or says something other than text.
    """
    if not isinstance(item, Mapping):
        raise RowProblem(place, _kind(item), "Give an object with `role` and `content`.")
    for key in MEDIA_KEYS:
        if _present(item, key):
            raise RowProblem(f"{place}.{key}", key, "Only text can be read: leave such rows out.")
    name = _present(item, "role") or _present(item, "from")
    if not isinstance(name, str) or name not in ROLE_NAMES:
        what = "no role" if name is None else f"role {name!r}"
        raise RowProblem(place, what, did_you_mean(str(name), ROLE_NAMES))
    role = ROLE_NAMES[name]
    key = "value" if item.get("content") is None and "value" in item else "content"
    value, calls = item.get(key), _present(item, "tool_calls")
    if calls is None and (call := _present(item, "function_call")) is not None:
        calls = [call]
    calls_key = "tool_calls"
    if name == "function_call":
        calls_key, calls, value = key, value, None
    tool_calls = _tool_calls(f"{place}.{calls_key}", calls)
    content, reasoning = "", None
    if value is not None:
        content, reasoning = _content(f"{place}.{key}", value)
    elif role != "assistant":
        raise RowProblem(f"{place}.{key}", "nothing", "Give a text.")
    train = _train(place, item)
    if role == "assistant":
        content, reasoning = _reasoning(place, item, content, reasoning)
        if not (content.strip() or reasoning or tool_calls):
            raise RowProblem(f"{place}.{key}", "an empty answer", "Leave the turn or the row out.")
    elif tool_calls or reasoning:
        what = "tool calls" if tool_calls else "reasoning"
        raise RowProblem(place, f"{what} of role {name!r}", "Only the assistant has them.")
    elif train:
        raise RowProblem(
            place, f"role {name!r} marked to be learnt", "Only the assistant's can be."
        )
    return Turn(
        role,
        content,
        reasoning,
        tool_calls,
        _string(place, item, "name"),
        _string(place, item, "tool_call_id"),
        train,
    )


def _content(place: str, value: Any) -> tuple[str, str | None]:
    """A text, or the parts of one: (text, reasoning)."""
    if isinstance(value, str):
        _check_characters(place, value)
        return value, None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise RowProblem(place, _kind(value), "Give a text.")
    texts, thoughts = [], []
    for number, part in enumerate(value):
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        where = f"{place}[{number}]"
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in REASONING_PARTS and part.get(kind) is not None:
            thoughts.append(text_of(f"{where}.{kind}", part[kind]))
        else:
            what = _kind(part) if kind is None else f"a part of type {kind!r}"
            raise RowProblem(where, what, "Only text can be read: leave such rows out.")
    text = "".join(texts)
    _check_characters(place, text)
    return text, "".join(thoughts) or None


def _reasoning(
    place: str, item: Mapping[str, Any], content: str, reasoning: str | None
) -> tuple[str, str | None]:
    """The assistant's answer and its thought, from a key of its own or from `<think>` tags."""
    for key in REASONING_KEYS:
        value = _present(item, key)
        if value is not None and value != "" and reasoning is None:
            reasoning = text_of(f"{place}.{key}", value)
    if content.lstrip().startswith(THINK):
        thought, end, answer = content.lstrip()[len(THINK) :].partition(END_THINK)
        if not end:
            raise RowProblem(place, f"{THINK} that nothing ends", f"Put {END_THINK} behind it.")
        if reasoning is not None:
            raise RowProblem(place, "reasoning twice", f"Leave out the key or {THINK}.")
        content, reasoning = answer.lstrip("\n"), thought.strip("\n")
    return content, reasoning if reasoning and reasoning.strip() else None


def _tool_calls(place: str, value: Any) -> str | None:
    """Calls of tools as a JSON list of `{id, name, arguments}`."""
    if value is None or value == "" or value == []:
        return None
    is_json = isinstance(value, str)
    value = _parsed(place, value) if is_json else value
    items = [value] if isinstance(value, Mapping) else items_of(place, value)
    calls = []
    for number, item in enumerate(items):
        where = f"{place}[{number}]"
        if not isinstance(item, Mapping):
            raise RowProblem(where, _kind(item), "Give an object with a function's name.")
        function = _present(item, "function") or item
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            raise RowProblem(where, "a call without a name", "Give the function's name.")
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str) and arguments.strip():
            arguments = _parsed(f"{where}.arguments", arguments)
        elif not is_json:
            arguments = _without_nulls(arguments)
        arguments = {} if arguments is None or arguments == "" else arguments
        if not isinstance(arguments, Mapping):
            raise RowProblem(f"{where}.arguments", _kind(arguments), "Give a JSON object.")
        call_id = _string(where, item, "id")
        calls.append(
            {
                **({} if call_id is None else {"id": call_id}),
                "name": name,
                "arguments": arguments,
            }
        )
    return _json(place, calls)


def _train(place: str, item: Mapping[str, Any]) -> bool | None:
    for key in TRAIN_KEYS:
        value = _present(item, key)
        if value is not None:
            if value not in (0, 1):
                raise RowProblem(f"{place}.{key}", repr(value), "Give 0 or 1, true or false.")
            return bool(value)
    return None


def _string(place: str, item: Mapping[str, Any], key: str) -> str | None:
    value = _present(item, key)
    if value is not None and not isinstance(value, str):
        raise RowProblem(f"{place}.{key}", _kind(value), "Give a text.")
    return value or None


def _present(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, Mapping) else None


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        shown = repr(text if len(text) <= 60 else text[:57] + "...")
        raise RowProblem(place, f"{shown}, which isn't JSON ({error})", "Give JSON.") from error


def _json(place: str, value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise RowProblem(place, f"what JSON can't hold ({error})", "Give JSON values.") from error
    _check_characters(place, text)
    return text


def _without_nulls(value: Any) -> Any:
    """The value without the keys that Arrow fills with nulls."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(item) for item in value]
    return value


def _check_characters(place: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"{text[error.start]!a}, half of a character"
        raise RowProblem(place, what, "Write the whole character.") from error


def _kind(value: Any) -> str:
    """What a value is, for messages."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a boolean"}
    if value is None:
        return "nothing"
    return kinds.get(type(value)) or f"{type(value).__name__} {value!r}"[:60]
