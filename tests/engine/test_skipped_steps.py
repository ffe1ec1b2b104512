"""A step that isn't finite moves nothing, its batch is set aside, and the run goes on."""

import json
import math
from itertools import pairwise

import pytest
import tiny_models as tiny
import torch
from nonfinite_steps import POISON, Trouble, poisoned

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.engine import checkpoint
from distill_ray.engine.job import TeachingSpec
from distill_ray.engine.loop import distill, train_step
from distill_ray.engine.skipped_steps import TooManySkippedStepsError
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.storage import Storage
from distill_ray.stages.training.quarantine import quarantine_writer

BAD = 2
"""The step that goes wrong, counted from 0."""


@pytest.fixture(scope="module")
def bad_ref(tmp_path_factory) -> ModelRef:
    return poisoned(tmp_path_factory.mktemp("poisoned"), tiny.ref(3, num_hidden_layers=1))


def _state(session):
    """Weights, moments and step counts, bit for bit."""
    optimiser = session.backend._optimiser.state_dict()["state"].values()
    moments = [tensor for state in optimiser for tensor in state.values()]
    with session.backend.unsharded() as model:
        return [t.clone() for t in [*model.state_dict().values(), *moments]]


def _same(one, other):
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=["the student", "the teacher", "the gradient"])
def troubled(request, builder, two_checkpoints, bad_ref):
    """A session whose step BAD has a number that isn't finite."""
    bad_teaching = TeachingSpec({"bad": [bad_ref]}, first_teacher="bad")
    at_fault = {"student": bad_ref} if request.param == "the student" else {}
    teaching = bad_teaching if request.param == "the teacher" else two_checkpoints
    session = builder.session(steps=6, teaching=teaching, micro_batch_size=4, **at_fault)
    what = "gradient" if request.param == "the gradient" else "loss"
    Trouble((BAD,), what=what).plant(session)
    return session


def test_a_skipped_step_changes_no_weight_and_no_state_of_the_optimiser(troubled):
    states = []
    for _ in distill(troubled):
        states.append(_state(troubled))
    moved = [not _same(a, b) for a, b in pairwise(states)]
    assert moved == [step != BAD for step in range(1, 6)]


def test_the_run_goes_on_after_a_skipped_step_and_counts_it(troubled):
    steps = list(distill(troubled))
    finite = [math.isfinite(step.loss) and math.isfinite(step.grad_norm) for step in steps]
    assert finite == [step != BAD for step in range(6)]
    assert troubled.skipped.total == 1
    assert troubled.skipped.in_a_row == 0
    for row in troubled.history:
        json.dumps(row, allow_nan=False)


def test_the_micro_batch_at_fault_is_set_aside_with_all_that_it_takes_to_run_it(
    builder, bad_ref, tmp_path
):
    session = builder.session(steps=6, student=bad_ref, micro_batch_size=4)
    Trouble((BAD,)).plant(session)
    session.skipped.quarantine = quarantine_writer(Storage(str(tmp_path)))
    list(distill(session))
    (file,) = (tmp_path / "quarantine").iterdir()
    kept = json.loads(file.read_text())
    batch = session.source.batch(BAD, 0)
    assert file.stem == "step-000003-rank-0-micro-0"
    assert (kept["step"], kept["loss"], kept["norm"]) == (BAD + 1, "nan", "nan")
    assert tuple(kept["row_ids"]) == batch.row_ids
    for name in ("input_ids", "position_ids", "label_mask", "teacher_mask", "is_task"):
        assert kept[name] == getattr(batch, name).tolist()
    assert any(POISON in row for row in kept["input_ids"])


def test_a_bad_gradient_sets_every_micro_batch_aside(builder):
    session, kept = builder.session(steps=4, micro_batch_size=4), {}
    Trouble((BAD,), what="gradient").plant(session)
    session.skipped.quarantine = kept.__setitem__
    losses = [step.loss for step in distill(session)]
    assert all(math.isfinite(loss) for loss in losses)
    assert list(kept) == [f"step-000003-rank-0-micro-{micro}" for micro in (0, 1)]


def test_too_many_skipped_steps_in_a_row_stop_the_run_with_their_reason(builder, bad_ref):
    session = builder.session(steps=9, student=bad_ref, max_skipped_steps=3)
    Trouble((1, 2, 4, 5, 6, 7)).plant(session)
    seen = []
    with pytest.raises(
        TooManySkippedStepsError, match=r"3 steps in a row.*step 7.*nan.*rows .*notes:"
    ):
        seen += distill(session)
    assert session.skipped.total == 5
    assert session.step == 6


def test_a_restored_run_counts_on(builder, bad_ref, tmp_path):
    job = builder.job(steps=9, student=bad_ref, max_skipped_steps=3)
    session, restored = builder.session(job), builder.session(job)
    for one in (session, restored):
        Trouble((0, 3, 4, 5)).plant(one)
    steps = distill(session)
    for _ in range(5):
        next(steps)
    checkpoint.save(session, tmp_path, job="test")
    checkpoint.restore(restored, tmp_path, job="test")
    assert (restored.skipped.total, restored.skipped.in_a_row) == (3, 2)
    with pytest.raises(TooManySkippedStepsError, match="step 6"):
        list(distill(restored))


def test_a_term_without_a_share_in_the_loss_may_be_anything(builder, bad_ref):
    # The teacher is no number there, and nothing is asked of it.
    session = builder.session(
        teaching=TeachingSpec({"bad": [bad_ref]}, first_teacher="bad"),
        objective=ObjectiveConfig(alpha=0.0),
    )
    Trouble((0,)).plant(session)
    loss, terms, _, norm = train_step(session)
    assert math.isfinite(loss)
    assert math.isfinite(norm)
    assert session.skipped.total == 0
    assert terms.keys() == {"text.ce", "task.ce"}


def test_a_loss_that_is_no_number_leaves_no_finite_gradient(builder, bad_ref, recorded):
    # Else the weights would move by it, though the step counts as left out.
    session = builder.session(student=bad_ref, micro_batch_size=4)
    Trouble((0,)).plant(session)
    batch = session.source.batch(0, 0)
    norms, step = [], session.backend.step

    def spy(learning_rate):
        grads = [p.grad for p in session.backend._trained if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(grads)))
        return step(learning_rate)

    session.backend.step = spy
    loss, *_ = train_step(session)
    assert POISON in batch.input_ids
    assert math.isnan(loss)
    assert math.isnan(norms[0])
