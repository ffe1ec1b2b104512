"""Targets read from disk, against the teacher that made them. V vocabulary, k entries kept."""

from dataclasses import replace
from statistics import fmean, stdev

import pytest
import target_caches as caches
import tiny_models as tiny
import torch

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.core.memory import targets_bytes
from distill_ray.core.sparse import SparseTargets, top_k
from distill_ray.core.sparse_bytes import decode, encode
from distill_ray.data.batches import in_order
from distill_ray.engine.build import build_session, held_out_streams, teacher_bank
from distill_ray.engine.job import TeachingSpec
from distill_ray.engine.loop import distill
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.engine.teachers.base import Colocated
from distill_ray.engine.teachers.cached import Cached, TargetsError
from distill_ray.engine.teachers.targets import TargetSpec, sparse_targets, supervised_per_row
from distill_ray.engine.validation import validate
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef

pytestmark = pytest.mark.heavy

CPU = torch.device("cpu")
STEPS = 8
SPEC = TargetSpec("top_k", 4)


class Truncated(Colocated):
    """The teacher in this process, of whom no more is told than a file would hold."""

    def __init__(self, job, k):
        super().__init__(teacher_bank(job, CPU))
        self._k = k

    def reference(self, batch, kept, *, temperature):
        head = super().reference(batch, kept, temperature=temperature)
        spec = TargetSpec("top_k", self._k, temperature)
        return decode(encode(sparse_targets(head, kept.next_tokens, spec)))


@pytest.fixture
def job(builder):
    """Two sure checkpoints that disagree, each for half of the steps, softened."""
    sure = {"num_hidden_layers": 1, "initializer_range": 0.5}
    refs = TeachingSpec(
        {"big": [tiny.ref(seed, **sure) for seed in (5, 6)]}, "big", "equal_periods"
    )
    made = builder.job(
        steps=STEPS, teaching=refs, micro_batch_size=4, learning_rate=3e-3,
        objective=ObjectiveConfig(alpha=0.8, temperature=2.0),
    )  # fmt: skip
    return replace(made, eval_steps=2)


def curve(job, source=None):
    session = build_session(job, CPU, source)
    for _ in distill(session):
        pass
    return session.history


def values(history, name):
    return [row[name] for row in history if name in row]


def test_with_every_id_kept_the_curve_is_that_of_the_teacher_itself(job, tmp_path):
    colocated = curve(job)
    cached = curve(job, caches.fill(job, tmp_path, k=tiny.VOCAB)[0])
    assert [row["checkpoint_index"] for row in cached] == [
        row["checkpoint_index"] for row in colocated
    ]
    assert {row["checkpoint_index"] for row in cached} == {0, 1}
    for name in ("loss", "text.kl", "task.kl", "validation.task.kl", "validation.task.ce"):
        # A probability is stored within 0.1 %, too much as often as too little.
        assert values(cached, name) == pytest.approx(values(colocated, name), rel=2e-4), name


@pytest.mark.parametrize("k", [1, 16])
def test_with_few_ids_kept_the_curve_is_that_of_a_teacher_who_tells_no_more(job, tmp_path, k):
    told = curve(job, Truncated(job, k))
    cached = curve(job, caches.fill(job, tmp_path, k=k)[0])
    for name in ("loss", "grad_norm", "validation.task.kl", "validation.text.kl"):
        assert values(cached, name) == pytest.approx(values(told, name), rel=1e-5), name


def test_what_truncation_hides_of_the_kl_shrinks_with_every_id_kept(job, tmp_path):
    whole = validate(build_session(job, CPU))
    hidden = []
    captured = []
    for k in (1, 4, 16, 64, 256, tiny.VOCAB):
        source, counts = caches.fill(job, tmp_path / str(k), k=k)
        seen = validate(build_session(job, CPU, source))
        hidden.append(whole["text.kl"] - seen["text.kl"])
        captured.append(counts.captured / counts.tokens)
    assert hidden == sorted(hidden, reverse=True)
    assert captured == sorted(captured) and captured[-1] == pytest.approx(1)
    assert hidden[0] > 0.4 * whole["text.kl"]
    assert abs(hidden[-1]) < 1e-4 * whole["text.kl"]


def test_samples_are_right_on_average(job, tmp_path):
    whole = validate(build_session(job, CPU))["text.kl"]
    found = []
    for seed in range(6):
        source, counts = caches.fill(job, tmp_path / str(seed), k=16, kind="samples", seed=seed)
        found.append(validate(build_session(job, CPU, source))["text.kl"])
        assert counts.ids < 16 * counts.tokens
    off = abs(fmean(found) - whole)
    assert off < 4 * stdev(found) / len(found) ** 0.5
    assert stdev(found) < 0.01 * whole
    expected = values(curve(job), "loss")
    assert values(curve(job, source), "loss") == pytest.approx(expected, rel=0.05)


def test_a_step_that_was_restored_reads_the_same_targets(job, tmp_path):
    source, _ = caches.fill(job, tmp_path, k=8)
    session = build_session(job, CPU, source)
    batch = session.source.batch(0, 0)
    kept = SupervisedTokens.of(batch)
    first = source.reference(batch, kept, temperature=2.0)
    source.use("big", 1)
    following = session.source.batch(6, 0)
    other = source.reference(following, SupervisedTokens.of(following), temperature=2.0)
    source.use("big", 0)
    again = source.reference(batch, kept, temperature=2.0)
    assert torch.equal(first.ids, again.ids) and torch.equal(first.log_p, again.log_p)
    assert other.ids.shape[1] == 8


