"""What a teacher says in few numbers, and in few bytes. N tokens, V vocabulary, k kept."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from oracles import divergence
from oracles import sparse as oracle

from distill_ray.core import divergence as ours
from distill_ray.core.sparse import (
    concatenate,
    forward_kl,
    forward_kl_gradient,
    log_buckets,
    sampled,
    target_buckets,
    top_k,
)
from distill_ray.core.sparse_bytes import decode, encode

N, V, K = 6, 23, 5
at_temperatures = pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
every_width = pytest.mark.parametrize("k", [1, K, V - 1, V])


def _logits(seed, shape=(N, V), scale=2.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _log_q(logits, temperature=1.0):
    return torch.log_softmax(logits / temperature, dim=-1)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _both_kinds(logits):
    yield top_k(logits, None, k=K)
    yield sampled(logits, None, samples=K, generator=_seeded())


def _assert_same(found, expected):
    assert found.kind == expected.kind
    for name, tensor in asdict(expected).items():
        if name != "kind":
            torch.testing.assert_close(getattr(found, name), tensor, rtol=0, atol=0, msg=name)


@at_temperatures
def test_top_k_states_what_the_definition_does(temperature):
    teacher, gold = _logits(0), torch.arange(N)
    found = top_k(teacher, gold, k=K, temperature=temperature)
    p = divergence.softmax(teacher.numpy(), temperature)
    buckets = oracle.coarsened(p, oracle.likeliest(teacher.numpy(), K, temperature))
    np.testing.assert_array_equal(found.ids, oracle.likeliest(teacher.numpy(), K, temperature))
    np.testing.assert_allclose(found.log_p.exp(), buckets[:, :-1], rtol=1e-5)
    np.testing.assert_allclose(found.log_tail.exp(), buckets[:, -1], rtol=1e-5)
    np.testing.assert_allclose(found.entropy, oracle.entropy(p), rtol=1e-5)
    assert found.captured == pytest.approx(buckets[:, :-1].sum(1).mean(), rel=1e-5)
    nll = -np.log(divergence.softmax(teacher.numpy())[np.arange(N), gold])
    np.testing.assert_allclose(found.label_nll, nll, rtol=1e-5)


def test_a_tail_far_below_float32s_step_at_one_is_still_exact():
    teacher = _logits(0)
    teacher[:, 3] = 60.0
    p = divergence.softmax(teacher.numpy())
    expected = np.log(oracle.coarsened(p, oracle.likeliest(teacher.numpy(), 1))[:, -1])
    assert expected.max() < -50
    np.testing.assert_allclose(top_k(teacher, None, k=1).log_tail, expected, rtol=1e-6)


def test_probabilities_of_a_large_vocabulary_are_exact_to_a_few_units_of_float32():
    teacher = -1.5 * torch.arange(1, 128257).log()[None]
    found = top_k(teacher, None, k=64)
    np.testing.assert_allclose(target_buckets(found).double().exp().sum(1), 1, rtol=0, atol=2e-6)
    p = divergence.softmax(teacher.numpy())
    np.testing.assert_allclose(found.entropy, oracle.entropy(p), rtol=3e-6)


def test_a_token_without_gold_has_no_likelihood():
    gold = torch.tensor([2, -100, 0, -1, 4, 5])
    found = top_k(_logits(0), gold, k=K).label_nll
    assert torch.equal(found == 0, gold < 0)
    assert not top_k(_logits(0), None, k=K).label_nll.any()
    with pytest.raises(ValueError, match=r"labels has shape \[5\], needs \[6\]"):
        top_k(_logits(0), gold[1:], k=K)


def test_more_entries_than_the_vocabulary_are_the_whole_vocabulary():
    found = top_k(_logits(0), None, k=V + 10)
    assert found.ids.shape == (N, V)
    assert torch.isneginf(found.log_tail).all()
    drawn = sampled(_logits(0), None, samples=V + 10, generator=_seeded())
    assert torch.equal(drawn.ids.sort(1).values, torch.arange(V).expand(N, V))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        top_k(_logits(0), None, k=0)
    with pytest.raises(ValueError, match="samples must be at least 1, got -1"):
        sampled(_logits(0), None, samples=-1, generator=_seeded())


def test_bfloat16_logits_are_taken_to_float32_first():
    coarse = _logits(0).bfloat16()
    _assert_same(top_k(coarse, None, k=K), top_k(coarse.float(), None, k=K))


@every_width
@at_temperatures
def test_value_and_gradient_match_central_differences_of_the_definition(k, temperature):
    teacher, scaled = _logits(0), _logits(1).numpy() / temperature
    targets = top_k(teacher, None, k=k, temperature=temperature)

    def definition(z):
        return oracle.top_k_kl(temperature * z, teacher.numpy(), k, temperature)

    value, gradient = forward_kl_gradient(_log_q(torch.tensor(scaled)), targets)
    # A small divergence is what is left of terms near 1: float32 has no more digits of it.
    np.testing.assert_allclose(value, definition(scaled), rtol=1e-5, atol=1e-6)
    expected = divergence.gradient(lambda z: definition(z).sum(), scaled)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=2e-6)


@every_width
@pytest.mark.parametrize(("ours_scale", "theirs_scale"), [(2, 2), (60, 1), (1, 60), (60, 60)])
def test_the_closed_form_is_autograd_of_the_buckets_in_float64(k, ours_scale, theirs_scale):
    teacher = _logits(0, scale=theirs_scale)
    drawn = sampled(teacher, None, samples=k, generator=_seeded())
    for targets in (top_k(teacher, None, k=k), drawn):
        student = _logits(1, scale=ours_scale)
        z = student.double().requires_grad_()
        expected = forward_kl(_log_q(z), targets)
        expected.sum().backward()
        value, gradient = forward_kl_gradient(_log_q(student), targets)
        torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient.double(), z.grad, rtol=1e-4, atol=2e-6)


@every_width
@pytest.mark.parametrize("scale", [2, 60])
def test_a_weight_and_another_multiple_of_q_go_along_with_the_gradient(k, scale):
    teacher, student = _logits(0), _logits(1, scale=scale)
    weight, extra = (torch.rand(N, 1, generator=_seeded(seed)) for seed in (2, 3))
    for targets in (
        top_k(teacher, None, k=k),
        sampled(teacher, None, samples=k, generator=_seeded()),
    ):
        value, slope = forward_kl_gradient(_log_q(student), targets)
        q = _log_q(student.double()).exp()
        found = forward_kl_gradient(_log_q(student), targets, weight, extra)
        torch.testing.assert_close(found[0], value, rtol=0, atol=0)
        expected = weight * slope.double() + extra * q
        torch.testing.assert_close(found[1].double(), expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_takes_the_place_of_the_log_probabilities():
    log_q = _log_q(_logits(1))
    _, gradient = forward_kl_gradient(log_q, top_k(_logits(0), None, k=K))
    assert gradient.data_ptr() == log_q.data_ptr()


@every_width
def test_buckets_differentiate_as_central_differences_say(k):
    targets = top_k(_logits(0), None, k=k)
    z = _logits(1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: log_buckets(_log_q(z), targets), z)


@every_width
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_zero_with_zero_gradient_where_student_is_the_teacher(k, scale):
    teacher = _logits(0, scale=scale)
    targets = top_k(teacher, None, k=k)
    value, gradient = forward_kl_gradient(_log_q(teacher), targets)
    torch.testing.assert_close(value, torch.zeros(N), rtol=0, atol=2e-6)
    torch.testing.assert_close(gradient, torch.zeros(N, V), rtol=0, atol=2e-6)
    z = teacher.clone().requires_grad_()
    forward_kl(_log_q(z), targets).sum().backward()
    torch.testing.assert_close(z.grad, torch.zeros(N, V), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "function", [ours.forward_kl, ours.reverse_kl, ours.jsd, ours.total_variation]
)
def test_no_divergence_grows_by_looking_at_fewer_tokens(function):
    log_p, log_q = _log_q(_logits(0)), _log_q(_logits(1))
    full = function(log_q, log_p)
    seen = []
    for k in (1, K, V - 5, V):
        targets = top_k(_logits(0), None, k=k)
        seen.append(function(log_buckets(log_q, targets), target_buckets(targets)))
        assert (seen[-1] <= full + 1e-6).all()
    assert (seen[0] < 0.9 * full).any()
    torch.testing.assert_close(seen[-1], full, rtol=1e-5, atol=1e-6)


def test_a_student_wrong_about_nothing_but_the_tail_is_told_so():
    teacher = _logits(0)
    targets = top_k(teacher, None, k=K)
    # Among the kept ids all ratios stay: a loss of these alone, renormalised, would be 0.
    student = teacher.scatter_add(1, targets.ids, torch.full((N, K), 1.5))
    kept = torch.stack([_log_q(x).gather(1, targets.ids).exp().sum(1) for x in (teacher, student)])
    p, q = (np.stack([1 - mass, mass], axis=1) for mass in kept.double().numpy())
    value, gradient = forward_kl_gradient(_log_q(student), targets)
    np.testing.assert_allclose(value, oracle.kl(p, q), rtol=1e-4)
    assert value.min() > 0.01
    assert (gradient.gather(1, targets.ids) > 0).all()


@at_temperatures
def test_the_mean_of_sampled_targets_is_the_teacher_and_of_gradients_the_full_one(temperature):
    draws, samples = 20_000, 4
    teacher, student = _logits(0, (1, V)), _logits(1, (1, V))
    targets = sampled(
        teacher.expand(draws, V),
        None,
        samples=samples,
        temperature=temperature,
        generator=_seeded(),
    )
    p, q = (divergence.softmax(x.numpy(), temperature)[0] for x in (teacher, student))
    five_errors = 5 * np.sqrt(p * (1 - p) / (draws * samples)) + 1e-7
    mean = torch.zeros(draws, V).scatter_add_(1, targets.ids, targets.log_p.exp()).mean(0)
    assert (np.abs(mean.numpy() - p) < five_errors).all()
    log_q = _log_q(student, temperature).expand(draws, V).clone()
    value, gradient = forward_kl_gradient(log_q, targets)
    assert (np.abs(gradient.mean(0).numpy() - (q - p)) < five_errors + 1e-6).all()
    error = float(value.std()) / draws**0.5
    full = float(oracle.kl(p[None], q[None])[0])
    assert float(value.mean()) == pytest.approx(full, abs=5 * error)
    # The draws' own entropy in place of the teacher's would be this far off.
    assert float((targets.entropy + (targets.log_p.exp() * targets.log_p).nansum(1)).mean()) > (
        10 * error
    )


def test_draws_are_distinct_ids_in_order_then_padding_and_repeat_with_their_generator():
    teacher = _logits(0, (50, V), scale=3.0)
    found = sampled(teacher, torch.zeros(50).long(), samples=K, generator=_seeded(1))
    counts = found.log_p.exp() * K
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-5)
    torch.testing.assert_close(counts.sum(1), torch.full((50,), float(K)))
    for ids, count in zip(found.ids.tolist(), counts.round().int().tolist()):
        drawn = [i for i, c in zip(ids, count) if c]
        assert ids == sorted(drawn) + [i for i in range(V) if i not in drawn][: K - len(drawn)]
    again = sampled(teacher, torch.zeros(50).long(), samples=K, generator=_seeded(1))
    _assert_same(again, found)
    other = sampled(teacher, None, samples=K, generator=_seeded(2))
    assert not torch.equal(other.ids, found.ids)


@pytest.mark.parametrize("k", [2, 8])
def test_ids_that_a_teacher_rules_out_are_as_if_they_did_not_exist(k):
    teacher, student = _logits(0), _logits(1)
    teacher[:, 4:] = -torch.inf
    few = top_k(teacher[:, :4], None, k=k)
    found = top_k(teacher, None, k=k)
    torch.testing.assert_close(found.entropy, few.entropy)
    drawn = sampled(teacher, None, samples=k, generator=_seeded())
    assert (drawn.ids[~torch.isneginf(drawn.log_p)] < 4).all()
    student[:, 4:] = -torch.inf
    expected, _ = forward_kl_gradient(_log_q(student[:, :4]), few)
    z = student.clone().requires_grad_()
    graph = forward_kl(_log_q(z), found)
    graph.sum().backward()
    value, gradient = forward_kl_gradient(_log_q(student), found)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(graph.detach(), expected)
    torch.testing.assert_close(gradient, z.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e5])
@every_width
def test_nothing_is_ever_nan_however_far_apart_the_two_are(k, scale):
    teacher, student = _logits(0, scale=scale), _logits(1, scale=scale)
    student[0, :-1] = -torch.inf
    drawn = sampled(teacher, None, samples=k, generator=_seeded())
    for targets in (top_k(teacher, None, k=k), drawn):
        z = student.clone().requires_grad_()
        for function in (ours.forward_kl, ours.reverse_kl, ours.jsd):
            function(log_buckets(_log_q(z), targets), target_buckets(targets)).sum().backward()
        value, gradient = forward_kl_gradient(_log_q(student), targets)
        for numbers in (value, gradient, z.grad):
            assert torch.isfinite(numbers).all()


def test_chunks_joined_are_the_whole_and_rows_taken_are_their_own():
    teacher, gold = _logits(0), torch.arange(N)
    whole = top_k(teacher, gold, k=K)
    parts = [top_k(teacher[a:b], gold[a:b], k=K) for a, b in ((0, 1), (1, 1), (1, N))]
    _assert_same(concatenate(parts), whole)
    _assert_same(whole[1:4], top_k(teacher[1:4], gold[1:4], k=K))
    _assert_same(whole.select(gold % 2 == 0), top_k(teacher[::2], gold[::2], k=K))
    _assert_same(whole.to("cpu"), whole)
    assert whole.to("meta").label_nll.device.type == "meta"
    assert len(whole) == N


def test_chunks_of_different_kinds_or_widths_are_refused():
    first, second = _both_kinds(_logits(0))
    for parts in ([], [first, second], [first, top_k(_logits(0), None, k=K + 1)]):
        with pytest.raises(ValueError, match="needs chunks of one kind and k, got"):
            concatenate(parts)


def test_a_student_of_other_tokens_is_refused():
    for targets in _both_kinds(_logits(0)):
        for function in (log_buckets, forward_kl, forward_kl_gradient):
            with pytest.raises(ValueError, match=r"log_q has shape \[7, 23\], needs \[6, 23\]"):
                function(torch.zeros(N + 1, V), targets)


def test_no_tokens_at_all_are_no_special_case():
    nothing = torch.zeros(0, V, requires_grad=True)
    for targets in _both_kinds(nothing.detach()):
        assert targets.ids.shape == (0, K)
        assert targets.captured == 1.0
        forward_kl(_log_q(nothing), targets).sum().backward()
        value, gradient = forward_kl_gradient(nothing.detach().clone(), targets)
        assert (value.shape, gradient.shape) == ((0,), (0, V))
        _assert_same(decode(encode(targets)), targets)
        _assert_same(concatenate([targets, targets]), targets)


@pytest.mark.parametrize(("k", "vocabulary"), [(1, 9), (3, 50), (10, 50), (50, 50), (12, 3000)])
@at_temperatures
def test_bytes_keep_ids_and_every_probability_within_a_thousandth(k, vocabulary, temperature):
    teacher, gold = _logits(k, (1500, vocabulary)), torch.randint(vocabulary, (1500,))
    targets = top_k(teacher, gold, k=k, temperature=temperature)
    found = decode(encode(targets))
    _assert_same(
        replace(found, log_p=targets.log_p, log_tail=targets.log_tail, entropy=targets.entropy),
        targets,
    )
    torch.testing.assert_close(found.entropy, targets.entropy, rtol=5e-4, atol=1e-7)
    p, exact = (target_buckets(x).double().exp() for x in (found, targets))
    assert (p.sum(1) - 1).abs().max() < 1e-6
    held = exact > 0
    assert ((p / exact)[held] - 1).abs().max() < 1e-3
    assert not p[~held].any()
    for x in (found.log_p, found.log_tail, found.ids):
        assert x.is_contiguous()


@pytest.mark.parametrize("samples", [1, 7, 64])
def test_bytes_keep_samples_exactly(samples):
    gold = torch.arange(40)
    for teacher in (_logits(0, (40, 70)), _logits(1, (40, 70), scale=9.0)):
        targets = sampled(teacher, gold, samples=samples, generator=_seeded())
        _assert_same(decode(encode(targets)), targets)


@pytest.mark.parametrize("largest", [2**16 - 1, 2**16, 2**17 + 5, 2**20, 2**30])
def test_bytes_keep_ids_of_any_vocabulary(largest):
    ids = torch.tensor([[largest, 0, 77], [5, largest, 2**15], [1, 2, 3]])
    targets = replace(top_k(_logits(0, (3, 5)), None, k=3), ids=ids)
    assert torch.equal(decode(encode(targets)).ids, ids)
    drawn = replace(targets, ids=ids.sort(1).values, log_p=torch.full((3, 3), 1 / 3).log())
    nothing = torch.full((3,), -torch.inf)
    drawn = replace(drawn, log_tail=nothing, kind="samples")
    assert torch.equal(decode(encode(drawn)).ids, drawn.ids)


def test_bytes_keep_impossible_ids_and_an_impossible_gold_token():
    teacher = _logits(0)
    teacher[:, 3:] = -torch.inf
    targets = top_k(teacher, torch.arange(N), k=K)
    found = decode(encode(targets))
    assert torch.equal(found.log_p == -torch.inf, targets.log_p == -torch.inf)
    assert torch.equal(found.label_nll, targets.label_nll)
    assert torch.isposinf(found.label_nll[3:]).all()


def _realistic(vocabulary, targets_of, n=768, ranks=4096):
    """Targets as of a language model, but ids without any order: the most that they can cost.

    Probability falls with rank to the power of 1 to 2.2, token by token, with noise.
    """
    rng = np.random.default_rng(0)
    power = torch.from_numpy(rng.uniform(1.0, 2.2, size=(n, 1))).float()
    law = -power * torch.arange(1, ranks + 1).log() + _logits(0, (n, ranks), scale=0.5)
    targets = targets_of(law)
    k = targets.ids.shape[1]
    ids = np.stack([rng.choice(vocabulary, size=k, replace=False) for _ in range(n)])
    label_nll = torch.from_numpy(rng.exponential(2.0, size=n)).float()
    return replace(targets, ids=torch.from_numpy(ids), label_nll=label_nll)


@pytest.mark.parametrize("vocabulary", [49152, 128256])
def test_a_token_of_64_entries_takes_at_most_200_bytes(vocabulary):
    targets = _realistic(vocabulary, lambda z: top_k(z, None, k=64))
    assert 0.7 < targets.captured < 0.95
    assert len(encode(targets)) / len(targets) <= 200


@pytest.mark.parametrize("vocabulary", [49152, 128256])
def test_a_token_of_64_samples_takes_at_most_half_of_that(vocabulary):
    draw = _realistic(vocabulary, lambda z: sampled(z, None, samples=64, generator=_seeded()))
    is_drawn = draw.log_p > -torch.inf
    ids = torch.where(is_drawn, draw.ids, vocabulary).sort(1).values
    draw = replace(draw, ids=ids)
    assert len(encode(draw)) / len(draw) <= 100


def test_a_payload_cut_short_or_with_more_behind_it_is_refused():
    for targets in _both_kinds(_logits(0)):
        payload = encode(targets)
        for at in range(len(payload)):
            for damaged in (payload[:at], payload + payload[: at + 1]):
                with pytest.raises(ValueError, match="sparse targets"):
                    decode(damaged)


def test_a_flipped_bit_is_noticed_wherever_it_means_anything():
    for targets in _both_kinds(_logits(0)):
        payload, noticed = encode(targets), 0
        clean = decode(payload)
        for at in range(8 * len(payload)):
            flipped = bytearray(payload)
            flipped[at // 8] ^= 1 << at % 8
            try:
                # Some bits only fill a byte up.
                _assert_same(decode(bytes(flipped)), clean)
            except ValueError as error:
                assert "sparse targets" in str(error)
                noticed += 1
        assert noticed > 7 * len(payload)


@pytest.mark.parametrize("payload", [b"", b"PAR1\x01rest", b"DRST\x09rest", b"DRST\x01rest"])
def test_foreign_bytes_and_other_versions_are_refused(payload):
    with pytest.raises(ValueError, match="sparse targets"):
        decode(payload)


def test_targets_that_would_not_come_back_are_refused():
    first, drawn = _both_kinds(_logits(0))
    with pytest.raises(ValueError, match="likeliest first"):
        encode(replace(first, log_p=first.log_p.flip(1)))
    with pytest.raises(ValueError, match="a NaN, or a token without any mass"):
        encode(replace(first, log_tail=first.log_tail * torch.nan))
    with pytest.raises(ValueError, match="ascending ids"):
        encode(replace(drawn, ids=drawn.ids.flip(1)))
    with pytest.raises(ValueError, match="counts that sum to k"):
        encode(replace(drawn, log_p=drawn.log_p + np.log(2)))
