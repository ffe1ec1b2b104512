"""The yardsticks compute our divergence, and do it on the batches that everyone gets."""

import pytest
import torch
from bench import direct

from distill_ray.bench.arms import plain
from distill_ray.bench.arms.inputs import batch, heads, load_pair
from distill_ray.bench.suites.work import PRESETS, LossWork
from distill_ray.core.divergence import forward_kl

CPU = torch.device("cpu")


def mean_kl(student, teacher):
    """Our divergence of [N, V] logits, a token."""
    return forward_kl(student.log_softmax(-1), teacher.log_softmax(-1)).mean()


@pytest.fixture(scope="module")
def work():
    return PRESETS["small"].step("float32")


def test_a_batch_is_a_function_of_its_number(work):
    first, again, second = (batch(work, number, 512) for number in (0, 0, 1))
    assert torch.equal(first.input_ids, again.input_ids)
    assert not torch.equal(first.input_ids, second.input_ids)
    assert first.teacher_mask.sum(dim=1).tolist() == [work.length - 1] * work.rows


def test_the_step_reports_our_divergence_before_each_update(work):
    turns = direct.run(plain.step, work=work, units=2)
    pair = load_pair(work, CPU)
    rows = batch(work, 0, pair.vocabulary)
    student, teacher = (m(input_ids=rows.input_ids).logits for m in (pair.student, pair.teacher))
    ours = mean_kl(student[rows.teacher_mask], teacher[rows.teacher_mask])
    assert turns.losses[0][0] == pytest.approx(ours.item(), rel=1e-5)
    assert turns.losses[1] != turns.losses[0]


def test_the_step_in_bfloat16_is_near_that_in_float32(work):
    both = [
        direct.run(plain.step, work=PRESETS["small"].step(p), units=1).losses[0][0]
        for p in ("float32", "bfloat16")
    ]
    assert both[0] == pytest.approx(both[1], rel=0.1)
    # The teacher's weights are bfloat16, and the student computes in it: each makes a difference.
    low = PRESETS["small"].step("bfloat16")
    pair = load_pair(low, CPU)
    rows = batch(low, 0, pair.vocabulary)
    teacher = pair.teacher(input_ids=rows.input_ids).logits
    assert teacher.dtype == torch.bfloat16
    losses = []
    for mixed in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            student = pair.student(input_ids=rows.input_ids).logits
        mask = rows.teacher_mask
        losses.append(mean_kl(student[mask].float(), teacher[mask].float()).item())
    assert both[1] == pytest.approx(losses[0], rel=1e-5)
    assert both[1] != pytest.approx(losses[1], rel=1e-5)
    assert both[1] != pytest.approx(both[0], rel=1e-5)


def test_the_loss_alone_is_our_divergence_with_its_gradients():
    work = LossWork(vocabulary=50, tokens=12, hidden=8)
    turns = direct.run(plain.loss, work=work, units=2)
    both = heads(work, CPU)
    value = mean_kl(both.hidden @ both.weight.T, both.teacher_hidden @ both.teacher_weight.T)
    value.backward()
    expected = [float(value.detach()), *both.gradient_norms()]
    assert turns.losses[0] == pytest.approx(expected, rel=1e-5)
    assert turns.losses[1] == turns.losses[0]
