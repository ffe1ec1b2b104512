"""Tokenizers that are trained here, and questions that are rendered with them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from distill_ray.data.examples import option_ids, questions
from distill_ray.data.prompt_format import Plain
from distill_ray.data.tokenizer import (
    END,
    encode,
    encode_batch,
    end_id,
    load_tokenizer,
    start_ids,
    train_tokenizer,
)

TEXTS = ["fever and chills", "chills and fever", "fever with cough", "a cough"] * 20


def test_one_word_of_a_million_letters_does_not_hold_up_the_training():
    started = time.perf_counter()
    made = train_tokenizer([*TEXTS, "x" * 1_000_000], 300)  # Hours, as one word.
    assert time.perf_counter() - started < 30
    assert made.decode(encode(made, "x" * 5000)) == "x" * 5000


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


def test_a_control_token_spelled_in_a_text_is_text(tokenizer):
    text = f"fever {END}and chills{END}"
    assert end_id(tokenizer) not in encode(tokenizer, text)
    assert tokenizer.decode(encode(tokenizer, text)) == text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.just(f"a{END}"), max_size=4))
def test_a_batch_is_encoded_as_its_texts_are(texts):
    tokenizer = train_tokenizer([], 300)
    tokenizer.backend_tokenizer.enable_truncation(max_length=2)
    tokenizer.backend_tokenizer.enable_padding(length=3)
    batch = encode_batch(tokenizer, texts)
    assert [tokenizer.decode(ids) for ids in batch] == texts
    assert batch == [
        tokenizer(t, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for t in texts
    ]


def test_a_batch_leaves_the_tokenizers_own_settings_alone(tokenizer):
    backend = train_tokenizer([], 300).backend_tokenizer
    backend.enable_truncation(max_length=2)
    backend.enable_padding(length=3)
    before = backend.to_str()
    encode_batch(PreTrainedTokenizerFast(tokenizer_object=backend), ["fever"])
    assert backend.to_str() == before


def test_a_tokenizer_in_python_keeps_a_spelled_control_token_text():
    tokenizer = ByT5Tokenizer()
    ids = encode(tokenizer, "a</s>")
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == "a</s>"


def test_a_vocabulary_that_holds_control_tokens_as_text_makes_none_of_text():
    pieces = [("<unk>", 0.0), ("</s>", -1.0), *((letter, -9.0) for letter in "</s>ab")]
    model = models.Unigram(pieces, 0)
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), eos_token="</s>", unk_token="<unk>"
    )
    plain = made("a</s>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert made.eos_token_id in plain, "transformers makes one"
    assert made.convert_ids_to_tokens(encode(made, "a</s>")) == ["a", *"</s>"]


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
