"""Answers that a model writes in batches, against argmax after argmax on each prompt alone."""

import numpy as np
import pytest
import tiny_models as tiny
import torch

from distill_ray.data.examples import Questions
from distill_ray.engine.inference.generate import SPARE, greedy_answers
from distill_ray.models.load import load_frozen
from distill_ray.models.ref import ModelRef

CPU = torch.device("cpu")
OPTIONS = [[3, 4, 5], [6]]
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": tiny.VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
}
LEARNED = ModelRef("init", init=GPT2, seed=3)
MODELS = {
    "llama": tiny.ref(3, initializer_range=0.5),
    "gpt2": ModelRef("init", init={**GPT2, "initializer_range": 0.5}, seed=3),
    "gemma2": tiny.ref(3, model_type="gemma2", head_dim=8, initializer_range=0.5),
    "qwen3": tiny.ref(3, model_type="qwen3", head_dim=8, initializer_range=0.5),
}


def _asked(end, longest=12):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 250, size=n).tolist() for n in (7, 2, 5, 1, longest, 4)]
    names = [str(i) for i in range(len(prompts))]
    return Questions(
        "q", names, prompts, OPTIONS, ["a", "b"], [0] * len(prompts), names, empty=[1], end=end
    )


def _one_by_one(model, asked, vocabulary):
    answers = []
    for prompt in asked.prompts:
        ids = list(prompt)
        while len(ids) < len(prompt) + max(map(len, OPTIONS)) + SPARE:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(int(logits[:vocabulary].argmax()))
            if ids[-1] == asked.end:
                break
        answers.append(ids[len(prompt) :])
    return answers


@pytest.mark.parametrize("vocabulary", [None, 200], ids=["whole", "padded"])
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_argmax_after_argmax_up_to_the_end(name, vocabulary):
    model = load_frozen(MODELS[name], device=CPU)
    # Authors' advice on sampling and penalties must not have a say.
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    advised = model.generation_config
    free = _one_by_one(model, _asked(end=None), vocabulary)
    assert all(len(ids) == 3 + SPARE for ids in free)
    asked = _asked(end=free[0][2])
    expected = _one_by_one(model, asked, vocabulary)
    assert len({len(ids) for ids in expected}) > 1, "some end, others are cut off"
    for batch_tokens in (1, 50, 8192):
        found = greedy_answers(
            model, asked, device=CPU, vocabulary=vocabulary, batch_tokens=batch_tokens
        )
        assert found == expected
    assert model.generation_config is advised


def test_an_answer_ends_where_the_context_does():
    model = load_frozen(LEARNED, device=CPU)
    found = greedy_answers(model, _asked(end=None, longest=62), device=CPU, batch_tokens=1)
    assert len(found[4]) == 2
    assert len(found[0]) == 3 + SPARE
    assert greedy_answers(model, _asked(end=None, longest=64), device=CPU, batch_tokens=1)[4] == []


def test_no_question_no_answer():
    model = load_frozen(LEARNED, device=CPU)
    assert greedy_answers(model, _asked(end=None).first(0), device=CPU) == []
