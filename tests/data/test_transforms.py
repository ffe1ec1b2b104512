"""Cleaning: keys, splits by group, duplicates and leaks."""

import numpy as np
import pytest

from distill_ray.data.rows import SPLITS, TEXT
from distill_ray.data.transforms import (
    Cleaner,
    bucket_of,
    content_key,
    deduplicate,
    normalise,
    split_of,
)


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


def test_normalising_twice_changes_nothing():
    for text in ("  Fever\u00a0and ", "ﬁne Straße", "İstanbul"):
        assert normalise(normalise(text)) == normalise(text)


def test_buckets_are_even_and_the_same_for_the_same_text():
    keys = [content_key(f"text {i}") for i in range(4000)]
    counts = np.bincount([bucket_of(key, 8) for key in keys], minlength=8)
    # Five standard deviations of a binomial count.
    assert np.abs(counts - 500).max() < 5 * np.sqrt(4000 * (1 / 8) * (7 / 8))
    assert bucket_of(content_key("A  b"), 8) == bucket_of(content_key("a b"), 8)


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


def _clean(raw, **changes):
    columns = {"text_column": "t", "label_column": "l", "group_column": "g"}
    values = {"stream": "s", "validation": 0.3, "test": 0.3, "seed": 0, **columns, **changes}
    return Cleaner(**values)(raw)


def test_a_clean_row_keeps_its_text_as_it_was_read():
    row = _clean({"t": " Fever\n", "l": 3, "g": 12, "else": 1})
    key = content_key("fever")
    split = split_of("12", validation=0.3, test=0.3)
    assert row == {
        "row_id": f"s:{key}", "key": key, "stream": "s", "split": split, "text": " Fever\n",
        "label": "3", "group": "12",
    }  # fmt: skip
    assert list(row) == TEXT.names


def test_a_row_without_a_group_is_its_own_by_content():
    one, other = _clean({"t": "Fever"}), _clean({"t": "  fever", "g": None})
    assert one["group"] == one["key"] == other["group"]
    assert one["split"] == other["split"]
    assert one["label"] is None


@pytest.mark.parametrize("raw", [{}, {"t": None}, {"t": ""}, {"t": " \n"}, {"t": 5}])
def test_a_row_without_text_is_dropped(raw):
    assert _clean(raw) is None


def test_rows_of_one_group_never_straddle_two_splits():
    rows = [_clean({"t": f"text {i}", "g": i % 20}) for i in range(200)]
    splits_of_group = {
        r["group"]: {x["split"] for x in rows if x["group"] == r["group"]} for r in rows
    }
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    assert {s for splits in splits_of_group.values() for s in splits} == set(SPLITS)


def _row(stream, text, split, group="g", label=None):
    key = content_key(text)
    return {
        "row_id": f"{stream}:{key}", "key": key, "stream": stream, "split": split, "text": text,
        "label": label, "group": group,
    }  # fmt: skip


def _kept(result):
    return sorted((r["stream"], r["text"], r["split"]) for r in result.rows)


def test_one_row_of_each_stream_and_text_stays():
    rows = [_row("a", "x", "train"), _row("a", "X ", "train"), _row("b", "x", "train")]
    found = deduplicate(rows, frozenset())
    assert [r["stream"] for r in found.rows] == ["a", "b"]
    assert (found.duplicates, found.leaks) == (1, 0)


def test_a_train_row_whose_text_a_protected_stream_holds_out_is_a_leak_in_any_stream():
    rows = [
        _row("task", "x", "test"), _row("notes", "x", "train"),
        _row("task", "y", "validation"), _row("notes", "y", "train"),
        _row("notes", "z", "train"),
    ]  # fmt: skip
    found = deduplicate(rows, frozenset({"task"}))
    assert _kept(found) == [
        ("notes", "z", "train"), ("task", "x", "test"), ("task", "y", "validation"),
    ]  # fmt: skip
    assert (found.duplicates, found.leaks) == (0, 2)


def test_held_out_rows_of_an_unprotected_stream_take_nothing_from_others():
    rows = [_row("notes", "x", "test"), _row("task", "x", "train")]
    assert _kept(deduplicate(rows, frozenset({"task"}))) == [
        ("notes", "x", "test"), ("task", "x", "train"),
    ]  # fmt: skip


def test_no_text_of_a_protected_held_out_row_is_left_to_train_on():
    rng = np.random.default_rng(0)
    rows = [
        _row(rng.choice(["task", "notes", "web"]), f"t{rng.integers(40)}", rng.choice(SPLITS))
        for _ in range(300)
    ]
    found = deduplicate(rows, frozenset({"task"}))
    held_out = {r["key"] for r in found.rows if r["stream"] == "task" and r["split"] != "train"}
    trained = {r["key"] for r in found.rows if r["split"] == "train"}
    assert held_out
    assert not held_out & trained
    assert len(found.rows) + found.duplicates + found.leaks == len(rows)
    assert len({r["row_id"] for r in found.rows}) == len(found.rows)


def test_what_stays_does_not_depend_on_the_order_of_reading():
    rows = [
        _row(stream, f"t{i % 7}", SPLITS[i % 3], group=f"g{i}")
        for i in range(30)
        for stream in ("task", "notes")
    ]
    forward = deduplicate(rows, frozenset({"task"}))
    backward = deduplicate(rows[::-1], frozenset({"task"}))
    assert forward == backward


def test_a_held_out_text_is_kept_although_another_group_would_train_on_it():
    rows = [_row("task", "x", "train", group="a"), _row("task", "x", "test", group="b")]
    found = deduplicate(rows, frozenset({"task"}))
    assert _kept(found) == [("task", "x", "test")]
