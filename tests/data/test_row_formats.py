"""Rows of the formats that people have become conversations, or are refused by name."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_ray.data.conversation import Conversation, Turn
from distill_ray.stages.reading.row_formats import ROW_FORMATS, RowProblem, detect_format

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ASK, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def messages(*turns, **columns):
    return ROW_FORMATS["messages"].convert({"messages": list(turns), **columns})


def sharegpt(*turns, **columns):
    turns = [{"from": role, "value": value} for role, value in turns]
    return ROW_FORMATS["sharegpt"].convert({"conversations": turns, **columns})


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (["id", "messages"], "messages"),
        (["conversations", "system"], "sharegpt"),
        (["instruction", "input", "output"], "alpaca"),
        (["prompt", "completion"], "prompt_completion"),
        (["question", "answer"], "prompt_completion"),
        (["prompt", "response", "text"], "prompt_completion"),
        (["text", "label"], None),
        (["prompt"], None),
        (["instruction"], None),
    ],
)
def test_a_format_is_known_by_its_columns(columns, name):
    assert detect_format(dict.fromkeys(columns, "text")) == name


def test_messages_with_calls_reasoning_and_tools():
    conversation = messages(
        {"role": "developer", "content": "Add."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "+1"}],
        },
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nTwo."},
        tools=[SCHEMA],
    )
    call = '[{"id": "c1", "name": "add", "arguments": {"a": 1}}]'
    assert conversation.turns == (
        Turn("developer", "Add."),
        Turn("user", "1+1"),
        Turn("assistant", "", "hm", call),
        Turn("tool", "2", name="add", tool_call_id="c1"),
        Turn("assistant", "Two.", "so"),
    )
    assert json.loads(conversation.tools) == [SCHEMA]


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}', '{"a":1}'])
def test_arguments_are_an_object_or_its_json(arguments):
    call = {"function": {"name": "add", "arguments": arguments}}
    (turn,) = messages({"role": "assistant", "content": "", "tool_calls": [call]}).turns
    assert turn.tool_calls == '[{"name": "add", "arguments": {"a": 1}}]'


@pytest.mark.parametrize("tools", [[SCHEMA], json.dumps([SCHEMA]), [SCHEMA["function"]]])
def test_tools_are_a_list_or_its_json(tools):
    assert json.loads(messages(ASK, tools=tools).tools) == [SCHEMA]


def test_a_list_of_messages_may_be_json_in_a_string():
    row = {"messages": json.dumps([ASK, ANSWER])}
    assert ROW_FORMATS["messages"].convert(row) == messages(ASK, ANSWER)


def test_nulls_of_arrow_are_absent_and_nulls_of_json_stay():
    calls = [
        {"function": {"name": "add", "arguments": {"a": 1}}},
        {"function": {"name": "neg", "arguments": {"b": 2}}},
    ]
    turns = [ASK, {"role": "assistant", "content": None, "tool_calls": calls}]
    column = pa.array([turns])
    assert column[0].as_py()[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": None}
    assert messages(*column[0].as_py()) == messages(*turns)
    own = {"function": {"name": "add", "arguments": '{"a": null}'}}
    (turn,) = messages({"role": "assistant", "content": "", "tool_calls": [own]}).turns
    assert json.loads(turn.tool_calls)[0]["arguments"] == {"a": None}


@pytest.mark.parametrize(
    ("fields", "train"),
    [
        ([{}, {}], [None, None]),
        ([{"train": True}, {}], [True, None]),
        ([{"train": False}, {"train": 1}], [False, True]),
        ([{"weight": 0}, {}], [False, True]),
        ([{"weight": 0}, {"weight": 1.0}], [False, True]),
        ([{"loss": False}, {"loss": None}], [False, None]),
    ],
)
def test_fields_that_say_what_is_learnt(fields, train):
    turns = messages(ASK, ANSWER | fields[0], ASK, ANSWER | fields[1]).turns
    assert [turn.train for turn in turns if turn.role == "assistant"] == train


def test_sharegpt_with_a_call_and_its_observation():
    conversation = sharegpt(
        ("human", "1+1?"),
        ("function_call", '{"name": "add", "arguments": {"a": 1}}'),
        ("observation", "2"),
        ("gpt", "Two."),
        system="Add.",
        tools=json.dumps([SCHEMA["function"]]),
    )
    call = '[{"name": "add", "arguments": {"a": 1}}]'
    assert conversation.turns == (
        Turn("system", "Add."),
        Turn("user", "1+1?"),
        Turn("assistant", "", None, call),
        Turn("tool", "2"),
        Turn("assistant", "Two."),
    )
    assert json.loads(conversation.tools) == [SCHEMA]


def test_conversations_may_have_openais_keys():
    row = {"conversations": [ASK, ANSWER]}
    assert ROW_FORMATS["sharegpt"].convert(row) == messages(ASK, ANSWER)


def test_alpaca():
    convert = ROW_FORMATS["alpaca"].convert
    row = {"instruction": "Add.", "input": "1+1", "output": "2", "history": [["a", "b"]]}
    assert convert({**row, "system": "S"}).turns == (
        Turn("system", "S"),
        Turn("user", "a"),
        Turn("assistant", "b"),
        Turn("user", "Add.\n1+1"),
        Turn("assistant", "2"),
    )
    bare = {"instruction": "Add.", "input": None, "output": None}
    assert convert(bare).turns == (Turn("user", "Add."),)


def test_prompt_and_completion_as_text_or_messages():
    convert = ROW_FORMATS["prompt_completion"].convert
    expected = (Turn("user", "hi"), Turn("assistant", "ho"))
    assert convert({"prompt": "hi", "completion": "ho"}).turns == expected
    assert convert({"question": "hi", "answer": "ho"}).turns == expected
    assert convert({"prompt": [ASK], "completion": [ANSWER]}).turns == expected
    longer = convert({"prompt": [ASK, ANSWER, ASK], "completion": "ho"}).turns
    assert [turn.train for turn in longer] == [None, False, None, None], "a prompt isn't learnt"


@pytest.mark.parametrize(
    ("turns", "column", "found"),
    [
        ([], "messages", "an empty list"),
        ([{"role": "system", "content": "S"}], "messages", "only system turns"),
        ([{"role": "narrator", "content": "x"}], "messages[0]", "role 'narrator'"),
        ([{"content": "x"}], "messages[0]", "no role"),
        (["hi"], "messages[0]", "a text"),
        ([ASK, {"role": "assistant", "content": " "}], "messages[1].content", "an empty answer"),
        ([ASK, {"role": "assistant", "content": None}], "messages[1].content", "an empty answer"),
        ([{"role": "user", "content": None}], "messages[0].content", "nothing"),
        ([{"role": "user", "content": 7}], "messages[0].content", "int 7"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}],
            "messages[0].content[0]",
            "a part of type 'image_url'",
        ),
        ([ASK | {"images": ["a.png"]}], "messages[0].images", "images"),
        ([ASK | {"content": "\ud83d"}], "messages[0].content", "half of a character"),
        ([ASK | {"train": True}], "messages[0]", "role 'user' marked to be learnt"),
        ([ASK, ANSWER | {"weight": 0.5}], "messages[1].weight", "0.5"),
        ([ASK | {"tool_calls": [CALL]}], "messages[0]", "tool calls of role 'user'"),
        ([ASK, {"role": "tool", "content": "2"}], "messages", "turn 1 is a tool's"),
        (
            [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, ASK],
            "messages",
            "two system turns",
        ),
        (
            [ANSWER | {"tool_calls": [CALL]}, {"role": "tool", "content": "", "tool_call_id": "x"}],
            "messages",
            "answers call 'x'",
        ),
        (
            [ANSWER | {"tool_calls": [{"function": {"name": "add", "arguments": "{a: 1}"}}]}],
            "messages[0].tool_calls[0].arguments",
            "which isn't JSON",
        ),
        (
            [ANSWER | {"tool_calls": [{"function": {"name": "add", "arguments": "[1]"}}]}],
            "messages[0].tool_calls[0].arguments",
            "a list",
        ),
        (
            [ANSWER | {"tool_calls": [{"name": "add", "arguments": {"a": b"1"}}]}],
            "messages[0].tool_calls",
            "what JSON can't hold",
        ),
        ([ANSWER | {"tool_calls": [{"id": "c"}]}], "messages[0].tool_calls[0]", "without a name"),
        ([ANSWER | {"content": "<think>hm"}], "messages[0]", "<think> that nothing ends"),
        (
            [ANSWER | {"content": "<think>a</think>b", "reasoning": "c"}],
            "messages[0]",
            "reasoning twice",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_place(turns, column, found):
    with pytest.raises(RowProblem) as refused:
        messages(*turns)
    assert refused.value.column == column
    assert found in refused.value.what
    assert refused.value.fix


def test_a_text_in_the_place_of_messages_is_refused():
    with pytest.raises(RowProblem, match="messages: 'hi', which isn't JSON"):
        ROW_FORMATS["messages"].convert({"messages": "hi"})


texts = st.text(st.characters(exclude_categories=["Cs"]))
answers = texts.filter(lambda text: text.strip() and not text.lstrip().startswith("<think>"))


@given(st.lists(st.tuples(texts, answers), min_size=1, max_size=3))
def test_any_text_comes_back_from_every_format_and_from_arrow(pairs):
    turns = tuple(
        turn for ask, say in pairs for turn in (Turn("user", ask), Turn("assistant", say))
    )
    conversation = messages(*({"role": t.role, "content": t.content} for t in turns))
    assert conversation.turns == turns
    assert (
        sharegpt(
            *(
                ("human", a) if i % 2 == 0 else ("gpt", a)
                for i, a in enumerate(turn.content for turn in turns)
            )
        ).turns
        == turns
    )
    ask, say = pairs[0]
    pair = ROW_FORMATS["prompt_completion"].convert({"prompt": ask, "completion": say})
    assert pair.turns == turns[:2]
    assert Conversation.from_row(conversation.to_row()) == conversation
