"""A user's own schedule, weighting and divergence, from a module of theirs."""

import sys
from dataclasses import replace

import pytest
import tiny_models as tiny
from tiny_run import config

from distill_ray.config import RunConfig
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.schedule import PluginSchedule, scheduling
from distill_ray.core.plugins import own_functions
from distill_ray.engine.loop import distill
from distill_ray.stages.preflight.check import find_problems

MODULE = '''
from distill_ray.core.divergence import reverse_kl
from distill_ray.core.schedule import Choice


def turns(state, seen, checkpoints, *, every, first=0):
    """Up and down the checkpoints."""
    checkpoint = (first + seen.step // every) % checkpoints.num_checkpoints[state.teacher]
    return Choice(state.teacher, checkpoint, f"turn {seen.step // every}")


def all_teacher(anchor, teacher):
    return 0 * anchor + 1


def half(log_q, log_p, *, share=0.5):
    return share * reverse_kl(log_q, log_p)


def measuring(anchor, teacher, *, slope):
    return anchor
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module on the path."""
    (tmp_path / "users_own.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_own"
    sys.modules.pop("users_own", None)


def test_a_schedule_of_one_s_own_decides_who_teaches(builder, two_checkpoints, module):
    options = {"every": 2, "first": 1}
    section = PluginSchedule(function=f"{module}:turns", options=options)
    name, given = scheduling(section)
    teaching = replace(two_checkpoints, schedule=name, options=given)
    session = builder.session(steps=7, teaching=teaching)
    steps = list(distill(session))
    assert [step.checkpoint_index for step in steps] == [1, 1, 0, 0, 1, 1, 0]
    assert [s.reason for s in session.teaching.switches] == ["turn 1", "turn 2", "turn 3"]


def test_a_weighting_and_a_divergence_of_one_s_own_make_the_loss(builder, two_checkpoints, module):
    job = builder.job(
        teaching=two_checkpoints,
        objective=ObjectiveConfig(
            weighting=f"{module}:all_teacher", divergence=f"{module}:half", options={"share": 0.25}
        ),
    )
    own = builder.session(replace(job, frozen_student=tiny.ref(3, num_hidden_layers=1)))
    # All share to the teacher is alpha 1; the divergence is a quarter of ours.
    ours = builder.session(
        teaching=two_checkpoints, objective=ObjectiveConfig(alpha=1.0, divergence="reverse_kl")
    )
    found, expected = next(iter(distill(own))), next(iter(distill(ours)))
    assert found.loss == pytest.approx(0.25 * expected.loss, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schedule": {"kind": "plugin", "function": "no_such_module:f"}},
            "distill.schedule: 'no_such_module:f' can't be imported: No module named",
        ),
        (
            {"schedule": {"kind": "plugin", "function": "users_own:turn"}},
            "distill.schedule: users_own has no 'turn'.",
        ),
        (
            {"schedule": {"kind": "plugin", "function": "users_own:turns"}},
            "distill.schedule: option 'every' is required.",
        ),
        (
            {
                "schedule": {
                    "kind": "plugin",
                    "function": "users_own:turns",
                    "options": {"every": 2, "fist": 1},
                }
            },
            "distill.schedule: unknown option 'fist'. Did you mean 'first'?",
        ),
        (
            {"objective": {"weighting": "users_own:none"}},
            "distill.objective.weighting: users_own has no 'none'.",
        ),
        (
            {"objective": {"weighting": "users_own:measuring"}},
            "distill.objective.weighting: option 'slope' is required.",
        ),
        (
            {"objective": {"divergence": "users_own:half", "options": {"shar": 0.1}}},
            "distill.objective.divergence: unknown option 'shar'. Did you mean 'share'?",
        ),
        (
            {"objective": {"divergence": "jsd", "options": {"betta": 0.1}}},
            "distill.objective.divergence: unknown option 'betta'. Did you mean 'beta'?",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_starts(tmp_path, module, change, message):
    data = config(tmp_path)
    data["distill"] |= change
    problems = [str(p) for p in find_problems(RunConfig.model_validate(data), "run.yaml")]
    (problem,) = [p for p in problems if p.startswith("distill.")]
    assert problem.startswith(message)


def test_a_function_of_one_s_own_is_another_one_once_it_is_edited(tmp_path, module):
    names = "forward_kl", None, f"{module}:turns"
    before = own_functions(*names)
    assert before == own_functions(*names)
    assert [*before["own_functions"]] == ["users_own:turns"]
    (tmp_path / "users_own.py").write_text(MODULE + "\n# Edited.\n")
    assert own_functions(*names) != before
    assert own_functions("forward_kl", None, "equal_periods") == {}
