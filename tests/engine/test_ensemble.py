"""Several teachers at once, against what they are by definition. S samples, M teachers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
import tiny_models as tiny
import torch

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.core.strategies import EnsembleBatch, at_random, confidence_weights
from distill_ray.engine import checkpoint
from distill_ray.engine.build import build_session, mixed_rows
from distill_ray.engine.job import EnsembleSpec, TeachingSpec
from distill_ray.engine.loop import distill, train_step
from distill_ray.engine.objective import SupervisedTokens, starts_of
from distill_ray.engine.validation import validate
from distill_ray.models.load import load_model

pytestmark = pytest.mark.heavy

STUDENT, BIG, OLD, FROZEN_STUDENT = (
    tiny.ref(seed, num_hidden_layers=1, initializer_range=0.3) for seed in (0, 5, 6, 7)
)
# Another width, as teachers have.
ODD = tiny.ref(8, num_hidden_layers=1, initializer_range=0.3, hidden_size=48)
TEACHERS = {"big": BIG, "old": OLD, "odd": ODD}
MAP = {"notes": "old", "triage.labelled": "big", "triage.prompts": "big"}
OPTIONS = {"by_domain": {"assignment": MAP}}
NAMES = ("average", "random", "by_domain", "confidence")
SOFT = ObjectiveConfig(alpha=0.7, temperature=2.0)


def job(builder, strategy, objective=SOFT, teachers=TEACHERS, schedule="fixed", **changes):
    made = TeachingSpec(
        checkpoints={n: ref if isinstance(ref, list) else [ref] for n, ref in teachers.items()},
        first_teacher=ENSEMBLE,
        schedule=schedule,
        ensemble=EnsembleSpec(strategy, OPTIONS.get(strategy, {})),
    )
    return builder.job(teaching=made, objective=objective, student=STUDENT, **changes)


def session(builder, *args, **changes):
    return build_session(job(builder, *args, **changes), torch.device("cpu"))


def alone(builder, ref, objective=SOFT, **changes):
    spec = TeachingSpec({"t": [ref]}, "t", "fixed")
    made = builder.job(teaching=spec, objective=objective, student=STUDENT, **changes)
    return build_session(made, torch.device("cpu"))


def logits(ref, batch):
    """[B, T, V] float64."""
    with torch.no_grad():
        made = load_model(ref).eval()(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        )
    return made.logits.double()


def weights_of(strategy, batch):
    """[B, T, M] float64, written out for each token from what the strategies promise."""
    rows, width = batch.input_ids.shape
    found = torch.full((rows, width, len(TEACHERS)), 1 / len(TEACHERS), dtype=torch.float64)
    places = dict(zip(TEACHERS, range(3), strict=True))
    nll = {n: logits(ref, batch).log_softmax(-1) for n, ref in TEACHERS.items()}
    sample = starts_of(batch).flatten().cumsum(0).reshape(rows, width)
    for row in range(rows):
        name = batch.row_ids[row].partition(":")[0]
        if strategy == "by_domain":
            found[row] = 0
            found[row, :, places[MAP[name]]] = 1
        elif strategy == "random":
            key = f"0 {batch.places[row]} {batch.row_ids[row]}"
            one = EnsembleBatch(list(TEACHERS), [key], [name], torch.zeros(1).long(), dict)
            found[row] = at_random(one)[0].double()
        elif strategy == "confidence":
            for number in sample[row].unique():
                here = (sample[row] == number).nonzero()[:, 0]
                gold = [i for i in here.tolist() if batch.label_mask[row, i]]
                if gold:
                    ce = [
                        sum(-nll[n][row, i, batch.input_ids[row, i + 1]] for i in gold) / len(gold)
                        for n in TEACHERS
                    ]
                    found[row, here] = confidence_weights(torch.stack(ce)[None])
    return found


def expected(strategy, batch, alpha=0.7, tau=2.0):
    """The step's loss by the definition, in float64."""
    log_q = logits(STUDENT, batch)
    each = torch.stack([(logits(r, batch) / tau).softmax(-1) for r in TEACHERS.values()], dim=2)
    p = (weights_of(strategy, batch)[..., None] * each).sum(dim=2)
    kl = tau**2 * (p * (p.log() - (log_q / tau).log_softmax(-1))).sum(-1)
    ce = -log_q.log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
    total = 0.0
    for kind in (False, True):
        rows = (batch.is_task == kind)[:, None]
        for share, values, mask in (
            (1 - alpha, ce, batch.label_mask),
            (alpha, kl, batch.teacher_mask),
        ):
            if (mask & rows).any():
                total += share * float(values[mask & rows].mean())
    return total


