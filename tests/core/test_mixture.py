"""A mixture of teachers inside the fused loss, against the definition in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distill_ray.core.divergence import DIVERGENCES, forward_kl
from distill_ray.core.head import Head
from distill_ray.core.head_loss import LossTargets, head_loss, label_nll
from distill_ray.core.mixture import Mixture

N, V, M = 13, 11, 3


def randn(*shape, seed, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def student():
    return Head((randn(N, 6, seed=1).requires_grad_(),), (randn(14, 6, seed=2),), V)


def teachers():
    """Of three widths and scales; one has a cap."""
    made = [Head((randn(N, h, seed=h),), (randn(V + h, h, seed=9 + h),), V) for h in (4, 5, 7)]
    return [made[0], replace(made[1], scale=0.3), replace(made[2], softcap=2.0)]


def drawn_weights():
    """Some tokens are one teacher's, some of two, most of all."""
    weights = torch.rand(N, M, generator=torch.Generator().manual_seed(3))
    weights[2, 1:] = weights[5, 0] = weights[7, :2] = 0
    return weights / weights.sum(dim=1, keepdim=True)


def supervision(reference, **changes):
    rng = torch.Generator().manual_seed(5)
    made = LossTargets(
        labels=torch.randint(0, V, (N,), generator=rng),
        label_weight=torch.rand(N, generator=rng),
        reference=reference,
        reference_weight=torch.rand(N, generator=rng),
    )
    return replace(made, **changes)


def mixed(heads, weights, tau=1.0):
    """[N, V] float64 probabilities, by the definition."""
    each = [(h.logits(slice(0, N)).double() / tau).softmax(dim=-1) for h in heads]
    return sum(w[:, None] * p for w, p in zip(weights.double().unbind(dim=1), each, strict=True))


def oracle(target, p):
    """Loss and the gradient of the student's features, by autograd of float64."""
    head = student()
    x = head.features[0].detach().double().requires_grad_()
    z = x @ head.weights[0][:V].double().T
    tau = target.temperature
    each = tau**2 * target.divergence((z / tau).log_softmax(-1), p.log(), **target.options)
    ce = torch.nn.functional.cross_entropy(z, target.labels, reduction="none")
    total = target.label_weight.double() @ ce + target.reference_weight.double() @ each
    return total.detach(), torch.autograd.grad(total, x)[0]


