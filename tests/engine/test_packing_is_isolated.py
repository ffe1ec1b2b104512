"""Samples that share a row never see each other, whatever the architecture."""

import pytest
import shard_sets as packed
import tiny_models as tiny
import torch

from distill_ray.data.batches import collate
from distill_ray.data.packing import pack
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef

ARCHITECTURES = {
    "llama": tiny.init("llama"),
    "mistral": tiny.init("mistral"),
    "mistral-window": tiny.init("mistral", sliding_window=4),
    "qwen2": tiny.init("qwen2"),
    "qwen3": tiny.init("qwen3"),
    "gpt2": {
        "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": tiny.VOCAB,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
    "gpt_neox": {
        "model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 64, "vocab_size": 300,
        "num_hidden_layers": 2, "num_attention_heads": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("init", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_packed_logits_are_those_of_each_sample_alone(init, training):
    model = load_model(ModelRef("init", init=init)).train(training)
    made = packed.samples("text", 9, vocab=tiny.VOCAB, seed=3)
    rows = list(pack(made, 32, packed.END, "p"))
    batch = collate(rows, [False] * len(rows))
    assert len(rows) >= 2
    with torch.no_grad():
        found = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits
        expected = {
            s.source: model(input_ids=torch.tensor([s.ids]), use_cache=False).logits[0]
            for s in made
        }
    for row, logits in zip(rows, found, strict=True):
        place = 0
        for source in row["sources"]:
            alone = expected.pop(source)
            part = logits[place : place + len(alone)]
            torch.testing.assert_close(part, alone, rtol=1e-4, atol=1e-5)
            place += len(alone)
    assert not expected


def test_without_restarting_positions_samples_would_see_each_other():
    model = load_model(tiny.ref()).eval()
    ids = torch.arange(12)[None] + 1
    restart = torch.tensor([[0, 1, 2, 3, 4, 5] * 2])
    with torch.no_grad():
        apart = model(input_ids=ids, position_ids=restart, use_cache=False).logits[0, 6:]
        joined = model(input_ids=ids, use_cache=False).logits[0, 6:]
    assert (apart - joined).abs().max() > 1e-3
