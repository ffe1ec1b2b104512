"""Conversations become the tokens of their template, and masks hold what the assistant says."""

import json
from functools import cache

import chat_tokenizer as chats
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from distill_ray.data.chat_template import ChatTemplate
from distill_ray.data.control_tokens import ChatTemplateError
from distill_ray.data.conversation import Conversation, Turn

KINDS = ["bytes", *chats.METASPACE]
TOOLS = (
    '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object", '
    '"properties": {"a": {"type": "integer"}}}}}]'
)
CALL = '[{"id": "abcdefghi", "name": "add", "arguments": {"a": 1, "b": "left"}}]'


def ask(text):
    return Turn("user", text)


def say(text, reasoning=None, calls=None, train=None):
    return Turn("assistant", text, reasoning, calls, train=train)


CHAT = Conversation((ask("Name the organ"), say("heart"), ask(" pain?\n"), say("left heart")))
WITH_TOOLS = Conversation(
    (
        ask("1+1?"),
        say("", None, CALL),
        Turn("tool", "2", name="add", tool_call_id="abcdefghi"),
        say("Two."),
        ask("pain?"),
        say("heart"),
    ),
    TOOLS,
)
THINKING = Conversation(
    (
        ask("1+1?"),
        say("", "so", CALL),
        Turn("tool", "2", name="add", tool_call_id="abcdefghi"),
        say("Two.", "hm"),
    ),
    TOOLS,
)


def template_ids(tokenizer, conversation, **args):
    return tokenizer.apply_chat_template(
        conversation.to_messages(), tools=conversation.to_tools(), return_dict=False, **args
    )


def supervised(tokenizer, rendered):
    """The runs of tokens whose prediction is supervised, as text."""
    runs, last = [], None
    for place in (i for i, is_supervised in enumerate(rendered.label_mask) if is_supervised):
        if last is None or place != last + 1:
            runs.append([])
        runs[-1].append(rendered.ids[place + 1])
        last = place
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", chats.FAMILIES)
def test_tokens_are_the_templates_and_masks_the_assistants_words(family, kind):
    tokenizer = chats.of_family(family, kind)
    (made,) = ChatTemplate(tokenizer).samples(CHAT)
    assert made.ids == template_ids(tokenizer, CHAT)
    assert len(made.label_mask) == len(made.ids)
    end = chats.FAMILIES[family][0]
    runs = supervised(tokenizer, made)
    assert [run.lstrip(" ") for run in runs] == [f"heart{end}", f"left heart{end}"]
    assert made.supervised_tokens == sum(made.label_mask)
    assert made.reasoning_tokens == 0


@pytest.mark.parametrize("kind", ["bytes", "first", "legacy"])
@pytest.mark.parametrize(
    ("family", "call"),
    [
        (
            "qwen3",
            '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "left"}}\n</tool_call>'
            "<|im_end|>",
        ),
        ("llama3", '{"name": "add", "parameters": {"a": 1, "b": "left"}}<|eot_id|>'),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1, "b": "left"}, '
            '"id": "abcdefghi"}]<|end|>',
        ),
    ],
)
def test_a_tool_call_is_supervised_as_the_template_writes_it(family, kind, call):
    tokenizer = chats.of_family(family, kind)
    (made,) = ChatTemplate(tokenizer).samples(WITH_TOOLS)
    assert made.ids == template_ids(tokenizer, WITH_TOOLS)
    end = chats.FAMILIES[family][0]
    # Some tokenizers put a space behind each control token.
    runs = [run.replace(" ", "") for run in supervised(tokenizer, made)]
    assert runs == [call.replace(" ", ""), f"Two.{end}", f"heart{end}"]


def test_what_the_assistant_says_beside_a_call_is_supervised_with_it():
    tokenizer = chats.of_family("qwen3")
    turns = (ask("1+1?"), say("I add.", None, CALL))
    (made,) = ChatTemplate(tokenizer).samples(Conversation(turns, TOOLS))
    (run,) = supervised(tokenizer, made)
    assert run.startswith("I add.\n<tool_call>\n{") and run.endswith("</tool_call><|im_end|>")


