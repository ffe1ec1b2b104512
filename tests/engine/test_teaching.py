"""The teacher's side of the loop: switches, validation, progress, reassessment."""

from dataclasses import replace

import pytest
import tiny_models as tiny
import torch

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.core.schedule import RankingWeights, Reassessment, Rules
from distill_ray.engine.job import TeachingSpec
from distill_ray.engine.loop import distill, train_step
from distill_ray.engine.validation import task_loss, validate
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef

pytestmark = pytest.mark.heavy


def test_the_switch_happens_on_the_step_that_the_schedule_says(builder, two_checkpoints):
    spec = replace(two_checkpoints, schedule="at_steps", options={"steps": (3,)})
    session = builder.session(steps=5, teaching=spec)
    steps = list(distill(session))
    assert [step.checkpoint_index for step in steps] == [0, 0, 0, 1, 1]
    assert [step.switch.step if step.switch else None for step in steps] == [
        None, None, 3, None, None,
    ]  # fmt: skip
    assert session.teaching.switches == [steps[2].switch]
    *_, row = session.teaching.switch_log()
    assert (row["step"], row["before"]["checkpoint"], row["after"]["checkpoint"]) == (3, 1, 2)
    assert row["changes"] and row["reason"] and row["stall_s"] > 0


def test_after_the_switch_the_new_checkpoint_is_the_one_that_teaches(builder, two_checkpoints):
    # The same weights, taught by either checkpoint: at step 3 it must be checkpoint 1.
    losses = {}
    for name, options in (("switched", (3,)), ("never", (99,)), ("from the start", (0,))):
        spec = replace(two_checkpoints, schedule="at_steps", options={"steps": options})
        session = builder.session(
            steps=5, teaching=spec, objective=ObjectiveConfig(alpha=1.0), max_grad_norm=1e-12,
            weight_decay=0.0, learning_rate=1e-12,
        )  # fmt: skip
        losses[name] = [step.loss for step in distill(session)]
    # A frozen student: losses differ only by batch and teacher.
    assert losses["switched"][:3] == pytest.approx(losses["never"][:3], rel=1e-6)
    assert losses["switched"][3:] == pytest.approx(losses["from the start"][3:], rel=1e-6)
    for one, other in zip(losses["never"][3:], losses["from the start"][3:], strict=True):
        assert one != pytest.approx(other, rel=1e-5)


def test_what_is_read_ahead_waits_until_what_was_read_before_it_serves(builder, tmp_path):
    # A stage of one step: when a checkpoint is to serve, the one behind it is already announced.
    checkpoints = [ModelRef("path", str(tmp_path / str(seed))) for seed in range(4)]
    for seed, ref in enumerate(checkpoints):
        load_model(tiny.ref(seed, num_hidden_layers=1)).save_pretrained(ref.location)
    spec = TeachingSpec({"big": checkpoints}, first_teacher="big", schedule="equal_periods")
    session = builder.session(steps=4, teaching=spec)
    bank, models = session.teaching.source._bank, []
    for step in distill(session):
        assert bank._current == ("big", step.checkpoint_index)
        models.append(bank._model.model)
    # Nobody knew of the first switch beforehand; for the others no model was built.
    assert models[0] is not models[1]
    assert models[1] is models[2] is models[3]


def test_equal_periods_hand_over_in_the_middle(builder, two_checkpoints):
    session = builder.session(steps=6, teaching=two_checkpoints)
    assert [step.checkpoint_index for step in distill(session)] == [0, 0, 0, 1, 1, 1]


def test_a_fixed_schedule_begins_with_the_best_checkpoint(builder, two_checkpoints):
    session = builder.session(steps=2, teaching=replace(two_checkpoints, schedule="fixed"))
    assert [step.checkpoint_index for step in distill(session)] == [1, 1]


def test_validation_is_due_at_its_interval_and_at_each_rung(builder):
    job = builder.job(steps=10, num_checkpoints=2)
    session = builder.session(job, eval_steps=4)
    measured = [step.number for step in distill(session) if step.validation]
    assert measured == [4, 5, 8, 10]


