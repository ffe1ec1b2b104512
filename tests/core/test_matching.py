"""Distances of inner states: their definitions, their gradients, and who is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import matching as oracle

from distill_ray.core.matching import DISTANCES, Match, Matching, MatchTargets, pairs_of

N, T, MINE, THEIRS = 7, 5, 4, 6
LAYERS = {"hidden": 2, "attention": 1}


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def maps(seed):
    """[N, T] causal attention: nothing beyond the token's own place."""
    seen = torch.ones(N, T).tril(diagonal=1).bool()
    return torch.softmax(randn(N, T, seed=seed).masked_fill(~seen, -torch.inf), dim=-1)


def made(*, hidden="cosine", attention="kl", projection=True, kinds=("hidden", "attention")):
    """A matching of two pairs of hidden layers and one of attention maps."""
    pairs = {"t": ((1, 1), (2, 3))}
    every = {
        "hidden": Match(pairs, hidden, 2.0, {"t": THEIRS} if projection else {}),
        "attention": Match({"t": ((1, 1),)}, attention, 0.5),
    }
    return Matching({kind: every[kind] for kind in kinds}, MINE, seed=1).double()


def states(width, seed):
    return {"hidden": [randn(N, width, seed=seed + i) for i in (0, 1)], "attention": [maps(seed)]}


def towards(width=THEIRS, **changes):
    weight = torch.tensor([0.5, 0.0, 1.0, 0.25, 0.0, 2.0, 1.0], dtype=torch.float64)
    return replace(MatchTargets("t", states(width, 20), weight), **changes)


def by_definition(module, mine, target, *, hidden, attention):
    """Σ_kind v · Σ_n w_n · mean over pairs, from NumPy."""
    through = [p.weight.detach().numpy() for p in module.projections["hidden-t"]]
    found = [
        getattr(oracle, hidden)(x.numpy() @ w.T, y.numpy())
        for x, w, y in zip(mine["hidden"], through, target.states["hidden"], strict=True)
    ]
    maps = getattr(oracle, attention)(
        mine["attention"][0].numpy(), target.states["attention"][0].numpy()
    )
    weight = target.weight.numpy()
    return 2.0 * (weight * np.mean(found, axis=0)).sum() + 0.5 * (weight * maps).sum()


@pytest.mark.parametrize("hidden", ["cosine", "mse"])
@pytest.mark.parametrize("attention", ["kl", "squared_error"])
def test_the_total_is_the_weighted_sum_of_its_definition(hidden, attention):
    module, mine, target = made(hidden=hidden, attention=attention), states(MINE, 10), towards()
    total, each = module(mine, target)
    expected = by_definition(module, mine, target, hidden=hidden, attention=attention)
    assert float(total) == pytest.approx(expected, rel=1e-12)
    sums = [2.0, 0.5] @ (each * target.weight).sum(dim=1).numpy()
    assert sums == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_gradient_is_that_of_central_differences(name):
    theirs = maps(1)
    inner = randn(N, T, seed=2)

    def value(z):
        x = torch.softmax(z, dim=-1) if name in ("kl", "squared_error") else z
        return DISTANCES[name](x, theirs).sum()

    assert torch.autograd.gradcheck(value, inner.requires_grad_(), rtol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_nothing_is_lost_where_both_agree(name):
    same = maps(3).float()
    leaf = same.clone().requires_grad_()
    value = DISTANCES[name](leaf, same)
    assert float(value.abs().max()) == 0
    if name != "kl":  # Its slope is -p/q, which the softmax in front of it turns to 0.
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        assert float(slope.abs().max()) < 1e-6


def test_a_map_that_agrees_has_no_slope_through_its_softmax():
    z = randn(N, T, seed=4).requires_grad_()
    value = DISTANCES["kl"](torch.softmax(z, dim=-1), torch.softmax(z.detach(), dim=-1)).sum()
    (slope,) = torch.autograd.grad(value, z)
    assert float(slope.abs().max()) < 1e-12


def test_the_sum_over_parts_is_the_sum_over_all_tokens():
    module, mine, target = made(), states(MINE, 10), towards()
    whole, each = module(mine, target)
    parts = [
        module(cut(mine, rows), MatchTargets("t", cut(target.states, rows), target.weight[rows]))
        for rows in (slice(0, 2), slice(2, N))
    ]
    assert float(sum(part[0] for part in parts)) == pytest.approx(float(whole), rel=1e-12)
    torch.testing.assert_close(torch.cat([part[1] for part in parts], dim=1), each)


def cut(found, rows):
    return {kind: [x[rows] for x in layers] for kind, layers in found.items()}


def test_a_token_without_weight_may_be_anything():
    module, mine, target = made(), states(MINE, 10), towards()
    expected, _ = module(mine, target)
    silent = target.weight == 0
    for found in (mine, target.states):
        for layers in found.values():
            for x in layers:
                x[silent] = torch.nan
    leaves = [x.requires_grad_() for layers in mine.values() for x in layers]
    total, each = module(mine, target)
    total.backward()
    assert float(total) == pytest.approx(float(expected), rel=1e-12)
    assert (each[:, silent] == 0).all()
    for x in leaves:
        assert (x.grad[silent] == 0).all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_no_token_with_weight_is_a_zero_that_keeps_its_graph():
    module, mine, target = made(), states(MINE, 10), towards()
    leaf = mine["hidden"][0].requires_grad_()
    total, _ = module(mine, replace(target, weight=torch.zeros_like(target.weight)))
    total.backward()
    assert float(total.detach()) == 0
    assert (leaf.grad == 0).all()
    assert all((p.grad == 0).all() for p in module.parameters())


def test_without_a_projection_states_are_compared_as_they_are():
    module, mine = made(projection=False, kinds=("hidden",)), states(MINE, 10)
    same = MatchTargets("t", mine, towards().weight)
    total, _ = module(mine, same)
    assert list(module.parameters()) == []
    assert float(total) == 0


def test_projections_keep_lengths_and_are_the_same_everywhere():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = made(), made()
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    x = randn(N, MINE, seed=1)
    for layer in one.projections["hidden-t"]:
        torch.testing.assert_close(layer(x).norm(dim=-1), x.norm(dim=-1))


def test_low_precision_states_are_compared_in_float32():
    module = made(projection=False, kinds=("hidden",))
    mine, target = states(MINE, 10), towards(MINE)
    low = {kind: [x.bfloat16() for x in layers] for kind, layers in mine.items()}
    total, each = module(low, replace(target, weight=target.weight.float()))
    expected, _ = module({k: [x.double() for x in v] for k, v in low.items()}, target)
    assert total.dtype == each.dtype == torch.float32
    assert float(total) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("layers", "pairs"),
    [
        ("last", ((4, 12),)),
        ("uniform", ((1, 3), (2, 6), (3, 9), (4, 12))),
        ({3: 7, 1: 2}, ((1, 2), (3, 7))),
    ],
)
def test_layers_are_paired(layers, pairs):
    assert pairs_of(layers, 4, 12) == pairs


def test_uniform_pairs_of_a_shallow_teacher_begin_with_its_first_layer():
    assert pairs_of("uniform", 6, 2) == ((1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2))


@pytest.mark.parametrize("layers", [{5: 1}, {1: 13}])
def test_a_layer_that_is_not_there_is_refused(layers):
    with pytest.raises(ValueError, match="the student has 4 layers, the teacher 12"):
        pairs_of(layers, 4, 12)
