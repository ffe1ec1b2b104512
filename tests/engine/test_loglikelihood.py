"""Scores of a frozen model against the same, computed one question or row at a time."""

from dataclasses import replace

import numpy as np
import pytest
import shard_sets as packed
import tiny_models as tiny
import torch
from oracles import calibration as calibration_oracle
from oracles import divergence as oracle

from distill_ray.core.memory import CHUNK_BYTES
from distill_ray.data.batches import collate
from distill_ray.data.examples import Questions
from distill_ray.data.packing import pack
from distill_ray.engine.inference.loglikelihood import (
    divergence,
    option_scores,
    prior_scores,
    size_of,
    text_score,
)
from distill_ray.models.load import load_frozen

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models():
    return [load_frozen(tiny.ref(seed), device=CPU) for seed in (1, 2)]


def _questions(options):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 300, size=n).tolist() for n in (7, 2, 5, 2, 9)]
    count = len(prompts)
    labels = [str(i) for i in range(len(options))]
    rows = [str(i) for i in range(count)]
    return Questions("q", rows, prompts, options, labels, [0] * count, rows, empty=[5, 9], end=2)


def _one_by_one(model, asked):
    """Σ_t log p(option_t | prompt, option_<t), each question and option in a pass of its own."""
    scores = np.zeros((len(asked.prompts), len(asked.options)))
    for i, prompt in enumerate(asked.prompts):
        for k, option in enumerate(asked.options):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + option]), use_cache=False).logits[0]
            at = logits.numpy()[len(prompt) - 1 : -1]
            scores[i, k] = -oracle.cross_entropy(at, np.array(option))
    return scores


@pytest.mark.parametrize(
    "options", [[[3], [4], [250]], [[3, 4, 5], [6], [3, 7]]], ids=["one token", "several"]
)
@pytest.mark.parametrize("batch_tokens", [1, 40, 10000])
def test_option_scores_are_log_likelihoods_however_they_are_batched(models, options, batch_tokens):
    asked = _questions(options)
    found = option_scores(models[0], asked, device=CPU, batch_tokens=batch_tokens)
    np.testing.assert_allclose(found, _one_by_one(models[0], asked), rtol=1e-5, atol=1e-5)


def test_priors_are_log_likelihoods_after_the_prompt_without_a_text(models):
    asked = _questions([[3, 4, 5], [6], [3, 7]])
    alone = replace(asked, prompts=[asked.empty])
    found = prior_scores(models[0], asked, device=CPU)
    np.testing.assert_allclose(found, _one_by_one(models[0], alone)[0], rtol=1e-5, atol=1e-5)


def _batches(rows_each, vocab=tiny.VOCAB):
    made = packed.samples("text", 20, vocab=vocab, seed=4)
    rows = list(pack(made, 32, packed.END, "p"))
    for start in range(0, len(rows), rows_each):
        part = rows[start : start + rows_each]
        yield collate(part, [False] * len(part))


@pytest.mark.parametrize("rows_each", [1, 3])
def test_text_nll_is_the_mean_over_the_tokens_of_all_samples(models, rows_each):
    found = text_score(models[0], _batches(rows_each), CPU)
    total = tokens = 0
    for sample in packed.samples("text", 20, vocab=tiny.VOCAB, seed=4):
        with torch.no_grad():
            logits = models[0](input_ids=torch.tensor([sample.ids]), use_cache=False).logits[0]
        total += oracle.cross_entropy(logits.numpy()[:-1], np.array(sample.ids[1:]))
        tokens += len(sample.ids) - 1
    assert found.tokens == tokens
    assert found.nll == pytest.approx(total / tokens, rel=1e-5)
    assert len(found.pace) == -(-len(found.sums) // rows_each) and min(found.pace) > 0


@pytest.mark.parametrize("vocabulary", [None, 250], ids=["whole", "padded"])
@pytest.mark.parametrize("chunk", [2**20, 1], ids=["at once", "token by token"])
def test_each_row_s_losses_and_the_whole_vocabulary_s_calibration(monkeypatch, chunk, vocabulary):
    monkeypatch.setitem(CHUNK_BYTES, "cpu", chunk)
    model = load_frozen(tiny.ref(1, initializer_range=0.4), device=CPU)
    rows = list(_batches(1, vocabulary or tiny.VOCAB))
    found = text_score(model, _batches(3, vocabulary or tiny.VOCAB), CPU, vocabulary)
    each = [text_score(model, [row], CPU, vocabulary) for row in rows]
    assert found.sums == pytest.approx([score.nll * score.tokens for score in each])
    assert found.counts == [score.tokens for score in each]
    probabilities, gold = [], []
    for row in rows:
        with torch.no_grad():
            logits = model(
                input_ids=row.input_ids, position_ids=row.position_ids, use_cache=False
            ).logits[row.label_mask][:, :vocabulary]
        probabilities.append(logits.double().softmax(dim=-1).numpy())
        gold.append(row.targets[row.label_mask].numpy())
    p, came = np.concatenate(probabilities), np.concatenate(gold)
    *_, expected = calibration_oracle.full_ece(p, came, 15)
    assert found.full_ece == pytest.approx(expected, rel=1e-4) and expected > 0.1


def test_a_row_without_supervised_tokens_counts_nothing(models):
    silent = [replace(b, label_mask=torch.zeros_like(b.label_mask)) for b in _batches(2)]
    found = text_score(models[0], silent, CPU)
    assert (found.tokens, found.full_ece) == (0, None)
    assert set(found.sums) == {0.0}


def test_a_model_says_its_size_and_context(models):
    count = sum(p.numel() for p in models[0].parameters())
    found = size_of(models[0])
    assert (found["parameters"], found["context"]) == (count, 64)
    assert 4 * count <= found["bytes"] < 4 * count + 1000


def test_divergence_is_the_mean_kl_from_the_teacher_of_each_kind(models):
    student, teacher = models
    found = divergence(student, teacher, _batches(2), CPU)
    total = tokens = 0
    for sample in packed.samples("text", 20, vocab=tiny.VOCAB, seed=4):
        ids = torch.tensor([sample.ids])
        with torch.no_grad():
            q, p = (m(input_ids=ids, use_cache=False).logits[0, :-1].numpy() for m in models)
        total += oracle.forward_kl(q, p)
        tokens += len(sample.ids) - 1
    assert found == {"text.kl": pytest.approx(total / tokens, rel=1e-5)}
    assert divergence(student, student, _batches(2), CPU)["text.kl"] == pytest.approx(0, abs=1e-6)
