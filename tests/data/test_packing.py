"""Which predictions are supervised, token by token, and that packing loses none of them."""

import numpy as np
import pytest

from distill_ray.data.packing import (
    Sample,
    Samples,
    best_fit,
    labelled_sample,
    pack,
    prompt_sample,
    split_long,
    text_sample,
    unpacked,
)
from distill_ray.data.rows import PACKED

END, PAD = 99, 98


def predicted(sample, mask):
    """(token seen last, token to predict) for each supervised position."""
    following = [*sample.ids[1:], None]
    return [(sample.ids[i], following[i]) for i, kept in enumerate(mask) if kept]


def test_text_supervises_every_token_but_the_first_and_the_end_too():
    sample = text_sample("r", [10, 11, 12], END)
    assert sample.ids == [10, 11, 12, END]
    assert predicted(sample, sample.label_mask) == [(10, 11), (11, 12), (12, END)]
    assert sample.teacher_mask == sample.label_mask


def test_a_labelled_sample_supervises_the_answer_and_the_end_but_not_the_prompt():
    sample = labelled_sample("r", [10, 11, 12], [20, 21], END)
    assert sample.ids == [10, 11, 12, 20, 21, END]
    assert predicted(sample, sample.label_mask) == [(12, 20), (20, 21), (21, END)]
    assert sample.teacher_mask == sample.label_mask


def test_what_a_template_puts_behind_the_end_is_kept_and_not_supervised():
    sample = labelled_sample("r", [10, 11], [20], END, [30, 31])
    assert sample.ids == [10, 11, 20, END, 30, 31]
    assert predicted(sample, sample.label_mask) == [(11, 20), (20, END)]
    assert sample.teacher_mask == sample.label_mask


def test_a_prompt_is_supervised_by_the_teacher_alone_where_the_answer_would_start():
    sample = prompt_sample("r", [10, 11, 12])
    assert sample.ids == [10, 11, 12]
    assert predicted(sample, sample.teacher_mask) == [(12, None)]
    assert predicted(sample, sample.label_mask) == []


@pytest.mark.parametrize(
    "sample",
    [
        text_sample("r", [1], END),
        text_sample("r", [], END),
        labelled_sample("r", [1], [2], END),
        labelled_sample("r", [1, 2], [], END, [3]),
        prompt_sample("r", [1]),
    ],
)
def test_masks_are_as_long_as_their_tokens(sample):
    assert len(sample.label_mask) == len(sample.teacher_mask) == len(sample.ids)


def test_a_long_text_is_cut_and_loses_only_the_predictions_across_the_cuts():
    sample = text_sample("r", list(range(10)), END)  # 11 tokens
    parts = list(split_long([sample], 4))
    assert [p.ids for p in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, END]]
    found = [pair for p in parts for pair in predicted(p, p.label_mask)]
    whole = predicted(sample, sample.label_mask)
    assert found == [pair for pair in whole if pair not in [(3, 4), (7, 8)]]
    assert [p.teacher_mask for p in parts] == [p.label_mask for p in parts]
    assert {p.source for p in parts} == {"r"}


@pytest.mark.parametrize("tokens", [1, 3, 4])
def test_a_text_that_fits_is_left_whole(tokens):
    sample = text_sample("r", list(range(tokens - 1)), END)
    assert list(split_long([sample], 4)) == [sample]


def test_cutting_changes_nothing_in_the_sample_that_was_cut():
    sample = text_sample("r", list(range(10)), END)
    list(split_long([sample], 4))
    assert sample == text_sample("r", list(range(10)), END)


def test_samples_share_a_row_with_positions_that_restart():
    samples = [text_sample("a", [1, 2], END), prompt_sample("b", [5, 6])]
    (row,) = pack(samples, 8, PAD, "s:train:0")
    assert row == {
        "row_id": "s:train:0:000000",
        "input_ids": [1, 2, END, 5, 6, PAD, PAD, PAD],
        "position_ids": [0, 1, 2, 0, 1, 0, 1, 2],
        "label_mask": [True, True, False, False, False, False, False, False],
        "teacher_mask": [True, True, False, False, True, False, False, False],
        "sources": ["a", "b"],
    }
    assert list(row) == PACKED.names


def test_a_sample_that_does_not_fit_starts_the_next_row():
    samples = [text_sample("a", [1, 2], END), text_sample("b", [3, 4], END)]
    rows = list(pack(samples, 5, PAD, "p"))
    assert [r["input_ids"] for r in rows] == [[1, 2, END, PAD, PAD], [3, 4, END, PAD, PAD]]
    assert [r["row_id"] for r in rows] == ["p:000000", "p:000001"]


