"""Questions: what comes before a prior, what ends an answer, and parts of a set."""

import chat_tokenizer as chats
import pytest

from distill_ray.data.examples import questions, up_to
from distill_ray.data.prompt_format import Chat, Plain
from distill_ray.data.tokenizer import train_tokenizer

ROWS = [
    {"row_id": f"r{i}", "text": f"a finding {i}", "label": "xy"[i % 2], "group": f"g{i // 2}"}
    for i in range(6)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a finding of the heart", "one", "two"] * 9, 300)


def asked(prompt_format, template="{text}\nOrgan:", answers=None):
    answers = answers or {"x": " one", "y": " two"}
    return questions("q", ROWS, template=template, answers=answers, prompt_format=prompt_format)


def test_the_prior_s_prompt_is_the_template_without_a_text(tokenizer):
    found = asked(Plain(tokenizer))
    assert tokenizer.decode(found.empty) == "\nOrgan:"
    assert found.end == tokenizer.eos_token_id


def test_where_nothing_is_left_of_the_template_a_text_begins(tokenizer):
    assert asked(Plain(tokenizer), "{text}").empty == [tokenizer.eos_token_id]


def test_a_chat_s_answer_ends_with_the_turn():
    chat = chats.tokenizer()
    found = asked(Chat(chat))
    assert found.end == chat.convert_tokens_to_ids("<|im_end|>")
    assert found.empty == Chat(chat).prompt("\nOrgan:")


def test_answers_have_no_end_where_options_need_one(tokenizer):
    prompt_format = Plain(tokenizer)
    found = asked(prompt_format, answers={"x": " one", "y": " one two"})
    assert [option[-1] for option in found.options] == [found.end] * 2
    assert found.answers == [prompt_format.answer(text).ids for text in (" one", " one two")]
    plain = asked(prompt_format)
    assert plain.answers == plain.options


def test_a_part_of_a_set_keeps_its_columns_together(tokenizer):
    found = asked(Plain(tokenizer))
    part = found.between(2, 5)
    assert part.row_ids == ["r2", "r3", "r4"]
    assert part.prompts == found.prompts[2:5]
    assert (part.answer_index, part.groups) == ([0, 1, 0], ["g1", "g1", "g2"])
    assert (part.options, part.empty, part.end) == (found.options, found.empty, found.end)
    assert found.first(2) == found.between(0, 2)


@pytest.mark.parametrize(("end", "kept"), [(7, [5, 6]), (None, [5, 6, 7, 7]), (9, [5, 6, 7, 7])])
def test_ids_up_to_an_end(end, kept):
    assert up_to([5, 6, 7, 7], end) == kept
