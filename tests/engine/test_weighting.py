"""Samples weighted by what a frozen student and the teacher know of them."""

from dataclasses import replace
from itertools import pairwise

import pytest
import target_caches as caches
import tiny_models as tiny
import torch

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.engine.build import build_session
from distill_ray.engine.job import FROZEN_STUDENT, TeachingSpec
from distill_ray.engine.loop import distill, train_step
from distill_ray.engine.validation import validate
from distill_ray.models.load import load_model

STUDENT, TEACHER, OTHER = (
    tiny.ref(seed, num_hidden_layers=1, initializer_range=0.3) for seed in (0, 5, 6)
)
ADAPTIVE = ObjectiveConfig(weighting="adaptive", temperature=2.0)


def job(builder, frozen_student=OTHER, objective=ADAPTIVE, **changes):
    spec = TeachingSpec({"t": [TEACHER]}, "t", "fixed")
    made = builder.job(teaching=spec, objective=objective, student=STUDENT, **changes)
    return replace(made, frozen_student=frozen_student)


def session(builder, *args, **changes):
    return build_session(job(builder, *args, **changes), torch.device("cpu"))


def log_q(ref, batch):
    """[B, T, V] float64."""
    with torch.no_grad():
        made = load_model(ref).eval()(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        )
    return made.logits.double()


def expected(batch, frozen_student):
    """The step's loss and each sample's weight, sample by sample, token by token."""
    z, t, a = (log_q(ref, batch) for ref in (STUDENT, TEACHER, frozen_student))
    gold_q, gold_t, gold_a = (x.log_softmax(-1) for x in (z, t, a))
    soft_q, soft_t = ((x / 2).log_softmax(-1) for x in (z, t))
    sums = {(kind, what): [0.0, 0] for kind in (0, 1) for what in ("ce", "kl")}
    weights = []
    rows, width = batch.input_ids.shape
    for row in range(rows):
        kind = int(batch.is_task[row])
        starts = [0] + [i for i in range(1, width) if batch.position_ids[row, i] == 0] + [width]
        for first, end in pairwise(starts):
            tokens = [i for i in range(first, end) if batch.label_mask[row, i]]
            nll = {
                name: [-x[row, i, batch.input_ids[row, i + 1]].item() for i in tokens]
                for name, x in (("q", gold_q), ("t", gold_t), ("a", gold_a))
            }
            w = 1.0
            if tokens:
                l_a, l_t = (sum(nll[n]) / len(tokens) for n in ("a", "t"))
                w = l_a / (l_a + l_t)
                weights.append(w)
            sums[kind, "ce"][0] += (1 - w) * sum(nll["q"])
            sums[kind, "ce"][1] += len(tokens)
            for i in range(first, end):
                if batch.teacher_mask[row, i]:
                    p = soft_t[row, i].exp()
                    sums[kind, "kl"][0] += (
                        w * 4 * float((p * (soft_t[row, i] - soft_q[row, i])).sum())
                    )
                    sums[kind, "kl"][1] += 1
    return sum(total / count for total, count in sums.values() if count), weights


def test_the_loss_is_that_of_the_formula_sample_by_sample(builder):
    made = session(builder)
    loss, weights = expected(made.source.batch(0, 0), OTHER)
    assert len(weights) > 10 and max(weights) - min(weights) > 0.1
    found, means, *_ = train_step(made)
    assert found == pytest.approx(loss, rel=1e-5)
    assert min(weights) < means["share"] < max(weights)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_micro_batches_give_the_gradient_and_loss_of_the_whole_batch(builder, recorded, rows):
    whole, cut = session(builder), session(builder, micro_batch_size=rows)
    seen, found = recorded(whole), recorded(cut)
    one, other = train_step(whole), train_step(cut)
    assert other[0] == pytest.approx(one[0], rel=1e-5)
    assert other[1] == pytest.approx(one[1], rel=1e-5)
    for a, b in zip(seen[0], found[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_weights_stay_when_the_student_moves(builder):
    made = session(builder, learning_rate=0.1, steps=6)

    def share():
        made.step = 0  # Of the same batch each time.
        return train_step(made)[1]["share"]

    before, start = share(), validate(made)
    assert 0 < before < 1
    list(distill(made))
    assert validate(made)["task.ce"] != pytest.approx(start["task.ce"], rel=0.05)
    assert share() == before


def test_an_anchor_that_knows_what_the_teacher_knows_gives_both_equal_shares(builder):
    even = session(builder, TEACHER)
    half = session(
        builder, None, ObjectiveConfig(alpha=0.5, temperature=2.0), mix={"triage.labelled": 1}
    )
    (labelled,) = [session(builder, TEACHER, mix={"triage.labelled": 1})]
    assert train_step(even)[1]["share"] == pytest.approx(0.5)
    assert train_step(labelled)[0] == pytest.approx(train_step(half)[0], rel=1e-6)


def test_samples_without_gold_tokens_are_imitated_whole(builder):
    mix = {"triage.prompts": 1}
    one = session(builder, mix=mix)
    other = session(builder, None, ObjectiveConfig(alpha=1.0, temperature=2.0), mix=mix)
    assert train_step(one)[0] == pytest.approx(train_step(other)[0], rel=1e-6)


def test_the_frozen_student_is_loaded_once_and_needed(builder):
    assert session(builder).frozen_student._bank.checkpoints == {FROZEN_STUDENT: [OTHER]}
    with pytest.raises(ValueError, match="weighting adaptive needs a frozen student"):
        session(builder, None)


def test_an_anchor_read_from_disk_weighs_as_the_one_in_the_process(builder, tmp_path):
    here = job(builder, steps=3)
    asked = replace(
        here,
        teaching=TeachingSpec({FROZEN_STUDENT: [OTHER]}, FROZEN_STUDENT),
        objective=ObjectiveConfig(),
    )
    cached, _ = caches.fill(asked, tmp_path, k=1)
    one = build_session(here, torch.device("cpu"))
    other = build_session(
        replace(here, frozen_student=None), torch.device("cpu"), frozen_student=cached
    )
    for a, b in zip(distill(one), distill(other), strict=True):
        assert b.terms["share"] == pytest.approx(a.terms["share"], rel=1e-4)
        assert b.loss == pytest.approx(a.loss, rel=1e-4)
