"""The head on the last hidden states gives the model's own logits, however a family scales them."""

import pytest
import tiny_models as tiny
import torch

from distill_ray.models.causal import head_of, hidden_states, require_head
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef

FAMILIES = {
    "granite divides its logits": tiny.init("granite", logits_scaling=4.0),
    "cohere multiplies them": tiny.init("cohere", logit_scale=0.25),
    "cohere2 too": tiny.init("cohere2", logit_scale=0.25),
    "gemma 2 caps them": tiny.init("gemma2", head_dim=8, final_logit_softcapping=0.5),
    "llama leaves them": tiny.init("llama"),
}


@pytest.mark.parametrize("init", FAMILIES.values(), ids=FAMILIES.keys())
def test_the_head_gives_the_model_s_own_logits(init):
    torch.manual_seed(0)
    model = load_model(ModelRef("init", init={**init, "initializer_range": 0.5}, seed=3)).eval()
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits[0]
        found = head_of(model, hidden_states(model, ids)[0]).logits(slice(None))
    assert float(expected.abs().max()) > 0.3, "else a cap of 0.5 would change nothing"
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    require_head(model)


def model_with_bias():
    """Phi, whose output layer has a bias, drawn away from zero."""
    init = tiny.init("phi", num_hidden_layers=1)
    model = load_model(ModelRef("init", init=init, seed=3)).eval()
    bias = model.get_output_embeddings().bias
    bias.data = torch.linspace(-3, 3, len(bias))
    return model


def logits_of(model, ids):
    """The model's own, and its head."""
    with torch.no_grad():
        return (
            model(input_ids=ids, use_cache=False).logits[0],
            head_of(model, hidden_states(model, ids)[0], vocabulary=280),
        )


def test_a_bias_belongs_to_the_head_and_padding_ids_do_not():
    expected, head = logits_of(model_with_bias(), torch.arange(1, 9)[None])
    torch.testing.assert_close(head.logits(slice(None)), expected[:, :280], rtol=1e-4, atol=1e-5)


def test_a_temperature_divides_capped_logits():
    init = tiny.init("gemma2", head_dim=8, final_logit_softcapping=0.5, initializer_range=0.5)
    expected, head = logits_of(
        load_model(ModelRef("init", init=init, seed=3)).eval(), torch.arange(1, 9)[None]
    )
    torch.testing.assert_close(
        head.with_temperature(2.5).logits(slice(None)),
        expected[:, :280] / 2.5,
        rtol=1e-4,
        atol=1e-5,
    )
