"""TRL does the same work as the plain loop. Needs the `bench` extra."""

import pytest
from bench import direct

from distill_ray.bench.arms import plain
from distill_ray.bench.suites.work import PRESETS

pytest.importorskip("trl")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # TRL warns of itself.


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_its_losses_are_those_of_the_plain_loop_step_by_step(precision, tuned):
    from distill_ray.bench.arms import peer_trl

    work = PRESETS["small"].step(precision)
    ours = direct.run(plain.step, work=work, units=3).losses
    theirs = direct.run(peer_trl.step, work=work, units=3, tuned=tuned).losses
    rel = 1e-4 if precision == "float32" else 2e-2
    assert [loss for (loss,) in theirs] == pytest.approx([loss for (loss,) in ours], rel=rel)
