"""A GGUF file of a few kilobytes, written by the format's own library."""

import json

import gguf
import tiny_models as tiny
import torch

from distill_ray.data.tokenizer import train_tokenizer
from distill_ray.models.load import load_model

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(file, **changes):
    """Write a Llama of random weights with a tokenizer; returns the model and the tokenizer."""
    model = load_model(tiny.ref(3, **changes))
    tokenizer = train_tokenizer(["fever and chills"] * 5, tiny.VOCAB)
    writer = gguf.GGUFWriter(str(file), "llama")
    _write_config(writer, model.config)
    _write_tokenizer(writer, tokenizer)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        writer.add_tensor(_name(name), _interleaved(name, weight, model.config).numpy())
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    return model, tokenizer


def _write_config(writer, config):
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer, tokenizer):
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    special = set(tokenizer.all_special_ids)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    types = [kinds.CONTROL if i in special else kinds.NORMAL for i in range(len(tokens))]
    writer.add_token_types(types)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.eos_token_id)


def _name(name):
    if name in NAMES:
        return NAMES[name]
    _, _, layer, inside = name.split(".", 3)
    part, _, kind = inside.rpartition(".")
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def _interleaved(name, weight, config):
    """GGUF pairs the dimensions that a rotation turns; transformers halves them."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    number = next((n for part, n in heads.items() if part in name), None)
    if number is None:
        return weight.detach().contiguous()
    halves = weight.detach().reshape(number, 2, -1, weight.shape[1])
    return torch.swapaxes(halves, 1, 2).reshape(weight.shape).contiguous()
