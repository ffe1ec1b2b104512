"""Near-duplicates: n-grams, min-hashes and bands against sets, and which rows go."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_ray.stages.reading.near_duplicates import (
    MISS_WEIGHT,
    NUM_HASHES,
    MinHashLsh,
    choose_bands,
    match_probability,
    merged,
    removed,
)
from distill_ray.stages.reading.ngrams import NGrams, ngrams_of, separated_words

# Few words, so that n-grams repeat; punctuation, marks, scripts without spaces, joiners.
WORDS = ["a", "the", "Fever", "fever,", "हिन्दी", "北京", "ไทย", "rei\u00adsen", "x+y", "?!", "3.5"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def ngram_lists(texts, n):
    """The oracle: n-grams as tuples of words, a short text's as its words and their number."""
    result = []
    for text in texts:
        words = separated_words(text).split() or [""]
        tuples = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        result.append(tuples or [("whole", *words)])
    return result


@settings(deadline=None, max_examples=80)
@given(st.lists(TEXTS, max_size=8), st.integers(1, 6))
def test_hashes_of_ngrams_are_equal_exactly_where_the_ngrams_are(texts, n):
    hashed = ngrams_of(texts, n)
    expected = ngram_lists(texts, n)
    assert np.diff(hashed.offsets).tolist() == list(map(len, expected))
    flat = [ngram for ngrams in expected for ngram in ngrams]
    by_hash = dict(zip(hashed.hashes.tolist(), flat))
    assert [by_hash[h] for h in hashed.hashes.tolist()] == flat
    assert len(by_hash) == len(set(flat))


@settings(deadline=None, max_examples=50)
@given(st.text(), st.text())
def test_any_unicode_text_is_hashed_and_equal_words_are_equal(one, other):
    hashed = ngrams_of([one, other], 3)
    same = separated_words(one).split() == separated_words(other).split()
    first, second = (
        hashed.hashes[a:b].tolist() for a, b in zip(hashed.offsets, hashed.offsets[1:])
    )
    assert (first == second) is same


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("“Don’t,” she  said…", "don t she said"),
        ("हिन्दी में लिखा", "हिन्दी में लिखा"),  # vowel signs are marks, not punctuation
        ("rei\u00adsen \u200bab", "reisen ab"),
        ("東京へ行くNow", "東 京 へ 行 く now"),
        ("snake_case x=1", "snake case x 1"),
        ("!! ??", "!! ??"),  # no word: stands for itself
    ],
)
def test_words_of(text, words):
    assert separated_words(text).split() == words.split()


def pair_with_similarity(rng, size, shared):
    hashes = rng.integers(0, 2**64, 2 * size - shared, dtype=np.uint64)
    return [hashes[:size], hashes[size - shared :]]


def stacked(sets):
    lengths = np.array(list(map(len, sets)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return NGrams(np.concatenate(sets), offsets, lengths)


@pytest.mark.parametrize(("size", "shared"), [(40, 20), (40, 36), (900, 800), (3000, 1500)])
def test_equal_min_hashes_estimate_jaccard_with_its_binomial_deviation(size, shared):
    lsh, rng, pairs = MinHashLsh(), np.random.default_rng(size + shared), 300
    sets = [s for _ in range(pairs) for s in pair_with_similarity(rng, size, shared)]
    signatures = lsh.signatures(stacked(sets))
    jaccard = shared / (2 * size - shared)
    estimates = (signatures[0::2] == signatures[1::2]).mean(axis=1)
    deviation = np.sqrt(jaccard * (1 - jaccard) / signatures.shape[1])
    assert abs(estimates.mean() - jaccard) < 5 * deviation / np.sqrt(pairs)
    assert estimates.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * pairs))


