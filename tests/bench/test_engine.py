"""Our engine does the same work as the yardsticks."""

import pytest
from bench import direct

from distill_ray.bench.arms import engine, plain
from distill_ray.bench.suites.work import PRESETS, LossWork

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(("precision", "rel"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_its_losses_are_those_of_the_plain_loop_step_by_step(precision, rel):
    work = PRESETS["small"].step(precision)
    theirs, ours = (direct.run(arm.step, work=work, units=3).losses for arm in (plain, engine))
    assert [loss for (loss,) in ours] == pytest.approx([loss for (loss,) in theirs], rel=rel)


def test_the_loss_alone_and_its_gradients_are_those_through_full_logits():
    work = LossWork(vocabulary=50, tokens=12, hidden=8)
    theirs, ours = (direct.run(arm.loss, work=work, units=1).losses for arm in (plain, engine))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