def test_rows_that_stand_in_for_none_are_asked_nothing(job, tmp_path):
    source, _ = caches.fill(job, tmp_path, k=4)
    source.use("big", 0)
    silent = 0
    for rank in range(3):
        # Sixteen rows on three ranks: two ranks have a row that stands in.
        for batch in in_order(held_out_streams(job), batch_size=1, rank=rank, world=3):
            kept = SupervisedTokens.of(batch)
            found = source.reference(batch, kept, temperature=1.0)
            assert len(found) == len(kept.positions) == sum(supervised_per_row(batch, kept))
            silent += not len(found)
    assert silent > 0


def random_targets(tokens, seed, k=4):
    logits = torch.randn(tokens, 50, generator=torch.Generator().manual_seed(seed))
    return top_k(logits, torch.arange(tokens) % 50, k=k)


@pytest.mark.parametrize("lengths", [[1] * 300, [128] * 3, [5, 400, 1, 1, 127, 128, 2]])
def test_any_row_is_found_among_rows_that_share_their_bytes(tmp_path, lengths):
    rows = {f"r{i}": random_targets(n, i) for i, n in enumerate(lengths)}
    source = Cached({("t", 0): caches.write(tmp_path, rows, SPEC)})
    source.use("t", 0)
    for row_id in reversed(rows):
        found = source._files.row(row_id, len(rows[row_id]), 1.0)
        expected = decode(encode(rows[row_id]))
        for name in ("ids", "log_p", "log_tail", "label_nll"):
            assert torch.equal(getattr(found, name), getattr(expected, name))


def test_short_rows_take_no_more_bytes_than_long_ones(tmp_path):
    def bytes_a_token(lengths):
        logits = torch.randn(sum(lengths), 3000, generator=torch.Generator().manual_seed(0))
        parts = top_k(logits * 3, None, k=64)
        ends = torch.tensor(lengths).cumsum(0).tolist()
        rows = {f"corpus:train:{i:05d}": parts[e - n : e] for i, (n, e) in
                enumerate(zip(lengths, ends, strict=True))}  # fmt: skip
        caches.write(tmp_path / str(len(lengths)), rows, TargetSpec("top_k", 64))
        return (tmp_path / str(len(lengths)) / "00000.parquet").stat().st_size / sum(lengths)

    long, short = bytes_a_token([256, 256]), bytes_a_token([1] * 512)
    # Random logits have nothing in common: a trained teacher's come to less.
    assert long < targets_bytes(1, 64) < 200
    assert short < long + 12


@pytest.fixture
def source(tmp_path):
    rows = {"a": random_targets(3, 0), "b": random_targets(2, 1)}
    made = Cached({("wide", 0): caches.write(tmp_path / "wide", rows, SPEC)})
    made.use("wide", 0)
    return made


def ask(source, row_id="a", count=3, temperature=1.0) -> SparseTargets:
    from distill_ray.data.batches import collate

    row = {
        "row_id": row_id, "input_ids": [1] * 5, "position_ids": list(range(5)),
        "label_mask": [True] * count + [False] * (5 - count), "teacher_mask": [False] * 5,
    }  # fmt: skip
    batch = collate([row], [False])
    return source.reference(batch, SupervisedTokens.of(batch), temperature=temperature)


def test_an_unknown_row_is_named_with_its_checkpoint_and_folder(source, tmp_path):
    with pytest.raises(TargetsError, match="wide checkpoint 1: row c has no targets in") as error:
        ask(source, "c")
    assert str(tmp_path / "wide") in str(error.value)


def test_another_number_of_predictions_is_refused(source):
    with pytest.raises(TargetsError, match=r"row a keeps 4 predictions, .* has targets of 3"):
        ask(source, count=4)


def test_another_temperature_is_refused(source):
    with pytest.raises(TargetsError, match="of temperature 1, requested are those of 2"):
        ask(source, temperature=2.0)


def test_another_checkpoint_is_refused(source):
    with pytest.raises(TargetsError, match="no targets of wide checkpoint 2, only of wide ch"):
        source.use("wide", 1)


def test_nothing_is_answered_before_a_checkpoint_is_in_use(tmp_path):
    with pytest.raises(RuntimeError, match="call use"):
        ask(Cached({}))


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_torn_file_is_refused(source, tmp_path, size):
    path = tmp_path / "wide/00000.parquet"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TargetsError, match=r"00000\.parquet is not a whole file of targets"):
        Cached({("wide", 0): tmp_path / "wide"}).use("wide", 0)


def test_damaged_bytes_are_noticed(source, tmp_path):
    path = tmp_path / "wide/00000.parquet"
    data = bytearray(path.read_bytes())
    at = data.index(b"DRST") + 60
    data[at] ^= 0xFF
    path.write_bytes(data)
    again = Cached({("wide", 0): tmp_path / "wide"})
    again.use("wide", 0)
    with pytest.raises(TargetsError, match=r"row a in .*00000\.parquet: damaged"):
        ask(again)


def test_a_teacher_that_is_not_finite_is_named_by_its_row(job, tmp_path):
    model = load_model(job.teaching.checkpoints["big"][0])
    model.get_input_embeddings().weight.data[10:] = float("nan")  # The first ones are looked at.
    model.save_pretrained(tmp_path / "broken")
    refs = [ModelRef("path", str(tmp_path / "broken"))]
    spec = TeachingSpec({"big": refs}, "big", "fixed")
    with pytest.raises(FloatingPointError, match=r"row .*: the teacher's probabilities"):
        caches.fill(replace(job, teaching=spec), tmp_path, k=4)
