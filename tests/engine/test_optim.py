"""AdamW against its definition (arXiv 1711.05101), written out in float64."""

import torch
from torch import nn

from distill_ray.engine.backends.optim import OptimSpec, adamw

BETA1, BETA2, EPSILON = 0.9, 0.95, 1e-8


def by_hand(weight, gradients, rate, decay):
    """The weight after one step a gradient."""
    weight, first, second = weight.double().clone(), 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
        g = gradient.double()
        first = BETA1 * first + (1 - BETA1) * g
        second = BETA2 * second + (1 - BETA2) * g**2
        corrected = first / (1 - BETA1**step), second / (1 - BETA2**step)
        weight = weight - rate * decay * weight
        weight = weight - rate * corrected[0] / (corrected[1].sqrt() + EPSILON)
    return weight


def test_steps_are_those_of_the_definition_and_matrices_alone_decay():
    generator = torch.Generator().manual_seed(0)
    module = nn.Linear(4, 3)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    # Of unlike sizes, so that the two averages remember the first ones to unlike degrees.
    gradients = {
        name: [size * torch.randn(p.shape, generator=generator) for size in (5.0, 1.0, 0.1, 2.0)]
        for name, p in module.named_parameters()
    }
    spec = OptimSpec(learning_rate=0.1, steps=4, weight_decay=0.5)
    optimiser = adamw(module, spec)
    for step in range(4):
        for name, parameter in module.named_parameters():
            parameter.grad = gradients[name][step].clone()
        optimiser.step()
    for name, decay in (("weight", 0.5), ("bias", 0.0)):
        expected = by_hand(before[name], gradients[name], 0.1, decay)
        actual = module.get_parameter(name).detach().double()
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_what_is_frozen_is_not_trained():
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    module[0].requires_grad_(False)
    optimiser = adamw(module, OptimSpec(learning_rate=0.1, steps=1))
    trained = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert trained == {id(p) for p in module[1].parameters()}