def test_signatures_are_those_of_texts_alone_across_chunks():
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 2**64, n, dtype=np.uint64) for n in (1, 70_000, 3, 65_536, 65_535, 2)]
    lsh = MinHashLsh()
    together = lsh.signatures(stacked(sets))
    alone = np.concatenate([lsh.signatures(stacked([s])) for s in sets])
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("kept_words", [112, 116, 119])
def test_pairs_share_a_band_as_often_as_the_curve_says(kept_words):
    lsh, rng, pairs = MinHashLsh(), np.random.default_rng(kept_words), 1500
    # 120 words of which the last are others: no n-gram repeats, so similarity is exact.
    words = rng.integers(0, 2**48, (pairs, 120))
    edited = words.copy()
    edited[:, kept_words:] += 1
    texts = [" ".join(map(str, row)) for row in np.concatenate([words, edited])]
    bands = lsh.bands(texts)
    found = (bands[:pairs] == bands[pairs:]).any(axis=1).mean()
    shared, each = kept_words - 4, 116
    expected = match_probability(shared / (2 * each - shared), lsh.num_bands, lsh.rows_per_band)
    assert abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / pairs) + 1 / pairs


@pytest.mark.parametrize("num_own_words", [10, 20])
def test_rows_of_one_template_go_as_often_as_its_share_of_their_ngrams_says(num_own_words):
    # The page on cleaning warns of it: all rows share the min-hashes of their template.
    lsh, num_rows, gone = MinHashLsh(), 200, []
    rows = np.repeat(np.arange(num_rows, dtype=np.uint64), lsh.num_bands)
    bands = np.tile(np.arange(lsh.num_bands), num_rows)
    for t in range(24):
        template = " ".join(f"t{t}x{i}" for i in range(60))
        own = [" ".join(f"w{t}x{i}x{j}" for j in range(num_own_words)) for i in range(num_rows)]
        hashes = lsh.bands([f"{template} {words}" for words in own])
        table = {"band": bands, "hash": hashes.ravel(), "rank": rows, "row": rows}
        gone.append(len(removed(table)["row"]) / num_rows)
    share = 56 / (56 + num_own_words)
    expected = match_probability(share, lsh.num_bands, lsh.rows_per_band)
    assert abs(np.mean(gone) - expected) < 5 * np.std(gone) / np.sqrt(len(gone))


def test_texts_without_common_ngrams_share_no_band():
    texts = [" ".join(f"w{i}-{j}" for j in range(30)) for i in range(3000)]
    bands = MinHashLsh(threshold=0.5).bands(texts)
    assert all(len(np.unique(column)) == len(texts) for column in bands.T)


def test_short_texts_match_only_equal_ones():
    texts = ["A  fever", "a fever", "a fever!", "a fever and", "x+y", "x-y", "?", "!"]
    bands = MinHashLsh().bands(texts)
    same = (bands[:, None] == bands[None]).any(axis=2)
    expected = np.eye(len(texts), dtype=bool)
    expected[0, 1] = expected[1, 0] = True
    assert np.array_equal(same, expected)
    assert np.array_equal(bands[0], bands[1])


@settings(deadline=None, max_examples=40)
@given(st.lists(TEXTS, min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_bands_depend_on_the_text_alone(texts, random):
    lsh = MinHashLsh(ngram=2)
    order = random.sample(range(len(texts)), len(texts))
    together = lsh.bands(texts)
    assert np.array_equal(lsh.bands([texts[i] for i in order]), together[order])
    assert np.array_equal(np.concatenate([lsh.bands([t]) for t in texts]), together)


def test_bands_are_the_same_in_a_process_with_another_hash_seed():
    code = (
        "from distill_ray.stages.reading.near_duplicates import MinHashLsh\n"
        "print(MinHashLsh().bands(['one two three four five six', 'short']).tolist())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = MinHashLsh().bands(["one two three four five six", "short"]).tolist()
    assert result.stdout == f"{expected}\n"


def test_bands_are_those_of_every_version():
    # Recorded with Python 3.10, NumPy 1.26 and pyarrow 17, and with those of 2026.
    text = ["one two three four five six"]
    assert hex(MinHashLsh().bands(text)[0, 0]) == "0x8fd6133031396f54"


def test_another_seed_draws_other_permutations():
    text = ["one two three four five six seven eight nine"]
    assert not (MinHashLsh().bands(text) == MinHashLsh(seed=1).bands(text)).any()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
def test_no_other_bands_have_a_smaller_error(threshold):
    similarity = np.linspace(0, 1, 4001)

    def error(b, r):
        p = 1 - (1 - similarity**r) ** b
        wrong = np.where(similarity < threshold, p, 0).mean()
        missed = np.where(similarity >= threshold, 1 - p, 0).mean()
        return (1 - MISS_WEIGHT) * wrong + MISS_WEIGHT * missed

    pairs = [(b, r) for b in range(1, 129) for r in range(1, 129) if b * r <= NUM_HASHES]
    chosen = choose_bands(threshold)
    assert chosen[0] * chosen[1] <= NUM_HASHES
    # The two grids differ, so near ties may fall either way.
    assert error(*chosen) <= min(error(*pair) for pair in pairs) * 1.01


def test_a_higher_threshold_finds_fewer_pairs():
    probabilities = [match_probability(0.8, *choose_bands(t)) for t in (0.5, 0.7, 0.8, 0.9)]
    assert probabilities == sorted(probabilities, reverse=True)


# Which rows go.

TABLES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 9)), max_size=30)
"""(band, hash, row); a row's rank is a permutation of its number."""