@pytest.mark.parametrize("strategy", NAMES)
def test_the_loss_is_that_of_the_definition(builder, strategy):
    made = session(builder, strategy)
    assert train_step(made)[0] == pytest.approx(
        expected(strategy, made.source.batch(0, 0)), rel=1e-5
    )


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("strategy", NAMES)
def test_micro_batches_give_the_whole_batch_s_loss_and_tokens(builder, strategy, rows):
    whole, cut = session(builder, strategy), session(builder, strategy, micro_batch_size=rows)
    assert train_step(cut)[0] == pytest.approx(train_step(whole)[0], rel=1e-5)
    assert cut.teaching.step_tokens == pytest.approx(whole.teaching.step_tokens, rel=1e-5)


def test_the_average_s_gradient_is_the_mean_of_the_teachers(builder, recorded):
    how = {"objective": ObjectiveConfig(alpha=1.0), "max_grad_norm": 1e9}
    each = [alone(builder, ref, **how) for ref in TEACHERS.values()]
    seen = []
    for made in [session(builder, "average", **how), *each]:
        seen.append(recorded(made))
        train_step(made)
    together, *others = (found[0] for found in seen)
    for found, *parts in zip(together, *others, strict=True):
        torch.testing.assert_close(found, sum(parts) / 3, rtol=1e-3, atol=1e-6)
        assert (parts[0] - parts[1]).norm() > 0.1 * found.norm()


class Counted:
    """A bank that notes how many rows it is asked."""

    def __init__(self, bank, asked):
        self.bank, self.asked = bank, asked

    def __getattr__(self, name):
        return getattr(self.bank, name)

    def head(self, input_ids, position_ids, at):
        self.asked.append(len(input_ids))
        return self.bank.head(input_ids, position_ids, at)


@pytest.mark.parametrize(("strategy", "rows"), [("random", 8), ("by_domain", 8), ("average", 24)])
def test_each_row_is_asked_of_those_alone_that_have_weight_in_it(builder, strategy, rows):
    made = session(builder, strategy)
    asked, source = [], made.teaching.source
    source._banks = {name: Counted(bank, asked) for name, bank in source._banks.items()}
    train_step(made)
    assert sum(asked) == rows


