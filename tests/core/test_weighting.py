"""Adaptive Weighting and the identity behind it."""

import numpy as np
import pytest
import torch

from distill_ray.core.weighting import adaptive, favourable_sets, means_of


def drawn(seed, size=200):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 5


def test_the_weight_is_the_anchor_s_share_of_both_losses():
    frozen_student, teacher = drawn(0), drawn(1)
    expected = [a / (a + t) for a, t in zip(frozen_student.tolist(), teacher.tolist(), strict=True)]
    assert adaptive(frozen_student, teacher).tolist() == pytest.approx(expected)
    log_ratio = frozen_student.log() - teacher.log()
    torch.testing.assert_close(adaptive(frozen_student, teacher), torch.sigmoid(log_ratio))


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.7, 40.0])
def test_equal_losses_give_one_half(value):
    loss = torch.tensor([value])
    assert adaptive(loss, loss).item() == 0.5


def test_swapped_losses_give_the_rest():
    frozen_student, teacher = drawn(2), drawn(3)
    both = adaptive(frozen_student, teacher) + adaptive(teacher, frozen_student)
    torch.testing.assert_close(both, torch.ones_like(both))


def test_a_teacher_that_knows_is_imitated_and_one_that_does_not_is_left():
    weight = adaptive(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0]))
    assert weight.tolist() == [1.0, 0.0]


def test_means_are_those_of_each_sample_s_counted_values():
    values = torch.tensor([1.0, 3.0, float("nan"), 10.0, 5.0])
    sample = torch.tensor([0, 0, 0, 2, 3])
    counted = torch.tensor([True, True, False, True, False])
    means, there = means_of(values, sample, counted)
    assert means.tolist() == [2.0, 0.0, 10.0, 0.0]
    assert there.tolist() == [True, False, True, False]


def test_nothing_has_no_means():
    means, there = means_of(
        torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0).bool()
    )
    assert len(means) == len(there) == 0


def test_what_both_sides_win_differs_by_the_risk_gap():
    student, teacher = drawn(4).numpy(), drawn(5).numpy()
    student[:20] = teacher[:20]
    found = favourable_sets(student, teacher)
    ahead, behind = student < teacher, student > teacher
    assert found.student_share == ahead.mean() and found.teacher_share == behind.mean()
    assert found.student_share + found.teacher_share == pytest.approx(0.9)
    assert found.gain == pytest.approx((teacher - student)[ahead].sum() / len(student))
    assert found.loss == pytest.approx((student - teacher)[behind].sum() / len(student))
    assert found.gain - found.loss == pytest.approx(found.gap)
    assert found.gap == pytest.approx(teacher.mean() - student.mean())


def test_sides_swap_with_the_models():
    student, teacher = drawn(6).numpy(), drawn(7).numpy()
    one, other = favourable_sets(student, teacher), favourable_sets(teacher, student)
    assert (one.gain, one.student_share) == (other.loss, other.teacher_share)
    assert one.gap == pytest.approx(-other.gap)


def test_equal_models_win_nothing():
    loss = np.asarray([0.5, 2.0])
    assert vars(favourable_sets(loss, loss)) == dict.fromkeys(
        vars(favourable_sets(loss, loss)), 0.0
    )
