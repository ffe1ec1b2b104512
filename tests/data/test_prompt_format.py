"""Chat templates: which tokens a question and its answer become, and which templates serve."""

from datetime import datetime

import chat_tokenizer as chats
import pytest

from distill_ray.data.examples import option_ids
from distill_ray.data.prompt_format import Chat, Plain, make_prompt_format

LLAMA3 = (
    "{{ bos_token }}{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|head|>system<|/head|>\n\nToday: ' + date_string }}"
    "{% if messages[0]['role'] == 'system' %}{{ '\n' + messages[0]['content'] | trim }}"
    "{% set messages = messages[1:] %}{% endif %}{{ '<|eot|>' }}"
    "{% for m in messages %}{{ '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] | trim "
    "+ '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<|im_start|>' + role + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
THINKING = chats.CHATML.replace(
    "message['content'] ",
    "('<think>\n\n</think>\n\n' if message['role'] == 'assistant' else '') + message['content'] ",
)


def conversation(tokenizer, question, answer, system=None):
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns += [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return tokenizer.apply_chat_template(turns, tokenize=False)


@pytest.mark.parametrize(
    ("template", "special", "system", "end", "rest"),
    [
        (chats.CHATML, [], "Name.", "<|im_end|>", "\n"),
        (LLAMA3, ["<|head|>", "<|/head|>", "<|eot|>"], "Name.", "<|eot|>", ""),
        (GEMMA, [], None, "<|im_end|>", "\n"),
        (MISTRAL, [], None, "<|end|>", ""),
        (PHI, [], None, "<|im_end|>", "\n<|end|>"),
        (THINKING, [], None, "<|im_end|>", "\n"),
    ],
    ids=["chatml", "llama3", "gemma", "mistral", "phi", "thinking"],
)
def test_a_sample_is_the_conversation_as_the_template_renders_it(
    template, special, system, end, rest
):
    tokenizer = chats.tokenizer(template, *special)
    said = Chat(tokenizer, system).answer("left heart")
    assert tokenizer.convert_ids_to_tokens(said.end) == end
    assert tokenizer.decode(said.trailing) == rest
    assert tokenizer.decode(said.ids).strip() == "left heart"
    made = chats.sample(tokenizer, "pain", "left heart", system)
    today = datetime.now().strftime("%d %b %Y")
    expected = conversation(tokenizer, "pain", "left heart", system)
    assert tokenizer.decode(made.ids) == expected.replace(today, "26 Jul 2024")
    if template is not LLAMA3:
        assert made.ids == tokenizer(expected, add_special_tokens=False)["input_ids"]


def test_a_start_token_that_the_template_writes_is_there_once():
    tokenizer = chats.tokenizer(GEMMA)
    start = tokenizer.bos_token_id
    assert Chat(tokenizer).prompt("pain").count(start) == 1
    assert Chat(chats.tokenizer()).prompt("pain").count(start) == 0


def test_an_empty_thought_that_the_template_writes_belongs_to_the_prompt():
    tokenizer = chats.tokenizer(THINKING)
    chat = Chat(tokenizer)
    assert tokenizer.decode(chat.prompt("pain")).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert tokenizer.decode(chat.answer("heart").ids) == "heart"


def test_a_chat_leaves_out_white_space_around_an_answer():
    chat = Chat(chats.tokenizer())
    assert chat.answer(" heart\n") == chat.answer("heart")


def test_white_space_that_the_template_writes_before_an_answer_belongs_to_it():
    tokenizer = chats.tokenizer(MISTRAL)
    chat = Chat(tokenizer)
    assert tokenizer.decode(chat.prompt("pain")).endswith("[/INST]")
    assert tokenizer.convert_ids_to_tokens(chat.answer("heart").ids) == ["Ġheart"]


def test_the_end_of_the_turn_belongs_to_answers_of_which_one_begins_another():
    tokenizer = chats.tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    short, long = option_ids({"a": "left", "b": "left heart"}, Chat(tokenizer))
    assert (short[-1], long[-1]) == (end, end)
    assert option_ids({"a": "left", "b": "heart"}, Chat(tokenizer))[0][-1] != end


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        (None, None, "the tokenizer has no chat template"),
        (GEMMA, "Name.", "refuses the conversation: System role not supported"),
        (MISTRAL, "Name.", "leaves out what the system says"),
        (
            chats.CHATML.replace("assistant\n", "assistant\n<think>\n"),
            None,
            "a conversation that doesn't begin with its prompt: the prompt ends .*think",
        ),
        ("{{ messages[0]['content'] }}", None, "leaves out what the assistant says"),
        (
            "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '. ' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
            None,
            r"ends the assistant's turn with '\. ', in which no special token",
        ),
        ("{{ 'a' if }}", None, "refuses the conversation"),
    ],
)
def test_a_template_that_does_not_serve_is_refused(template, system, message):
    with pytest.raises(ValueError, match=message):
        make_prompt_format(chats.tokenizer(template), chat=True, system=system)


def test_without_a_chat_the_template_is_not_looked_at():
    assert isinstance(make_prompt_format(chats.tokenizer(), chat=False), Plain)
