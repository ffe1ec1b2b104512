"""The loop against simpler things: another cut of the batch, the definition, the schedule."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models as tiny
import torch
from oracles.objective import objective

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import LossWeights
from distill_ray.data.batches import Batch
from distill_ray.engine import checkpoint
from distill_ray.engine.job import TeachingSpec
from distill_ray.engine.loop import checkpoint_losses, distill, train_step
from distill_ray.engine.session import Stopping
from distill_ray.engine.validation import validate
from distill_ray.models.load import load_model


def weights(session):
    with session.backend.unsharded() as model:
        return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_all_close(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_micro_batches_give_the_gradient_and_loss_of_the_whole_batch(
    builder, two_checkpoints, recorded, alpha
):
    found = {}
    for rows in (8, 4, 2, 1):
        session = builder.session(
            teaching=two_checkpoints,
            objective=ObjectiveConfig(alpha=alpha, temperature=2.0),
            micro_batch_size=rows,
            max_grad_norm=1e9,
        )
        counts = [
            int(session.source.batch(0, m).label_mask.sum()) for m in range(session.num_micro)
        ]
        assert rows == 8 or len(set(counts)) > 1  # Unequal, or a mean of means would pass too.
        gradients = recorded(session)
        loss, terms, tokens, norm = train_step(session)
        found[rows] = loss, terms, tokens, norm, gradients[0]
    loss, terms, tokens, norm, gradient = found[8]
    for rows in (4, 2, 1):
        assert found[rows][0] == pytest.approx(loss, rel=1e-5)
        assert found[rows][1] == pytest.approx(terms, rel=1e-5)
        assert found[rows][2] == tokens
        assert found[rows][3] == pytest.approx(norm, rel=1e-5)
        assert_all_close(found[rows][4], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_of_a_step_is_the_objective_of_its_definition(builder, temperature):
    # Sharp distributions: between nearly uniform ones, τ²·KL hardly depends on τ.
    student, teacher = (tiny.ref(seed, initializer_range=0.5) for seed in (1, 2))
    teaching = TeachingSpec({"big": [teacher]}, first_teacher="big")
    session = builder.session(
        teaching=teaching,
        student=student,
        objective=ObjectiveConfig(alpha=0.7, temperature=temperature),
        loss_weights=LossWeights(text=0.5, task=2.0),
        micro_batch_size=2,
    )
    whole = builder.session().source.batch(0, 0)
    student, teacher = (
        load_model(ref).eval()(
            input_ids=whole.input_ids, position_ids=whole.position_ids, use_cache=False
        ).logits.detach()
        for ref in (student, teacher)
    )  # fmt: skip
    arrays = {
        name: getattr(whole, name).numpy()
        for name in ("input_ids", "label_mask", "teacher_mask", "is_task")
    }
    expected = objective(
        student.numpy(), teacher.numpy(), arrays,
        alpha=0.7, temperature=temperature, weights={"text": 0.5, "task": 2.0},
    )  # fmt: skip
    assert train_step(session)[0] == pytest.approx(expected, rel=1e-5)


def test_a_student_that_is_its_teacher_has_no_divergence_to_lose(builder, recorded):
    same = tiny.ref(0, num_hidden_layers=1)
    session = builder.session(
        teaching=TeachingSpec({"self": [same]}, first_teacher="self"),
        student=same,
        objective=ObjectiveConfig(alpha=1.0),
    )
    gradients = recorded(session)
    loss, *_ = train_step(session)
    assert loss == pytest.approx(0, abs=1e-6)
    assert max(float(g.abs().max()) for g in gradients[0]) < 1e-6


class Silent:
    """A batch source whose rows supervise nothing."""

    def __init__(self, source):
        self.source = source

    def batch(self, step: int, micro: int) -> Batch:
        batch = self.source.batch(step, micro)
        nothing = torch.zeros_like(batch.label_mask)
        return replace(batch, label_mask=nothing, teacher_mask=nothing)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_batch_without_supervised_tokens_moves_weights_by_their_decay_alone(
    builder, two_checkpoints, decay
):
    session = builder.session(teaching=two_checkpoints, micro_batch_size=4, weight_decay=decay)
    session.source = Silent(session.source)
    before, backward, shares = weights(session), session.backend.backward, []
    session.backend.backward = lambda loss: (shares.append(float(loss.detach())), backward(loss))
    loss, terms, tokens, norm = train_step(session)
    assert (loss, terms, tokens, norm) == (0, {}, 0, 0)
    assert shares == [0, 0]
    shrunk = 1 - session.optim.learning_rate_at(0) * decay
    for name, after in weights(session).items():
        factor = shrunk if after.ndim >= 2 else 1.0
        torch.testing.assert_close(after, factor * before[name], rtol=1e-6, atol=0)


def test_training_without_a_teacher_lowers_the_loss_and_reports_no_divergence(builder):
    session = builder.session(steps=30)
    steps = list(distill(session))
    assert np.mean([s.loss for s in steps[-5:]]) < 0.8 * np.mean([s.loss for s in steps[:5]])
    assert all(set(s.terms) == {"text.ce", "task.ce"} for s in steps)
    assert all(s.teacher is None and s.progress is None for s in steps)


def test_distilling_draws_the_student_to_its_teacher(builder, two_checkpoints):
    fixed = replace(two_checkpoints, schedule="fixed")
    session = builder.session(
        steps=40, teaching=fixed, objective=ObjectiveConfig(alpha=1.0), eval_steps=40
    )
    before = validate(session)
    *_, last = distill(session)
    assert last.validation["text.kl"] < 0.7 * before["text.kl"]


def test_the_learning_rate_warms_up_linearly_and_falls_along_a_cosine(builder):
    session = builder.session(
        steps=20, warmup_ratio=0.2, min_lr_ratio=0.1, learning_rate=1.0, max_grad_norm=1e-6
    )
    rates = [step.learning_rate for step in distill(session)]
    # The peak is reached at the end of the warm-up, and held by the cosine's first step.
    expected = [0.25, 0.5, 0.75, 1.0]
    expected += [0.1 + 0.9 * (1 + np.cos(np.pi * i / 16)) / 2 for i in range(16)]
    assert rates == pytest.approx(expected)


def test_the_optimiser_steps_with_the_learning_rate_that_is_reported(builder):
    session = builder.session(steps=5, warmup_ratio=0.4)
    seen = []
    session.backend._optimiser.register_step_pre_hook(
        lambda optimiser, *_: seen.append({g["lr"] for g in optimiser.param_groups})
    )
    steps = list(distill(session))
    assert seen == [{step.learning_rate} for step in steps]


def test_gradients_are_clipped_to_their_norm_and_the_norm_before_is_reported(builder, recorded):
    session = builder.session(max_grad_norm=0.01)
    gradients = recorded(session)
    *_, norm = train_step(session)
    clipped = torch.cat([g.flatten() for g in gradients[0]]).norm()
    assert float(clipped) == pytest.approx(0.01, rel=1e-3)
    assert norm > 0.1


def test_the_iterator_ends_with_the_budget_and_numbers_its_steps(builder):
    session = builder.session(steps=3)
    assert [step.number for step in distill(session)] == [1, 2, 3]
    assert list(distill(session)) == []
    assert [row["step"] for row in session.history] == [1, 2, 3]


@pytest.mark.parametrize(
    ("losses", "patience", "due"),
    [
        ([], 1, False),
        ([3.0], 1, False),
        ([3.0, 2.0], 1, False),
        ([3.0, 3.0], 1, True),  # Equal is not lower.
        ([3.0, 2.0, 2.5], 1, True),
        ([3.0, 2.0, 2.5], 2, False),
        ([3.0, 2.0, 2.5, 2.4], 2, True),
        ([3.0, 2.0, 2.5, 1.9], 2, False),
    ],
)
def test_training_stops_when_patience_has_run_out(losses, patience, due):
    assert Stopping([1, 2, 3, 4], patience).due(losses) is due


def _until_it_stops(builder, patience):
    """At this learning rate the held-out loss falls, rises for two checkpoints, and falls again."""
    job = replace(builder.job(steps=48, num_checkpoints=8, learning_rate=0.03), patience=patience)
    session = builder.session(job)
    return job, session, list(distill(session))


def test_an_early_stop_ends_at_the_checkpoint_where_it_is_due(builder):
    job, session, steps = _until_it_stops(builder, patience=None)
    losses = checkpoint_losses(session.history, job.checkpoint_steps)
    assert len(steps) == 48 and len(losses) == 8
    for patience in (1, 2):
        due = [Stopping(job.checkpoint_steps, patience).due(losses[: i + 1]) for i in range(8)]
        assert any(due)  # Or nothing would be tested.
        _, stopped, taken = _until_it_stops(builder, patience)
        assert len(taken) == job.checkpoint_steps[due.index(True)]
        assert (
            checkpoint_losses(stopped.history, job.checkpoint_steps)
            == losses[: due.index(True) + 1]
        )


def test_a_session_that_stopped_takes_no_step_when_it_is_restored(builder, tmp_path):
    job, session, steps = _until_it_stops(builder, patience=1)
    checkpoint.save(session, tmp_path, job="it")
    again = builder.session(job)
    checkpoint.restore(again, tmp_path, job="it")
    assert again.step == len(steps) < 48
    assert list(distill(again)) == []


def test_the_optimiser_is_adamw_with_the_betas_that_language_models_train_with():
    from torch import nn

    from distill_ray.engine.backends.optim import OptimSpec, adamw

    module = nn.Linear(1, 1, bias=False).double()
    spec = OptimSpec(learning_rate=0.1, steps=2, weight_decay=0.1)
    optimiser = adamw(module, spec)
    weight, gradients = float(module.weight), (2.0, -1.0, 0.5)
    first, second = 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        module.weight.grad = torch.full_like(module.weight, gradient)
        optimiser.step()
        # AdamW (arXiv 1711.05101) by hand, with β = (0.9, 0.95).
        first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
        weight -= 0.1 * 0.1 * weight
        weight -= 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)) ** 0.5 + 1e-8)
        assert float(module.weight) == pytest.approx(weight, rel=1e-9)


def test_no_step_behind_the_last_is_announced(builder, two_checkpoints):
    session = builder.session(steps=4, teaching=two_checkpoints)
    source, announced = session.teaching.source, []
    session.teaching.source = type(
        "Announcing",
        (),
        {
            "lookahead": 2,
            "announce": lambda self, batches: announced.append(len(announced)),
            "__getattr__": lambda self, name: getattr(source, name),
        },
    )()
    read, load = [], session._load
    session._load = lambda step: read.append(step) or load(step)
    list(distill(session))
    assert read == [0, 1, 2, 3] and len(announced) == 4
