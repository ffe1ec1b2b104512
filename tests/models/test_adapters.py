"""Adapters that are added to a model: drawn from their own seed, whatever was drawn before."""

import pytest
import tiny_models as tiny
import torch

from distill_ray.models.adapters import add_lora
from distill_ray.models.load import load_model

LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}


def _adapters(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n}


def test_adding_adapters_leaves_the_run_s_random_numbers_where_they_are():
    model = load_model(tiny.ref())
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    add_lora(model, seed=5, **LORA)
    torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)


@pytest.mark.parametrize("before", [0, 99])
def test_equal_seeds_draw_equal_adapters_whatever_was_drawn_before(before):
    torch.manual_seed(1)
    one = _adapters(add_lora(load_model(tiny.ref()), seed=5, **LORA))
    torch.manual_seed(before)
    again = _adapters(add_lora(load_model(tiny.ref()), seed=5, **LORA))
    other = _adapters(add_lora(load_model(tiny.ref()), seed=6, **LORA))
    assert one and all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
