"""What is said of a model without reading its weights must be true of the weights."""

import pytest
import tiny_models as tiny
import torch

from distill_ray.config.models import ModelSource
from distill_ray.models.inspect import _count_llama, _count_on_meta, check_model, shape_of
from distill_ray.models.load import load_model, num_parameters


def problems(**source):
    return [str(p) for p in check_model(ModelSource(**source), "student.model")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model and its folder."""
    folder = tmp_path_factory.mktemp("saved") / "small"
    model = load_model(tiny.ref())
    model.save_pretrained(str(folder), safe_serialization=True)
    return model, folder


def test_a_folder_has_the_size_that_its_weights_have(saved):
    model, folder = saved
    shape = shape_of(ModelSource(path=str(folder)), None)
    assert shape.parameters == num_parameters(model)
    assert (shape.hidden, shape.layers, shape.vocabulary) == (32, 2, tiny.VOCAB)


def test_weights_in_several_files_are_added_up(saved, tmp_path):
    model, _ = saved
    model.save_pretrained(str(tmp_path), safe_serialization=True, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert shape_of(ModelSource(path=str(tmp_path)), None).parameters == num_parameters(model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"head_dim": 16},
        {"model_type": "mistral"},
        {"model_type": "qwen2"},
        {"model_type": "qwen3"},
        {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    ],
    ids=str,
)
def test_the_formula_of_the_llama_family_counts_what_is_built(changes):
    init = tiny.init(**changes)
    assert _count_llama(init) == num_parameters(load_model(tiny.ref(**changes)))


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"mlp_bias": True}], ids=str)
def test_unusual_options_are_left_to_the_build(changes):
    init = tiny.init(**changes)
    assert _count_llama(init) is None
    built = num_parameters(load_model(tiny.ref(**changes)))
    assert shape_of(ModelSource(init=init), None).parameters == built


def test_key_value_heads_default_to_those_of_the_architecture():
    for kind in ("llama", "mistral", "qwen3"):
        init = tiny.init(kind, num_attention_heads=8, head_dim=4)
        del init["num_key_value_heads"]
        counted = shape_of(ModelSource(init=init), None).parameters
        assert counted == _count_on_meta(init)


def test_another_family_is_counted_without_memory():
    init = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 300}
    before = torch.get_default_device()
    shape = shape_of(ModelSource(init=init), None)
    assert torch.get_default_device() == before
    tiny_gpt2 = load_model(tiny.ModelRef("init", init=init))
    assert shape.parameters == num_parameters(tiny_gpt2)
    assert (shape.hidden, shape.layers, shape.vocabulary) == (32, 2, 300)


def test_the_vocabulary_of_the_tokenizer_completes_an_init():
    init = tiny.init()
    del init["vocab_size"]
    small, large = (shape_of(ModelSource(init=init), v) for v in (300, 400))
    assert large.vocabulary == 400
    assert large.parameters - small.parameters == 2 * 100 * 32


def test_the_hub_alone_knows_the_size_of_its_models():
    assert shape_of(ModelSource(hub="some/model"), None) is None


def test_sound_models_have_no_problems(saved):
    _, folder = saved
    assert problems(path=str(folder)) == []
    assert problems(init=tiny.init()) == []
    assert problems(hub="some/model") == []


def test_pickled_weights_alone_are_refused_before_anything_reads_them(saved, tmp_path):
    _, folder = saved
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    (problem,) = problems(path=str(tmp_path))
    assert "student.model.path" in problem
    assert "pickled weights only (pytorch_model.bin)" in problem
    with pytest.raises(OSError, match="safetensors"):
        load_model(tiny.ModelRef("path", str(tmp_path)))


def test_a_folder_without_weights_or_config_is_refused(saved, tmp_path):
    _, folder = saved
    assert "has no config.json" in problems(path=str(tmp_path))[0]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert "has no weights" in problems(path=str(tmp_path))[0]


def test_a_missing_place_is_refused_with_its_neighbour(saved):
    _, folder = saved
    (problem,) = problems(path=str(folder.parent / "smal"))
    assert problem.endswith("Did you mean 'small'?")
    assert "no such file" in problems(gguf=str(folder / "none.gguf"))[0]


def test_a_misspelt_init_is_refused_with_its_neighbour():
    (problem,) = problems(init={**tiny.init(), "hiden_size": 8})
    expected = "unknown to llama. Did you mean 'hidden_size'?"
    assert problem == f"student.model.init.hiden_size: {expected}"
    (problem,) = problems(init=tiny.init("lama"))
    assert problem.startswith("student.model.init.model_type: no architecture 'lama'")
