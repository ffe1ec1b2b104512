"""A run saved in the middle and restored takes the same steps as one that went through."""

import json
from dataclasses import replace

import pytest
import tiny_models as tiny
import torch

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import LoraConfig
from distill_ray.core.schedule import RankingWeights
from distill_ray.engine import checkpoint
from distill_ray.engine.job import OnSwitch
from distill_ray.engine.loop import distill
from distill_ray.engine.validation import validate
from distill_ray.models.adapters import add_lora
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef

pytestmark = pytest.mark.heavy

SCHEDULES = {
    "equal_periods": {},
    "on_plateau": {"window": 2, "min_gain": 0.9},
    "scd": {"num_periods": 3},
    "ranked": {"interval": 3, "probe_steps": 2, "margin": 0.0},
    # Whenever it is saved, another checkpoint is being read, or has been.
    "user_schedule:in_turn": {"every": 3},
    "user_schedule:in_turn, adapters": {"every": 3},
}
RANKING = RankingWeights(
    {
        "big": {"learnability": 0.0, "accuracy_above_chance": 0.2},
        "other": {"learnability": 0.0, "accuracy_above_chance": 1.0},
    },
    early={"learnability": 1.0, "accuracy_above_chance": 0.0},
    late={"learnability": 0.0, "accuracy_above_chance": 1.0},
)
STEPS = 8


def _numbers(steps):
    """Everything that a step reports, as it is written."""
    return [json.dumps(step.metrics() | {"switch": str(step.switch)}) for step in steps]


@pytest.fixture(scope="module", params=SCHEDULES)
def saved(request, builder, two_checkpoints, tmp_path_factory):
    """A job, its finished session and steps, and a folder with a checkpoint after each step."""
    options = SCHEDULES[request.param]
    # Folders, so that weights are read ahead and put in place.
    base = tmp_path_factory.mktemp("ladder")
    folders = [ModelRef("path", str(base / str(number))) for number in range(3)]
    # The first says next to nothing, as the student does: SCD begins with it.
    for seed, width, ref in zip((0, 5, 6), (0.02, 0.3, 0.3), folders):
        made = tiny.ref(seed, num_hidden_layers=1, initializer_range=width)
        load_model(made).save_pretrained(ref.location)
    schedule = request.param.partition(",")[0]
    made = {"schedule": schedule, "options": options, "ranking": RANKING}
    checkpoints = {"big": folders[:2], "other": folders[2:]}
    if "adapters" in request.param:
        checkpoints["big"] = [
            _adapter(folders[1], base / f"adapter-{seed}", seed) for seed in (7, 8)
        ]
    teaching = replace(two_checkpoints, checkpoints=checkpoints, **made)
    student = tiny.ref(0, num_hidden_layers=1)
    mixing = {"changes": [{"at": 0.6, "mix": {"triage.labelled": 1}}], "interpolation": "linear"}
    changes = {"micro_batch_size": 4, "mixing": mixing}
    job = builder.job(steps=STEPS, teaching=teaching, student=student, **changes)
    job = replace(job, on_switch=OnSwitch(reset=True, warmup_steps=2))
    session, steps = builder.session(job, eval_steps=3, best_loss=4.0), []
    folder = tmp_path_factory.mktemp(request.param)
    for step in distill(session):
        (folder / str(step.number)).mkdir()
        checkpoint.save(session, folder / str(step.number), job="test")
        steps.append(step)
        if ":" in schedule and step.switch is None and step.number > 1:
            assert _ahead(session) == checkpoints["big"][1 - step.checkpoint_index]
    assert session.teaching.switches
    return job, session, steps, folder


def _ahead(session):
    """What has been or is being read for later."""
    return session.teaching.source._bank._ahead._ref


def _adapter(base, folder, seed):
    model = add_lora(
        load_model(base), rank=4, alpha=8.0, dropout=0.0, target_modules="all-linear", seed=seed
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # Fresh ones are zero: the adapter would do nothing.
                weight.copy_(weight.new_tensor(seed / 50).expand_as(weight))
    model.save_pretrained(str(folder))
    return base.with_adapter(str(folder))


@pytest.mark.parametrize("cut", range(1, STEPS + 1))
def test_a_restored_run_takes_the_same_steps_and_switches(builder, saved, cut):
    job, straight, steps, folder = saved
    restored = builder.session(job, eval_steps=3, best_loss=4.0)
    checkpoint.restore(restored, folder / str(cut), job="test")
    assert _numbers(distill(restored)) == _numbers(steps[cut:])
    assert restored.teaching.log == straight.teaching.log
    assert restored.teaching.state == straight.teaching.state
    assert restored.history == straight.history
    assert restored.initial_loss == straight.initial_loss
    with restored.backend.unsharded() as found, straight.backend.unsharded() as expected:
        for one, other in zip(found.parameters(), expected.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_restored_run_needs_its_optimiser_and_schedule(builder, saved):
    # The same weights without the rest of the checkpoint go another way.
    job, _, steps, folder = saved
    fresh = builder.session(job, eval_steps=3, best_loss=4.0)
    fresh.backend._student.load_state_dict(
        torch.load(folder / "4" / "plain.pt", weights_only=True)["student"]
    )
    assert _numbers(distill(fresh))[:4] != _numbers(steps[4:])


def test_saving_changes_nothing_for_the_run_that_goes_on(builder, saved):
    job, _, steps, _ = saved
    assert _numbers(distill(builder.session(job, eval_steps=3, best_loss=4.0))) == _numbers(steps)


def test_a_checkpoint_says_what_it_was_training(builder, tmp_path):
    checkpoint.save(builder.session(), tmp_path, job="adapt.big.sft")
    assert json.loads((tmp_path / checkpoint.STATE).read_text())["job"] == "adapt.big.sft"


def test_a_checkpoint_says_how_many_workers_have_written_it(builder, tmp_path):
    checkpoint.save(builder.session(), tmp_path, job="test")
    assert json.loads((tmp_path / checkpoint.STATE).read_text())["world_size"] == 1


def test_an_exported_student_answers_as_it_did_in_the_session(builder, tmp_path):
    session = builder.session(steps=3)
    list(distill(session))
    checkpoint.export(session, tmp_path)
    batch = session.source.batch(0, 0)
    loaded = load_model(ModelRef("path", str(tmp_path))).eval()
    session.backend.train(False)
    with torch.no_grad(), session.backend.unsharded() as model:
        expected, found = (
            one(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
            for one in (model, loaded)
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_an_adapted_student_is_exported_as_an_adapter_on_its_base(builder, tmp_path):
    student = tiny.ref(0, num_hidden_layers=1)
    job = replace(builder.job(steps=3), lora=LoraConfig(rank=2, alpha=4.0))
    session = builder.session(job)
    list(distill(session))
    checkpoint.export(session, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    exported = replace(builder.job(student=student.with_adapter(str(tmp_path))), objective=None)
    assert validate(builder.session(exported)) == pytest.approx(validate(session), rel=1e-5)
    assert validate(builder.session(student=student)) != pytest.approx(validate(session), rel=1e-3)


def test_fresh_adapters_are_the_same_in_every_session(builder):
    job = replace(builder.job(objective=ObjectiveConfig(alpha=0.0)), lora=LoraConfig(rank=2))
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append([step.loss for step in distill(builder.session(job))])
    assert runs[0] == runs[1]
