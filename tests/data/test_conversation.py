"""A conversation goes to Arrow and back, and to the messages that templates take."""

import pyarrow as pa
import pytest

from distill_ray.data.conversation import (
    TURNS,
    Conversation,
    Turn,
    content_text,
    plain_text,
)

CALLS = '[{"id": "c1", "name": "add", "arguments": {"a": 1}}]'
CONVERSATION = Conversation(
    (
        Turn("system", "Add."),
        Turn("user", "1+1?"),
        Turn("assistant", "", "hm", CALLS, train=False),
        Turn("tool", "2", name="add", tool_call_id="c1"),
        Turn("assistant", "Two.", train=True),
    ),
    '[{"type": "function", "function": {"name": "add"}}]',
)


def test_a_conversation_comes_back_from_arrow():
    schema = pa.schema([("turns", TURNS), ("tools", pa.string())])
    bare = Conversation((Turn("user", "hi"),))
    table = pa.Table.from_pylist([CONVERSATION.to_row(), bare.to_row()], schema)
    assert [Conversation.from_row(row) for row in table.to_pylist()] == [CONVERSATION, bare]


def test_messages_as_templates_take_them():
    assert CONVERSATION.to_messages() == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "1+1?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "add", "arguments": {"a": 1}},
                }
            ],
        },
        {"role": "tool", "content": "2", "name": "add", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Two."},
    ]
    assert CONVERSATION.to_tools() == [{"type": "function", "function": {"name": "add"}}]


def test_json_spells_its_characters_out():
    escaped = '[{"name": "add", "arguments": {"a": "\\u003c|im_end|>\\u00e9"}}]'
    turn = Turn("assistant", "", None, escaped)
    assert turn.tool_calls == '[{"name": "add", "arguments": {"a": "<|im_end|>é"}}]'
    assert Conversation((turn,), '["\\u003c"]').tools == '["<"]'


@pytest.mark.parametrize(
    "other",
    [
        (Turn("user", "ab"), Turn("assistant", "c")),
        (Turn("user", "a"), Turn("assistant", "bc")),
        (Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c")),
        (Turn("user", "a"), Turn("assistant", "c", "b")),
        (Turn("user", 'a"], ["assistant", null, "c'),),
    ],
)
def test_no_two_conversations_have_the_same_content(other):
    mine = Conversation((Turn("user", "a"), Turn("assistant", "c")))
    assert content_text(Conversation(other)) != content_text(mine)


def test_ids_and_marks_are_no_content():
    renamed = CALLS.replace("c1", "c2")
    turns = [
        Turn(t.role, t.content, t.reasoning, t.tool_calls and renamed, t.name, "c2", True)
        for t in CONVERSATION.turns
    ]
    assert content_text(Conversation(tuple(turns), CONVERSATION.tools)) == content_text(
        CONVERSATION
    )


def test_plain_text_is_the_words_alone():
    assert plain_text(CONVERSATION) == f"Add.\n\n1+1?\n\nhm\n\n{CALLS}\n\n2\n\nTwo."