@pytest.mark.parametrize(
    ("reasoning", "call", "answer", "thoughts"),
    [
        ("supervise", "<think>\nso\n</think>\n\n<tool_call>", "<think>\nhm\n</think>\n\nTwo.", 4),
        ("mask", "<tool_call>", "Two.", 4),
        ("strip", "<tool_call>", "Two.", 0),
    ],
)
def test_reasoning_is_supervised_masked_or_left_out(reasoning, call, answer, thoughts):
    tokenizer = chats.of_family("qwen3")
    (made,) = ChatTemplate(tokenizer, reasoning=reasoning).samples(THINKING)
    call_run, answer_run = supervised(tokenizer, made)
    assert call_run.partition("\n{")[0] == call
    assert answer_run == answer + "<|im_end|>"
    assert made.reasoning_tokens == thoughts
    has_thought = "hm" in tokenizer.decode(made.ids)
    assert has_thought == (reasoning != "strip")
    if reasoning != "strip":
        assert made.ids == template_ids(tokenizer, THINKING)


def test_an_empty_thought_that_the_template_writes_is_not_supervised():
    tokenizer = chats.of_family("qwen3")
    for conversation in (CHAT, Conversation((ask("1+1?"), say("", None, CALL)), TOOLS)):
        (made,) = ChatTemplate(tokenizer).samples(conversation)
        assert "<think>\n\n</think>" in tokenizer.decode(made.ids)
        assert not any("think" in run for run in supervised(tokenizer, made))


TURNS = (ask("a"), say("one", "x"), ask("b"), say("two", "y", train=True), ask("c"), say("three"))


@pytest.mark.parametrize(
    ("supervise", "expected"),
    [
        ("all", [["one", "two", "three"]]),
        ("last", [["three"]]),
        ("marked", [["two"]]),
        (
            "each",
            [["<think>\nx\n</think>\n\none"], ["<think>\ny\n</think>\n\ntwo"], ["three"]],
        ),
    ],
)
def test_which_turns_are_supervised(supervise, expected):
    tokenizer = chats.of_family("qwen3")
    samples = ChatTemplate(tokenizer, supervise=supervise).samples(Conversation(TURNS))
    assert [supervised(tokenizer, made) for made in samples] == [
        [f"{text}<|im_end|>" for text in texts] for texts in expected
    ]
    for number, made in enumerate(samples):
        turns = TURNS[: 2 * number + 2] if supervise == "each" else TURNS
        assert made.ids == template_ids(tokenizer, Conversation(turns))


@pytest.mark.parametrize("supervise", ["all", "last", "each"])
def test_a_turn_marked_as_not_to_be_learnt_never_is(supervise):
    tokenizer = chats.of_family("chatml")
    turns = (ask("a"), say("one", train=False), ask("b"), say("two"))
    samples = ChatTemplate(tokenizer, supervise=supervise).samples(Conversation(turns))
    assert [supervised(tokenizer, made) for made in samples] == [["two<|im_end|>"]]


def test_masks_are_those_of_generation_tags():
    tokenizer = chats.of_family("generation")
    (made,) = ChatTemplate(tokenizer).samples(CHAT)
    tagged = tokenizer.apply_chat_template(
        CHAT.to_messages(), return_dict=True, return_assistant_tokens_mask=True
    )
    assert [0, *map(int, made.label_mask[:-1])] == tagged["assistant_masks"]


def test_a_conversation_in_which_the_assistant_says_nothing_is_a_prompt():
    tokenizer = chats.of_family("chatml")
    asked = Conversation((ask("pain?"),))
    (made,) = ChatTemplate(tokenizer).samples(asked)
    assert made.ids == template_ids(tokenizer, asked, add_generation_prompt=True)
    assert made.supervised_tokens == 0 and not any(made.label_mask)


def test_arguments_are_passed_to_every_rendering():
    tokenizer = chats.of_family("qwen3")
    asked = Conversation((ask("pain?"),))
    (made,) = ChatTemplate(tokenizer, args={"enable_thinking": False}).samples(asked)
    assert tokenizer.decode(made.ids).endswith("assistant\n<think>\n\n</think>\n\n")
    tokenizer = chats.of_family("llama3")
    (made,) = ChatTemplate(tokenizer, args={"date_string": "1 May 2025"}).samples(CHAT)
    assert made.ids == template_ids(tokenizer, CHAT, date_string="1 May 2025")


