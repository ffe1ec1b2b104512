"""Weights that were read ahead take the place of a model's own only if they are all of its own."""

import pytest
import tiny_models as tiny
import torch

from distill_ray.models.load import load_model
from distill_ray.models.prefetch import copy_weights


def _state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.pop(next(iter(w))),
        lambda w: w.popitem(),
        lambda w: w.update(more=torch.zeros(2)),
        lambda w: w.update({next(iter(w)): torch.zeros(3, 3)}),
    ],
    ids=["lacks the first tensor", "lacks the last tensor", "has one more", "has another shape"],
)
def test_weights_that_are_not_exactly_the_model_s_change_nothing(change):
    model, other = load_model(tiny.ref(seed=1)), load_model(tiny.ref(seed=2))
    before, weights = _state(model), _state(other)
    change(weights)
    assert not copy_weights(model, weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_all_of_them_become_its_own():
    model, other = load_model(tiny.ref(seed=1)), load_model(tiny.ref(seed=2))
    assert copy_weights(model, _state(other))
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
