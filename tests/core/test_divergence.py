"""The proofs that every loss owes. N tokens, V vocabulary.

Each goes through the fused loss that training uses, with an identity for output weights: features
are logits then, and their gradient is the gradient by the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
from oracles import divergence as oracle

from distill_ray.core.divergence import DIVERGENCES, adaptive_kl, jsd
from distill_ray.core.head import Head
from distill_ray.core.head_loss import LossTargets, head_loss

N, V = 9, 7
EYE = torch.eye(V)


@dataclass(frozen=True)
class Loss:
    name: str
    """A divergence, or `cross_entropy`."""
    temperature: float = 1.0
    options: dict = field(default_factory=dict)

    @property
    def against_teacher(self):
        return self.name != "cross_entropy"

    @property
    def definition(self):
        """(student logits [n, V], teacher logits or ids) → number, in float64 NumPy."""
        function = getattr(oracle, self.name)
        if not self.against_teacher:
            return function
        return partial(function, temperature=self.temperature, **self.options)

    def ours(self, student, reference, weight, chunk_bytes=3 * 4 * V):
        """The engine's loss; three tokens a chunk."""
        none, ids = torch.zeros_like(weight), torch.zeros(len(weight), dtype=torch.int64)
        if self.against_teacher:
            teacher = Head((reference,), (EYE,), V)
            kind = DIVERGENCES[self.name]
            target = LossTargets(ids, none, teacher, weight, kind, self.options, self.temperature)
        else:
            target = LossTargets(reference, weight)
        return head_loss(Head((student,), (EYE,), V), target, chunk_bytes=chunk_bytes)


LOSSES = [
    Loss("cross_entropy"),
    *[Loss(name) for name in DIVERGENCES],
    *[Loss(name, 3.0) for name in DIVERGENCES],
    Loss("jsd", 0.5, {"beta": 0.2}),
    Loss("skew_forward_kl", 1.0, {"skew": 0.4}),
    Loss("skew_reverse_kl", 1.0, {"skew": 0.4}),
    Loss("adaptive_kl", 1.0, {"head_mass": 0.8}),
]


def _id(loss):
    return "-".join([loss.name, f"{loss.temperature:g}", *map(str, loss.options.values())])


every_loss = pytest.mark.parametrize("loss", LOSSES, ids=_id)
every_divergence = pytest.mark.parametrize(
    "loss", [x for x in LOSSES if x.against_teacher], ids=_id
)


def _case(loss, seed=0):
    """Student logits, reference, and unequal weights of which some are 0."""
    rng = torch.Generator().manual_seed(seed)
    student = (3 * torch.randn(N, V, generator=rng)).requires_grad_()
    teacher = 3 * torch.randn(N, V, generator=rng)
    tokens = torch.randint(0, V, (N,), generator=rng)
    weight = torch.rand(N, generator=rng) + 0.5
    weight[::3] = 0
    return student, teacher if loss.against_teacher else tokens, weight


def _definition(loss, student, reference, weight):
    """Σ weight · loss, one token at a time."""
    return sum(
        float(w) * loss.definition(z[None], r[None])
        for z, r, w in zip(student, reference, weight, strict=True)
        if w > 0
    )


@every_loss
def test_total_and_each_token_match_the_definition(loss):
    student, reference, weight = _case(loss)
    found = loss.ours(student, reference, weight)
    arrays = student.detach().numpy(), reference.numpy()
    assert float(found.total.detach()) == pytest.approx(
        _definition(loss, *arrays, weight), rel=1e-5
    )
    each = found.divergence if loss.against_teacher else found.cross_entropy
    for i in weight.nonzero()[:, 0]:
        expected = loss.definition(arrays[0][i][None], arrays[1][i][None])
        assert float(each[i]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@every_loss
def test_gradient_matches_central_differences_of_the_definition(loss):
    student, reference, weight = _case(loss)
    loss.ours(student, reference, weight).total.backward()
    kept, at = reference.numpy(), student.detach().numpy()
    definition = partial(oracle.with_constant_shares, loss.definition, at=at, teacher=kept)
    expected = np.zeros_like(at, dtype=np.float64)
    for i in weight.nonzero()[:, 0].tolist():
        slope = oracle.gradient(lambda z, i=i: definition(z, row=i), at[i : i + 1])
        expected[i] = float(weight[i]) * slope[0]
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=2e-4, atol=2e-5)


