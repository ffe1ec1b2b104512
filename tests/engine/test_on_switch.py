"""What a switch does to the optimiser: moments begin anew, and the learning rate rises again."""

from dataclasses import replace

import numpy as np
import pytest

from distill_ray.core.schedule import Switch
from distill_ray.engine.job import OnSwitch
from distill_ray.engine.loop import distill

pytestmark = pytest.mark.heavy

SWITCH = 3
"""The first step that sees the new checkpoint, counted from 0."""
STEPS = 6
NONE = OnSwitch()


@pytest.fixture
def run(builder, two_checkpoints):
    """A session with one switch, and what each step left: weights and the optimiser's state."""

    def made(on_switch, switch=SWITCH, record=None):
        spec = replace(two_checkpoints, schedule="at_steps", options={"steps": (switch,)})
        job = replace(builder.job(steps=STEPS, teaching=spec), on_switch=on_switch)
        session = builder.session(job)
        gradients = record(session) if record else []
        seen = [(step, *_held(session)) for step in distill(session)]
        return session, seen, gradients

    return made


def _held(session):
    optimiser = session.backend._optimiser
    weights = [p.detach().numpy().copy() for g in optimiser.param_groups for p in g["params"]]
    states = [optimiser.state[p] for g in optimiser.param_groups for p in g["params"]]
    return weights, [{k: v.numpy().copy() for k, v in state.items()} for state in states]


def test_a_reset_leaves_no_moment_and_no_count_and_changes_no_weight(run):
    _, kept, _ = run(NONE)
    _, reset, _ = run(OnSwitch(reset=True))
    for number in range(SWITCH):
        for one, other in zip(reset[number][1], kept[number][1], strict=True):
            np.testing.assert_array_equal(one, other)
    for (_, _, found), zero in ((reset[SWITCH - 2], False), (reset[SWITCH - 1], True)):
        for state in found:
            assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
            assert all((not value.any()) == zero for value in state.values())
    assert [state[0]["step"] for *_, state in reset] == [1, 2, 0, 1, 2, 3]
    assert [state[0]["step"] for *_, state in kept] == [1, 2, 3, 4, 5, 6]


def test_the_step_after_a_reset_is_adamw_s_first(run, recorded):
    session, seen, gradients = run(OnSwitch(reset=True), record=recorded)
    step, after, _ = seen[SWITCH]
    before = seen[SWITCH - 1][1]
    groups = session.backend._optimiser.param_groups
    decays = [group["weight_decay"] for group in groups for _ in group["params"]]
    assert len(set(decays)) == 2
    for w, g, decay, found in zip(before, gradients[SWITCH], decays, after, strict=True):
        # Both moments are the gradient's own: w - lr (g / (|g| + ε) + λ w).
        w, g, lr = w.astype(np.float64), g.numpy().astype(np.float64), step.learning_rate
        expected = w - lr * (g / (np.abs(g) + 1e-8) + decay * w)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_without_a_switch_and_for_the_first_checkpoint_nothing_is_reset(run):
    for switch in (0, STEPS):
        session, seen, _ = run(OnSwitch(reset=True, warmup_steps=3), switch=switch)
        _, kept, _ = run(NONE, switch=switch)
        assert not session.teaching.switches
        assert [s.learning_rate for s, *_ in seen] == [s.learning_rate for s, *_ in kept]
        for one, other in zip(seen[-1][1], kept[-1][1], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("warmup", [1, 2, 3, 100])
def test_the_learning_rate_rises_from_the_switch_to_its_schedule(run, warmup):
    _, kept, _ = run(NONE)
    _, risen, _ = run(OnSwitch(warmup_steps=warmup))
    shares = [s.learning_rate / o.learning_rate for (s, *_), (o, *_) in zip(risen, kept)]
    expected = [1.0] * SWITCH + [min(1.0, (n + 1) / warmup) for n in range(STEPS - SWITCH)]
    assert shares == pytest.approx(expected)


def _switch(step, to=1):
    return Switch(step, "a", 0, "a", to, "")


def test_the_factor_counts_from_the_last_switch_that_has_begun():
    rule = OnSwitch(warmup_steps=4)
    switches = [_switch(10), _switch(12)]
    factors = {step: rule.factor(step, switches) for step in (9, 10, 11, 12, 13, 15, 16, 40)}
    assert factors == {9: 1, 10: 0.25, 11: 0.5, 12: 0.25, 13: 0.5, 15: 1, 16: 1, 40: 1}
    assert OnSwitch().factor(10, switches) == 1.0
    # What serves first isn't a switch to anything.
    assert rule.factor(0, [_switch(0)]) == rule.factor(1, [_switch(0)]) == 1.0
    assert rule.factor(5, []) == 1.0