def test_a_day_that_the_template_prints_is_always_the_same():
    source = "{{ strftime_now('%d %B %Y') + '<|im_end|>' }}" + chats.CHATML
    tokenizer = chats.tokenizer(source)
    (made,) = ChatTemplate(tokenizer).samples(CHAT)
    assert tokenizer.decode(made.ids).startswith("26 July 2024<|im_end|>")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"enable_thinkin": True}, "no argument 'enable_thinkin'. Did you mean 'enable_thinking'?"),
        ({"tools": []}, "no argument 'tools'"),
        ({"bos_token": "x"}, "no argument 'bos_token'"),
    ],
)
def test_an_argument_that_the_template_does_not_use_is_refused(args, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        ChatTemplate(chats.of_family("qwen3"), args=args)


@pytest.mark.parametrize(
    ("family", "turns", "tools", "message"),
    [
        ("gemma", (Turn("system", "S"), *CHAT.turns), None, "System role not supported"),
        ("gemma", (ask("a"), ask("b"), say("c")), None, "roles must alternate"),
        ("mistral", (Turn("developer", "S"), *CHAT.turns), None, "Only user and assistant roles"),
        ("chatml", CHAT.turns, TOOLS, "leaves out the tools"),
        ("chatml", WITH_TOOLS.turns, None, "leaves out the tool calls of turn 1"),
        ("qwen3", (Turn("developer", "S"), *CHAT.turns), None, "what the developer says in turn 0"),
        ("llama3", (ask("a"), say("b", None, CALL)), None, "what the assistant says in turn 1"),
        ("chatml", (ask("a"), say("b", "thought")), None, "set `reasoning: strip`"),
        ("chatml", (ask("a"), say("b", train=False)), None, "is to be learnt"),
    ],
)
def test_a_conversation_that_the_template_can_not_show_is_refused(family, turns, tools, message):
    with pytest.raises(ChatTemplateError, match=message):
        ChatTemplate(chats.of_family(family)).samples(Conversation(turns, tools))


def test_a_tokenizer_that_misses_its_control_tokens_is_refused():
    tokenizer = chats.metaspace("legacy")
    end = AddedToken("<|im_end|>", special=True, normalized=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [end]})
    tokenizer.chat_template = chats.CHATML
    assert end.content not in tokenizer.tokenize("heart<|im_end|>")
    with pytest.raises(ValueError, match="doesn't keep control tokens and text apart"):
        ChatTemplate(tokenizer)


def test_thoughts_with_thinking_off_are_refused():
    template = ChatTemplate(chats.of_family("qwen3"), args={"enable_thinking": False})
    with pytest.raises(
        ChatTemplateError, match=r"generation prompt, .*isn't what it writes before"
    ):
        template.samples(Conversation((ask("a"), say("b", "thought"))))


def test_one_bad_conversation_does_not_stop_the_others():
    template = ChatTemplate(chats.of_family("gemma"))
    bad = Conversation((ask("a"), ask("b")))
    first, error, last = template.samples_many([CHAT, bad, CHAT])
    assert isinstance(error, ChatTemplateError)
    assert first == last == template.samples(CHAT)


def looking(shown):
    """A template that writes something of its own in place of what is said."""
    return chats.CHATML.replace("message['content'] ", f"({shown}) ")


@pytest.mark.parametrize("supervise", ["all", "each", "last"])
def test_a_template_that_looks_into_what_is_said_is_proven_by_what_it_writes_before(supervise):
    shown = "message['content'] + ('!' if message['content'].startswith('left') else '')"
    tokenizer = chats.tokenizer(looking(shown))
    samples = ChatTemplate(tokenizer, supervise=supervise).samples(CHAT)
    runs = [["heart<|im_end|>", "left heart!<|im_end|>"]]
    expected = {"all": runs, "each": [[run] for run in runs[0]], "last": [runs[0][1:]]}
    assert [supervised(tokenizer, made) for made in samples] == expected[supervise]
    assert samples[-1].ids == template_ids(tokenizer, CHAT)
    planted = Conversation((ask("left<|im_end|>"), say("left<|im_end|>")))
    (made,) = ChatTemplate(tokenizer).samples(planted)
    assert supervised(tokenizer, made) == ["left<|im_end|>!<|im_end|>"]
    assert made.ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (
            "message['content'][:4 if message['content'].startswith('Name') else 99]",
            "changes what the user says in turn 0",
        ),
        (
            "message['content'] + ('!' if message['content'].endswith('organ') and "
            "messages | length > 3 else '')",
            "renders what is before turn 1 otherwise later",
        ),
    ],
)
def test_a_template_whose_places_can_not_be_proven_is_refused(shown, message):
    template = ChatTemplate(chats.tokenizer(looking(shown)))
    with pytest.raises(ChatTemplateError, match=f"looks into what is said, and .*{message}"):
        template.samples(CHAT)


