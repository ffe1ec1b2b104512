"""The fused loss against the plain one: whole logits, autograd. N tokens, V vocabulary."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distill_ray.core.divergence import DIVERGENCES, forward_kl
from distill_ray.core.head import TILE, Head
from distill_ray.core.head_loss import LossTargets, head_loss, label_nll

N, V, H, PADDED = 13, 11, 6, 14


def randn(*shape, seed, grad=False, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=rng)).requires_grad_(grad)


def student(**changes):
    head = Head((randn(N, H, seed=1, grad=True),), (randn(PADDED, H, seed=2, grad=True),), V)
    return replace(head, **changes)


def teacher(hidden=9):
    return Head((randn(N, hidden, seed=3),), (randn(PADDED + 5, hidden, seed=4),), V)


def supervision(**changes):
    rng = torch.Generator().manual_seed(5)
    made = LossTargets(
        labels=torch.randint(0, V, (N,), generator=rng),
        label_weight=torch.rand(N, generator=rng),
        reference=teacher(),
        reference_weight=torch.rand(N, generator=rng),
    )
    return replace(made, **changes)


def plain(head, target):
    """The same loss from whole logits."""
    z = sum(x @ w[:V].T for x, w in zip(head.features, head.weights, strict=True))
    if head.bias is not None:
        z = z + head.bias[:V]
    z = z * head.scale
    if head.softcap is not None:
        z = head.softcap * torch.tanh(z / head.softcap)
    total = (target.label_weight * torch.nn.functional.cross_entropy(
        z.float(), target.labels, reduction="none")).sum()  # fmt: skip
    if target.reference is not None:
        theirs = target.reference.features[0] @ target.reference.weights[0][:V].T
        tau = target.temperature
        log_q, log_p = (torch.log_softmax(x.float() / tau, -1) for x in (z, theirs))
        each = tau**2 * target.divergence(log_q, log_p, **target.options)
        total = total + (target.reference_weight * each).sum()
    return total


def leaves(head):
    found = [*head.features, *head.weights, *([] if head.bias is None else [head.bias])]
    return [x for x in found if x.requires_grad]


def assert_same(head, target, rtol=1e-4, atol=1e-5, **options):
    expected = plain(head, target)
    slopes = torch.autograd.grad(expected, leaves(head))
    found = head_loss(head, target, **options)
    torch.testing.assert_close(found.total, expected, rtol=rtol, atol=atol)
    for one, other in zip(torch.autograd.grad(found.total, leaves(head)), slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("tokens", [1, 4, N, 100])
def test_any_cut_into_chunks_gives_loss_and_gradients_of_the_whole(tokens):
    assert_same(student(), supervision(), chunk_bytes=4 * V * tokens)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_mixes_with_the_cross_entropy(name, temperature):
    target = supervision(divergence=DIVERGENCES[name], temperature=temperature)
    assert_same(student(), target, chunk_bytes=4 * V * 5)


def test_without_a_teacher_it_is_the_cross_entropy():
    target = supervision(reference=None, reference_weight=None)
    assert_same(student(), target)
    assert head_loss(student(), target).divergence is None


def test_low_rank_adapters_on_the_head_get_their_gradients_and_a_frozen_base_none():
    features = randn(N, H, seed=1, grad=True)
    down, up = randn(2, H, seed=6, grad=True), randn(PADDED, 2, seed=7, grad=True)

    def head():
        return Head((features, 0.5 * features @ down.T), (randn(PADDED, H, seed=2), up), V)

    expected = torch.autograd.grad(plain(head(), supervision()), (features, down, up))
    found = torch.autograd.grad(head_loss(head(), supervision()).total, (features, down, up))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_tied_embeddings_add_up_both_gradients():
    weight = randn(PADDED, H, seed=2, grad=True)
    ids = torch.arange(N) % V

    def features():
        return torch.nn.functional.embedding(ids, weight).tanh()

    slopes = [
        torch.autograd.grad(loss(Head((features(),), (weight,), V)), weight)[0]
        for loss in (lambda h: plain(h, supervision()), lambda h: head_loss(h, supervision()).total)
    ]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [32, 33, 1])
def test_logits_written_into_a_buffer_are_the_product(count):
    # More ids than a tile has, and not a multiple of it; 32 rows go the tiled way, 33 don't.
    x, w = torch.randn(count, 8), torch.randn(2 * TILE + 5, 8)
    out = torch.full((count, len(w)), torch.nan)
    assert Head((x,), (w,), len(w)).logits(slice(None), out) is out
    torch.testing.assert_close(out, (x.double() @ w.double().t()).float())


@pytest.mark.parametrize("changes", [{"bias": True}, {"scale": 0.3}, {"softcap": 2.0},
                                     {"bias": True, "scale": 1.7, "softcap": 3.0}])  # fmt: skip
def test_bias_scale_and_softcap_of_the_logits(changes):
    if "bias" in changes:
        changes = {**changes, "bias": randn(PADDED, seed=8, grad=True)}
    assert_same(student(**changes), supervision(), chunk_bytes=4 * V * 4)


@pytest.mark.parametrize("changes", [{}, {"scale": 0.3}, {"scale": 1.7, "softcap": 3.0}])
def test_a_softened_head_has_its_logits_divided(changes):
    head = student(**changes)
    found = head.with_temperature(2.5).logits(slice(None))
    torch.testing.assert_close(found, head.logits(slice(None)) / 2.5)


def test_ids_beyond_the_tokenizer_count_as_minus_infinity_on_both_sides():
    head, target = student(), supervision()
    hole = torch.full((PADDED,), 0.0)
    hole[V:] = -torch.inf
    z = head.features[0] @ head.weights[0].T + hole
    theirs = target.reference.features[0] @ target.reference.weights[0][:PADDED].T + hole
    log_q, log_p = torch.log_softmax(z, -1)[:, :V], torch.log_softmax(theirs, -1)[:, :V]
    nll = torch.nn.functional.cross_entropy(z, target.labels, reduction="none")
    expected = target.label_weight @ nll + target.reference_weight @ forward_kl(log_q, log_p)
    found = head_loss(head, target)
    torch.testing.assert_close(found.total, expected)
    slope = torch.autograd.grad(found.total, head.weights[0])[0]
    assert slope[:V].abs().min() > 0
    assert not slope[V:].any()


def test_bfloat16_products_with_float32_losses():
    head, target = student(), supervision()
    exact = plain(head, target)
    expected = torch.autograd.grad(exact, leaves(head))
    with torch.autocast("cpu", torch.bfloat16):
        found = head_loss(head, target)
    assert found.total.dtype == found.cross_entropy.dtype == torch.float32
    assert float(found.total.detach()) == pytest.approx(float(exact.detach()), rel=0.02)
    for one, other in zip(torch.autograd.grad(found.total, leaves(head)), expected, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm()) < 0.02 * float(other.norm())


def test_bfloat16_weights_get_gradients_gathered_in_float32():
    exact = student()
    head = replace(
        exact,
        features=tuple(x.detach().bfloat16().requires_grad_() for x in exact.features),
        weights=tuple(w.detach().bfloat16().requires_grad_() for w in exact.weights),
    )
    expected = torch.autograd.grad(plain(exact, supervision()), leaves(exact))
    found = torch.autograd.grad(
        head_loss(head, supervision(), chunk_bytes=4 * V).total, leaves(head)
    )
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one.float() - other).norm()) < 0.02 * float(other.norm())


def test_accumulated_micro_batches_are_the_whole():
    head, target = student(), supervision()
    whole = torch.autograd.grad(head_loss(head, target).total, leaves(head))
    weight = head.weights[0].detach().requires_grad_()
    rows = []
    for part in (slice(0, 3), slice(3, 4), slice(4, N)):
        features = head.features[0][part].detach().requires_grad_()
        theirs = replace(target.reference, features=(target.reference.features[0][part],))
        share = replace(
            target, labels=target.labels[part], label_weight=target.label_weight[part],
            reference=theirs, reference_weight=target.reference_weight[part],
        )  # fmt: skip
        head_loss(Head((features,), (weight,), V), share).total.backward()
        rows.append(features.grad)
    torch.testing.assert_close(torch.cat(rows), whole[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight.grad, whole[1], rtol=1e-4, atol=1e-6)


def test_nothing_is_kept_for_a_backward_pass_that_will_not_come():
    head = student()
    with torch.no_grad():
        quiet = head_loss(head, supervision())
    assert not quiet.total.requires_grad
    torch.testing.assert_close(quiet.total, head_loss(head, supervision()).total.detach())


def test_the_gradients_are_handed_over_once():
    loss = head_loss(student(), supervision()).total
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_the_upstream_factor_scales_every_gradient():
    head = student()
    once = torch.autograd.grad(head_loss(head, supervision()).total, leaves(head))
    thrice = torch.autograd.grad(3 * head_loss(head, supervision()).total, leaves(head))
    for one, other in zip(thrice, once, strict=True):
        torch.testing.assert_close(one, 3 * other)


def test_a_teacher_s_own_loss_on_the_gold_tokens():
    target = supervision()
    z = target.reference.features[0] @ target.reference.weights[0][:V].T
    expected = torch.nn.functional.cross_entropy(z, target.labels, reduction="none")
    torch.testing.assert_close(label_nll(target.reference, target.labels), expected)


def test_sizes_that_do_not_fit_are_refused():
    other = replace(teacher(), vocabulary=V + 1)
    with pytest.raises(ValueError, match="12 outcomes, the student's 11"):
        head_loss(student(), supervision(reference=other))
    short = replace(teacher(), features=(randn(N - 1, 9, seed=3),))
    with pytest.raises(ValueError, match="the reference has 12 tokens, the student 13"):
        head_loss(student(), supervision(reference=short))
    with pytest.raises(ValueError, match=r"label_weight has shape \[2\], needs \[13\]"):
        head_loss(student(), supervision(label_weight=torch.ones(2)))
    with pytest.raises(ValueError, match="reference_weight"):
        head_loss(student(), supervision(reference_weight=None))