def test_a_row_can_be_filled_to_its_last_token():
    samples = [text_sample("a", [1, 2], END), text_sample("b", [3], END)]
    (row,) = pack(samples, 5, PAD, "p")
    assert row["input_ids"] == [1, 2, END, 3, END]
    assert row["position_ids"] == [0, 1, 2, 0, 1]


def test_a_row_of_its_own_is_as_long_as_its_sample():
    samples = [labelled_sample("a", [1, 2], [3], END), prompt_sample("b", [5, 6])]
    first, second = unpacked(samples, "p")
    assert first == {
        "row_id": "p:000000",
        "input_ids": [1, 2, 3, END],
        "position_ids": [0, 1, 2, 3],
        "label_mask": [False, True, True, False],
        "teacher_mask": [False, True, True, False],
        "sources": ["a"],
    }
    assert (second["row_id"], second["input_ids"]) == ("p:000001", [5, 6])
    assert second["teacher_mask"] == [False, True]


def test_no_samples_make_no_rows():
    assert list(pack([], 8, PAD, "p")) == []


def _random_samples(seed):
    rng = np.random.default_rng(seed)
    for number in range(60):
        ids = rng.integers(0, 90, size=rng.integers(1, 30)).tolist()
        kind = rng.integers(3)
        if kind == 0:
            yield text_sample(f"r{number}", ids, END)
        elif kind == 1:
            yield labelled_sample(f"r{number}", ids, [7, 8], END)
        else:
            yield prompt_sample(f"r{number}", ids)


def _unpacked(row):
    """The samples in a row, cut where positions restart; padding has no source."""
    starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
    ends = [*starts[1:], len(row["position_ids"])]
    for source, start, end in zip(row["sources"], starts, ends):
        part = slice(start, end)
        yield Sample(
            source, row["input_ids"][part], row["label_mask"][part], row["teacher_mask"][part]
        )


@pytest.mark.parametrize("seed", range(3))
def test_packing_returns_every_sample_once_with_its_masks(seed):
    samples = list(split_long(_random_samples(seed), 16))
    rows = list(pack(samples, 16, PAD, "p"))
    assert sorted((s for row in rows for s in _unpacked(row)), key=repr) == sorted(
        samples, key=repr
    )
    assert all(len(row[column]) == 16 for row in rows for column in PACKED.names[1:5])
    assert len({row["row_id"] for row in rows}) == len(rows)


def test_rows_are_filled_by_what_fits_best_and_keep_the_order_of_their_samples():
    samples = [text_sample(name, [1] * (n - 1), END) for name, n in zip("abcd", [6, 3, 7, 4])]
    rows = pack(samples, 10, PAD, "p")
    assert [row["sources"] for row in rows] == [["a", "d"], ["b", "c"]]


@pytest.mark.parametrize("seed", range(5))
def test_best_fit_takes_the_fullest_bin_that_has_room(seed):
    sizes = np.random.default_rng(seed).integers(1, 33, size=200).tolist()
    bins: list[list[int]] = []
    for item in sorted(range(200), key=lambda i: (-sizes[i], i)):
        rooms = [32 - sum(sizes[i] for i in held) - sizes[item] for held in bins]
        fitting = [(room, place) for place, room in enumerate(rooms) if room >= 0]
        if fitting:
            bins[min(fitting)[1]].append(item)
        else:
            bins.append([item])
    assert best_fit(sizes, 32) == sorted(sorted(held) for held in bins)


@pytest.mark.parametrize("seed", range(3))
def test_padding_is_never_supervised_and_never_predicted(seed):
    for row in pack(split_long(_random_samples(seed), 16), 16, PAD, "p"):
        for i, token in enumerate(row["input_ids"]):
            followed_by_pad = row["input_ids"][i + 1 : i + 2] == [PAD]
            assert not (row["label_mask"][i] and (token == PAD or followed_by_pad))
            assert not (row["teacher_mask"][i] and token == PAD)


def test_a_piece_that_teaches_nothing_is_known():
    samples = Samples.of(
        [
            prompt_sample("a", [1, 2, 3]),
            labelled_sample("b", [*range(1, 10)], [10], END),
            Sample("c", [1, 2], [False] * 2, [False] * 2),
        ]
    )
    assert samples.teaching.tolist() == [True, True, False]
    pieces = samples.split_long(4)
    assert pieces.sources == ["a", "b", "b", "b", "c"]
    assert pieces.teaching.tolist() == [True, False, False, True, False]
    assert Samples.of([]).teaching.tolist() == []
