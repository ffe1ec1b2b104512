"""Adapters in the loop, on the output layer too, against whole logits and autograd."""

from dataclasses import replace

import pytest
import tiny_models as tiny
import torch
import torch.nn.functional as F

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import LoraConfig
from distill_ray.engine import checkpoint
from distill_ray.engine.job import TeachingSpec
from distill_ray.engine.loop import distill, train_step
from distill_ray.models.load import load_frozen, load_model

ALL = LoraConfig(rank=3, alpha=6.0)
HEAD = LoraConfig(rank=3, alpha=6.0, target_modules=("q_proj", "down_proj", "lm_head"))
CASES = [
    pytest.param(ALL, False, id="every linear layer"),
    pytest.param(HEAD, False, id="the head too"),
    pytest.param(HEAD, True, id="a tied head too"),
]


@pytest.fixture
def adapted(builder):
    """A session that trains adapters; the first step has moved their outer factors from zero."""

    def session(lora, tied, steps=6):
        student = tiny.ref(0, num_hidden_layers=1, tie_word_embeddings=tied, initializer_range=0.2)
        teaching = TeachingSpec({"big": [tiny.ref(1, initializer_range=0.2)]}, "big")
        objective = ObjectiveConfig(alpha=0.6)
        job = builder.job(
            steps=steps, teaching=teaching, objective=objective, max_grad_norm=1e9, student=student
        )
        return builder.session(replace(job, lora=lora))

    return session


def _by_whole_logits(session, batch):
    """Loss and slopes of the next step, from the models' own logits."""
    model = session.backend._student.model.train()
    inputs = {
        "input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False
    }  # fmt: skip
    logits = model(**inputs).logits
    with torch.no_grad():
        teacher = load_model(tiny.ref(1, initializer_range=0.2)).eval()(**inputs).logits
    total = torch.zeros(())
    for kind in (batch.is_task, ~batch.is_task):
        gold, distilled = batch.label_mask & kind[:, None], batch.teacher_mask & kind[:, None]
        log_q, log_p = (z[distilled].log_softmax(-1) for z in (logits, teacher))
        total = total + 0.4 * F.cross_entropy(logits[gold], batch.targets[gold])
        total = total + 0.6 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    trained = [p for p in model.parameters() if p.requires_grad]
    return float(total.detach()), torch.autograd.grad(total, trained)


@pytest.mark.parametrize(("lora", "tied"), CASES)
def test_loss_and_gradient_are_those_of_whole_logits(adapted, recorded, lora, tied):
    session = adapted(lora, tied)
    next(distill(session))
    gradients = recorded(session)
    expected, slopes = _by_whole_logits(session, session.source.batch(1, 0))
    loss, *_ = train_step(session)
    assert loss == pytest.approx(expected, rel=1e-5)
    trained = [p for p in session.backend._student.model.parameters() if p.requires_grad]
    groups = session.backend._optimiser.param_groups
    order = {id(p): i for i, p in enumerate(p for group in groups for p in group["params"])}
    for parameter, slope in zip(trained, slopes, strict=True):
        found = gradients[0][order[id(parameter)]]
        torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("lora", "tied"), CASES)
def test_the_base_stays_and_the_exported_adapter_answers_as_the_session_does(
    adapted, tmp_path, lora, tied
):
    session = adapted(lora, tied)
    base = tiny.ref(0, num_hidden_layers=1, tie_word_embeddings=tied, initializer_range=0.2)
    losses = [step.loss for step in distill(session)]
    assert losses[-1] < losses[0]
    checkpoint.export(session, tmp_path)
    batch = session.source.batch(0, 0)
    session.backend.train(False)
    with torch.no_grad(), session.backend.unsharded() as model:
        ours, frozen = (
            one(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
            for one in (
                model,
                load_frozen(base.with_adapter(str(tmp_path)), device=torch.device("cpu")),
            )
        )
        torch.testing.assert_close(frozen, ours, rtol=1e-4, atol=1e-5)
        embedding = model.get_base_model().get_input_embeddings().weight
    assert torch.equal(embedding, load_model(base).get_input_embeddings().weight)
