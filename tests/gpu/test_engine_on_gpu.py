"""The engine on an accelerator against float32 and whole logits. Needs no Ray."""

from __future__ import annotations

import importlib.util
import math
import time
from dataclasses import replace

import pytest
import shard_sets as packed
import tiny_models as tiny
import torch

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import TrainingConfig
from distill_ray.core.divergence import DIVERGENCES
from distill_ray.core.head import Head
from distill_ray.core.head_loss import LossTargets, head_loss
from distill_ray.engine.build import build_session
from distill_ray.engine.job import DataSpec, TeachingSpec, TrainingSpec
from distill_ray.engine.loop import distill, train_step
from distill_ray.models.causal import hidden_states
from distill_ray.models.execution import Execution
from distill_ray.models.load import load_frozen, load_model
from distill_ray.models.ref import ModelRef
from distill_ray.models.teachers import TeacherBank

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator"),
]

N, V, H = 700, 32_003, 96
LENGTH = 64
CUDA = torch.device("cuda")
STUDENT = tiny.ref(0, hidden_size=128, num_attention_heads=4, max_position_embeddings=LENGTH)
TEACHER = tiny.ref(1, hidden_size=256, num_attention_heads=4, max_position_embeddings=LENGTH)


@pytest.fixture(scope="module", autouse=True)
def exact_products():
    """TF32 would round float32 products to 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> DataSpec:
    base, kinds = tmp_path_factory.mktemp("shards"), {"notes": "text", "triage.labelled": "task"}
    for seed, name in enumerate(kinds):
        kind = name.partition(".")[2] or "text"
        for split, count in (("train", 300), ("validation", 60)):
            made = packed.samples(kind, count, vocab=tiny.VOCAB, seed=seed, longest=40)
            packed.write(base / "packed" / name / split, made, length=LENGTH, prefix=name)
    return DataSpec(base, base / "cache", kinds, LENGTH, seed=0, num_validation_rows=16)


@pytest.fixture(scope="module")
def session_of(spec):
    """A distillation on the plain backend; `changes` are keys of the training config."""

    def session(device=CUDA, objective=None, **changes):
        training = TrainingConfig(
            **{
                "token_budget": 6 * 16 * LENGTH,
                "global_batch_size": 16,
                "micro_batch_size": 8,
                "learning_rate": 1e-3,
                "mix": {"notes": 1, "triage.labelled": 1},
                **changes,
            }
        )
        objective = objective or ObjectiveConfig(alpha=0.5)
        teaching = TeachingSpec({"big": [TEACHER]}, "big")
        job = TrainingSpec("gpu", STUDENT, training, spec, objective, teaching, backend="plain")
        return build_session(job, device)

    return session


def _randn(*shape, seed, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng).to(CUDA, dtype)


def _head(width, seed, dtype):
    features = _randn(N, width, seed=seed, dtype=dtype)
    weight = (0.1 * _randn(V + 5, width, seed=seed + 1)).to(dtype)
    return Head((features,), (weight,), V)


def _supervision(teacher, divergence):
    rng = torch.Generator().manual_seed(7)
    gold = torch.randint(0, V, (N,), generator=rng).to(CUDA)
    weights = torch.rand(2, N, generator=rng).to(CUDA)
    return LossTargets(gold, weights[0], teacher, weights[1], DIVERGENCES[divergence])


def _whole(student, target):
    """The same loss and slopes from whole float64 logits and autograd."""
    x, w = (t.double().requires_grad_() for t in (student.features[0], student.weights[0]))
    z = x @ w[:V].T
    theirs = target.reference.features[0].double() @ target.reference.weights[0][:V].double().T
    nll = torch.nn.functional.cross_entropy(z, target.labels, reduction="none")
    distance = target.divergence(torch.log_softmax(z, -1), torch.log_softmax(theirs, -1))
    total = (target.label_weight * nll + target.reference_weight * distance).sum()
    return total.detach(), torch.autograd.grad(total, [x, w])


@pytest.mark.parametrize(
    ("dtype", "loss", "slope"), [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 1e-2, 3e-2)]
)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_the_fused_loss_is_that_of_whole_logits(divergence, dtype, loss, slope):
    student, teacher = _head(H, 1, dtype), _head(2 * H, 3, dtype)
    target = _supervision(teacher, divergence)
    expected, slopes = _whole(student, target)
    leaves = [t.clone().requires_grad_() for t in (*student.features, *student.weights)]
    fused = replace(student, features=(leaves[0],), weights=(leaves[1],))
    found = head_loss(fused, target, chunk_bytes=4 * V * 96)  # Chunks that don't divide N.
    assert float(found.total.detach()) == pytest.approx(float(expected), rel=loss)
    for one, other in zip(torch.autograd.grad(found.total, leaves), slopes, strict=True):
        gap = (one.double() - other).norm() / other.norm()
        assert float(gap) < slope


def test_the_fused_loss_never_holds_all_logits():
    student, teacher = _head(H, 1, torch.bfloat16), _head(2 * H, 3, torch.bfloat16)
    leaves = [t.clone().requires_grad_() for t in (*student.features, *student.weights)]
    fused = replace(student, features=(leaves[0],), weights=(leaves[1],))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rows = 32
    head_loss(fused, _supervision(teacher, "forward_kl"), chunk_bytes=4 * V * rows)
    peak = torch.cuda.max_memory_allocated() - before
    weights = 3 * 4 * (V + 5) * H  # A gradient of the output weights in float32, and copies of it.
    assert peak < 8 * 4 * V * rows + weights
    assert peak < 4 * N * V  # One whole matrix of float32 logits.


def test_float32_training_gives_the_curve_of_the_cpu(session_of):
    there, here = (list(distill(session_of(device))) for device in (CUDA, torch.device("cpu")))
    for one, other in zip(there, here, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.terms == pytest.approx(other.terms, rel=1e-3)


def test_bfloat16_training_gives_the_curve_of_float32(session_of):
    low, exact = (
        list(distill(session_of(precision=precision))) for precision in ("bfloat16", "float32")
    )
    for one, other in zip(low, exact, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-2)
        assert math.isfinite(one.grad_norm)


def _gradients(session):
    seen, backend = [], session.backend
    backend._optimiser.register_step_pre_hook(
        lambda *_: seen.extend(p.grad.clone() for p in backend._trained)
    )
    return train_step(session)[0], seen


def _assert_same(one, other, rel):
    assert one[0] == pytest.approx(other[0], rel=rel)
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert float((mine - theirs).norm()) <= rel * float(theirs.norm()) + 1e-6


def test_activation_checkpointing_gives_the_same_gradients(session_of):
    kept, again = (
        _gradients(session_of(activation_checkpointing=flag, max_grad_norm=1e9))
        for flag in (False, True)
    )
    _assert_same(again, kept, 1e-5)


@pytest.mark.heavy
def test_a_compiled_backbone_gives_the_same_loss_and_gradients(session_of):
    eager, compiled = (
        _gradients(session_of(torch_compile=flag, max_grad_norm=1e9)) for flag in (False, True)
    )
    _assert_same(compiled, eager, 1e-3)


KERNELS = [
    pytest.param("eager", id="eager"),
    pytest.param("flex_attention", id="flex", marks=pytest.mark.heavy),
    pytest.param(
        "flash_attention_2",
        id="flash",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed"
        ),
    ),
]


@pytest.mark.parametrize("attention", KERNELS)
def test_other_kernels_give_the_loss_of_sdpa(session_of, attention):
    losses = [
        train_step(session_of(attn_implementation=kernel, precision="bfloat16", max_grad_norm=1e9))[
            0
        ]
        for kernel in ("sdpa", attention)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("attention", [pytest.param("sdpa", id="sdpa"), *KERNELS])
@torch.no_grad()
def test_samples_of_a_packed_row_do_not_see_each_other(attention):
    lengths = (37, 20, 7)
    ids = torch.randint(1, tiny.VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    places = torch.cat([torch.arange(n) for n in lengths])[None]
    model = load_model(STUDENT, precision="bfloat16").to(CUDA).eval()
    model = Execution("bfloat16", attention).prepare(model)
    row = hidden_states(model, ids.to(CUDA), places.to(CUDA))[0].float()
    start = 0
    for length in lengths:
        part = ids[:, start : start + length].to(CUDA)
        alone = hidden_states(model, part, places[:, start : start + length].to(CUDA))[0].float()
        gap = (row[start : start + length] - alone).norm() / alone.norm()
        assert float(gap) < 2e-2
        start += length


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_that_were_read_ahead_take_the_place_of_those_in_use(tmp_path, precision):
    refs = [ModelRef("path", str(tmp_path / str(seed))) for seed in range(2)]
    for seed, ref in enumerate(refs):
        load_model(replace(TEACHER, seed=seed)).save_pretrained(ref.location)
    bank = TeacherBank({"a": refs}, device=CUDA, execution=Execution(precision))
    bank.use("a", 0)
    model = bank._model.model
    places = {name: weight.data_ptr() for name, weight in model.state_dict().items()}
    held = torch.cuda.memory_allocated()
    bank.expect("a", 1)
    while bank.reading:
        time.sleep(0.001)
    assert torch.cuda.memory_allocated() == held, "it waits in the main memory"
    assert all(weight.is_pinned() for weight in bank._ahead._weights.result().values())
    bank.use("a", 1)
    assert bank._model.model is model
    found = model.state_dict()
    assert {name: weight.data_ptr() for name, weight in found.items()} == places
    for name, weight in load_frozen(refs[1], precision=precision, device=CUDA).state_dict().items():
        assert torch.equal(found[name], weight)