def test_validation_moves_nothing(builder, two_checkpoints):
    session = builder.session(teaching=two_checkpoints)
    with session.backend.unsharded() as model:
        before = [p.clone() for p in model.parameters()]
    first = validate(session)
    assert validate(session) == first
    assert first.keys() == {"text.ce", "task.ce", "text.kl", "task.kl"}
    with session.backend.unsharded() as model:
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_validation_does_not_depend_on_the_cut_into_batches(builder, two_checkpoints, rows):
    whole = validate(
        builder.session(teaching=two_checkpoints, global_batch_size=24, micro_batch_size=24)
    )
    cut = validate(
        builder.session(teaching=two_checkpoints, global_batch_size=24, micro_batch_size=rows)
    )
    assert cut == pytest.approx(whole, rel=1e-5)


def test_validation_after_training_is_in_training_mode_again(builder, two_checkpoints):
    session = builder.session(teaching=two_checkpoints)
    validate(session)
    with session.backend.unsharded() as model:
        assert not model.training
        train_step(session)
        assert model.training


def test_progress_is_the_closed_share_of_the_gap_in_task_loss(builder, two_checkpoints):
    best = 4.0
    objective = ObjectiveConfig(alpha=0.0)
    session = builder.session(
        steps=30, teaching=two_checkpoints, objective=objective, eval_steps=5, best_loss=best
    )
    steps = [step for step in distill(session) if step.validation]
    initial = session.initial_loss
    assert initial > best
    for step in steps:
        share = (initial - step.validation["task.ce"]) / (initial - best)
        assert step.progress == pytest.approx(min(1, max(0, share)))
    assert steps[-1].progress > 0.2
    assert session.teaching.state.progress == max(step.progress for step in steps)


def test_a_reassessment_changes_the_teacher_once_the_student_has_come_far_enough(builder):
    checkpoints = {
        name: [tiny.ref(seed, num_hidden_layers=1)] for name, seed in (("a", 5), ("b", 6))
    }
    ranking = RankingWeights(
        factors={
            "a": {"learnability": 1.0, "accuracy_above_chance": 0.0},
            "b": {"learnability": 0.0, "accuracy_above_chance": 1.0},
        },
        early={"learnability": 1.0, "accuracy_above_chance": 0.0},
        late={"learnability": 0.0, "accuracy_above_chance": 1.0},
    )
    rules = Rules(Reassessment((0.6,)))
    spec = TeachingSpec(checkpoints, first_teacher="a", ranking=ranking, rules=rules)
    objective = ObjectiveConfig(alpha=0.0)
    session = builder.session(
        steps=25, teaching=spec, objective=objective, eval_steps=1, best_loss=4.0
    )
    steps = list(distill(session))
    crossing = next(step.number for step in steps if step.progress >= 0.6)
    assert crossing > 1
    assert [s.step for s in session.teaching.switches] == [crossing]
    assert {s.teacher for s in steps[:crossing]} == {"a"}
    assert {s.teacher for s in steps[crossing:]} == {"b"}


def test_the_best_teacher_is_measured_on_the_rows_that_measure_the_student(builder):
    seeds = {"a": (5, 6), "b": (7, 8)}
    checkpoints = {
        n: [tiny.ref(s, num_hidden_layers=1) for s in found] for n, found in seeds.items()
    }
    spec = TeachingSpec(checkpoints, first_teacher="a", rules=Rules(Reassessment(())))
    session = builder.session(steps=2, teaching=spec, eval_steps=1)
    steps = list(distill(session))
    alone = [
        task_loss(validate(builder.session(student=refs[-1], eval_steps=1)))
        for refs in checkpoints.values()
    ]
    assert session.teaching.best_loss == pytest.approx(min(alone), rel=1e-6)
    assert all(step.progress is not None for step in steps)


def test_progress_needs_the_best_teacher_s_loss(builder, two_checkpoints):
    session = builder.session(steps=2, teaching=two_checkpoints, eval_steps=1)
    assert [step.progress for step in distill(session)] == [None, None]


def test_the_task_s_loss_comes_before_the_text_s():
    assert task_loss({"text.ce": 1.0, "task.ce": 2.0}) == 2.0
    assert task_loss({"text.ce": 1.0}) == 1.0
