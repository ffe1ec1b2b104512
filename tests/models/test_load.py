"""Refs become models: deterministic, isolated from the run's randomness, adapters and all."""

from pathlib import Path

import pytest
import tiny_models as tiny
import torch

from distill_ray.config.models import ModelSource
from distill_ray.models.adapters import add_lora
from distill_ray.models.load import load_frozen, load_model, num_parameters
from distill_ray.models.ref import ModelRef

IDS = torch.arange(24).reshape(2, 12) + 1
CPU = torch.device("cpu")


def weights(model):
    return torch.cat([p.detach().float().flatten() for p in model.parameters()])


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def test_fresh_weights_are_drawn_from_their_seed():
    first, again, other = (weights(load_model(tiny.ref(seed))) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_drawing_weights_leaves_the_run_s_random_numbers_alone():
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    load_model(tiny.ref(5))
    assert torch.equal(torch.rand(4), expected)


def test_the_run_s_random_numbers_leave_fresh_weights_alone():
    torch.manual_seed(1)
    first = weights(load_model(tiny.ref()))
    torch.manual_seed(2)
    assert torch.equal(weights(load_model(tiny.ref())), first)


def test_a_saved_model_loads_with_its_weights(tmp_path):
    model = load_model(tiny.ref(6))
    model.save_pretrained(str(tmp_path))
    loaded = load_model(ModelRef("path", str(tmp_path)))
    assert torch.equal(weights(loaded), weights(model))
    assert all(p.requires_grad for p in loaded.parameters())


def test_precision_is_that_of_every_weight(tmp_path):
    load_model(tiny.ref()).save_pretrained(str(tmp_path))
    for ref in (tiny.ref(), ModelRef("path", str(tmp_path))):
        assert {p.dtype for p in load_model(ref, precision="bfloat16").parameters()} == {
            torch.bfloat16
        }


def test_tied_weights_are_counted_once():
    tied = load_model(tiny.ref(tie_word_embeddings=True))
    free = load_model(tiny.ref(tie_word_embeddings=False))
    assert num_parameters(free) - num_parameters(tied) == tiny.VOCAB * 32


def _lora(model, **changes):
    values = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear", **changes}
    return add_lora(model, **values)


def test_new_adapters_change_nothing_and_are_all_that_trains():
    base = logits(load_model(tiny.ref()))
    adapted = _lora(load_model(tiny.ref()))
    assert torch.equal(logits(adapted), base)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.fixture
def adapter(tmp_path):
    """A trained adapter: its base, its logits and its folder."""
    model = _lora(load_model(tiny.ref(8)))
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        generator = torch.Generator().manual_seed(number)
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(tmp_path / "adapter"), safe_serialization=True)
    return logits(model), str(tmp_path / "adapter")


def test_an_adapter_comes_back_merged_and_unmerged_with_the_same_logits(adapter):
    expected, folder = adapter
    ref = tiny.ref(8).with_adapter(folder)
    unmerged = logits(load_model(ref))
    merged = logits(load_frozen(ref, device=CPU))
    assert torch.equal(unmerged, expected)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    assert (logits(load_model(tiny.ref(8))) - expected).abs().max() > 0.1


def test_a_merged_model_has_no_adapters_left_and_nothing_to_train(adapter):
    _, folder = adapter
    model = load_frozen(tiny.ref(8).with_adapter(folder), device=CPU)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_a_loaded_adapter_can_be_trained_on(adapter):
    _, folder = adapter
    model = load_model(tiny.ref(8).with_adapter(folder))
    assert {("lora_" in n) for n, p in model.named_parameters() if p.requires_grad} == {True}


def test_a_ref_takes_the_tokenizer_s_size_unless_the_init_says_its_own():
    source = ModelSource(init={"model_type": "llama"}, seed=4)
    assert ModelRef.of(source, {"vocab_size": 77}).init == {"model_type": "llama", "vocab_size": 77}
    assert ModelRef.of(source, {"vocab_size": 77}).seed == 4
    fixed = ModelSource(init={"model_type": "llama", "vocab_size": 5})
    assert ModelRef.of(fixed, {"vocab_size": 77}).init["vocab_size"] == 5


def test_a_ref_names_where_its_model_is():
    hub = ModelRef.of(ModelSource(hub="a/b", revision="v1"), {"vocab_size": 5})
    assert (hub.kind, hub.location, hub.revision, hub.init) == ("hub", "a/b", "v1", None)
    assert Path(ModelRef.of(ModelSource(path="x")).location) == Path("x").absolute()
    assert ModelRef.of(ModelSource(gguf="y.gguf")).kind == "gguf"
