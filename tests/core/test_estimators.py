"""Figures of a teacher's fit against their definitions, and what must hold of them."""

import numpy as np
import pytest
import torch
from oracles import estimators as oracle

from distill_ray.core.estimators import (
    BLOCK,
    RademacherProjection,
    grace,
    gradient_norm,
    prompt_splits,
    rsr,
    surprisal,
    token_ranks,
)


def _answers(seed=0, lengths=(3, 1, 7, 4)):
    rng = np.random.default_rng(seed)
    ranks = [rng.integers(1, 250, size=n) for n in lengths]
    return ranks, [rng.exponential(2.0, size=n) for n in lengths]


def _gradients(count=23, size=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) * rng.exponential(1.0, size=(count, 1))


def _prompts(count, each):
    return [f"prompt {i // each}" for i in range(count)]


# Ranks and surprisal


def test_a_rank_is_one_more_than_the_number_of_strictly_likelier_tokens():
    rng = np.random.default_rng(1)
    logits = rng.integers(-3, 4, size=(40, 12)).astype(np.float32)  # many ties
    gold = rng.integers(0, 12, size=40)
    found = token_ranks(torch.from_numpy(logits), torch.from_numpy(gold))
    assert found.tolist() == oracle.token_ranks(logits, gold)


def test_tokens_as_likely_as_the_gold_one_share_its_rank():
    logits = torch.tensor([[2.0, 5.0, 2.0, 2.0, 1.0]]).expand(5, -1)
    assert token_ranks(logits, torch.arange(5)).tolist() == [2, 1, 2, 2, 5]


@pytest.mark.parametrize("clip", [1, 5, 100, 1000])
def test_rsr_is_the_mean_clipped_rank_over_the_mean_surprisal(clip):
    ranks, nll = _answers()
    assert rsr(ranks, nll, clip=clip) == pytest.approx(oracle.rsr(ranks, nll, clip), rel=1e-12)


def test_ranks_from_the_clip_on_are_equally_far_off():
    _, nll = _answers()
    at, beyond = ([np.full(len(x), rank) for x in nll] for rank in (100, 31_999))
    assert rsr(at, nll) == rsr(beyond, nll) != rsr(beyond, nll, clip=101)
    assert rsr(at, nll, clip=40) == pytest.approx(40 / surprisal(nll), rel=1e-12)


def test_the_rsr_of_a_data_set_is_not_the_mean_of_its_samples_ratios():
    ranks, nll = [np.array([10]), np.array([10])], [np.array([1.0]), np.array([4.0])]
    ratios = [rsr([r], [x]) for r, x in zip(ranks, nll)]
    assert np.mean(ratios) == 6.25
    assert rsr(ranks, nll) == 4.0


def test_one_samples_rsr_is_its_sum_of_ranks_over_its_sum_of_surprisals():
    ranks, nll = _answers(lengths=(9,))
    expected = np.minimum(ranks[0], 100).sum() / nll[0].sum()
    assert rsr(ranks, nll) == pytest.approx(expected, rel=1e-12)


def test_surprisal_counts_each_sample_once_however_long_it_is():
    assert surprisal([np.array([1.0]), np.array([3.0, 3.0, 3.0])]) == 2.0


def test_a_student_that_is_certain_of_every_token_has_an_infinite_rsr():
    assert rsr([np.array([1, 1])], [np.zeros(2)]) == float("inf")


def test_gradient_norm_is_the_mean_of_norms_and_not_of_squares():
    assert gradient_norm([3.0, 5.0]) == 4.0


@pytest.mark.parametrize("bad", [[], [np.array([])]], ids=["no sample", "no token"])
def test_nothing_to_average_is_refused(bad):
    with pytest.raises(ValueError, match="at least one sample"):
        surprisal(bad)
    with pytest.raises(ValueError, match="at least one sample"):
        rsr(bad, bad)


