"""Contamination: shares of n-grams against sets of tuples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_ray.stages.reading.decontamination import Contamination, ngrams
from distill_ray.stages.reading.ngrams import separated_words

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d.", "北", "京"]), max_size=14).map(" ".join)


def tuples(text, n):
    """The oracle: n-grams as tuples; a short text is one, marked as such."""
    words = separated_words(text).split() or [""]
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)] or [("whole", *words)]


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS, max_size=5), st.lists(TEXTS, max_size=5), st.integers(1, 5))
def test_the_overlap_is_the_share_of_ngrams_in_the_test_set(test_set, train, n):
    held_out = {ngram for text in test_set for ngram in tuples(text, n)}
    contamination = Contamination(ngrams(test_set, n), ngram=n)
    expected = [np.mean([g in held_out for g in tuples(text, n)]) for text in train]
    assert contamination.overlap(train) == pytest.approx(expected)
    for text in train:
        shared = [g for g in tuples(text, n) if g in held_out]
        first = None if not shared else " ".join(w for w in shared[0] if w != "whole")
        assert contamination.example(text) == first


@settings(deadline=None, max_examples=40)
@given(st.lists(TEXTS, max_size=5), st.lists(TEXTS, max_size=8), st.integers(0, 3))
def test_ngrams_of_more_train_texts_than_allowed_do_not_count(test_set, train, max_texts):
    held_out = {ngram for text in test_set for ngram in tuples(text, 2)}
    rare = {g for g in held_out if sum(g in tuples(text, 2) for text in train) <= max_texts}
    contamination = Contamination(ngrams(test_set, 2), ngram=2)
    # In batches of two, as workers count them.
    hits = [contamination.hits(train[i : i + 2]) for i in range(0, len(train), 2)]
    kept = contamination.without_common(hits, max_texts)
    expected = [np.mean([g in rare for g in tuples(text, 2)]) for text in train]
    assert kept.overlap(train) == pytest.approx(expected)


def test_a_template_of_all_rows_does_not_hide_a_leaked_question():
    template = "Read the following note of a nurse with care and say what the patient needs first: "
    questions = [
        f"case {i} asks about {' '.join(f'q{i}x{j}' for j in range(14))}" for i in range(50)
    ]
    test_set, train = [template + q for q in questions[:20]], [template + q for q in questions[15:]]
    contamination = Contamination(ngrams(test_set))
    assert min(contamination.overlap(train)) > 0  # Every train row has the template.
    kept = contamination.without_common([contamination.hits(train)])
    assert [share > 0 for share in kept.overlap(train)] == [True] * 5 + [False] * 30


@settings(deadline=None, max_examples=25)
@given(st.lists(TEXTS, max_size=6), st.randoms(use_true_random=False))
def test_hashes_are_sorted_unique_and_independent_of_order_and_batches(texts, random):
    hashes = ngrams(texts, 3)
    assert (np.diff(hashes) > 0).all()
    assert np.array_equal(hashes, ngrams(random.sample(texts, len(texts)), 3))
    parts = [ngrams([text], 3) for text in texts]
    assert np.array_equal(hashes, np.unique(np.concatenate([*parts, np.array([], np.uint64)])))


QUESTION = "Which of the following best describes the structure that collects urine in the body?"


@pytest.mark.parametrize(
    ("train", "words_shared"),
    [
        (f"Quiz. {QUESTION.upper()} Answer: the bladder.", True),
        (
            "“Which of the following, best describes; the\nstructure that collects (urine) in the”",
            True,
        ),
        ("which of the following best describes the structure that collects urine in", False),
        (QUESTION.replace("structure", "organ"), False),
    ],
)
def test_thirteen_words_in_a_row_are_enough_and_twelve_are_not(train, words_shared):
    contamination = Contamination(ngrams([QUESTION]))
    share = contamination.overlap([train])[0]
    assert (share > 0) is words_shared
    assert contamination.is_contaminated(share) is words_shared


def test_a_short_test_text_is_found_whole_and_not_inside_another():
    contamination = Contamination(ngrams(["Capital of France?"]))
    assert contamination.overlap(["capital of  france", "the capital of france"]) == [1.0, 0.0]
    assert contamination.example("Capital of France!") == "capital of france"


def test_a_minimum_share_at_its_border():
    words = [f"w{i}" for i in range(12)]
    contamination = Contamination(ngrams([" ".join(words[:6])], 3), ngram=3, min_share=0.4)
    share = contamination.overlap([" ".join(words)])[0]
    assert share == pytest.approx(4 / 10)
    assert not contamination.is_contaminated(0.4)
    assert contamination.is_contaminated(np.nextafter(0.4, 1))
    assert not Contamination(ngrams([])).is_contaminated(0.0)


def test_no_texts_and_no_test_set():
    assert Contamination(ngrams([])).overlap(["some text", ""]) == [0.0, 0.0]
    assert Contamination(ngrams(["a b c"])).overlap([]) == []
    assert Contamination(ngrams([])).example("some text") is None


def test_many_hashes_are_told_from_their_neighbours():
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 10**6, 40))) for _ in range(400)]
    contamination = Contamination(ngrams(texts[:200], 8), ngram=8)
    assert contamination.overlap(texts) == [1.0] * 200 + [0.0] * 200
    # Neighbours of true hashes share all their leading bits.
    near = Contamination(contamination.hashes + np.uint64(1), ngram=8)
    assert near.overlap(texts) == [0.0] * 400
