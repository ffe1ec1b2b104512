"""Packed rows as batches: the same on any number of ranks, and nothing counted twice."""

from collections import Counter

import pytest
import shard_sets as packed
import torch

from distill_ray.data.batches import MixedRows, Rows, Stream, collate, in_order
from distill_ray.data.mixing import mixing
from distill_ray.data.order import BatchLayout
from distill_ray.data.packing import labelled_sample, pack, prompt_sample, unpacked

LENGTH, STEPS, BATCH_ROWS = 16, 5, 8


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """13 rows of text and 5 of a task."""
    base = tmp_path_factory.mktemp("packed")
    found = {}
    for name, kind, rows in (("notes", "text", 13), ("triage", "labelled", 5)):
        made = packed.samples(kind, 40, vocab=50, seed=rows)
        folder = packed.write(base / name, made, length=LENGTH, prefix=name)
        stream = Stream(Rows(folder, base / "cache", limit=rows), is_task=kind == "labelled")
        assert len(stream.rows) == rows
        found[name] = stream
    return found


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """23 rows of text and 9 of a task, a sample each."""
    base = tmp_path_factory.mktemp("unequal")
    found = {}
    for name, kind, rows in (("notes", "text", 23), ("triage", "labelled", 9)):
        made = packed.samples(kind, rows, vocab=50, seed=rows)
        folder = packed.write(base / name, made, length=LENGTH, prefix=name, grouped=True)
        found[name] = Stream(Rows(folder, base / "cache"), is_task=kind == "labelled")
        assert len(found[name].rows) == rows
    return found


def _source(streams, rank=0, world=1, micro_batch_size=2, **changes):
    values = {"global_batch_size": BATCH_ROWS, "seed": 0, **changes}
    mixed = mixing({"notes": 3, "triage": 1}, values.pop("steps", STEPS), **values.pop("mix", {}))
    layout = BatchLayout(values.pop("global_batch_size"), micro_batch_size, rank, world)
    return MixedRows(streams, mixed, layout, **values)


def _step_rows(streams, step, *, world, micro_batch_size, **changes):
    """row_ids of a step in global order."""
    sources = [_source(streams, rank, world, micro_batch_size, **changes) for rank in range(world)]
    return [
        row
        for micro in range(sources[0].num_micro)
        for source in sources
        for row in source.batch(step, micro).row_ids
    ]


@pytest.mark.parametrize(("world", "micro_batch_size"), [(1, 8), (2, 2), (2, 4), (4, 2), (8, 1)])
def test_any_number_of_ranks_and_micro_batches_reads_the_same_rows(
    streams, world, micro_batch_size
):
    for step in range(STEPS):
        expected = _step_rows(streams, step, world=1, micro_batch_size=1)
        assert _step_rows(streams, step, world=world, micro_batch_size=micro_batch_size) == expected


@pytest.mark.parametrize("kind", ["streams", "unequal"])
@pytest.mark.parametrize("linear", [False, True])
def test_a_changing_mix_is_the_same_on_two_ranks(request, kind, linear):
    found = request.getfixturevalue(kind)
    changes = {"mix": {"changes": [(0.4, {"triage": 1})], "linear": linear}}
    for step in range(STEPS):
        # Rows of unequal length are sorted into the micro-batches of this size.
        alone = _step_rows(found, step, world=1, micro_batch_size=4, **changes)
        assert _step_rows(found, step, world=2, micro_batch_size=4, **changes) == alone
        if step >= 2 and not linear:
            assert {row.partition(":")[0] for row in alone} == {"triage"}


@pytest.mark.parametrize("kind", ["streams", "unequal"])
def test_tokens_of_a_row_are_those_of_its_samples(request, kind):
    for stream in request.getfixturevalue(kind).values():
        rows = stream.rows[range(len(stream.rows))]
        for number, positions in enumerate(rows["position_ids"]):
            samples = "".join("|" * (p == 0) + "t" for p in positions).split("|")[1:]
            own = samples[: len(rows["sources"][number])]
            assert stream.rows.tokens[number] == sum(map(len, own))
    assert kind == "unequal" or (stream.rows.tokens < stream.rows.lengths).any()


@pytest.mark.parametrize("kind", ["streams", "unequal"])
def test_what_was_read_is_what_the_batches_hold(request, kind):
    found = request.getfixturevalue(kind)
    source, rows, tokens = _source(found), Counter(), Counter()
    sizes = {
        row_id: int(stream.rows.tokens[i])
        for stream in found.values()
        for i, row_id in enumerate(stream.rows[range(len(stream.rows))]["row_id"])
    }
    for step, micro in ((s, m) for s in range(3) for m in range(source.num_micro)):
        for row_id in source.batch(step, micro).row_ids:
            rows[row_id.partition(":")[0]] += 1
            tokens[row_id.partition(":")[0]] += sizes[row_id]
    assert source.read(3) == {n: {"rows": rows[n], "tokens": tokens[n]} for n in rows}


