"""Where the teacher lives, against what decides which teacher it is."""

import pytest

CACHED = {"distill/serving": {"kind": "cached"}}
KNOWN = {"distill/schedule": {"kind": "fixed"}}
REASSESSED = {"distill/reassess": {"at_progress": [0.5]}}


@pytest.mark.parametrize("kind", ["fixed", "equal_periods"])
def test_a_cache_goes_with_what_is_known_before_training(editor, kind):
    cfg = editor.load({**CACHED, **KNOWN, "distill/schedule": {"kind": kind}})
    assert cfg.distill.serving.targets.k == 64


def test_a_cache_is_refused_where_the_teacher_is_chosen_on_the_way(editor):
    fix = (
        ". Set reassess.at_progress: [] and a schedule fixed, at_steps or equal_periods, or "
        "another serving."
    )
    start = (
        "distill: serving cached computes targets before training, but which checkpoint they are "
        "of is decided on the way, by "
    )
    plateau, progress = "schedule on_plateau", "reassess.at_progress [0.5]"
    assert editor.problems({**CACHED, **REASSESSED}) == [f"{start}{plateau} and {progress}{fix}"]
    assert editor.problems(CACHED) == [f"{start}{plateau}{fix}"]
    assert editor.problems({**CACHED, **KNOWN, **REASSESSED}) == [f"{start}{progress}{fix}"]


@pytest.mark.parametrize("kind", ["cached", "pool"])
def test_samples_are_for_the_forward_kl_alone(editor, kind):
    serving = {"kind": kind, "targets": {"kind": "samples", "num_samples": 8}}
    changes = {**KNOWN, "distill/serving": serving}
    assert editor.load(changes).distill.serving.targets.num_samples == 8
    (problem,) = editor.problems({**changes, "distill/objective": {"divergence": "jsd"}})
    assert "samples are unbiased for forward_kl alone, and objective.divergence is jsd" in problem
