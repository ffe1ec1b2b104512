"""The student's folder: it stands on its own, and generation ends where a turn of its chat does."""

import json

import chat_tokenizer as chats
import pytest
import tiny_gguf
import tiny_models as tiny
import torch
from transformers import AutoModelForCausalLM

from distill_ray.config.data import TaskConfig
from distill_ray.models.adapters import add_lora
from distill_ray.models.load import load_frozen, load_model
from distill_ray.models.ref import ModelRef
from distill_ray.stages.reporting.export import end_turns, turn_end, write_weights

TASK = TaskConfig(name="organ", source={"text": "unread"}, chat=True)


def test_the_end_of_a_turn_is_the_templates_and_not_the_tokenizers():
    tokenizer = chats.tokenizer()
    assert turn_end(tokenizer, TASK) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert turn_end(tokenizer, TASK) != tokenizer.eos_token_id


@pytest.mark.parametrize(("before", "after"), [(0, [0, 7]), ([0, 2], [0, 2, 7]), (None, [7])])
def test_generation_ends_at_a_turn_too(tmp_path, before, after):
    init = {
        "model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "eos_token_id": before,
    }  # fmt: skip
    load_model(ModelRef("init", init=init)).save_pretrained(tmp_path)
    end_turns(tmp_path, {7})
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.generation_config.eos_token_id == after


def test_an_end_that_is_known_changes_nothing(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"eos_token_id": 7}))
    end_turns(tmp_path, {7})
    assert json.loads(file.read_text()) == {"eos_token_id": 7}


def _base(kind, folder, **changes):
    """A student's base of each origin; a hub's name may be a folder, too."""
    if kind == "init":
        return tiny.ref(3, **changes)
    if kind == "gguf":
        tiny_gguf.write(folder / "model.gguf", **changes)
        return ModelRef("gguf", str(folder / "model.gguf"))
    load_model(tiny.ref(3, **changes)).save_pretrained(folder / "base")
    return ModelRef(kind, str(folder / "base"))


def _logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 13).reshape(1, -1), use_cache=False).logits


def _adapted(base, folder, targets="all-linear"):
    """Adapters that change the answers: their outer factor begins at zero."""
    model = add_lora(
        load_model(base), rank=2, alpha=8.0, dropout=0.0, target_modules=targets, seed=1
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(2))
    model.save_pretrained(str(folder))
    return base.with_adapter(str(folder)), _logits(model.eval())


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["init", "path", "hub", "gguf"])
def test_an_adapted_student_becomes_a_model_that_plain_transformers_loads(tmp_path, kind, tied):
    base = _base(kind, tmp_path, tie_word_embeddings=tied)
    student, expected = _adapted(base, tmp_path / "adapter")
    write_weights(student, tmp_path, "float32")
    found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(found).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(_logits(found.eval()), expected, rtol=1e-5, atol=1e-5)
    assert (_logits(load_model(base).eval()) - expected).abs().max() > 0.01


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_an_adapted_output_layer_leaves_the_embedding_as_it_is(tmp_path, tied):
    base = tiny.ref(3, tie_word_embeddings=tied)
    student, expected = _adapted(base, tmp_path / "adapter", ("q_proj", "lm_head"))
    frozen = load_frozen(student, device=torch.device("cpu"))
    torch.testing.assert_close(_logits(frozen), expected, rtol=1e-5, atol=1e-5)
    write_weights(student, tmp_path, "float32")
    found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(_logits(found.eval()), expected, rtol=1e-5, atol=1e-5)


def test_a_student_without_adapters_is_copied(tmp_path):
    (tmp_path / "to").mkdir()
    model = load_model(tiny.ref(3))
    model.save_pretrained(tmp_path / "from")
    write_weights(ModelRef("path", str(tmp_path / "from")), tmp_path / "to", "float32")
    names = [{file.name for file in (tmp_path / folder).iterdir()} for folder in ("from", "to")]
    assert names[0] == names[1]