def table_of(entries):
    band, hashed, row = (np.array([e[i] for e in entries], np.uint64) for i in range(3))
    rank = (row * np.uint64(7) + np.uint64(3)) % np.uint64(10)
    return {"band": band.astype(np.int16), "hash": hashed, "rank": rank, "row": row}


def rank_of(row):
    return (7 * row + 3) % 10


def neighbours_of(entries):
    near = {row: set() for _, _, row in entries}
    for band, hashed, row in entries:
        near[row] |= {r for b, h, r in entries if (b, h) == (band, hashed) and r != row}
    return near


@settings(deadline=None, max_examples=100)
@given(TABLES)
def test_a_row_goes_exactly_if_a_near_duplicate_has_a_smaller_rank(entries):
    expected = {}
    for row, near in neighbours_of(entries).items():
        best = min(near, key=rank_of, default=row)
        if rank_of(best) < rank_of(row):
            expected[row] = best
    result = removed(table_of(entries))
    assert dict(zip(result["row"].tolist(), result["duplicate_of"].tolist())) == expected
    assert result["rank"].tolist() == [rank_of(r) for r in result["duplicate_of"].tolist()]


@settings(deadline=None, max_examples=50)
@given(TABLES, st.randoms(use_true_random=False), st.integers(1, 4))
def test_order_and_partitioning_change_nothing(entries, random, num_partitions):
    whole = removed(table_of(entries))
    shuffled = random.sample(entries, len(entries))
    parts = [
        [e for e in shuffled if hash((e[0], e[1])) % num_partitions == p]
        for p in range(num_partitions)
    ]
    joined = merged([removed(table_of(part)) for part in parts])
    assert {k: v.tolist() for k, v in joined.items()} == {k: v.tolist() for k, v in whole.items()}


@settings(deadline=None, max_examples=80)
@given(TABLES)
def test_more_go_than_one_at_a_time_and_fewer_than_by_components(entries):
    near = neighbours_of(entries)
    kept = set()
    for row in sorted(near, key=rank_of):
        if not near[row] & kept:
            kept.add(row)
    components = {row: row for row in near}
    for _ in near:
        components = {
            row: min((components[r] for r in near[row] | {row}), key=rank_of) for row in near
        }
    goes = set(removed(table_of(entries))["row"].tolist())
    one_at_a_time = set(near) - kept
    by_component = {row for row in near if components[row] != row}
    assert one_at_a_time <= goes <= by_component


def test_of_a_chain_the_first_row_stays():
    # 3 (rank 4) ~ 4 (rank 1) in one band, 4 ~ 2 (rank 7) in another.
    result = removed(table_of([(0, 1, 3), (0, 1, 4), (1, 2, 4), (1, 2, 2), (2, 3, 9)]))
    assert result["row"].tolist() == [2, 3]
    assert result["duplicate_of"].tolist() == [4, 4]


def test_a_row_that_is_written_twice_is_not_its_own_duplicate():
    assert removed(table_of([(0, 1, 3), (0, 1, 3)]))["row"].tolist() == []
