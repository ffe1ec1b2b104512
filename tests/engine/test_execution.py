"""Ways to compute that change nothing but time and memory."""

import shutil
from dataclasses import replace

import pytest
import tiny_models as tiny
import torch

from distill_ray.config.training import LoraConfig
from distill_ray.engine.loop import train_step
from distill_ray.engine.objective import SupervisedTokens


@pytest.fixture
def step_of(builder, two_checkpoints, recorded):
    """Loss and gradients of a step; `changes` are keys of the training config."""

    def step(lora=None, teaching=two_checkpoints, **changes):
        student = tiny.ref(0, num_hidden_layers=2)
        job = builder.job(teaching=teaching, student=student, max_grad_norm=1e9, **changes)
        session = builder.session(replace(job, lora=lora))
        gradients = recorded(session)
        return train_step(session)[0], gradients[0]

    return step


def _assert_same(found, expected, rtol=1e-5, atol=1e-6):
    assert found[0] == pytest.approx(expected[0], rel=rtol)
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def test_activation_checkpointing_gives_the_same_gradients(step_of):
    _assert_same(step_of(activation_checkpointing=True), step_of())


def test_activation_checkpointing_reaches_adapters_of_every_layer(step_of):
    lora = LoraConfig(rank=2)
    found, expected = step_of(lora, activation_checkpointing=True), step_of(lora)
    assert len(found[1]) == 2 * 7 * 2
    _assert_same(found, expected)


def test_eager_attention_gives_the_loss_and_gradients_of_sdpa(step_of):
    _assert_same(step_of(attn_implementation="eager"), step_of())


@pytest.mark.parametrize("taught", [True, False])
def test_autocast_computes_in_bfloat16_and_keeps_float32_weights(step_of, taught):
    # A teacher's own precision moves the loss; without one, only the student's can.
    alone = {} if taught else {"teaching": None}
    low, exact = step_of(precision="bfloat16", **alone), step_of(**alone)
    assert low[0] == pytest.approx(exact[0], rel=1e-2)
    assert low[0] != exact[0]
    for one, other in zip(low[1], exact[1], strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 5e-2


def test_a_teacher_computes_in_the_precision_of_the_training(builder, two_checkpoints):
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        session = builder.session(teaching=two_checkpoints, precision=precision)
        session.teaching.use_current()
        batch = session.source.batch(0, 0)
        supervised = SupervisedTokens.of(batch)
        head = session.teaching.source.reference(batch, supervised, temperature=1.0)
        assert {tensor.dtype for tensor in (*head.features, *head.weights)} == {dtype}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_backbone_gives_the_same_loss_and_gradients(step_of):
    _assert_same(step_of(compile=True), step_of(), rtol=1e-4, atol=1e-5)
