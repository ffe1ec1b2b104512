"""Which checkpoint teaches which rows, against what a run really asks its teachers."""

from collections import defaultdict
from dataclasses import replace

import pytest
import shard_sets as packed
import tiny_models as tiny
import torch

from distill_ray.core.schedule import Reassessment, Rules
from distill_ray.engine.build import build_session, load_streams
from distill_ray.engine.job import DataSpec, TeachingSpec
from distill_ray.engine.loop import distill
from distill_ray.engine.row_plan import rows_needed
from distill_ray.engine.teachers.base import Colocated

pytestmark = pytest.mark.heavy

LENGTH = 16
KINDS = {"notes": "text", "triage.labelled": "task", "triage.prompts": "task"}


class Asked(Colocated):
    """A teacher that notes which of its checkpoints is asked about which rows."""

    def __init__(self, bank):
        super().__init__(bank)
        self.rows = defaultdict(set)

    def use(self, teacher, checkpoint_index):
        super().use(teacher, checkpoint_index)
        self._now = (teacher, checkpoint_index)

    def reference(self, batch, kept, *, temperature):
        self.rows[self._now] |= {(temperature, row_id) for row_id in batch.row_ids}
        return super().reference(batch, kept, temperature=temperature)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A row for each sample, of many lengths."""
    base = tmp_path_factory.mktemp("grouped")
    for seed, name in enumerate(KINDS):
        kind = name.partition(".")[2] or "text"
        for split, count in (("train", 60), ("validation", 16)):
            made = packed.samples(kind, count, vocab=tiny.VOCAB, seed=seed)
            folder = base / "packed" / name / split
            packed.write(folder, made, length=LENGTH, prefix=f"{name}:{split}", grouped=True)
    return DataSpec(base, base / "cache", KINDS, LENGTH, seed=0, num_validation_rows=4)


SCHEDULES = {
    "fixed": {},
    "equal_periods": {},
    "at_steps": {"steps": (2, 5)},
    "at the first step": {"steps": (1, 6)},
}


@pytest.mark.parametrize("rows", ["packed", "grouped"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_checkpoint_gets_the_rows_that_it_is_asked_about_and_no_others(
    builder, shards, grouped, schedule, rows
):
    checkpoints = [tiny.ref(seed, num_hidden_layers=1) for seed in (5, 6, 7)]
    spec = TeachingSpec(
        {"big": checkpoints, "other": checkpoints[:2]},
        first_teacher="big",
        schedule="at_steps" if " " in schedule else schedule,
        options=SCHEDULES[schedule],
        rules=Rules(Reassessment(())),
    )
    objective = builder.job().objective or builder.job(teaching=spec).objective
    job = builder.job(
        steps=7, teaching=spec, micro_batch_size=4,
        mixing={"changes": [{"at": 0.5, "mix": {"triage.prompts": 3, "triage.labelled": 1}}]},
        objective=objective.model_copy(update={"temperature": 2.0}),
    )  # fmt: skip
    job = replace(job, data=shards if rows == "packed" else grouped, eval_steps=3)
    from distill_ray.engine.build import teacher_bank

    asked = Asked(teacher_bank(job, torch.device("cpu")))
    for _ in distill(build_session(job, torch.device("cpu"), asked)):
        pass
    assert named(job, rows_needed(job)) == asked.rows
    assert len(asked.rows) > 1


def named(job, needed):
    """Checkpoint → (temperature, row id) of the rows that it needs."""
    found = defaultdict(set)
    for checkpoint, splits in needed.items():
        for split, streams in splits.items():
            loaded = load_streams(job.data, split)
            for name, numbers in streams.items():
                ids = loaded[name].rows[numbers.tolist()]["row_id"]
                assert len(set(ids)) == len(ids)
                found[checkpoint] |= {(2.0 if split == "train" else 1.0, i) for i in ids}
    return found


def test_the_rows_needed_do_not_depend_on_how_a_step_is_shared_out(builder, two_checkpoints):
    whole = rows_needed(builder.job(steps=5, teaching=two_checkpoints))
    cut = rows_needed(builder.job(steps=5, teaching=two_checkpoints, micro_batch_size=2))
    assert whole.keys() == cut.keys()
    for checkpoint, splits in whole.items():
        for split, streams in splits.items():
            found = {name: rows.tolist() for name, rows in cut[checkpoint][split].items()}
            assert found == {name: rows.tolist() for name, rows in streams.items()}


def test_a_row_that_comes_in_every_epoch_is_needed_once(builder, two_checkpoints):
    job = builder.job(steps=120, teaching=two_checkpoints)
    for splits in rows_needed(job).values():
        for name, rows in splits["train"].items():
            there = len(load_streams(job.data, "train")[name].rows)
            assert sorted(set(rows.tolist())) == rows.tolist() == list(range(there))