def test_ranks_of_other_tokens_than_the_losses_are_refused():
    with pytest.raises(ValueError, match="lengths differ"):
        rsr([np.array([1, 2])], [np.array([0.5])])


def test_no_norms_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        gradient_norm([])


# GRACE


@pytest.mark.parametrize("smoothing", [1e-3, 0.3, 1.0])
@pytest.mark.parametrize(("size", "each"), [(6, 1), (6, 4), (40, 1), (40, 4)])
def test_grace_is_the_mean_trace_over_splits_with_few_and_with_many_dimensions(
    size, each, smoothing
):
    gradients = _gradients(size=size)
    groups = _prompts(len(gradients), each)
    found = grace(gradients, groups=groups, splits=7, smoothing=smoothing, seed=5)
    splits = list(prompt_splits(groups, splits=7, seed=5))
    assert found == pytest.approx(oracle.grace(gradients, splits, smoothing), rel=1e-9)


def test_doubled_gradients_give_four_times_the_grace():
    gradients = _gradients()
    assert grace(2 * gradients) == pytest.approx(4 * grace(gradients), rel=1e-12)


def test_grace_does_not_depend_on_the_directions_that_the_axes_have():
    gradients = _gradients()
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0]
    assert grace(gradients @ turn) == pytest.approx(grace(gradients), rel=1e-9)


def test_with_all_smoothing_grace_is_the_squared_length_times_the_dimensions():
    gradients = _gradients()
    lengths = np.square(gradients).sum(axis=1)
    splits = prompt_splits(range(len(gradients)))
    expected = 6 * np.mean([lengths[test].mean() for _, test in splits])
    assert grace(gradients, smoothing=1.0) == pytest.approx(expected, rel=1e-12)


def test_the_length_of_a_train_gradient_does_not_count():
    gradients = _gradients(count=3)
    train, test = next(prompt_splits(range(3), splits=1))
    longer = gradients.copy()
    longer[train[0]] *= 7
    assert grace(longer, splits=1) == pytest.approx(grace(gradients, splits=1), rel=1e-12)
    longer[test[0]] *= 7
    assert grace(longer, splits=1) == pytest.approx(49 * grace(gradients, splits=1), rel=1e-12)


def test_grace_prefers_gradients_whose_directions_the_others_have():
    rng = np.random.default_rng(0)
    scattered = rng.normal(size=(20, 40))
    scattered /= np.linalg.norm(scattered, axis=1, keepdims=True)
    shared = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 40))
    shared /= np.linalg.norm(shared, axis=1, keepdims=True)
    assert grace(shared) < grace(scattered) / 100


def test_a_gradient_of_zero_has_no_direction_and_no_length():
    gradients = np.vstack([_gradients(count=8), np.zeros((1, 6))])
    assert np.isfinite(grace(gradients))


def test_a_prompts_samples_are_on_one_side_of_a_split():
    groups = np.array(_prompts(40, 4))
    for train, test in prompt_splits(list(groups), splits=20):
        assert not set(groups[train]) & set(groups[test])
        assert sorted([*train, *test]) == list(range(40))


@pytest.mark.parametrize(("prompts", "held_out"), [(2, 1), (9, 1), (19, 1), (20, 2), (30, 3)])
def test_a_tenth_of_the_prompts_is_held_out_and_one_at_least(prompts, held_out):
    splits = list(prompt_splits(range(prompts)))
    assert [len(test) for _, test in splits] == [held_out] * 10


def test_splits_are_random_and_the_seed_decides_them():
    def tests(seed):
        return [test.tolist() for _, test in prompt_splits(range(50), seed=seed)]

    assert tests(1) == tests(1) != tests(2)
    assert len(set(map(tuple, tests(1)))) == 10


