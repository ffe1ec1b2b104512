"""The proofs that every loss owes. B batch, T tokens, V vocabulary, N kept tokens."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from oracles import divergence as oracle

from distill_ray.core.divergence import DIVERGENCES, forward_kl, jsd, reverse_kl
from distill_ray.core.losses import cross_entropy

SHAPE = (3, 5, 7)


@dataclass(frozen=True)
class Loss:
    ours: object
    """(student, reference, mask) → TokenSum."""
    definition: object
    """(student [N, V], reference [N, ...]) → number, in float64 NumPy."""
    against_teacher: bool = True
    """The reference is a teacher's logits; otherwise token ids."""


def _divergence(ours, definition, **options):
    return Loss(partial(ours, **options), partial(definition, **options))


LOSSES = {
    "forward_kl": _divergence(forward_kl, oracle.forward_kl),
    "forward_kl-hot": _divergence(forward_kl, oracle.forward_kl, temperature=3.0),
    "reverse_kl": _divergence(reverse_kl, oracle.reverse_kl),
    "reverse_kl-hot": _divergence(reverse_kl, oracle.reverse_kl, temperature=3.0),
    "jsd": _divergence(jsd, oracle.jsd),
    "jsd-hot": _divergence(jsd, oracle.jsd, temperature=3.0, beta=0.2),
    "cross_entropy": Loss(cross_entropy, oracle.cross_entropy, against_teacher=False),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
every_divergence = pytest.mark.parametrize(
    "loss",
    [x for x in LOSSES.values() if x.against_teacher],
    ids=[name for name, x in LOSSES.items() if x.against_teacher],
)


def _case(loss, seed=0):
    """Student logits, reference and a mask with both values in it."""
    rng = torch.Generator().manual_seed(seed)
    student = (3 * torch.randn(SHAPE, generator=rng)).requires_grad_()
    teacher = 3 * torch.randn(SHAPE, generator=rng)
    tokens = torch.randint(0, SHAPE[-1], SHAPE[:-1], generator=rng)
    mask = torch.rand(SHAPE[:-1], generator=rng) < 0.6
    assert 0 < mask.sum() < mask.numel()
    return student, teacher if loss.against_teacher else tokens, mask


def test_every_divergence_in_the_table_is_proven_here():
    assert {name.split("-")[0] for name in LOSSES} == {*DIVERGENCES, "cross_entropy"}


@every_loss
def test_total_and_count_match_the_definition(loss):
    student, reference, mask = _case(loss)
    found = loss.ours(student, reference, mask)
    expected = loss.definition(student.detach()[mask].numpy(), reference[mask].numpy())
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-5)
    assert int(found.tokens) == int(np.count_nonzero(mask.numpy()))


