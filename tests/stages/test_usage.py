"""The code that the report gives asks the student as the evaluation does."""

import contextlib
import io

import chat_tokenizer as chats
import numpy as np
import pytest
import torch

from distill_ray.config.data import TaskConfig
from distill_ray.data.examples import questions
from distill_ray.data.prompt_format import make_prompt_format
from distill_ray.engine.inference.loglikelihood import option_scores
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef
from distill_ray.stages.reporting.render import render
from distill_ray.stages.reporting.usage import usage

LONG = {"heart": " heart", "lung": " left heart"}
BEGUN = {"a": " left", "b": " left heart"}


@pytest.mark.parametrize("answers", [LONG, BEGUN])
@pytest.mark.parametrize("chat", [{}, {"chat": True}, {"chat": True, "system": 'Name "it".'}])
def test_the_usage_code_scores_as_the_evaluation_does(chat, answers, tmp_path):
    tokenizer = chats.tokenizer()
    source = {"text": "unread"}
    task = TaskConfig(name="organ", source=source, prompt="{text}\nOrgan:", **chat)
    init = {
        "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 64, "initializer_range": 0.5,
    }  # fmt: skip
    model = load_model(ModelRef("init", init=init)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    code = render("usage.py.j2", usage(task, answers, tokenizer, str(tmp_path)))
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, names)
    asked = questions(
        "organ",
        [{"row_id": "r", "text": "...", "label": next(iter(answers)), "group": "g"}],
        template=task.prompt,
        answers=answers,
        prompt_format=make_prompt_format(tokenizer, chat=task.chat, system=task.system),
    )
    assert names["ids"] == asked.prompts[0]
    (expected,) = option_scores(model, asked, device=torch.device("cpu"))
    found = [names["log_likelihood"](answer) for answer in names["answers"].values()]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert said.getvalue().strip() == asked.labels[int(np.argmax(expected))]
