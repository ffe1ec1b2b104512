"""Rows of unequal length, padded to one batch, get the logits and the losses of each alone."""

import math
from dataclasses import replace

import pytest
import shard_sets as packed
import tiny_models as tiny
import torch

from distill_ray.data.batches import collate
from distill_ray.data.packing import pack, unpacked
from distill_ray.engine.job import DataSpec
from distill_ray.engine.loop import distill
from distill_ray.engine.validation import validate
from distill_ray.models.load import load_model

ARCHITECTURES = {
    "llama": tiny.init("llama"),
    "mistral-window": tiny.init("mistral", sliding_window=4),
    "qwen3": tiny.init("qwen3"),
    "gpt2": {
        "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": tiny.VOCAB,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
}  # fmt: skip


def logits(model, batch):
    return model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("init", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_padded_logits_are_those_of_each_row_alone(init, training):
    model = load_model(tiny.ModelRef("init", init=init)).train(training)
    made = packed.samples("labelled", 9, vocab=tiny.VOCAB, seed=3)
    batch = collate(list(unpacked(made, "p")), [True] * len(made))
    assert len({len(sample.ids) for sample in made}) > 3
    with torch.no_grad():
        found = logits(model, batch)
        for row, sample in zip(found, made, strict=True):
            alone = model(input_ids=torch.tensor([sample.ids]), use_cache=False).logits[0]
            torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-4, atol=1e-5)


def test_the_same_samples_packed_and_in_rows_of_their_own_have_the_same_loss():
    model = load_model(tiny.ref()).eval()
    made = packed.samples("labelled", 9, vocab=tiny.VOCAB, seed=4)
    losses = []
    for rows in (unpacked(made, "p"), pack(made, 32, packed.END, "p")):
        rows = list(rows)
        batch = collate(rows, [True] * len(rows))
        with torch.no_grad():
            log_q = logits(model, batch)[batch.label_mask].log_softmax(-1)
        losses.append(-log_q.gather(1, batch.targets[batch.label_mask][:, None]).sum())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-4)


def test_a_session_trains_on_rows_of_their_own_and_measures_what_it_measures_on_packed_ones(
    builder, two_checkpoints, tmp_path
):
    kinds = {"notes": "text", "triage.labelled": "task", "triage.prompts": "task"}
    sessions = []
    for grouped in (False, True):
        base = tmp_path / f"grouped-{grouped}"
        for seed, name in enumerate(kinds):
            kind = name.partition(".")[2] or "text"
            for split in ("train", "validation"):
                made = packed.samples(kind, 20, vocab=tiny.VOCAB, seed=seed)
                folder = base / "packed" / name / split
                packed.write(folder, made, length=16, prefix=name, grouped=grouped)
        spec = DataSpec(base, base / "cache", kinds, 16, seed=0, num_validation_rows=20)
        job = replace(builder.job(teaching=two_checkpoints, micro_batch_size=2), data=spec)
        sessions.append(builder.session(job))
    of_packed, of_grouped = map(validate, sessions)
    assert of_packed == pytest.approx(of_grouped, rel=1e-4)
    steps = list(distill(sessions[1]))
    assert len(steps) == 4
    assert all(math.isfinite(step.loss) for step in steps)
