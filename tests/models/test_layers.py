"""A model cut to its first layers is those layers, and stays so when it is saved."""

import pytest
import tiny_models as tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distill_ray.config import InputError
from distill_ray.config.models import ModelSource
from distill_ray.models.inspect import check_model, shape_of
from distill_ray.models.load import load_frozen, load_model, num_parameters
from distill_ray.models.ref import ModelRef

IDS = torch.arange(24).reshape(2, 12) + 1
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 4, "n_head": 2, "vocab_size": tiny.VOCAB}
FAMILIES = {
    "llama": tiny.init(num_hidden_layers=4),
    "tied": tiny.init(num_hidden_layers=4, tie_word_embeddings=True),
    "qwen3": tiny.init("qwen3", num_hidden_layers=4, head_dim=8),
    # Every second layer sees a window only: the config tells each layer's kind.
    "gemma3_text": tiny.init(
        "gemma3_text",
        num_hidden_layers=4,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "gpt2": GPT2,
}


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request, tmp_path_factory):
    """A model with 4 layers, and its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    model = load_model(ModelRef("init", init=FAMILIES[request.param]))
    model.save_pretrained(str(folder))
    return model.eval(), str(folder)


def cut(folder, layers):
    return ModelRef.of(ModelSource(path=folder, num_hidden_layers=layers))


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


@torch.no_grad()
def by_hand(model, layers):
    """Logits of the first layers: the norm and the head on what the next layer would be fed."""
    seen = []
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))

    def stop(_, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])

    hook = blocks[layers].register_forward_pre_hook(stop, with_kwargs=True)
    model(input_ids=IDS, use_cache=False)
    hook.remove()
    norm = getattr(model.base_model, "norm", None) or model.base_model.ln_f
    return model.get_output_embeddings()(norm(seen[0]))


@pytest.mark.parametrize("layers", [1, 3])
def test_a_cut_model_s_logits_are_those_of_the_first_layers_by_hand(whole, layers):
    model, folder = whole
    made = load_frozen(cut(folder, layers), device=torch.device("cpu"))
    assert torch.equal(logits(made), by_hand(model, layers))


def test_as_many_layers_as_there_are_change_nothing(whole):
    model, folder = whole
    assert torch.equal(logits(load_model(cut(folder, 4)).eval()), logits(model))


def test_a_saved_cut_model_loads_with_plain_transformers(whole, tmp_path):
    _, folder = whole
    made = load_model(cut(folder, 3)).eval()
    made.save_pretrained(str(tmp_path))
    config = AutoConfig.from_pretrained(str(tmp_path))
    assert config.num_hidden_layers == 3
    assert len(getattr(config, "layer_types", None) or [0] * 3) == 3
    again, info = AutoModelForCausalLM.from_pretrained(str(tmp_path), output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(again.eval()), logits(made))


def test_the_size_is_told_before_anything_is_read(whole):
    _, folder = whole
    for layers in (1, 3, None):
        shape = shape_of(ModelSource(path=folder, num_hidden_layers=layers), None)
        assert shape.parameters == num_parameters(load_model(cut(folder, layers)))
        assert shape.layers == (layers or 4)


def test_an_adapter_sits_on_the_layers_that_are_left(tmp_path):
    folder = str(tmp_path / "whole")
    load_model(ModelRef("init", init=FAMILIES["llama"])).save_pretrained(folder)
    ref = cut(folder, 2)
    from distill_ray.models.adapters import add_lora

    adapted = add_lora(load_model(ref), rank=2, alpha=4.0, dropout=0.0, target_modules="all-linear")
    adapted.save_pretrained(str(tmp_path / "adapter"))
    merged = load_frozen(ref.with_adapter(str(tmp_path / "adapter")), device=torch.device("cpu"))
    assert merged.config.num_hidden_layers == 2
    torch.testing.assert_close(logits(merged), logits(adapted.eval()))


def test_lists_that_are_as_long_by_chance_stay(tmp_path):
    init = tiny.init(num_hidden_layers=2, eos_token_id=[1, 2])
    load_model(ModelRef("init", init=init)).save_pretrained(str(tmp_path))
    assert load_model(cut(str(tmp_path), 1)).config.eos_token_id == [1, 2]


def test_more_layers_than_there_are_is_told_before_the_start_and_on_loading(whole):
    _, folder = whole
    (problem,) = check_model(ModelSource(path=folder, num_hidden_layers=5), "student.model")
    expected = "student.model.num_hidden_layers: 5 layers of 4 can't be kept. Give 1 to 4."
    assert str(problem) == expected
    assert check_model(ModelSource(path=folder, num_hidden_layers=4), "student.model") == []
    with pytest.raises(InputError, match="5 layers of 4 can't be kept"):
        load_model(cut(folder, 5))


def test_fresh_weights_are_not_cut():
    with pytest.raises(ValueError, match="cuts weights that are there"):
        ModelSource(init=tiny.init(), num_hidden_layers=1)
