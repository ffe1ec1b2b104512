"""Distances between checkpoints of which each takes the place of the one before it."""

import pytest
import tiny_models as tiny

from distill_ray.engine.job import TeachingSpec
from distill_ray.engine.measures import divergences
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef

SHAPE = {"num_hidden_layers": 1, "initializer_range": 0.2}


def test_what_the_best_checkpoint_said_is_kept_while_others_take_its_place(builder, tmp_path):
    fresh = [tiny.ref(seed, **SHAPE) for seed in (5, 6, 7)]
    saved = []
    for i, ref in enumerate(fresh):
        folder = tmp_path / str(i)
        load_model(ref).save_pretrained(str(folder))
        saved.append(ModelRef("path", str(folder)))

    def distances(refs):
        student = tiny.ref(0, **SHAPE)
        teaching = TeachingSpec({"big": refs}, "big", "fixed", {})
        session = builder.session(student=student, teaching=teaching, micro_batch_size=2)
        # As before an assessment: the first candidate is read ahead while the best one serves.
        session.teaching.source.use("big", 2)
        session.teaching.source.expect("big", 0)
        checkpoints = session.teaching.checkpoints.of_teacher("big")
        return divergences(session, checkpoints, to_best=True).figures

    expected, found = distances(fresh), distances(saved)
    assert expected.keys() == found.keys()
    for checkpoint, row in expected.items():
        assert found[checkpoint] == pytest.approx(row, rel=1e-4, abs=1e-6)
    assert expected["big", 0]["best"] > 0.1, "else nothing could go wrong"
