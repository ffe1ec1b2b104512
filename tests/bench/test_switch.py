"""The switch benchmark: real switches of the loop, which reading ahead doesn't change."""

from dataclasses import replace

import pytest
from bench import direct

from distill_ray.bench.arms import switch
from distill_ray.bench.suites.work import PRESETS
from distill_ray.engine.loop import distill

pytestmark = pytest.mark.heavy

WORK = PRESETS["small"].step("float32")


@pytest.mark.parametrize("arm", [switch.full, switch.adapter])
def test_reading_ahead_changes_no_loss_and_every_switch_is_told(arm):
    late, ahead = (direct.run(arm, work=WORK, units=2, ahead=flag) for flag in (False, True))
    assert late.losses == ahead.losses
    assert [len(losses) for losses in ahead.losses] == [switch.STEPS * switch.SWITCHES] * 2
    for turns in (late, ahead):
        assert all(stall > 0 for stall in turns.seconds)
        assert all(step > 0 for step in turns.amounts)
        assert all(figures["first"] > 0 for figures in turns.figures)
    assert all("beside" in figures for figures in ahead.figures)
    assert not any("beside" in figures for figures in late.figures)


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_the_checkpoints_take_turns_and_say_different_things(kind, tmp_path):
    if kind == "full":
        refs = switch.model_checkpoints(WORK, tmp_path, 2)
    else:
        refs = switch.adapter_checkpoints(WORK, tmp_path)
    losses = {}
    for name, checkpoints in {"in turns": refs, "first": refs[:1], "second": refs[1:]}.items():
        session, _ = switch.session_with(direct.Turns(1), WORK, checkpoints, ahead=True)
        session.optim = replace(session.optim, learning_rate=0.0)
        losses[name] = [step.loss for step in distill(session)]
    assert [s.step for s in session.teaching.switches] == [2, 6]
    expected = [*losses["first"][:2], *losses["second"][2:6], *losses["first"][6:]]
    assert losses["in turns"] == pytest.approx(expected, rel=1e-5)
    assert losses["first"] != pytest.approx(losses["second"], rel=1e-3)
