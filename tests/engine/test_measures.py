"""What schedules ask for: distances between checkpoints, and probes that leave no trace."""

import math
from dataclasses import replace

import pytest
import tiny_models as tiny
import torch

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.core.schedule import RankingWeights, Reassessment, Rules
from distill_ray.engine.job import TeachingSpec
from distill_ray.engine.loop import distill, train_step
from distill_ray.engine.measures import divergences, probes
from distill_ray.engine.validation import task_loss, validate
from distill_ray.models.load import load_model

pytestmark = pytest.mark.heavy

LADDER = [tiny.ref(seed, num_hidden_layers=1, initializer_range=0.2) for seed in (5, 6, 7)]
EVEN = {"learnability": 1.0, "accuracy_above_chance": 1.0}
RANKING = RankingWeights({"big": EVEN, "other": EVEN}, early=EVEN, late=EVEN)


def spec(schedule="fixed", checkpoints=None, **options):
    checkpoints = checkpoints or {"big": LADDER}
    rules = Rules(Reassessment(()))
    first = next(iter(checkpoints))
    return TeachingSpec(checkpoints, first, schedule, options, RANKING, rules)


def log_probabilities(ref, batch, kept_at):
    model = load_model(ref).eval()
    with torch.no_grad():
        z = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits
    return z.double().log_softmax(-1).flatten(0, 1)[kept_at]


def mean_kl(session, p_ref, q_ref):
    """Mean over the kinds of row of the mean KL(p ‖ q) at what a teacher supervises, float64."""
    sums = {False: [0.0, 0], True: [0.0, 0]}
    for batch in session.validation.batches():
        at = batch.teacher_mask.flatten().nonzero()[:, 0]
        log_p, log_q = (log_probabilities(ref, batch, at) for ref in (p_ref, q_ref))
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        task = batch.is_task.repeat_interleave(batch.label_mask.shape[1])[at]
        for kind in (False, True):
            sums[kind][0] += float(kl[task == kind].sum())
            sums[kind][1] += int((task == kind).sum())
    assert all(count > 0 for _, count in sums.values())
    return sum(total / count for total, count in sums.values()) / 2


def test_distances_are_those_of_whole_distributions(builder):
    student = tiny.ref(0, num_hidden_layers=1, initializer_range=0.2)
    session = builder.session(student=student, teaching=spec(), micro_batch_size=2)
    of = session.teaching.checkpoints.of_teacher("big")
    found = divergences(session, of, to_best=True).figures
    for (_, checkpoint_index), row in found.items():
        assert row["student"] == pytest.approx(
            mean_kl(session, student, LADDER[checkpoint_index]), rel=1e-4
        )
        assert row["best"] == pytest.approx(
            mean_kl(session, LADDER[-1], LADDER[checkpoint_index]), rel=1e-4
        )
    assert found["big", 2]["best"] == pytest.approx(0, abs=1e-6)
    again = divergences(session, of, to_best=False).figures
    assert again == {c: {"student": row["student"]} for c, row in found.items()}


def test_a_student_that_is_the_best_checkpoint_selects_it_and_another_one_a_nearer_one(builder):
    for student, checkpoint_index in ((LADDER[2], 2), (LADDER[0], 0)):
        # A checkpoints whose checkpoints are all as far from each other: the student decides.
        session = builder.session(student=student, teaching=spec("scd"), steps=3)
        assert next(distill(session)).checkpoint_index == checkpoint_index
        (entry,) = session.teaching.log[:1]
        assert entry.step == 0 and len(entry.numbers) == 3


def test_the_distances_to_the_best_are_measured_once(builder):
    session = builder.session(teaching=spec("scd", num_periods=4), steps=8)
    asked, measure = [], session.measures["divergences"]

    def counted(*args, to_best):
        asked.append((session.step, to_best))
        return measure(*args, to_best=to_best)

    session.measures = {**session.measures, "divergences": counted}
    list(distill(session))
    assert asked == [(0, True), (1, False), (3, False), (5, False)]
    assert [entry.step for entry in session.teaching.log] == [0, 2, 4, 6]


def test_cached_ids_are_no_whole_distributions(builder):
    from distill_ray.bench.arms.cache import Truncated

    session = builder.session(teaching=spec())
    session.teaching.source = Truncated(session.teaching.source._bank)
    with pytest.raises(ValueError, match="whole distributions"):
        divergences(session, session.teaching.checkpoints.of_teacher("big"), to_best=True)


TWO = {"big": LADDER[:2], "other": LADDER[2:]}


def test_a_probe_moves_the_student_as_training_from_here_would(builder):
    objective = ObjectiveConfig(alpha=0.7)
    how = {"objective": objective, "steps": 12, "eval_steps": 4}
    session = builder.session(teaching=spec(checkpoints=TWO), **how)
    taken = distill(session)
    for _ in range(4):
        next(taken)
    measured = probes(session, (("big", 0), ("other", 0)), steps=3)
    session.teaching.best_loss = None
    for checkpoint, row in measured.figures.items():
        # The same steps by hand, in another session that was trained as far.
        alone = builder.session(teaching=spec(checkpoints=TWO), **how)
        steps = distill(alone)
        for _ in range(4):
            next(steps)
        state = replace(alone.teaching.state, teacher=checkpoint[0], checkpoint_index=checkpoint[1])
        alone.teaching.state = state
        before = validate(alone)
        for _ in range(3):
            train_step(alone)
            alone.step += 1
        after = validate(alone)
        assert row["moved"] == pytest.approx(before["task.kl"] - after["task.kl"], rel=1e-5)
        assert row["gain"] == pytest.approx(task_loss(before) - task_loss(after), rel=1e-5)
        few = probes(session, [checkpoint], steps=3, rows=2).figures[checkpoint]
        assert few["nll"] == row["nll"] and few["moved"] != row["moved"]
        teacher = builder.session(student=dict(TWO)[checkpoint[0]][checkpoint[1]])
        assert row["nll"] == pytest.approx(task_loss(validate(teacher)), rel=1e-5)
    assert measured.figures["big", 0] != measured.figures["other", 0]
    assert 0 <= measured.progress <= 1


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_assessments_that_change_nothing_leave_no_trace(builder, dropout):
    student = tiny.ref(0, num_hidden_layers=1, attention_dropout=dropout)
    how = {"student": student, "steps": 9, "micro_batch_size": 4, "weight_decay": 0.1}
    runs = []
    for made in (spec("ranked", TWO, interval=2, probe_steps=2, margin=1.0), spec("fixed", TWO)):
        torch.manual_seed(3)
        session = builder.session(teaching=made, eval_steps=3, **how)
        rows = [(s.loss, s.grad_norm, s.learning_rate, s.validation) for s in distill(session)]
        with session.backend.unsharded() as model:
            runs.append((rows, [p.clone() for p in model.parameters()], session))
    (one, weights, assessed), (other, expected, plain) = runs
    assert one == other
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
    assert [(e.step, e.changes) for e in assessed.teaching.log] == [
        (step, False) for step in (2, 4, 6, 8)
    ]
    assert plain.teaching.log == [] and assessed.teaching.switches == []


def test_an_assessment_before_the_last_steps_probes_only_what_is_left(builder):
    made = spec("ranked", TWO, interval=4, probe_steps=50, margin=1.0)
    session = builder.session(teaching=made, steps=5)
    assert len(list(distill(session))) == 5
    (entry,) = session.teaching.log
    assert entry.step == 4 and all(math.isfinite(score) for score in entry.numbers.values())
