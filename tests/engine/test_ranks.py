"""Several processes against one, and DeepSpeed against the plain loop.

Acceptance: ZeRO stages 0 to 3, LoRA, bfloat16 and gradient accumulation give one curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny
from gloo_ranks import Task, together, train_all, train_one
from nonfinite_steps import Trouble, poisoned

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import LoraConfig
from distill_ray.core.memory import snapshot_bytes
from distill_ray.core.schedule import RankingWeights
from distill_ray.engine.build import mixed_rows
from distill_ray.engine.job import EnsembleSpec, OnSwitch, TeachingSpec

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

STAGES = (0, 1, 2, 3)
BAD = 2
"""The step that goes wrong, counted from 0."""
# Beyond DeepSpeed's threshold for parameters that stage 3 keeps whole, 100 000 numbers.
RANKING = RankingWeights(
    {"big": {"learnability": 0.0}, "other": {"learnability": 0.0}},
    {"learnability": 1.0},
    {"learnability": 1.0},
)
LARGE = {"vocab_size": 3400, "intermediate_size": 3200, "num_hidden_layers": 1}
STUDENT = tiny.ref(0, **LARGE)


@dataclass(frozen=True)
class Case:
    """A variation of the job, with what it may differ by from the plain loop."""

    changes: dict[str, Any] = field(default_factory=dict)
    stages: tuple[int, ...] = STAGES
    lora: LoraConfig | None = None
    trouble: str | None = None
    silent: bool = False
    shard: bool = False
    together: str | None = None
    """A strategy of several teachers."""
    loss: float = 1e-5
    """Relative."""
    norm: float = 2e-4
    """Relative; DeepSpeed adds up the norm in another order, in float32."""
    near_zero: float = 1e-6
    """Nats; divergences of models that know nothing are small."""
    weight: float = 1e-4
    """Of a weight; where a gradient is next to nothing, AdamW's first step has rounding's sign."""


BF16 = {"precision": "bfloat16"}
LOW = {"loss": 2e-3, "norm": 5e-2, "near_zero": 5e-4}
"""bfloat16 has 8 bits; at stages 1 to 3 weights and gradients are rounded to it, too."""
MATCHED = {"attn_implementation": "eager", "match": True}
RANKED = {"options": {"interval": 2, "probe_steps": 1, "margin": 0.0}, "ranking": RANKING}
"""What a probe has moved furthest towards serves next."""
CASES = {
    "full": Case(),
    "tied": Case({"student": tiny.ref(0, tie_word_embeddings=True, **LARGE)}),
    "lora": Case(lora=LoraConfig(rank=4)),
    "bf16": Case(BF16, **LOW),
    "checkpointed": Case({"activation_checkpointing": True}, stages=(3,)),
    "matched": Case(MATCHED, stages=(0, 1, 3)),
    # A first step again, at a larger learning rate.
    "ranked": Case({"ranked": True}, weight=1e-3),
    "silent rank": Case(silent=True, stages=(0, 2, 3)),
    "sharded teacher": Case({"num_checkpoints": 2}, shard=True, stages=(1, 3)),
    "sharded teacher, matched": Case(MATCHED, shard=True, stages=(3,)),
    # Each teacher has some of the rows alone: more weights have next to no gradient.
    "sharded teachers": Case(
        {"num_checkpoints": 2}, shard=True, together="random", stages=(3,), weight=3e-4
    ),
    "sharded teacher, bf16": Case(BF16, shard=True, stages=(3,), **LOW),
    "bad loss": Case(trouble="loss"),
    "bad gradient": Case(trouble="gradient"),
    "bad loss, bf16": Case(BF16, trouble="loss", **LOW),
    "bad loss, offloaded": Case(
        {**BF16, "offload": {"optimizer": True}}, stages=(2,), trouble="loss", **LOW
    ),
}


@pytest.fixture(scope="module")
def job(builder, tmp_path_factory):
    """The job of a case on a backend: two micro-batches a rank when two ranks share it."""
    bad = poisoned(tmp_path_factory.mktemp("poisoned"), STUDENT)
    teacher = tiny.ref(5, **LARGE)

    def made(case: Case, backend: str, stage: int = 3, **layout: Any) -> Task:
        changes = {"student": bad if case.trouble == "loss" else STUDENT, **case.changes}
        match = {"hidden": {"layers": {1: 1}}, "attention": {}} if changes.pop("match", 0) else {}
        refs = [replace(teacher, seed=5 + i) for i in range(changes.pop("num_checkpoints", 1))]
        checkpoints, first, group = {"big": refs}, "big", None
        if case.together is not None:
            checkpoints, first = {"big": refs, "other": [replace(teacher, seed=9)]}, ENSEMBLE
            group = EnsembleSpec(case.together, {})
        spec = TeachingSpec(checkpoints, first, schedule="equal_periods", ensemble=group)
        ranked = changes.pop("ranked", False)
        if ranked:
            # Who has more to say moves a student further.
            refs = [tiny.ref(seed, **LARGE, initializer_range=0.15) for seed in (5, 6)]
            checkpoints = {"big": refs, "other": [tiny.ref(9, **LARGE, initializer_range=0.3)]}
            spec = TeachingSpec(checkpoints, "big", schedule="ranked", **RANKED)
        work = builder.job(
            teaching=spec,
            objective=ObjectiveConfig(alpha=0.5, match=match),
            **{"steps": 5, "micro_batch_size": 2, "zero_stage": stage, **changes, **layout},
        )
        work = replace(work, backend=backend, lora=case.lora, eval_steps=5)
        if ranked:
            work = replace(work, on_switch=OnSwitch(reset=True, warmup_steps=2))
        trouble = Trouble((BAD,), rank=1, what=case.trouble) if case.trouble else None
        silent = _rows_of_rank_1(work) if case.silent else ()
        sharded = case.shard and backend != "plain"
        digests = backend != "plain" and trouble is not None
        return Task(work, trouble, silent, shard=sharded, digests=digests)

    return made


def _rows_of_rank_1(work, ranks: int = 2) -> tuple[str, ...]:
    """Those of the first step, when several ranks share it."""
    one_by_one = work.training.model_copy(update={"micro_batch_size": 1})
    source = mixed_rows(replace(work, training=one_by_one))
    rows = work.training.micro_batch_size
    places = [p for p in range(source.num_micro) if p // rows % ranks == 1]
    return tuple(source.batch(0, place).row_ids[0] for place in places)


@pytest.fixture(scope="module")
def trained(job, tmp_path_factory):
    """(case, backend, stage) → what both of two ranks saw."""
    keys, tasks = [], []
    for name, case in CASES.items():
        for backend, stage in [("plain", 3), *(("deepspeed", stage) for stage in case.stages)]:
            keys.append((name, backend, stage))
            tasks.append(job(case, backend, stage))
    ranks = together(2, tmp_path_factory.mktemp("two") / "meet", train_all, tasks)
    return dict(zip(keys, zip(*ranks, strict=True), strict=True))


@pytest.fixture(scope="module")
def plain(job, trained):
    """Case → the plain loop: in one process, but where trouble strikes a rank."""
    return {
        name: trained[name, "plain", 3][0] if case.trouble else train_one(job(case, "plain"))
        for name, case in CASES.items()
    }


def each(low=True, troubled=False):
    """Cases at their stages; those of low precision or without trouble may be left out."""
    return [
        pytest.param(name, stage, id=f"{name}, stage {stage}")
        for name, case in CASES.items()
        if (low or "precision" not in case.changes) and (case.trouble or not troubled)
        for stage in case.stages
    ]


@pytest.mark.parametrize(("name", "stage"), each())
def test_deepspeed_on_two_ranks_gives_the_curve_of_the_plain_loop(trained, plain, name, stage):
    case, expected = CASES[name], plain[name]
    for found in trained[name, "deepspeed", stage]:
        assert _finite(found["loss"]) == pytest.approx(_finite(expected["loss"]), rel=case.loss)
        assert _finite(found["norm"]) == pytest.approx(_finite(expected["norm"]), rel=case.norm)
        for one, other in zip(found["terms"], expected["terms"], strict=True):
            good = {t: v for t, v in one.items() if math.isfinite(v)}
            same = {t: other[t] for t in good}
            assert good == pytest.approx(same, rel=case.loss, abs=case.near_zero)
        validation = expected["validation"][0]
        same = pytest.approx(validation, rel=case.loss, abs=case.near_zero)
        assert found["validation"][0] == same


@pytest.mark.parametrize(("name", "stage"), each(low=False))
def test_deepspeed_leaves_the_weights_of_the_plain_loop(trained, plain, name, stage):
    for found in trained[name, "deepspeed", stage]:
        for key, expected in plain[name]["weights"].items():
            absolute = CASES[name].weight
            np.testing.assert_allclose(found["weights"][key], expected, rtol=1e-3, atol=absolute)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not case.trouble])
def test_the_plain_loop_on_two_ranks_gives_the_curve_of_one(trained, plain, name):
    case, expected = CASES[name], plain[name]
    for found in trained[name, "plain", 3]:
        assert found["loss"] == pytest.approx(expected["loss"], rel=case.loss)
        validation = expected["validation"][0]
        same = pytest.approx(validation, rel=case.loss, abs=case.near_zero)
        assert found["validation"][0] == same


def test_stage_3_really_shards_the_large_weights(trained):
    for name in ("full", "tied", "bf16", "matched"):
        assert all(found["held"] < 0.1 for found in trained[name, "deepspeed", 3])
    assert all(found["held"] == 1 for found in trained["full", "deepspeed", 2])


@pytest.mark.parametrize(("name", "stage"), each(troubled=True))
def test_a_skipped_step_changes_no_weight_and_no_state_of_the_optimiser(trained, name, stage):
    # Bit for bit: weights, their float32 copies, moments and step counts, of both ranks' files.
    of_ranks = zip(*(found["digests"] for found in trained[name, "deepspeed", stage]), strict=True)
    digests = [one | other for one, other in of_ranks]
    assert len(digests[0]) > 10
    moved = [a != b for a, b in pairwise(digests)]
    assert moved == [step != BAD for step in range(1, 5)]


@pytest.mark.parametrize(("name", "stage"), each(troubled=True))
def test_all_ranks_leave_the_same_step_out_and_go_on(trained, name, stage):
    for rank, found in enumerate(trained[name, "deepspeed", stage]):
        assert found["bad"] == 1
        finite = [
            math.isfinite(x) and math.isfinite(y) for x, y in zip(found["loss"], found["norm"])
        ]
        assert finite == [step != BAD for step in range(5)]
        # A bad loss is traced to its micro-batch on rank 1, a bad gradient to none.
        micros = (0, 1) if CASES[name].trouble == "gradient" else (0,) if rank == 1 else ()
        names = [f"step-00000{BAD + 1}-rank-{rank}-micro-{micro}" for micro in micros]
        assert list(found["set_aside"]) == names


def test_a_sharded_teacher_is_spread_and_changes_its_rung(trained):
    for stage in (1, 3):
        for found in trained["sharded teacher", "deepspeed", stage]:
            assert found["held_by_teacher"] < 0.1
            assert found["checkpoints"] == [0, 0, 0, 1, 1]


def test_several_sharded_teachers_share_the_tokens_as_they_do_in_one_process(trained, plain):
    expected = plain["sharded teachers"]["tokens_by_teacher"]
    assert all(min(step.values()) > 0 for step in expected)
    for backend in ("plain", "deepspeed"):
        for found in trained["sharded teachers", backend, 3]:
            assert found["tokens_by_teacher"] == [pytest.approx(step) for step in expected]
            assert found["held_by_teacher"] is None or found["held_by_teacher"] < 0.1


def _switches(found):
    return [(s.step, s.to_teacher, s.to_checkpoint) for s in found["log"]]


@pytest.mark.parametrize("stage", [None, *STAGES])
def test_all_ranks_switch_on_the_same_step_to_what_one_process_would_choose(trained, plain, stage):
    key = ("plain", 3) if stage is None else ("deepspeed", stage)
    one, other = trained[("ranked", *key)]
    expected = plain["ranked"]
    assert one["log"] == other["log"]
    assert _switches(one) == _switches(expected)
    for found, alone in zip(one["log"], expected["log"], strict=True):
        assert found.numbers == pytest.approx(alone.numbers, rel=1e-3, abs=1e-3)
    assert one["rates"] == other["rates"] == pytest.approx(expected["rates"], rel=1e-6)
    for rank in (one, other):
        assert list(zip(rank["teachers"], rank["checkpoints"], strict=True)) == list(
            zip(expected["teachers"], expected["checkpoints"], strict=True)
        )
    assert len({*zip(expected["teachers"], expected["checkpoints"], strict=True)}) > 1


@pytest.mark.parametrize("stage", [None, *STAGES])
def test_a_switch_resets_the_optimiser_of_every_rank_and_a_probe_leaves_it_alone(trained, stage):
    key = ("plain", 3) if stage is None else ("deepspeed", stage)
    for found in trained[("ranked", *key)]:
        begun, counts = 0, []
        for step in range(1, 6):
            changed = any(s.step == step and s.changes for s in found["log"])
            begun = 0 if changed else begun + 1
            counts.append(begun)
        assert 0 in counts and max(counts) > 1
        assert found["counts"] == [{count} for count in counts]
        assert [moment > 0 for moment in found["moments"]] == [count > 0 for count in counts]


@pytest.mark.parametrize("name", ["full", "bf16"])
@pytest.mark.parametrize("stage", [None, *STAGES])
def test_a_snapshot_for_probes_takes_what_the_plan_says(trained, plain, name, stage):
    key = ("plain", 3) if stage is None else ("deepspeed", stage)
    count = sum(weight.size for weight in plain[name]["weights"].values())
    width = 2 if name == "bf16" else 4
    said = snapshot_bytes(count, workers=2, zero_stage=stage or 0, bytes_per_param=width)
    for found in trained[(name, *key)]:
        # Stage 3 keeps small weights whole.
        assert found["snapshot"] == pytest.approx(said, rel=0.1 if stage == 3 else 1e-3)


def _finite(values):
    return [value for value in values if math.isfinite(value)]


LAYOUTS = {1: (8, 4, 2, 1), 2: (4, 2, 1), 4: (2, 1)}
"""Ranks → rows of a micro-batch; the rest of the 8 rows of a step is accumulation."""


@pytest.fixture(scope="module")
def cut(job, tmp_path_factory):
    """(silent rank, ranks, rows of a micro-batch) → what each rank saw."""
    found = {}
    for ranks, sizes in LAYOUTS.items():
        tasks = {}
        for silent in (False, True):
            for rows in sizes:
                task = job(Case(), "plain", steps=2, micro_batch_size=rows, max_grad_norm=1e9)
                # Rank 1 of 2 with 4 rows each has nothing to say, whoever else has these rows.
                whole = job(Case(), "plain", steps=2, micro_batch_size=4).job
                quiet = _rows_of_rank_1(whole) if silent else ()
                tasks[silent, ranks, rows] = replace(task, silent=quiet, gradients=True)
        folder = tmp_path_factory.mktemp(f"cut-{ranks}") / "meet"
        seen = together(ranks, folder, train_all, [*tasks.values()])
        found |= dict(zip(tasks, zip(*seen, strict=True), strict=True))
    return found


@pytest.mark.parametrize("silent", [False, True], ids=["unequal rows", "a rank with none"])
@pytest.mark.parametrize(
    ("ranks", "rows"), [(ranks, rows) for ranks, sizes in LAYOUTS.items() for rows in sizes]
)
def test_ranks_and_accumulation_give_the_gradient_and_loss_of_one_batch(cut, silent, ranks, rows):
    (expected,) = cut[silent, 1, 8]
    for found in cut[silent, ranks, rows]:
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["norm"][0] == pytest.approx(expected["norm"][0], rel=1e-5)
        assert found["terms"][0] == pytest.approx(expected["terms"][0], rel=1e-5)
        for one, other in zip(found["gradient"][0], expected["gradient"][0], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_rank_without_supervised_tokens_changes_the_loss(cut):
    assert cut[True, 1, 8][0]["loss"] != pytest.approx(cut[False, 1, 8][0]["loss"], rel=1e-3)