@every_loss
def test_gradient_matches_central_differences_of_the_definition(loss):
    student, reference, mask = _case(loss)
    loss.ours(student, reference, mask).total.backward()
    kept = reference[mask].numpy()
    expected = oracle.gradient(lambda z: loss.definition(z, kept), student.detach()[mask].numpy())
    np.testing.assert_allclose(student.grad[mask].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert not student.grad[~mask].any()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_forward_kl_gradient_is_temperature_times_q_minus_p(temperature):
    student, teacher, mask = _case(LOSSES["forward_kl"])
    forward_kl(student, teacher, mask, temperature=temperature).total.backward()
    q = oracle.softmax(student.detach()[mask].numpy(), temperature)
    p = oracle.softmax(teacher[mask].numpy(), temperature)
    expected = temperature * (q - p)
    np.testing.assert_allclose(student.grad[mask].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_cross_entropy_gradient_is_q_minus_one_hot():
    student, targets, mask = _case(LOSSES["cross_entropy"])
    cross_entropy(student, targets, mask).total.backward()
    one_hot = np.eye(SHAPE[-1])[targets[mask].numpy()]
    expected = oracle.softmax(student.detach()[mask].numpy()) - one_hot
    np.testing.assert_allclose(student.grad[mask].numpy(), expected, rtol=1e-4, atol=1e-6)


@every_loss
def test_a_batch_is_the_sum_of_its_unequal_parts(loss):
    student, reference, mask = _case(loss)
    whole = loss.ours(student, reference, mask)
    parts = loss.ours(student[:1], reference[:1], mask[:1])
    parts = parts + loss.ours(student[1:], reference[1:], mask[1:])
    assert float(parts.total.detach()) == pytest.approx(float(whole.total.detach()), rel=1e-5)
    assert int(parts.tokens) == int(whole.tokens)


@every_loss
def test_an_empty_mask_is_a_zero_that_keeps_its_graph(loss):
    student, reference, mask = _case(loss)
    found = loss.ours(student, reference, torch.zeros_like(mask))
    assert float(found.total.detach()) == 0.0
    assert int(found.tokens) == 0
    found.total.backward()
    assert torch.equal(student.grad, torch.zeros(SHAPE))


@every_loss
def test_nan_where_masked_reaches_neither_total_nor_gradient(loss):
    student, reference, mask = _case(loss)
    clean = loss.ours(student, reference, mask)
    holes = student.detach().clone()
    holes[~mask] = torch.nan
    holes.requires_grad_()
    if loss.against_teacher:
        reference = reference.clone()
        reference[~mask] = torch.nan
    found = loss.ours(holes, reference, mask)
    found.total.backward()
    assert torch.equal(found.total, clean.total)
    assert torch.isfinite(holes.grad).all()
    assert not holes.grad[~mask].any()


@every_divergence
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_zero_with_zero_gradient_where_student_is_the_teacher(loss, scale):
    student, _, mask = _case(loss)
    same = (scale * student.detach()).requires_grad_()
    found = loss.ours(same, same.detach().clone(), mask)
    found.total.backward()
    assert float(found.total.detach()) == pytest.approx(0.0, abs=2e-5)
    torch.testing.assert_close(same.grad, torch.zeros(SHAPE), rtol=0, atol=2e-5)


def test_cross_entropy_is_zero_when_the_student_is_certain_and_right():
    _, targets, mask = _case(LOSSES["cross_entropy"])
    certain = 1e4 * torch.nn.functional.one_hot(targets, SHAPE[-1]).float()
    assert float(cross_entropy(certain, targets, mask).total) == 0.0


@every_divergence
def test_positive_and_finite_where_both_are_certain_of_different_tokens(loss):
    student, _, mask = _case(loss)
    first = torch.zeros(SHAPE)
    first[..., 0] = 1e3
    second = torch.zeros(SHAPE)
    second[..., 1] = 1e3
    student = first.requires_grad_()
    found = loss.ours(student, second, mask)
    found.total.backward()
    assert torch.isfinite(found.total)
    assert found.total > 0.1 * found.tokens
    assert torch.isfinite(student.grad).all()


@every_divergence
def test_the_teacher_gets_no_gradient(loss):
    student, teacher, mask = _case(loss)
    teacher.requires_grad_()
    loss.ours(student, teacher, mask).total.backward()
    assert teacher.grad is None
    assert student.grad.any()


@every_loss
def test_bfloat16_logits_are_summed_in_float32(loss):
    student, reference, mask = _case(loss)
    coarse = student.detach().bfloat16()
    if loss.against_teacher:
        reference = reference.bfloat16().float()
    expected = loss.definition(coarse[mask].float().numpy(), reference[mask].numpy())
    given = reference.bfloat16() if loss.against_teacher else reference
    assert float(loss.ours(coarse, given, mask).total) == pytest.approx(expected, rel=1e-5)


def test_jsd_over_beta_tends_to_forward_kl():
    student, teacher, mask = _case(LOSSES["jsd"])
    # Overlapping distributions: the limit is reached where β·p is small against q everywhere.
    student, teacher = student / 3, teacher / 3
    target = float(forward_kl(student, teacher, mask).total.detach())
    gaps = [
        abs(float(jsd(student, teacher, mask, beta=beta).total.detach()) / beta - target) / target
        for beta in (0.1, 0.01, 0.001)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.01


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
def test_jsd_refuses_a_beta_outside_the_open_unit_interval(beta):
    with pytest.raises(ValueError, match="beta must lie between 0 and 1"):
        jsd(*_case(LOSSES["jsd"]), beta=beta)


@every_loss
def test_shapes_that_do_not_fit_are_refused_by_name(loss):
    student, reference, mask = _case(loss)
    name = "teacher" if loss.against_teacher else "targets"
    with pytest.raises(ValueError, match=f"{name} has shape .* needs"):
        loss.ours(student, reference[:, :-1], mask)
    with pytest.raises(ValueError, match=r"mask has shape \[3, 4\], needs \[3, 5\]"):
        loss.ours(student, reference, mask[:, :-1])
