"""Inner layers in the loop: against the models' own states, any cut, saved, and not exported."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models as tiny
import torch
from oracles import matching as oracle
from oracles.objective import objective

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import LossWeights
from distill_ray.engine import checkpoint
from distill_ray.engine.job import TeachingSpec
from distill_ray.engine.loop import distill, train_step
from distill_ray.engine.validation import validate
from distill_ray.models.load import load_model

pytestmark = pytest.mark.heavy

HIDDEN = {"hidden": {"weight": 0.5, "layers": "uniform"}}
ATTENTION = {"attention": {"weight": 2.0, "layers": {1: 2}}}
STUDENT = tiny.ref(1, num_hidden_layers=2, initializer_range=0.3)
TEACHER = tiny.ref(2, num_hidden_layers=3, hidden_size=48, initializer_range=0.3)


@pytest.fixture
def matched(builder):
    """A session that matches inner layers, of the plain backend."""

    def session(match=HIDDEN | ATTENTION, teachers=None, student=STUDENT, alpha=0.6, **changes):
        return builder.session(
            student=student,
            teaching=TeachingSpec(teachers or {"big": [TEACHER]}, first_teacher="big"),
            objective=ObjectiveConfig(alpha=alpha, match=match),
            **{
                "attn_implementation": "eager",
                "micro_batch_size": 2,
                "max_grad_norm": 1e9,
                **changes,
            },
        )

    return session


def _outputs(ref, batch):
    model = load_model(ref).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False,
            output_hidden_states=True, output_attentions=True,
        )  # fmt: skip


def _by_definition(matching, batch, weights):
    """Σ_kind w · [½ · mean of 1 - cos(W h_s, h_t) + 2 · mean of KL of the maps]."""
    mine, theirs = (_outputs(ref, batch) for ref in (STUDENT, TEACHER))
    through = matching.projections["hidden-big"]
    rows = {
        "text": (batch.teacher_mask & ~batch.is_task[:, None]).flatten(),
        "task": (batch.teacher_mask & batch.is_task[:, None]).flatten(),
    }
    total = 0.0
    for kind, chosen in rows.items():
        hidden = []
        for (i, j), layer in zip([(1, 2), (2, 3)], through, strict=True):
            w = layer.weight.detach().double().numpy()
            x, y = (f.flatten(0, 1)[chosen].double().numpy() for f in (
                mine.hidden_states[i], theirs.hidden_states[j]))  # fmt: skip
            hidden.append(oracle.cosine(x @ w.T, y).mean())
        q, p = (f.mean(dim=1).flatten(0, 1)[chosen].double().numpy() for f in (
            mine.attentions[0], theirs.attentions[1]))  # fmt: skip
        total += weights[kind] * (0.5 * np.mean(hidden) + 2.0 * oracle.kl(q, p).mean())
    logits = [f.logits.numpy() for f in (mine, theirs)]
    names = ("input_ids", "label_mask", "teacher_mask", "is_task")
    arrays = {name: getattr(batch, name).numpy() for name in names}
    return total + objective(*logits, arrays, alpha=0.6, weights=weights)


def test_the_loss_of_a_step_is_that_of_its_definition(matched):
    weights = {"text": 0.5, "task": 2.0}
    session = matched(loss_weights=LossWeights(**weights))
    whole = matched(micro_batch_size=8).source.batch(0, 0)
    expected = _by_definition(session.backend._student.matching, whole, weights)
    loss, terms, *_ = train_step(session)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert {t for t in terms if "." in t} >= {
        "text.hidden", "task.hidden", "text.attention", "task.attention",
    }  # fmt: skip


def test_micro_batches_give_the_gradient_and_loss_of_the_whole_batch(matched, recorded):
    found = {}
    for rows in (8, 4, 1):
        session = matched(micro_batch_size=rows)
        gradients = recorded(session)
        found[rows] = train_step(session), gradients[0]
    for rows in (4, 1):
        assert found[rows][0][0] == pytest.approx(found[8][0][0], rel=1e-5)
        assert found[rows][0][1] == pytest.approx(found[8][0][1], rel=1e-5)
        for one, other in zip(found[rows][1], found[8][1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_student_that_is_its_teacher_has_nothing_to_match(matched, recorded):
    match = {"hidden": {"layers": "uniform", "projection": False}, "attention": {}}
    session = matched(match, {"self": [STUDENT], "big": [STUDENT]}, alpha=1.0)
    gradients = recorded(session)
    loss, *_ = train_step(session)
    assert loss == pytest.approx(0, abs=1e-6)
    assert max(float(g.abs().max()) for g in gradients[0]) < 1e-5


def test_training_brings_the_layers_closer(matched):
    steps = list(distill(matched(steps=25, alpha=0.0, max_grad_norm=1.0)))
    for term in ("text.hidden", "task.hidden", "text.attention", "task.attention"):
        last = np.mean([step.terms[term] for step in steps[-5:]])
        assert last < 0.95 * steps[0].terms[term]


def test_projections_are_trained_and_saved_but_not_exported(matched, tmp_path):
    session, straight = matched(steps=6), matched(steps=6)
    before = [p.clone() for p in session.backend._student.matching.parameters()]
    steps = distill(session)
    for _ in range(3):
        next(steps)
    after = session.backend._student.matching.parameters()
    assert all(not torch.equal(p, q) for p, q in zip(after, before, strict=True))
    checkpoint.save(session, tmp_path, job="test")
    restored = matched(steps=6)
    checkpoint.restore(restored, tmp_path, job="test")
    rest = [step.loss for step in distill(restored)]
    assert rest == [step.loss for step in distill(straight)][3:]
    checkpoint.export(restored, tmp_path / "student")
    with restored.backend.unsharded() as model:
        names = {name for name, _ in model.named_parameters()}
    assert {name for name, _ in load_model(replace(STUDENT)).named_parameters()} == names


def test_each_teacher_has_a_projection_of_its_own(matched):
    teachers = {"big": [TEACHER], "wide": [tiny.ref(5, num_hidden_layers=1, hidden_size=64)]}
    session = matched(HIDDEN, teachers, steps=4)
    matching = session.backend._student.matching
    shapes = {n: [tuple(p.weight.shape) for p in m] for n, m in matching.projections.items()}
    assert shapes == {"hidden-big": [(48, 32)] * 2, "hidden-wide": [(64, 32)] * 2}
    losses = [next(distill(session)).loss]
    session.teaching.state = replace(session.teaching.state, teacher="wide")
    losses += [step.loss for step in distill(session)]
    assert len(losses) == 4
    assert all(np.isfinite(losses))


def test_validation_measures_the_plain_terms_alone(matched):
    assert validate(matched()).keys() == {"text.ce", "task.ce", "text.kl", "task.kl"}


def test_a_projection_that_is_needed_and_switched_off_is_named(matched):
    with pytest.raises(ValueError, match="hidden size is 32, that of big 48: set projection true"):
        matched({"hidden": {"projection": False}})