def test_ranks_draw_what_one_process_draws_and_each_appearance_of_a_row_anew(builder):
    one = job(builder, "random", steps=60, micro_batch_size=1)
    whole = mixed_rows(one)
    bank = build_session(one, torch.device("cpu")).teaching.source
    drawn, ranks = {}, {}

    def teachers(batch):
        weights = bank.reference(batch, SupervisedTokens.of(batch), temperature=1.0).weights
        return dict(zip(batch.places, weights.argmax(1).tolist(), strict=False))

    def rank_of(rank, **layout):
        made = mixed_rows(replace(one, training=one.training.model_copy(update=layout)))
        made._layout = replace(made._layout, rank=rank, world=2)
        return made

    for step in (0, 1, 30, 59):
        for micro in range(whole.num_micro):
            drawn |= teachers(whole.batch(step, micro))
        for rank in (0, 1):
            source = rank_of(rank)
            for micro in range(source.num_micro // 2):
                ranks |= teachers(source.batch(step, micro))
    assert len(drawn) == 32 and ranks == drawn
    rows = Counter()
    for step in range(60):
        for micro in range(whole.num_micro):
            batch = whole.batch(step, micro)
            rows[batch.row_ids[0], batch.places[0]] += 1
    assert set(rows.values()) == {1}, "no two appearances have the same key"
    assert max(Counter(row for row, _ in rows).values()) > 2, "though rows come again"


def test_held_out_rows_have_the_same_teacher_whenever_they_are_measured(builder):
    made = session(builder, "random", steps=3)
    start = validate(made)
    assert validate(made) == start
    cut = session(builder, "random", micro_batch_size=2)
    assert validate(cut) == pytest.approx(start, rel=1e-5)


@pytest.mark.parametrize("strategy", NAMES)
def test_tokens_of_all_teachers_are_those_of_the_step(builder, strategy):
    made = session(builder, strategy, steps=3)
    steps = list(distill(made))
    for number, step in enumerate(steps):
        batch = made.source.batch(number, 0)
        expected = weights_of(strategy, batch)[batch.teacher_mask].sum(0).tolist()
        assert list(step.tokens_by_teacher) == list(TEACHERS)
        assert list(step.tokens_by_teacher.values()) == pytest.approx(expected, rel=1e-4)
        assert sum(step.tokens_by_teacher.values()) == pytest.approx(step.tokens)
        assert step.metrics()["tokens.odd"] == step.tokens_by_teacher["odd"]
    sums = {name: sum(step.tokens_by_teacher[name] for step in steps) for name in TEACHERS}
    assert made.tokens_by_teacher == pytest.approx(sums)


def test_of_teachers_that_take_turns_the_one_that_serves_has_all_tokens(builder, two_checkpoints):
    checkpoints = {**two_checkpoints.checkpoints, "other": two_checkpoints.checkpoints["big"]}
    made = builder.session(steps=2, teaching=replace(two_checkpoints, checkpoints=checkpoints))
    steps = list(distill(made))
    assert made.tokens_by_teacher == {"big": sum(step.tokens for step in steps)}
    assert "taught.big" not in steps[0].metrics()


def test_every_member_is_at_its_own_rung_of_the_group_s(builder):
    checkpoints = {"big": [BIG, OLD, FROZEN_STUDENT], "odd": [ODD]}
    made = session(builder, "average", teachers=checkpoints, schedule="equal_periods", steps=3)
    source = made.teaching.source
    seen = []
    for step in distill(made):
        held = [source._banks[name]._current for name in checkpoints]
        seen.append((step.teacher, step.checkpoint_index, *held))
    assert seen == [(ENSEMBLE, i, ("big", i), ("odd", 0)) for i in range(3)]
    assert [switch.to_checkpoint for switch in made.teaching.switches] == [1, 2]
    checkpoints = {"big": [FROZEN_STUDENT], "odd": [ODD]}
    fixed = session(builder, "average", teachers=checkpoints)
    assert validate(made)["task.ce"] != validate(fixed)["task.ce"], "the student has moved"


@pytest.mark.parametrize("strategy", ["random", "confidence"])
def test_a_restored_run_takes_the_same_steps(builder, tmp_path, strategy):
    def built():
        checkpoints = {"big": [BIG, OLD], "odd": [ODD]}
        return session(builder, strategy, teachers=checkpoints, schedule="equal_periods", steps=6)

    straight, rest = built(), []
    for step in distill(straight):
        if step.number == 3:
            checkpoint.save(straight, tmp_path, job="test")
        elif step.number > 3:
            rest.append(json.dumps(step.metrics()))
    restored = built()
    checkpoint.restore(restored, tmp_path, job="test")
    assert [json.dumps(step.metrics()) for step in distill(restored)] == rest
    assert (
        restored.tokens_by_teacher == straight.tokens_by_teacher
        and restored.history == straight.history
    )


def test_samples_are_weighted_by_what_all_of_them_know_together(builder):
    adaptive = ObjectiveConfig(weighting="adaptive", temperature=2.0)
    made = replace(job(builder, "average", adaptive), frozen_student=FROZEN_STUDENT)
    found = build_session(made, torch.device("cpu"))
    batch = found.source.batch(0, 0)
    sample = starts_of(batch).flatten().cumsum(0).reshape(batch.label_mask.shape)
    p = sum(logits(ref, batch).softmax(-1) for ref in TEACHERS.values()) / 3
    nll = {"t": -p.log(), "a": -logits(FROZEN_STUDENT, batch).log_softmax(-1)}
    l_t, l_a = (x.gather(-1, batch.targets[..., None])[..., 0] for x in nll.values())
    shares = []
    for number in sample[batch.label_mask].unique():
        here = (sample == number) & batch.label_mask
        w = l_a[here].mean() / (l_a[here].mean() + l_t[here].mean())
        shares += [float(w)] * int(here.sum())
    assert train_step(found)[1]["share"] == pytest.approx(sum(shares) / len(shares), rel=1e-5)


def test_prompts_without_labels_are_averaged(builder):
    mix = {"triage.prompts": 1}
    known = train_step(session(builder, "confidence", mix=mix))
    assert known[0] == train_step(session(builder, "average", mix=mix))[0]


def test_a_strategy_of_one_s_own_comes_by_import_path(builder, monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def halves(asked, *, first):\n"
        "    share = [0.5 if name == first else 0.25 for name in asked.teachers]\n"
        "    return torch.tensor(share).expand(len(asked.row), -1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = job(builder, "average")
    own = replace(made.teaching, ensemble=EnsembleSpec("mine:halves", {"first": "odd"}))
    found = build_session(replace(made, teaching=own), torch.device("cpu"))
    (step, *_) = distill(found)
    assert step.tokens_by_teacher == pytest.approx(
        {"big": step.tokens / 4, "old": step.tokens / 4, "odd": step.tokens / 2}
    )
