"""Content keys, and splits by group."""

import unicodedata

import numpy as np
import pytest

from distill_ray.data.rows import SPLITS
from distill_ray.data.transforms import content_key, normalise, split_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Fever  and\n\tchills ", "fever and chills"),
        ("ﬁne", "fine"),  # the ligature, by NFKC
        ("STRASSE", "straße"),
        ("x²", "x2"),
        ("café", "cafe\u0301"),  # one code point, or a letter and its accent
    ],
)
def test_texts_that_look_the_same_count_as_the_same(one, other):
    assert normalise(one) == normalise(other)
    assert content_key(one) == content_key(other)


@pytest.mark.parametrize(("one", "other"), [("a b", "ab"), ("fever", "fevers"), ("3.5", "35")])
def test_texts_that_differ_keep_different_keys(one, other):
    assert content_key(one) != content_key(other)


def test_ascii_texts_have_the_keys_of_all_others():
    for text in ("Fever  AND\tchills\x0b", "a\x1cb\x1f c", "0101"):
        slow = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        assert normalise(text) == slow


def test_normalising_twice_changes_nothing():
    for text in ("  Fever\u00a0and ", "ﬁne Straße", "İstanbul"):
        assert normalise(normalise(text)) == normalise(text)


def test_splits_have_their_shares():
    splits = [split_of(f"g{i}", validation=0.2, test=0.1) for i in range(5000)]
    for split, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        error = 5 * np.sqrt(share * (1 - share) / 5000)
        assert splits.count(split) / 5000 == pytest.approx(share, abs=error)
    assert set(splits) == set(SPLITS)


def test_a_split_depends_on_the_group_and_the_seed_alone():
    groups = [f"g{i}" for i in range(300)]
    first = {g: split_of(g, validation=0.3, test=0.3) for g in groups}
    again = {g: split_of(g, validation=0.3, test=0.3) for g in reversed(groups)}
    other = {g: split_of(g, validation=0.3, test=0.3, seed=1) for g in groups}
    assert first == again
    assert first != other


def test_more_validation_leaves_the_test_groups_where_they_are():
    for i in range(300):
        small = split_of(f"g{i}", validation=0.1, test=0.2)
        large = split_of(f"g{i}", validation=0.4, test=0.2)
        assert (small == "test") == (large == "test")
        assert small in (large, "train")