spelled = st.sampled_from(
    [
        *("<|im_end|>", "<|im_start|>assistant\n", "<|end|>", "<think>", "</think>", "<tool_call>"),
        *("\U0010fffe\U00100000", "\U0010fffe\U00108000", "\U0010fffe", "\U0010ffff"),
        *(" ", "\n\n", "\x1c", "é", "漢字", "🙂", "{{ x }}", "<0x0A>"),
    ]
)
pieces = st.lists(spelled | st.text(st.characters(exclude_categories=["Cs"]), max_size=4))
texts = pieces.map("".join).filter(lambda text: text.strip())
quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CHATML, QWEN3 = chats.of_family("chatml"), chats.of_family("qwen3")
CHATML_TEMPLATE, QWEN3_TEMPLATE = ChatTemplate(CHATML), ChatTemplate(QWEN3)


def count_control(tokenizer, ids):
    control = set(tokenizer.added_tokens_decoder)
    return [token for token in ids if token in control]


@quickly
@given(texts, texts, texts)
def test_the_supervised_text_is_what_the_assistant_says_whatever_it_is(system, asked, said):
    conversation = Conversation((Turn("system", system), ask(asked), say(said)))
    (made,) = CHATML_TEMPLATE.samples(conversation)
    assert supervised(CHATML, made) == [f"{said}<|im_end|>"]
    assert CHATML.decode(made.ids) == CHATML.apply_chat_template(
        conversation.to_messages(), tokenize=False
    )
    assert (
        CHATML.convert_ids_to_tokens(count_control(CHATML, made.ids))
        == [
            "<|im_start|>",
            "<|im_end|>",
        ]
        * 3
    )
    if not any(token in system + asked + said for token in CHATML.added_tokens_encoder):
        assert made.ids == template_ids(CHATML, conversation)


@quickly
@given(texts, texts, texts, texts)
@example("a", "b", "\U0010fffe\U00108000", "c")
@example("a", "b", "\x1c", "\x1c\x1d c")
def test_thoughts_calls_and_tools_stay_text(asked, thought, argument, said):
    calls = json.dumps([{"name": "add", "arguments": {argument: argument}}])
    conversation = Conversation(
        (ask(asked), say("", thought, calls), Turn("tool", asked), say(said, thought)), TOOLS
    )
    assume(not asked.startswith("<tool_response>"))
    (made,) = QWEN3_TEMPLATE.samples(conversation)
    call, answer = supervised(QWEN3, made)
    thought = thought.strip("\n")
    assert answer == f"<think>\n{thought}\n</think>\n\n{said.lstrip(chr(10))}<|im_end|>"
    assert call.startswith(f"<think>\n{thought}\n</think>\n\n<tool_call>\n{{")
    assert call.endswith("</tool_call><|im_end|>")
    tags = QWEN3.convert_ids_to_tokens(count_control(QWEN3, made.ids))
    assert tags.count("<|im_end|>") == 5 and tags.count("<think>") == 2


@pytest.mark.parametrize("kind", chats.METASPACE)
@quickly
@given(asked=texts, said=texts)
def test_text_stays_text_in_tokenizers_of_sentencepieces_kind(kind, asked, said):
    tokenizer, template = metaspace_template(kind)
    conversation = Conversation((ask(asked), say(said)))
    (made,) = template.samples(conversation)
    marks = tokenizer.convert_ids_to_tokens(
        [i for i in made.ids if i in tokenizer.all_special_ids and i != tokenizer.unk_token_id]
    )
    assert marks == ["<|im_start|>", "<|im_end|>"] * 2
    if not any(token in asked + said for token in tokenizer.added_tokens_encoder):
        assert made.ids == template_ids(tokenizer, conversation)


@cache
def metaspace_template(kind):
    tokenizer = chats.of_family("chatml", kind)
    return tokenizer, ChatTemplate(tokenizer)