def test_a_batch_depends_on_its_step_alone(streams):
    forward, backward = _source(streams), _source(streams)
    first = [forward.batch(s, m).row_ids for s in range(STEPS) for m in range(4)]
    last = [
        backward.batch(s, m).row_ids for s in reversed(range(STEPS)) for m in reversed(range(4))
    ]
    assert first == last[::-1]


def test_streams_are_mixed_in_their_shares_and_cycled_evenly(streams):
    counts = Counter(
        row
        for step in range(STEPS)
        for row in _step_rows(streams, step, world=1, micro_batch_size=8)
    )
    drawn = Counter(row.partition(":")[0] for row in counts.elements())
    assert drawn["triage"] == pytest.approx(10, abs=1)
    assert drawn["notes"] == pytest.approx(30, abs=1)
    for name, rows in (("notes", 13), ("triage", 5)):
        often = [n for row, n in counts.items() if row.startswith(name)]
        assert len(often) == rows
        assert max(often) - min(often) <= 1


def test_another_seed_is_another_order_of_the_same_streams(streams):
    rows = [_source(streams, seed=seed).batch(0, 0) for seed in (0, 1)]
    assert rows[0].row_ids != rows[1].row_ids
    assert torch.equal(rows[0].is_task, rows[1].is_task)


def test_rows_that_cannot_be_shared_out_evenly_are_refused(streams):
    with pytest.raises(ValueError, match="8 rows can't be cut into 3 x 2"):
        _source(streams, world=3)


def test_a_batch_holds_what_the_files_hold(streams):
    batch = _source(streams, micro_batch_size=8).batch(0, 0)
    table = {
        row_id: {column: values[i] for column, values in rows.items()}
        for stream in streams.values()
        for rows in [stream.rows[range(len(stream.rows))]]
        for i, row_id in enumerate(rows["row_id"])
    }
    for i, row_id in enumerate(batch.row_ids):
        row = table[row_id]
        assert batch.input_ids[i].tolist() == row["input_ids"]
        assert batch.position_ids[i].tolist() == row["position_ids"]
        assert batch.label_mask[i].tolist() == row["label_mask"]
        assert batch.teacher_mask[i].tolist() == row["teacher_mask"]
        assert bool(batch.is_task[i]) == row_id.startswith("triage")
    assert batch.label_mask.dtype == batch.teacher_mask.dtype == torch.bool


def test_targets_are_the_next_tokens(streams):
    batch = _source(streams).batch(0, 0)
    assert torch.equal(batch.targets[:, :-1], batch.input_ids[:, 1:])
    assert not batch.label_mask[:, -1].any()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("global_batch_size", [1, 3, 16])
def test_in_order_gives_every_rank_equal_batches_and_counts_no_row_twice(
    streams, world, global_batch_size
):
    by_rank = [
        list(in_order(streams, batch_size=global_batch_size, rank=rank, world=world))
        for rank in range(world)
    ]
    sizes = [[len(batch.row_ids) for batch in batches] for batches in by_rank]
    assert all(size == sizes[0] for size in sizes)
    supervised = Counter(
        row_id
        for batches in by_rank
        for batch in batches
        for row_id, gold in zip(batch.row_ids, batch.label_mask, strict=True)
        if gold.any()
    )
    expected = Counter()
    for name, rows in (("notes", 13), ("triage", 5)):
        written = len(streams[name].rows.data)
        expected.update(f"{name}:{i * written // rows:06d}" for i in range(rows))
    assert supervised == expected
    for batches in by_rank:
        for batch in batches:
            silent = ~batch.label_mask.any(dim=1)
            assert not batch.teacher_mask[silent].any()