def fused(target, chunk=4):
    head = student()
    found = head_loss(head, target, chunk_bytes=4 * V * chunk)
    return found, torch.autograd.grad(found.total, head.features[0])[0]


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_loss_and_gradient_are_those_of_the_definition(name, tau):
    heads, weights = teachers(), drawn_weights()
    target = supervision(Mixture.of(heads, weights), divergence=DIVERGENCES[name], temperature=tau)
    total, slope = oracle(target, mixed(heads, weights, tau))
    found, gradient = fused(target)
    torch.testing.assert_close(found.total.double(), total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_any_cut_into_chunks_gives_the_same(chunk):
    target = supervision(Mixture.of(teachers(), drawn_weights()))
    (whole, expected), (found, gradient) = fused(target, 100), fused(target, chunk)
    torch.testing.assert_close(found.divergence, whole.divergence, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_a_mixture_of_one_is_that_teacher_to_the_bit(tau):
    (head, *_), ones = teachers(), torch.ones(N, 1)
    found, gradient = fused(supervision(Mixture.of([head], ones), temperature=tau))
    expected, slope = fused(supervision(head, temperature=tau))
    assert torch.equal(found.total, expected.total)
    assert torch.equal(found.divergence, expected.divergence)
    assert torch.equal(gradient, slope)
    gold = supervision(head).labels
    assert torch.equal(label_nll(Mixture.of([head], ones), gold), label_nll(head, gold))


def test_divergence_is_nought_where_the_student_is_the_mixture():
    heads, weights = teachers(), torch.tensor([[0.2, 0.3, 0.5]]).repeat(N, 1)
    same = Head((mixed(heads, weights).log().float(),), (torch.eye(V),), V)
    target = supervision(Mixture.of(heads, weights), label_weight=torch.zeros(N))
    assert head_loss(same, target).divergence.abs().max() < 1e-6


def test_a_token_s_loss_is_the_mixture_s():
    heads, weights = teachers(), drawn_weights()
    gold = supervision(None).labels
    expected = -mixed(heads, weights).gather(1, gold[:, None])[:, 0].log()
    found = label_nll(Mixture.of(heads, weights), gold)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_without_weight_does_no_harm_even_with_numbers_that_are_none():
    heads, weights = teachers(), drawn_weights()
    broken = heads[1].features[0].clone()
    dropped = weights[:, 1] == 0
    assert 0 < int(dropped.sum()) < N
    broken[dropped] = torch.nan
    heads[1] = replace(heads[1], features=(broken,))
    found, gradient = fused(supervision(Mixture.of(heads, weights)))
    expected, slope = fused(supervision(Mixture.of(teachers(), weights)))
    assert torch.equal(found.total, expected.total) and torch.equal(gradient, slope)


def test_tokens_that_are_not_supervised_do_no_harm():
    heads, weights = teachers(), drawn_weights()
    silent = torch.zeros(N).bool()
    silent[3:6] = True
    share = supervision(None).reference_weight.masked_fill(silent, 0)
    expected, slope = fused(supervision(Mixture.of(heads, weights), reference_weight=share))
    bad = [
        replace(h, features=(h.features[0].masked_fill(silent[:, None], torch.nan),)) for h in heads
    ]
    found, gradient = fused(supervision(Mixture.of(bad, weights), reference_weight=share))
    assert torch.equal(found.total, expected.total) and torch.equal(gradient, slope)


def test_one_teacher_that_is_not_a_number_where_it_counts_makes_the_loss_none():
    bad = [*teachers()[:2], replace(teachers()[2], features=(torch.full((N, 7), torch.nan),))]
    found, gradient = fused(supervision(Mixture.of(bad, drawn_weights())))
    assert found.total.isnan() and gradient.isnan().any()


def test_no_tokens_are_a_nought_with_a_graph():
    head = Head((torch.zeros(0, 6, requires_grad=True),), (randn(14, 6, seed=2),), V)
    nothing = torch.zeros(0)
    target = LossTargets(nothing.long(), nothing, Mixture((None, None), torch.zeros(0, 2)), nothing)
    found = head_loss(head, target)
    assert found.total == 0 and found.total.requires_grad


def test_what_does_not_fit_is_said():
    heads, weights = teachers(), drawn_weights()
    with pytest.raises(ValueError, match="2 heads need as many weights"):
        Mixture(tuple(heads[:2]), weights)
    with pytest.raises(ValueError, match="head 0 is of another number of tokens"):
        Mixture(tuple(heads), weights)
    with pytest.raises(ValueError, match=r"have \[10, 11\] outcomes"):
        Mixture.of([heads[0], replace(heads[1], vocabulary=10)], weights[:, :2])
    with pytest.raises(ValueError, match="the teacher's head has 11 outcomes, the student's 10"):
        head_loss(replace(student(), vocabulary=10), supervision(Mixture.of(heads, weights)))


# --- what a mean of teachers is ---------------------------------------------------------------


def slope_of(p):
    """Float64 gradient of mean_n KL(p ‖ q) by the student's logits."""
    z = randn(N, V, seed=20).double().requires_grad_()
    return torch.autograd.grad(forward_kl(z.log_softmax(-1), p.log()).mean(), z)[0]


def test_kl_of_the_mean_and_mean_of_the_kls_have_one_gradient_and_mean_logits_another():
    z = [h.logits(slice(0, N)).double() for h in teachers()]
    each = [x.softmax(dim=-1) for x in z]
    of_mean = slope_of(sum(each) / M)
    mean_of = sum(slope_of(p) for p in each) / M
    of_logits = slope_of((sum(z) / M).softmax(dim=-1))
    torch.testing.assert_close(of_mean, mean_of, rtol=1e-12, atol=1e-15)
    assert (of_mean - of_logits).norm() > 0.05 * of_mean.norm()
    even = torch.full((N, M), 1 / M)
    target = supervision(
        Mixture.of(teachers(), even),
        label_weight=torch.zeros(N),
        reference_weight=torch.full((N,), 1 / N),
    )
    wide = Head((randn(N, V, seed=20).requires_grad_(),), (torch.eye(V),), V)
    found = torch.autograd.grad(head_loss(wide, target).total, wide.features[0])[0]
    torch.testing.assert_close(found.double(), of_mean, rtol=1e-4, atol=1e-7)