@every_loss
def test_gradient_equals_float64_autograd_of_the_plain_form(loss):
    student, reference, weight = _case(loss, seed=1)
    loss.ours(student, reference, weight).total.backward()
    z = student.detach().double().requires_grad_()
    if loss.against_teacher:
        tau = loss.temperature
        log_q, log_p = (torch.log_softmax(x.double() / tau, -1) for x in (z, reference))
        each = tau**2 * DIVERGENCES[loss.name](log_q, log_p, **loss.options)
    else:
        each = torch.nn.functional.cross_entropy(z, reference, reduction="none")
    (weight.double() * each).sum().backward()
    torch.testing.assert_close(student.grad.double(), z.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_forward_kl_gradient_is_temperature_times_q_minus_p(temperature):
    loss = Loss("forward_kl", temperature)
    student, teacher, weight = _case(loss)
    loss.ours(student, teacher, weight).total.backward()
    q = oracle.softmax(student.detach().numpy(), temperature)
    p = oracle.softmax(teacher.numpy(), temperature)
    expected = temperature * (q - p) * weight.numpy()[:, None]
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_cross_entropy_gradient_is_q_minus_one_hot():
    loss = Loss("cross_entropy")
    student, targets, weight = _case(loss)
    loss.ours(student, targets, weight).total.backward()
    expected = oracle.softmax(student.detach().numpy()) - np.eye(V)[targets.numpy()]
    np.testing.assert_allclose(
        student.grad.numpy(), expected * weight.numpy()[:, None], rtol=1e-4, atol=1e-6
    )


@every_loss
def test_a_batch_is_the_sum_of_its_unequal_parts(loss):
    student, reference, weight = _case(loss)
    whole = loss.ours(student, reference, weight).total
    parts = [
        loss.ours(student[part], reference[part], weight[part]).total
        for part in (slice(0, 2), slice(2, None))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)


@every_loss
@pytest.mark.parametrize("count", [0, N])
def test_nothing_supervised_is_a_zero_that_keeps_its_graph(loss, count):
    student, reference, _ = _case(loss)
    found = loss.ours(student[:count], reference[:count], torch.zeros(count))
    assert float(found.total) == 0.0
    found.total.backward()
    assert torch.equal(student.grad, torch.zeros(N, V))


@every_loss
def test_nan_where_nothing_counts_reaches_neither_total_nor_gradient(loss):
    student, reference, weight = _case(loss)
    clean = loss.ours(student, reference, weight).total
    if loss.against_teacher:
        reference = torch.where(weight[:, None] > 0, reference, torch.nan)
    found = loss.ours(student, reference, weight)
    found.total.backward()
    assert float(found.total) == float(clean)
    assert torch.isfinite(student.grad).all()
    assert not student.grad[weight == 0].any()


@every_loss
def test_a_loss_that_is_not_finite_leaves_no_finite_gradient(loss):
    student, reference, weight = _case(loss)
    weight = torch.where(weight > 0, weight, 1.0)
    broken = student.detach().clone()
    broken[4] = torch.nan
    broken.requires_grad_()
    found = loss.ours(broken, reference, weight)
    found.total.backward()
    assert not torch.isfinite(found.total)
    assert not torch.isfinite(broken.grad).any()


@every_divergence
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_zero_with_zero_gradient_where_student_is_the_teacher(loss, scale):
    student, _, weight = _case(loss)
    same = (scale * student.detach()).requires_grad_()
    found = loss.ours(same, same.detach().clone(), weight)
    found.total.backward()
    assert float(found.total) == pytest.approx(0.0, abs=2e-5)
    torch.testing.assert_close(same.grad, torch.zeros(N, V), rtol=0, atol=2e-5)


def test_cross_entropy_is_zero_when_the_student_is_certain_and_right():
    loss = Loss("cross_entropy")
    _, targets, weight = _case(loss)
    certain = 1e4 * torch.nn.functional.one_hot(targets, V).float()
    assert float(loss.ours(certain, targets, weight).total) == 0.0


@every_divergence
def test_positive_and_finite_where_both_are_certain_of_different_tokens(loss):
    first, second = torch.zeros(N, V), torch.zeros(N, V)
    first[:, 0], second[:, 1] = 1e3, 1e3
    student, weight = first.requires_grad_(), torch.ones(N)
    found = loss.ours(student, second, weight)
    found.total.backward()
    assert torch.isfinite(found.total)
    assert found.total > 0.1 * N
    assert torch.isfinite(student.grad).all()


@every_divergence
def test_the_teacher_gets_no_gradient(loss):
    student, teacher, weight = _case(loss)
    teacher.requires_grad_()
    loss.ours(student, teacher, weight).total.backward()
    assert teacher.grad is None


@pytest.mark.parametrize("beta", [1e-3, 1e-4])
def test_jsd_over_beta_tends_to_the_forward_kl(beta):
    student, teacher, _ = _case(Loss("jsd"))
    # Mild distributions: where q / p is 1 / β, the limit is far away.
    log_q, log_p = (torch.log_softmax(x.detach().double() / 5, -1) for x in (student, teacher))
    limit = DIVERGENCES["forward_kl"](log_q, log_p)
    torch.testing.assert_close(jsd(log_q, log_p, beta=beta) / beta, limit, rtol=20 * beta, atol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [("jsd", {"beta": 0.0}), ("jsd", {"beta": 1.0}), ("skew_forward_kl", {"skew": 0.0}),
     ("skew_reverse_kl", {"skew": 1.5}), ("adaptive_kl", {"head_mass": 1.0})],
)  # fmt: skip
def test_a_share_outside_its_range_is_refused(name, options):
    log_q = torch.log_softmax(torch.zeros(2, V), -1)
    with pytest.raises(ValueError, match=next(iter(options))):
        DIVERGENCES[name](log_q, log_q, **options)


def test_the_head_of_the_adaptive_kl_holds_the_likeliest_token_even_if_it_is_over_the_limit():
    log_p = torch.tensor([[0.9, 0.06, 0.04]]).log()
    same_head = torch.tensor([[0.9, 0.04, 0.06]]).log()  # differs in the tail alone: reverse KL
    expected = DIVERGENCES["reverse_kl"](same_head, log_p)
    torch.testing.assert_close(DIVERGENCES["adaptive_kl"](same_head, log_p), expected)
    other_head = torch.tensor([[0.8, 0.16, 0.04]]).log()  # head and tail differ by 0.1 each: half
    both = [DIVERGENCES[name](other_head, log_p) for name in ("forward_kl", "reverse_kl")]
    torch.testing.assert_close(DIVERGENCES["adaptive_kl"](other_head, log_p), sum(both) / 2)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_temperature_reaches_the_loss(name):
    cold, hot = Loss(name), Loss(name, 2.0)
    student, teacher, weight = _case(cold)
    assert float(cold.ours(student, teacher, weight).total) != pytest.approx(
        float(hot.ours(student, teacher, weight).total), rel=1e-2
    )


def test_an_outcome_that_fills_the_head_exactly_belongs_to_it():
    """p = (1/2, 1/4, 1/8, 1/8): the head is two outcomes up to a mass of 3/4, one below."""
    p = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64)
    q = torch.tensor([[0.25, 0.375, 0.25, 0.125]], dtype=torch.float64)
    gaps = (p - q).abs()[0]
    kl, reverse = (p * (p / q).log()).sum(), (q * (q / p).log()).sum()
    # To the last bit: the mass of the two outcomes as it comes back from logarithms.
    limit = float(p.log().exp()[0, :2].cumsum(0)[1])
    for mass, size in ((limit, 2), (limit - 1e-9, 1), (0.5 + 1e-9, 1)):
        head, tail = gaps[:size].sum(), gaps[size:].sum()
        share = head / (head + tail)
        expected = share * kl + (1 - share) * reverse
        found = adaptive_kl(q.log(), p.log(), head_mass=mass)
        assert float(found) == pytest.approx(float(expected), rel=1e-6)
