"""Which rows of equal content stay, against the rules row by row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_ray.stages.sharding.deduplicate import KEYS, REASONS, StreamRules, removed_rows

TEXT, LABELLED, PROMPTS, LENIENT = range(4)
RULES = StreamRules(
    protected=[False, True, True, True],
    prompts_of={PROMPTS: LABELLED},
    majority=[False, False, False, True],
)
TRAIN, VALIDATION, TEST = range(3)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    full = [
        {"key_high": 0, "key_low": 0, "label": 0, "split": TRAIN, "part": 0, "row": i, **row}
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(full, schema=KEYS)


def reasons(rows: list[dict[str, Any]]) -> dict[int, str]:
    gone = removed_rows(table(rows), RULES).to_pylist()
    return {row["row"]: REASONS[row["reason"]] for row in gone}


def expected(rows: list[dict[str, Any]]) -> dict[int, str]:
    """The rules, one content after the other."""
    gone: dict[int, str] = {}
    kept: dict[tuple[int, int], dict[int, int]] = {}
    for content in {(r["key_high"], r["key_low"]) for r in rows}:
        stays: dict[int, int] = {}
        for stream in range(4):
            own = [
                i
                for i, r in enumerate(rows)
                if (r["key_high"], r["key_low"]) == content and r["stream"] == stream
            ]
            votes = Counter(rows[i]["label"] for i in own if rows[i]["label"])
            label = 0
            if votes:
                most = max(votes.values())
                winners = [x for x, count in votes.items() if count == most]
                label = winners[0]
                if len(votes) > 1 and (len(winners) > 1 or not RULES.majority[stream]):
                    gone |= dict.fromkeys(own, "conflict")
                    continue
            if own:
                best = min(
                    own,
                    key=lambda i: (rows[i]["label"] != label or not label, -rows[i]["split"], i),
                )
                stays[stream] = best
                for i in own:
                    if i != best:
                        same = rows[i]["split"] == rows[best]["split"]
                        gone[i] = "duplicate" if same else "leak"
        kept[content] = stays
        if PROMPTS in stays and LABELLED in stays:
            prompt, labelled = stays[PROMPTS], stays[LABELLED]
            if rows[labelled]["label"] and rows[prompt]["split"] == rows[labelled]["split"]:
                gone[prompt] = "duplicate"
                del stays[PROMPTS]
        held_out = [s for s, i in stays.items() if RULES.protected[s] and rows[i]["split"] > 0]
        for i in stays.values():
            if held_out and rows[i]["split"] == TRAIN:
                gone[i] = "leak"
    return gone


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "key_high": st.integers(0, 3),
            "key_low": st.integers(0, 1),
            "stream": st.integers(0, 3),
            "split": st.integers(0, 2),
            "label": st.integers(0, 3),
        }
    ),
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(ROWS)
def test_the_rows_that_go_are_those_of_the_rules(rows: list[dict[str, Any]]) -> None:
    assert reasons(rows) == expected(rows)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.randoms())
def test_the_order_of_the_table_does_not_matter(rows: list[dict[str, Any]], random: Any) -> None:
    keys = table(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    assert removed_rows(keys.take(pa.array(order, pa.int64())), RULES).equals(
        removed_rows(keys, RULES)
    )


def test_a_class_of_four_votes_does_not_lose_to_one() -> None:
    votes = [{"stream": LENIENT, "label": label} for label in (7, 3, 7, 7, 7)]
    assert reasons(votes) == {1: "duplicate", 2: "duplicate", 3: "duplicate", 4: "duplicate"}


def test_a_conflict_names_a_row_with_another_label() -> None:
    rows = [{"stream": LABELLED, "label": label} for label in (5, 5, 9)]
    gone = removed_rows(table(rows), RULES).to_pylist()
    labels = [rows[row["kept_row"]]["label"] for row in gone]
    assert labels == [9, 9, 5]


def test_a_row_with_a_label_beats_its_copy_without_one() -> None:
    rows = [{"stream": LABELLED}, {"stream": LABELLED, "label": 4}]
    assert reasons(rows) == {0: "duplicate"}


def test_a_text_in_two_given_splits_stays_in_the_later_one() -> None:
    rows = [
        {"stream": TEXT},
        {"stream": TEXT, "split": TEST},
        {"stream": TEXT, "split": VALIDATION},
    ]
    assert reasons(rows) == {0: "leak", 2: "leak"}


def test_no_rows_lose_nothing() -> None:
    assert len(removed_rows(KEYS.empty_table(), RULES)) == 0
