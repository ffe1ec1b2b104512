"""What a teacher in another process answers is what it would say here."""

import pickle
from dataclasses import replace

import pytest
import shard_sets as packed
import tiny_models as tiny
import torch

from distill_ray.config.serving import HiddenTargets, SampledTargets, TopKTargets
from distill_ray.core import sparse
from distill_ray.core.memory import CHUNK_BYTES
from distill_ray.data.batches import Rows, collate
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.engine.teachers.messages import (
    Request,
    answer,
    as_array,
    as_tensor,
    output,
    reference,
)
from distill_ray.engine.teachers.parity import largest_gap, sample_of, tolerance
from distill_ray.models.execution import Execution
from distill_ray.models.teachers import TeacherBank

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    made = packed.samples("labelled", 20, vocab=tiny.VOCAB - 7, seed=1)
    packed.write(folder / "rows", made, length=16)
    rows = Rows(folder / "rows", folder / "cache")[[0, 1, 2, 3]]
    found = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    return collate(found, [True] * 4)


def bank(precision="float32", seed=3):
    checkpoints = {"t": [tiny.ref(seed), tiny.ref(seed + 1)]}
    execution = Execution(precision)
    return TeacherBank(checkpoints, device=CPU, execution=execution, vocabulary=tiny.VOCAB - 7)


def asked(batch, checkpoint_index=0, temperature=1.0, kept=None):
    return Request.of(
        "t", checkpoint_index, batch, kept or SupervisedTokens.of(batch), temperature=temperature
    )


def sent(thing):
    """As another process gets it."""
    return pickle.loads(pickle.dumps(thing, protocol=5))


def own_head(batch, made, checkpoint_index=0):
    made.use("t", checkpoint_index)
    return made.head(batch.input_ids, batch.position_ids, SupervisedTokens.of(batch).positions)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_hidden_states_and_output_weights_make_the_very_head(batch, precision):
    here = own_head(batch, bank(precision))
    there = bank(precision)
    found = sent(answer(there, sent(asked(batch)), HiddenTargets(), CPU))
    weights = sent(output(there, "t", 0, CPU))
    head = reference(found, weights.head(CPU), CPU)
    assert found.vocabulary == head.vocabulary == tiny.VOCAB - 7
    assert weights.weights[0].shape[0] == tiny.VOCAB - 7, "padding isn't sent"
    assert head.features[0].dtype == here.features[0].dtype
    assert torch.equal(head.logits(slice(None)), here.logits(slice(None)))


def test_the_request_names_the_checkpoint(batch):
    served = bank()
    for checkpoint_index in (1, 0, 1):
        found = answer(served, asked(batch, checkpoint_index), HiddenTargets(), CPU)
        assert torch.equal(
            as_tensor(found.features[0], CPU), own_head(batch, bank(), checkpoint_index).features[0]
        )


def test_top_k_targets_are_those_of_the_whole_logits(batch, monkeypatch):
    kept, tau = SupervisedTokens.of(batch), 2.0
    whole = own_head(batch, bank()).logits(slice(None))
    gold = kept.next_tokens.where(kept.term_mask[:2].any(dim=0), -1)
    expected = sparse.top_k(whole, gold, k=9, temperature=tau)
    # Two predictions at a time.
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 4 * 2 * tiny.VOCAB)
    found = reference(answer(bank(), asked(batch, 0, tau), TopKTargets(k=9), CPU), None, CPU)
    assert torch.equal(found.ids, expected.ids)
    assert torch.allclose(found.log_p, expected.log_p, atol=1.1e-3)
    torch.testing.assert_close(found.label_nll, expected.label_nll)


def test_asked_again_samples_are_the_same_draws(batch):
    targets = SampledTargets(num_samples=16)
    first, again = (answer(bank(), asked(batch), targets, CPU).sparse for _ in range(2))
    assert first == again
    renamed = replace(batch, row_ids=("other", *batch.row_ids[1:]))
    assert answer(bank(), asked(renamed), targets, CPU).sparse != first


@pytest.mark.parametrize(
    "targets", [HiddenTargets(), TopKTargets(k=4), SampledTargets(num_samples=4)]
)
def test_a_batch_that_keeps_no_prediction_is_answered(batch, targets):
    silent = replace(
        batch,
        label_mask=torch.zeros_like(batch.label_mask),
        teacher_mask=torch.zeros_like(batch.teacher_mask),
    )
    served = bank()
    head = output(served, "t", 0, CPU).head(CPU) if targets.kind == "hidden" else None
    assert len(reference(answer(served, asked(silent), targets, CPU), head, CPU)) == 0


def test_a_teacher_without_finite_probabilities_is_named_with_its_rows(batch):
    served = bank()
    served.use("t", 0)
    served._model.model.get_output_embeddings().weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=batch.row_ids[0]):
        answer(served, asked(batch), TopKTargets(k=4), CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_array_becomes_the_same_tensor_in_memory_of_its_own(dtype):
    tensor = torch.randn(3, 5).to(dtype)
    array = as_array(tensor)
    array.flags.writeable = False  # As Ray hands it over.
    assert torch.equal(as_tensor(array, CPU), tensor)


@pytest.mark.parametrize(
    "targets", [HiddenTargets(), TopKTargets(k=9), SampledTargets(num_samples=9)]
)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_parity_tells_the_same_teacher_from_another(batch, targets, tau):
    part, kept = sample_of(batch, 2)
    assert len(part.row_ids) == 2 and len(kept.positions) == 32
    request = Request.of("t", 0, part, kept, temperature=tau)
    served = bank()
    served.use("t", 0)
    mine = served.head(part.input_ids, part.position_ids, kept.positions)
    for seed, same in ((3, True), (4, False)):
        there = bank(seed=seed)
        head = output(there, "t", 0, CPU).head(CPU) if targets.kind == "hidden" else None
        theirs = reference(answer(there, request, targets, CPU), head, CPU)
        gap = largest_gap(mine, theirs, kept.next_tokens, temperature=tau, chunk=5)
        assert (gap <= tolerance("float32", theirs)) == same


def test_parity_takes_a_number_that_is_none_for_a_difference(batch):
    mine = own_head(batch, bank())
    broken = replace(mine, features=(mine.features[0] * torch.nan,))
    assert largest_gap(
        mine, broken, SupervisedTokens.of(batch).next_tokens, temperature=1.0
    ) == float("inf")


def test_no_more_predictions_are_compared_than_needed(batch):
    many = replace(
        batch,
        input_ids=batch.input_ids.repeat(1, 100),
        position_ids=batch.position_ids.repeat(1, 100),
    )
    assert len(sample_of(many, 4)[1].positions) <= 256
