"""Kernels that aren't there and layers that don't fit are refused before anything starts."""

import pytest
from tiny_run import config, tiny_model

from distill_ray.config import RunConfig
from distill_ray.stages.preflight.check_training import Kernels, kernel_problems, match_problems

EVERYTHING = {"gpu": True, "compiler": True, "flash": True}


def _training(tmp_path, **changes):
    data = config(tmp_path)
    data["distill"] |= changes
    return RunConfig.model_validate(data).distill


@pytest.mark.parametrize(
    ("changes", "lacking", "message"),
    [
        (
            {"torch_compile": True},
            {"gpu": False, "compiler": False},
            "distill.torch_compile: on a CPU it needs a C++ compiler, and there is no g++. "
            "Install one, or set torch_compile: false.",
        ),
        (
            {"attn_implementation": "flash_attention_2", "precision": "bfloat16"},
            {"gpu": False},
            "distill.attn_implementation: flash_attention_2 trains on a GPU only, and "
            "cluster.gpus_per_worker is 0. Set attn_implementation: sdpa.",
        ),
        (
            {"attn_implementation": "flash_attention_2", "precision": "bfloat16"},
            {"flash": False},
            "distill.attn_implementation: the package flash-attn is not installed. "
            "Set attn_implementation: sdpa.",
        ),
        (
            {"attn_implementation": "flash_attention_2"},
            {},
            "distill.attn_implementation: flash_attention_2 computes in bfloat16, and "
            "precision is float32. Set precision: bfloat16, or attn_implementation: sdpa.",
        ),
        (
            {"attn_implementation": "flex_attention"},
            {"gpu": False},
            "distill.attn_implementation: flex_attention trains on a GPU only, and "
            "cluster.gpus_per_worker is 0. Set attn_implementation: sdpa.",
        ),
    ],
)
def test_a_kernel_that_is_not_there_is_named(tmp_path, changes, lacking, message):
    training = _training(tmp_path, **changes)
    there = Kernels(**{**EVERYTHING, **lacking})
    assert [str(p) for p in kernel_problems("distill", training, there)] == [message]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"torch_compile": True},
        {"attn_implementation": "flex_attention"},
        {"attn_implementation": "flash_attention_2", "precision": "bfloat16"},
    ],
)
def test_kernels_that_are_there_are_not_refused(tmp_path, changes):
    training = _training(tmp_path, **changes)
    assert list(kernel_problems("distill", training, Kernels(**EVERYTHING))) == []


def _matched(tmp_path, match, **distill):
    data = config(tmp_path)
    data["distill"] |= {"objective": {"match": match}, **distill}
    return RunConfig.model_validate(data)


def test_a_layer_that_a_teacher_lacks_is_named(tmp_path):
    cfg = _matched(tmp_path, {"hidden": {"layers": {1: 3}}})
    assert [str(p) for p in match_problems(cfg)] == [
        f"distill.objective.match.hidden.layers: {name}: layer 1 can't be matched with layer 3: "
        "the student has 2 layers, the teacher 2."
        for name in ("wide", "narrow")
    ]


def test_unequal_sizes_without_a_projection_are_named(tmp_path):
    cfg = _matched(tmp_path, {"hidden": {"projection": False}})
    first, second = (str(p) for p in match_problems(cfg))
    assert first == (
        "distill.objective.match.hidden.projection: wide's hidden size is 48, the student's 16. "
        "Set projection: true."
    )
    assert "narrow's hidden size is 32" in second


def test_layers_that_fit_are_not_refused(tmp_path):
    match = {"hidden": {"layers": "uniform"}, "attention": {}}
    assert list(match_problems(_matched(tmp_path, match, attn_implementation="eager"))) == []


def test_a_model_that_can_not_be_read_is_left_to_another_check(tmp_path):
    data = config(tmp_path)
    data["distill"]["objective"] = {"match": {"hidden": {}}}
    data["teachers"][0]["model"] = {"path": str(tmp_path / "nowhere")}
    data["teachers"][1]["model"] = tiny_model(32, 3) | {"seed": 4}
    assert list(match_problems(RunConfig.model_validate(data))) == []