@pytest.mark.parametrize(
    ("gradients", "options", "message"),
    [
        (np.ones((3, 2)), {"groups": ["a"] * 3}, "two at least"),
        (np.zeros((3, 2)), {}, "all 0"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), {}, "isn't finite"),
        (np.ones(4), {}, "shape"),
        (np.ones((3, 2)), {"smoothing": 0.0}, "smoothing"),
        (np.ones((3, 2)), {"groups": ["a", "b"]}, "2 groups"),
    ],
    ids=["one prompt", "zeros", "not a number", "one axis", "no smoothing", "other groups"],
)
def test_what_grace_says_nothing_about_is_refused(gradients, options, message):
    with pytest.raises(ValueError, match=message):
        grace(gradients, **options)


# The projection


def _samples(count, *shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(count)]


def test_the_projection_is_linear_with_independent_signs():
    size = 150
    projected = RademacherProjection(64, seed=1).project([[row] for row in torch.eye(size)])
    assert torch.equal(projected.abs(), torch.full_like(projected, 1 / 8))
    products = (projected @ projected.T)[~torch.eye(size, dtype=bool)]
    assert abs(float(projected.mean())) < 4 / 8 / (size * 64) ** 0.5
    assert float(products.var()) == pytest.approx(1 / 64, rel=0.05)
    [x], [y] = _samples(1, size)[0], _samples(1, size, seed=1)[0]
    found = RademacherProjection(64, seed=1).project([[x + 2 * y]])
    torch.testing.assert_close(found, (x + 2 * y).double()[None] @ projected, rtol=1e-5, atol=1e-5)


def test_inner_products_are_kept_within_the_expected_error():
    samples = _samples(6, 20_000)
    base = torch.cat([torch.stack(sample) for sample in samples]).double()
    exact = base @ base.T
    errors = []
    for seed in range(8):
        projected = RademacherProjection(512, seed=seed).project(samples)
        lengths = exact.diag()
        expected = ((lengths[:, None] * lengths + exact**2) / 512).sqrt()
        errors.append((projected @ projected.T - exact) / expected)
    found = torch.stack(errors)
    assert float(found.abs().max()) < 5
    assert 0.7 < float(found.square().mean().sqrt()) < 1.2


@pytest.mark.parametrize("cuts", [(1,), (BLOCK,), (BLOCK - 1, BLOCK + 5), (7, 0, 12_000)])
def test_it_is_the_same_wherever_parameters_begin_and_end(cuts):
    samples, ends = _samples(3, 2 * BLOCK + 100), tuple(np.cumsum(cuts).tolist())
    pieces = [[p.reshape(1, -1) for p in flat.tensor_split(ends)] for [flat] in samples]
    projection = RademacherProjection(40)
    assert torch.equal(projection.project(pieces), projection.project(samples))


def test_parameters_that_come_later_change_nothing_of_what_comes_before():
    [[first]] = _samples(1, 3000)
    longer = [first, torch.zeros(BLOCK)]
    projection = RademacherProjection(40)
    torch.testing.assert_close(projection.project([longer]), projection.project([[first]]))


def test_samples_are_projected_together_as_they_are_alone():
    samples = _samples(5, (3, 50), 9000)
    projection = RademacherProjection(100)
    alone = torch.cat([projection.project([sample]) for sample in samples])
    torch.testing.assert_close(projection.project(samples), alone, rtol=1e-5, atol=1e-4)


def test_the_seed_alone_decides_the_projection():
    samples = _samples(2, 500)
    first, again, other = (RademacherProjection(16, seed).project(samples) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_another_block_of_parameters_has_other_signs():
    ones = [[torch.eye(1, 2 * BLOCK)[0]], [torch.eye(1, 2 * BLOCK)[0].roll(BLOCK)]]
    first, second = RademacherProjection(64).project(ones)
    assert 16 < int((first == second).sum()) < 48


def test_gradients_in_low_precision_are_projected_as_they_are():
    samples = [[part.bfloat16() for part in sample] for sample in _samples(2, 700)]
    whole = [[part.float() for part in sample] for sample in samples]
    projection = RademacherProjection(16)
    assert torch.equal(projection.project(samples), projection.project(whole))
