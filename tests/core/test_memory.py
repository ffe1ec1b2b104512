"""Memory estimates against the bytes that torch holds."""

from __future__ import annotations

import pytest
import torch

from distill_ray.core.memory import CHUNK_BYTES, ModelShape, TrainingSetup, training_need
from distill_ray.engine.backends.optim import OptimSpec, adamw
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef

INIT = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 500,
}


def need(**changes: object):
    sizes = ModelShape(parameters=1_000_000, hidden=64, layers=2, vocabulary=500)
    base = {"rows": 4, "length": 32, "workers": 4, "zero_stage": 0, "bytes_per_param": 4}
    return training_need(sizes, TrainingSetup(**{**base, **changes}))


def test_weights_gradients_and_states_are_what_torch_holds() -> None:
    model = load_model(ModelRef("init", init=INIT))
    optimiser = adamw(model, OptimSpec(1e-3, 10))
    model(input_ids=torch.zeros(1, 4, dtype=torch.int64)).logits.sum().backward()
    optimiser.step()
    count = sum(p.numel() for p in model.parameters())
    sizes = ModelShape(count, 64, 2, 500)
    made = training_need(
        sizes, TrainingSetup(rows=1, length=4, workers=1, zero_stage=0, bytes_per_param=4)
    )
    assert made.parameters == sum(p.nbytes for p in model.parameters())
    assert made.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = [t for s in optimiser.state.values() for n, t in s.items() if n != "step"]
    assert made.optimiser == sum(t.nbytes for t in moments)


@pytest.mark.parametrize(
    ("stage", "parameters", "gradients", "optimiser"),
    # Stages 1 to 3 have a copy of the weights in their shards of the states.
    [(0, 4, 4, 8), (1, 4, 4, 3), (2, 4, 1, 3), (3, 1, 1, 3)],
)
def test_zero_shards_states_then_gradients_then_weights(
    stage: int, parameters: int, gradients: int, optimiser: int
) -> None:
    made = need(zero_stage=stage)
    found = (made.parameters, made.gradients, made.optimiser)
    assert found == tuple(n * 1_000_000 for n in (parameters, gradients, optimiser))


def test_half_precision_adds_a_float32_copy_of_the_weights() -> None:
    made = need(bytes_per_param=2, zero_stage=1, workers=1)
    found = (made.parameters, made.gradients, made.optimiser)
    assert found == (2_000_000, 2_000_000, 12 * 1_000_000)


def test_half_precision_without_shards_computes_with_copies_of_float32_weights() -> None:
    made = need(bytes_per_param=2)
    assert (made.parameters, made.gradients, made.optimiser) == (6_000_000, 4_000_000, 8_000_000)


def test_a_teacher_adds_its_weights_and_no_logits() -> None:
    alone, beside = need(), need(teacher=ModelShape(3_000_000, 128, 4, 500))
    assert beside.total - alone.total == beside.teacher == 12_000_000


def test_the_loss_needs_chunks_however_many_tokens_there_are() -> None:
    head = 4 * 500 * 64
    assert need(rows=1).loss == head + 2 * 4 * 32 * 500
    assert need(rows=10_000).loss == need(rows=20_000).loss == head + 2 * CHUNK_BYTES["cpu"]
    assert need(rows=10_000, device="cuda").loss == head + 5 * CHUNK_BYTES["cuda"]


def test_checkpointing_keeps_each_layer_s_input_and_one_layer_s_activations() -> None:
    assert need().activations == 2 * 17 * 4 * 4 * 32 * 64
    assert need(checkpointing=True).activations == 17 * 4 * 4 * 32 * 64 + 2 * 4 * 4 * 32 * 64


def test_probes_from_the_student_keep_a_copy_of_it_in_the_main_memory() -> None:
    assert need().snapshot == 0
    assert need(probing=True).snapshot == (4 + 8) * 1_000_000
    assert need(probing=True, zero_stage=2).snapshot == (4 + 3) * 1_000_000
    assert need(probing=True, zero_stage=3).snapshot == (1 + 3) * 1_000_000
    assert need(probing=True, device="cuda").snapshot == 0


def test_what_is_offloaded_takes_no_room() -> None:
    made = need(zero_stage=3, offload=(True, True))
    assert (made.parameters, made.optimiser) == (0, 0)
    assert need(zero_stage=3, offload=(True, False)).parameters == 1_000_000


def test_adapters_need_states_for_what_is_trained_alone() -> None:
    made = need(trained=0.01)
    assert (made.parameters, made.gradients, made.optimiser) == (4_000_000, 40_000, 80_000)
