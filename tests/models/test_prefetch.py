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


def test_tied_weights_come_once_under_either_name():
    tied = {"tie_word_embeddings": True, "num_hidden_layers": 1}
    model, other = load_model(tiny.ref(seed=1, **tied)), load_model(tiny.ref(seed=2, **tied))
    names = ("lm_head.weight", "model.embed_tokens.weight")
    before = _state(model)
    for dropped in ((), names):  # Both names, or neither.
        weights = {n: w for n, w in _state(other).items() if n not in dropped}
        assert not copy_weights(model, weights)
        assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    assert copy_weights(model, {n: w for n, w in _state(other).items() if n != names[0]})
    assert torch.equal(model.lm_head.weight, other.lm_head.weight)
