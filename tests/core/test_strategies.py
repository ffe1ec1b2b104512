"""Who of several teachers answers for what. S samples, M teachers."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch

from distill_ray.core.divergence import forward_kl
from distill_ray.core.strategies import (
    STRATEGIES,
    EnsembleBatch,
    at_random,
    average,
    best_of,
    by_domain,
    confidence,
    confidence_weights,
    member_checkpoint,
    require_weights,
)

TEACHERS = ("big", "old", "odd")


def instances(streams=("notes", "triage.labelled", "notes"), row=(0, 0, 1, 2, 2), **changes):
    """Five samples in three rows."""
    made = {
        "teachers": TEACHERS,
        "keys": [f"0 {i} {stream}:train:{i}" for i, stream in enumerate(streams)],
        "streams": streams,
        "row": torch.tensor(row),
        "losses": lambda: pytest.fail("nobody needs the losses"),
    }
    return EnsembleBatch(**{**made, **changes})


def test_the_average_gives_all_the_same():
    assert average(instances()).tolist() == [pytest.approx([1 / 3] * 3)] * 5


def test_a_domain_is_its_teacher_s_with_all_samples_of_the_row():
    given = {"notes": "odd", "triage.labelled": "big"}
    found = by_domain(instances(), assignment=given)
    assert found.tolist() == [[0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_a_drawn_teacher_has_the_whole_row():
    found = at_random(instances())
    assert set(found.flatten().tolist()) == {0, 1} and found.sum(dim=1).eq(1).all()
    assert torch.equal(found[0], found[1]) and torch.equal(found[3], found[4])


def test_draws_are_a_pure_function_of_the_key():
    keys = [f"{seed} {place} notes:train:7" for seed in (0, 1) for place in range(40)]
    streams, row = ("notes",) * 80, tuple(range(80))
    first = at_random(instances(streams, row, keys=keys))
    assert torch.equal(at_random(instances(streams, row, keys=keys)), first)
    turned = at_random(instances(streams, row, keys=keys[::-1]))
    assert torch.equal(turned, first.flip(0)), "whatever the order, and who else is in the batch"
    assert not torch.equal(first[:40], first[40:]), "another seed draws anew"
    assert len(set(first[:40].argmax(dim=1).tolist())) == 3, "and so does each appearance of a row"


def test_all_teachers_are_drawn_as_often_and_independently():
    keys = [f"3 {place} notes:train:{place % 50}" for place in range(9000)]
    drawn = at_random(instances(("notes",) * 9000, tuple(range(9000)), keys=keys))
    chosen = drawn.argmax(dim=1).tolist()
    pairs = Counter(zip(chosen[::2], chosen[1::2], strict=True))
    # 4500 pairs over 9 cells: 500 each, five standard deviations of sqrt(4500 · 1/9 · 8/9) = 21.
    assert len(pairs) == 9 and all(abs(n - 500) < 105 for n in pairs.values())


def test_the_expected_gradient_of_drawn_teachers_is_the_average_s():
    # Over all assignments of two rows to three teachers, each as likely.
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(2, 7, dtype=torch.float64, generator=rng, requires_grad=True)
    p = torch.randn(3, 2, 7, dtype=torch.float64, generator=rng).softmax(dim=-1)

    def slope(weights):
        mixed = torch.einsum("sm,msv->sv", weights.double(), p)
        return torch.autograd.grad(forward_kl(z.log_softmax(-1), mixed.log()).sum(), z)[0]

    asked = instances(("notes",) * 2, (0, 1))
    each = [slope(asked.one_hot(chosen)) for chosen in product(range(3), repeat=2)]
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(sum(each) / 9, slope(average(asked)), rtol=1e-6, atol=1e-9)


def test_confidence_is_what_its_formula_says_and_sums_to_one():
    losses = torch.tensor([[0.1, 2.0, 0.7], [3.0, 3.0, 3.0]])
    found = confidence_weights(losses)
    e = losses.double().exp()
    expected = (1 - e / e.sum(dim=1, keepdim=True)) / 2
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    assert found.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert found[0].argmax() == 0 and found[0].argmin() == 1, "a loss is a reason for doubt"
    assert found[1].tolist() == pytest.approx([1 / 3] * 3)
    assert confidence_weights(torch.tensor([[0.0, 80.0, 80.0]])).max() == pytest.approx(1 / 2), (
        "it gates weakly"
    )


def test_two_teachers_are_weighted_by_the_other_s_loss_and_one_has_it_all():
    found = confidence_weights(torch.tensor([[0.5, 1.5]]))
    assert found[0].tolist() == pytest.approx(torch.tensor([1.5, 0.5]).softmax(0).tolist())
    assert confidence_weights(torch.tensor([[7.0]])).tolist() == [[1.0]]


def test_samples_without_labels_are_averaged():
    losses = torch.tensor([[0.1, 2.0, 0.7]] * 5)
    known = torch.tensor([True, False, True, False, False])
    found = confidence(instances(losses=lambda: (losses, known)))
    assert found[known].tolist() == [pytest.approx(confidence_weights(losses)[0].tolist())] * 2
    assert found[~known].tolist() == [pytest.approx([1 / 3] * 3)] * 3


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_s_weights_are_such(name):
    options = {"by_domain": {"assignment": {"notes": "old", "triage.labelled": "odd"}}}
    losses = (torch.rand(5, 3), torch.tensor([True, True, False, True, False]))
    asked = instances(losses=lambda: losses)
    require_weights(STRATEGIES[name](asked, **options.get(name, {})), asked)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (torch.ones(5, 2) / 2, r"have shape \[5, 2\], not \(5, 3\)"),
        (torch.tensor([[1.5, -0.5, 0.0]] * 5), "must be 0 or above"),
        (torch.full((5, 3), 0.3), "must be 0 or above and sum to 1"),
    ],
)
def test_weights_that_are_none_are_refused(weights, said):
    with pytest.raises(ValueError, match=said):
        require_weights(weights, instances())


def test_a_domain_goes_to_the_least_loss_and_a_tie_to_the_first():
    losses = {
        "notes": {"big": 2.0, "old": 1.9, "odd": 2.5},
        "triage": {"big": 0.4, "old": 0.4, "odd": 0.1},
    }
    assert best_of(losses, TEACHERS) == {"notes": "old", "triage": "odd"}
    assert best_of(losses, ("old", "big")) == {"notes": "old", "triage": "old"}
    assert best_of(losses, ("big", "old")) == {"notes": "old", "triage": "big"}


@pytest.mark.parametrize("longest", [1, 2, 3, 7])
def test_members_climb_their_own_ladders_in_equal_periods(longest):
    for own in range(1, longest + 1):
        rungs = [
            member_checkpoint(checkpoint_index, own, longest) for checkpoint_index in range(longest)
        ]
        assert rungs[0] == 0 and rungs[-1] == own - 1
        assert set(rungs) == set(range(own)) and rungs == sorted(rungs)
    assert [member_checkpoint(checkpoint_index, 2, 5) for checkpoint_index in range(5)] == [
        0,
        0,
        0,
        1,
        1,
    ]
