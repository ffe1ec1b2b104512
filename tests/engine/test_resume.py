"""What a restored session needs beside its weights: the job, the best loss, the random state."""

from dataclasses import replace

import pytest
import tiny_models as tiny
import torch

from distill_ray.config.training import LoraConfig
from distill_ray.engine import checkpoint
from distill_ray.engine.loop import distill


def test_a_checkpoint_of_another_job_is_refused_and_changes_nothing(builder, tmp_path):
    session = builder.session(steps=2)
    list(distill(session))
    checkpoint.save(session, tmp_path, job="adapt/full-1")
    fresh = builder.session(steps=2)
    with pytest.raises(ValueError, match=r"checkpoint of another job: .*'adapt/full-1'.*'probe-2'"):
        checkpoint.restore(fresh, tmp_path, job="probe-2")
    assert (fresh.step, fresh.history) == (0, [])
    with fresh.backend.unsharded() as model:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with builder.session(steps=2).backend.unsharded() as model:
        expected = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    checkpoint.restore(fresh, tmp_path, job="adapt/full-1")
    assert fresh.step == 2


def test_the_best_teacher_s_loss_is_restored_and_progress_counts_towards_it(
    builder, two_checkpoints, tmp_path
):
    job = builder.job(steps=4, teaching=two_checkpoints)
    session, steps = builder.session(job, eval_steps=1, best_loss=4.0), []
    for step in distill(session):
        steps.append(step)
        if step.number == 2:
            checkpoint.save(session, tmp_path, job="test")
    restored = builder.session(job, eval_steps=1)
    assert restored.teaching.best_loss is None
    checkpoint.restore(restored, tmp_path, job="test")
    assert restored.teaching.best_loss == 4.0
    expected = [step.progress for step in steps[2:]]
    assert None not in expected
    assert [step.progress for step in distill(restored)] == expected


def test_dropout_goes_on_with_the_random_numbers_of_the_checkpoint(builder, tmp_path):
    student = tiny.ref(0, num_hidden_layers=1)
    job = replace(builder.job(student=student), lora=LoraConfig(rank=4, dropout=0.5))
    torch.manual_seed(1)
    session, losses = builder.session(job), []
    for step in distill(session):
        losses.append(step.loss)
        if step.number == 2:
            checkpoint.save(session, tmp_path, job="test")
    restored = builder.session(job)
    torch.manual_seed(2)
    checkpoint.restore(restored, tmp_path, job="test")
    assert [step.loss for step in distill(restored)] == losses[2:]
    # Dropout is at work: other random numbers give other losses.
    checkpoint.restore(again := builder.session(job), tmp_path, job="test")
    torch.manual_seed(2)
    assert [step.loss for step in distill(again)] != losses[2:]
