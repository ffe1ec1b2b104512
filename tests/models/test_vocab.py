"""Whether two tokenizers agree, from their files alone."""

import json

import pytest

from distill_ray.data.tokenizer import train_tokenizer
from distill_ray.models.vocab import compare, tokenizer_file, vocabulary


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """Files of two trainings on the same text, and of one on another text."""
    folder, found = tmp_path_factory.mktemp("tokenizers"), {}
    for name, text in (("one", "fever chills"), ("again", "fever chills"), ("other", "zebra quiz")):
        train_tokenizer([text] * 5, 264).save_pretrained(str(folder / name))
        found[name] = tokenizer_file(folder / name)
    return found


def test_the_same_training_gives_an_equal_tokenizer(parsed):
    fit = compare(parsed["one"], parsed["again"])
    assert (fit.equal, fit.overlap) == (True, 1.0)


def test_another_training_overlaps_in_its_bytes_and_is_not_equal(parsed):
    fit = compare(parsed["one"], parsed["other"])
    assert not fit.equal
    merged = len(vocabulary(parsed["one"]) - vocabulary(parsed["other"]))
    assert merged > 0
    assert fit.overlap == pytest.approx((264 - merged) / 264)


def test_the_same_tokens_under_other_ids_are_not_equal(parsed):
    moved = json.loads(json.dumps(parsed["one"]))
    vocab = moved["model"]["vocab"]
    first, second = sorted(vocab)[:2]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    fit = compare(parsed["one"], moved)
    assert (fit.equal, fit.overlap) == (False, 1.0)


def test_other_rules_over_the_same_tokens_are_not_equal(parsed):
    lower = {**parsed["one"], "normalizer": {"type": "Lowercase"}}
    assert not compare(parsed["one"], lower).equal


def test_truncation_and_padding_decide_no_ids(parsed):
    cut = {**parsed["one"], "truncation": {"max_length": 5}, "padding": None}
    assert compare(parsed["one"], cut).equal


def test_overlap_is_a_share_of_the_student_s_tokens():
    def bpe(*tokens):
        return {"model": {"vocab": {t: i for i, t in enumerate(tokens)}}}

    assert compare(bpe("a", "b"), bpe("a", "b", "c", "d")).overlap == 1.0
    assert compare(bpe("a", "b", "c", "d"), bpe("a", "b")).overlap == 0.5
    assert compare(bpe("a"), bpe("b")).overlap == 0.0


def test_unigram_vocabularies_and_added_tokens_are_read():
    parsed = {
        "model": {"vocab": [["a", -1.0], ["b", -2.0]]},
        "added_tokens": [{"content": "<end>"}, {"content": "a"}],
    }
    assert vocabulary(parsed) == {"a", "b", "<end>"}


def test_a_folder_without_a_tokenizer_file_has_none(tmp_path):
    assert tokenizer_file(tmp_path) is None
