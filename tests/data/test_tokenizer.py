"""Tokenizers that are trained here, and questions that are rendered with them."""

import pytest

from distill_ray.data.examples import option_ids, questions
from distill_ray.data.prompt_format import Plain
from distill_ray.data.tokenizer import (
    END,
    encode,
    end_id,
    load_tokenizer,
    start_ids,
    train_tokenizer,
)

TEXTS = ["fever and chills", "chills and fever", "fever with cough", "a cough"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.mark.parametrize(
    "text", [*TEXTS[:2], "  two  spaces\n", "naïve Ünïcode 漢字 🙂", "\x00\x7f"]
)
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_every_byte_is_a_token_of_its_own(tokenizer):
    bare = train_tokenizer([], 300)
    assert len(bare) == 257
    for text in ("z", "é", "漢", "🙂"):
        assert len(encode(bare, text)) == len(text.encode())


def test_frequent_text_is_merged(tokenizer):
    assert len(encode(tokenizer, "fever and chills")) < len("fever and chills") / 3
    assert len(tokenizer) <= 300


def test_no_special_tokens_are_added(tokenizer):
    assert end_id(tokenizer) not in encode(tokenizer, "fever")
    joined = encode(tokenizer, "fever and") + encode(tokenizer, " chills")
    assert tokenizer.decode(joined) == "fever and chills"


def test_one_token_ends_starts_and_pads(tokenizer):
    assert tokenizer.convert_ids_to_tokens(end_id(tokenizer)) == END
    assert tokenizer.pad_token_id == tokenizer.bos_token_id == end_id(tokenizer)


def test_a_saved_tokenizer_loads_with_the_same_ids(tokenizer, tmp_path):
    tokenizer.save_pretrained(str(tmp_path))
    loaded = load_tokenizer(tmp_path)
    text = "a cough, with fever 🙂"
    assert encode(loaded, text) == encode(tokenizer, text)
    assert end_id(loaded) == end_id(tokenizer)


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    assert train_tokenizer(TEXTS, 300).get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_without_an_end_is_refused(tokenizer, tmp_path):
    tokenizer.save_pretrained(str(tmp_path))
    endless = load_tokenizer(tmp_path)
    endless.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        end_id(endless)


def test_questions_are_rendered_encoded_apart_and_numbered_by_label(tokenizer):
    rows = [
        {"row_id": "a", "text": "cough", "label": "B", "group": "x"},
        {"row_id": "b", "text": "fever", "label": "unheard of", "group": "y"},
        {"row_id": "c", "text": "{chills}", "label": "A", "group": "z"},
    ]
    found = questions(
        "t",
        rows,
        template="{text} ->",
        answers={"A": " yes", "B": " no"},
        prompt_format=Plain(tokenizer),
    )
    assert found.row_ids == ["a", "c"]
    assert [tokenizer.decode(p) for p in found.prompts] == ["cough ->", "{chills} ->"]
    assert [tokenizer.decode(o) for o in found.options] == [" yes", " no"]
    assert (found.labels, found.answer_index) == (["A", "B"], [1, 0])
    assert found.groups == ["x", "z"]


def test_the_end_belongs_to_answers_of_which_one_begins_another(tokenizer):
    end = tokenizer.eos_token_id
    short, long = option_ids({"1": "1", "12": "12"}, Plain(tokenizer))
    assert (short[-1], long[-1]) == (end, end)
    assert tokenizer.decode(long[:-1]) == "12"
    apart = option_ids({"1": "1", "2": "2"}, Plain(tokenizer))
    assert all(end not in option for option in apart)


def test_a_plain_prompt_begins_with_the_start_token_where_the_tokenizer_puts_one(tokenizer):
    from tokenizers.processors import TemplateProcessing

    adding = train_tokenizer(TEXTS, 300)
    start = adding.bos_token_id
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, start)]
    )
    text = "fever and chills"
    assert Plain(adding).prompt(text) == [start, *encode(adding, text)]
    assert Plain(tokenizer).prompt(text) == encode(tokenizer, text)
    assert Plain(adding).answer(text).ids == encode(adding, text), "an answer follows a prompt"


def test_an_end_token_that_the_tokenizer_adds_is_no_start_token():
    from tokenizers.processors import TemplateProcessing

    adding = train_tokenizer(TEXTS, 300)
    adding.add_special_tokens({"bos_token": "<|start|>"})
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, adding.eos_token_id)]
    )
    assert adding("")["input_ids"] == [adding.eos_token_id]
    assert start_ids(adding) == []
    assert Plain(adding).prompt("fever") == encode(adding, "fever")