@pytest.mark.parametrize("world", [1, 3])
def test_a_limit_spreads_over_the_lengths_and_counts_for_all_ranks_together(unequal, world):
    found = [
        row_id
        for rank in range(world)
        for batch in in_order(unequal, batch_size=2, rank=rank, world=world, limit=4)
        for row_id, kept in zip(batch.row_ids, batch.label_mask.any(dim=1), strict=True)
        if kept
    ]
    assert len(found) == len(set(found)) == 8
    for name, stream in unequal.items():
        lengths = stream.rows.lengths
        mine = [lengths[int(i.partition(":")[2])] for i in found if i.startswith(name)]
        assert len(mine) == 4 and min(mine) == min(lengths)
        assert max(mine) >= sorted(lengths)[len(lengths) * 3 // 4]


def test_in_order_supervises_as_many_tokens_on_four_ranks_as_on_one(streams):
    def tokens(world):
        return sum(
            int(batch.label_mask.sum())
            for rank in range(world)
            for batch in in_order(streams, batch_size=2, rank=rank, world=world)
        )

    assert tokens(4) == tokens(1) > 0


def test_the_length_of_a_row_is_that_of_its_tokens(unequal):
    rows = unequal["notes"].rows
    assert rows.lengths.tolist() == [len(ids) for ids in rows[range(len(rows))]["input_ids"]]
    assert len(set(rows.lengths.tolist())) > 3


def test_a_limit_takes_rows_from_all_places_with_their_lengths(unequal, tmp_path):
    made = packed.samples("text", 9, vocab=50, seed=1)
    folder = packed.write(tmp_path / "s", made, length=LENGTH, grouped=True)
    few = Rows(folder, tmp_path / "cache", limit=4)
    chosen = [made[i] for i in (0, 2, 4, 6)]
    assert few.lengths.tolist() == few.tokens.tolist() == [len(sample.ids) for sample in chosen]
    assert few[[1, 3]]["input_ids"] == [chosen[1].ids, chosen[3].ids]


def test_rows_are_padded_to_the_longest_and_padding_is_not_supervised():
    samples = [labelled_sample("a", [5, 6], [7], 9), prompt_sample("b", [5, 6])]
    batch = collate(list(unpacked(samples, "p")), [True, True])
    assert batch.input_ids.tolist() == [[5, 6, 7, 9], [5, 6, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert batch.label_mask.tolist() == [[False, True, True, False], [False] * 4]
    assert batch.teacher_mask.tolist() == [[False, True, True, False], [False, True, False, False]]


def test_padding_behind_a_packed_row_belongs_to_its_last_sample():
    samples = [labelled_sample("a", [5, 6], [7], 9), prompt_sample("b", [5, 6])]
    rows = [*pack(samples, 6, 0, "p"), *unpacked([labelled_sample("c", [5] * 6, [7], 9)], "q")]
    batch = collate(rows, [True, True])
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert not batch.label_mask[0, 6:].any()
    assert not batch.teacher_mask[0, 6:].any()


@pytest.mark.parametrize("world", [2, 4])
def test_unequal_rows_come_in_the_same_batches_on_any_number_of_ranks(unequal, world):
    def batches(world):
        sources = [_source(unequal, rank, world) for rank in range(world)]
        return [
            [
                source.batch(step, micro).row_ids
                for micro in range(sources[0].num_micro)
                for source in sources
            ]
            for step in range(STEPS)
        ]

    assert batches(world) == batches(1)


def test_unequal_rows_are_mixed_in_the_same_shares_of_rows_as_equal_ones(streams, unequal):
    how = {"world": 1, "micro_batch_size": 2, "mix": {"by_tokens": False}}
    for step in range(STEPS):
        counts = [
            Counter(row.partition(":")[0] for row in _step_rows(found, step, **how))
            for found in (streams, unequal)
        ]
        assert counts[0] == counts[1] == {"notes": 6, "triage": 2}


def test_unequal_rows_are_in_their_shares_of_tokens(unequal):
    read = _source(unequal, steps=640).read(640)
    largest = max(int(stream.rows.tokens.max()) for stream in unequal.values())
    whole = sum(row["tokens"] for row in read.values())
    assert abs(read["notes"]["tokens"] - 0.75 * whole) <= largest
    assert read["notes"]["rows"] / read["triage"]["rows"] != pytest.approx(3, rel=0.02)


def test_streams_of_different_lengths_are_grouped_though_each_has_only_one(tmp_path):
    found = {}
    for name, tokens in (("notes", 12), ("triage", 3)):
        made = [prompt_sample(str(i), [1] * tokens) for i in range(8)]
        folder = packed.write(tmp_path / name, made, length=LENGTH, grouped=True)
        found[name] = Stream(Rows(folder, tmp_path / "cache"), is_task=True)
    source = _source(found, mix={"by_tokens": False})
    widths = [[source.batch(s, m).input_ids.shape[1] for m in range(4)] for s in range(STEPS)]
    # A step has 6 of 8 rows from notes.
    assert widths == [[12, 12, 12, 3]] * STEPS


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("global_batch_size", [1, 3, 16])
def test_unequal_rows_in_order_come_once_and_beside_others_of_their_length(
    unequal, world, global_batch_size
):
    by_rank = [
        list(in_order(unequal, batch_size=global_batch_size, rank=rank, world=world))
        for rank in range(world)
    ]
    sizes = [[len(batch.row_ids) for batch in batches] for batches in by_rank]
    assert all(size == sizes[0] for size in sizes)
    supervised = Counter(
        row_id
        for batches in by_rank
        for batch in batches
        for row_id, gold in zip(batch.row_ids, batch.label_mask, strict=True)
        if gold.any()
    )
    expected = Counter(f"notes:{i:06d}" for i in range(23))
    assert supervised == expected + Counter(f"triage:{i:06d}" for i in range(9))
    for batches in by_rank:
        widths = [b.input_ids.shape[1] for b in batches if b.row_ids[0].startswith("notes")]
        full = widths[: 23 // (world * global_batch_size)]  # Behind them a stand-in may come.
        assert full == sorted(full)
