"""A student's estimates against passes of one sample each, whole logits and autograd."""

import numpy as np
import pytest
import tiny_models as tiny
import torch
from oracles import estimators as oracle

from distill_ray.core.estimators import RademacherProjection, prompt_splits
from distill_ray.engine.inference import student_estimates as estimates
from distill_ray.engine.inference.student_estimates import GradientSampling, estimate
from distill_ray.models.load import load_frozen, load_model

CPU = torch.device("cpu")
DIMENSIONS = 8


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """The first model of a kind imports it, which is no test's own time."""
    load_model(tiny.ref())


def _samples(count=9, seed=0, prompts=None):
    """Prompts and answers of unequal lengths; `prompts` says which prompt each has."""
    rng = np.random.default_rng(seed)

    def drawn(low, high):
        return rng.integers(1, tiny.VOCAB, size=rng.integers(low, high)).tolist()

    asked = [drawn(1, 8) for _ in range(count)]
    return [(asked[i if prompts is None else prompts[i]], drawn(1, 12)) for i in range(count)]


def _student(seed=0, **changes):
    return load_model(tiny.ref(seed, **{"initializer_range": 0.3, **changes}))


def _estimate(student, samples, gradients=4, seed=0, include=None, **options):
    sampling = GradientSampling(gradients, DIMENSIONS, seed, include)
    return estimate(student, samples, device=CPU, gradients=sampling, **options)


def _whole(student, prompt, answer):
    """[T, V] logits of a pass of its own, at the answer's tokens."""
    ids = torch.tensor([prompt + answer])
    return student(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]


def _slopes(student, samples, weights):
    """Each sample's gradients of its answer's mean loss, by whole logits."""
    for prompt, answer in samples:
        logits = _whole(student, prompt, answer)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        yield torch.autograd.grad(loss, weights)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}], ids=["own head", "tied"])
def test_ranks_and_surprisal_are_those_of_each_sample_alone(changes, batch_tokens):
    student, samples = _student(**changes).eval(), _samples()
    found = _estimate(student, samples, batch_tokens=batch_tokens)
    with torch.no_grad():
        logits = [_whole(student, *sample).numpy() for sample in samples]
    ranks = [oracle.token_ranks(z, a) for z, (_, a) in zip(logits, samples)]
    nll = [oracle.token_nll(z, a) for z, (_, a) in zip(logits, samples)]
    assert max(map(max, ranks)) > 100
    assert found.rsr == pytest.approx(oracle.rsr(ranks, nll), rel=1e-5)
    assert found.surprisal == pytest.approx(np.mean([np.mean(x) for x in nll]), rel=1e-5)
    assert found.tokens == sum(len(answer) for _, answer in samples)
    assert found.samples == len(samples)


def test_logits_made_a_few_tokens_at_a_time_say_the_same(monkeypatch):
    student, samples = _student(), _samples()
    whole = _estimate(student, samples, gradients=0)
    monkeypatch.setitem(estimates.CHUNK_BYTES, "cpu", 3 * 4 * tiny.VOCAB)
    cut = _estimate(student, samples, gradients=0)
    assert cut.rsr == pytest.approx(whole.rsr, rel=1e-6)
    assert cut.surprisal == pytest.approx(whole.surprisal, rel=1e-6)


@pytest.mark.parametrize("held_bytes", [1, 2**18, 2**28], ids=["one", "a few", "all"])
def test_gradient_norm_and_grace_are_those_of_each_samples_own_gradient(monkeypatch, held_bytes):
    monkeypatch.setattr(estimates, "HELD_BYTES", held_bytes)
    student = _student().eval()
    samples = _samples(8, prompts=[0, 0, 2, 2, 4, 4, 6, 6])
    found = _estimate(student, samples, gradients=8, seed=3)
    slopes = list(_slopes(student, samples, list(student.parameters())))
    lengths = [sum(float(g.double().square().sum()) for g in each) ** 0.5 for each in slopes]
    assert found.gradient_norm == pytest.approx(np.mean(lengths), rel=1e-5)
    projected = RademacherProjection(DIMENSIONS, seed=3).project(slopes).numpy()
    splits = list(prompt_splits([0, 0, 2, 2, 4, 4, 6, 6], seed=3))
    assert found.grace == pytest.approx(oracle.grace(projected, splits), rel=1e-3)


def test_gradients_are_of_evenly_chosen_samples():
    student, samples = _student(), _samples(9)
    found = _estimate(student, samples, gradients=3)
    alone = _estimate(student, [samples[i] for i in (0, 3, 6)], gradients=3)
    assert (found.gradient_norm, found.grace) == (alone.gradient_norm, alone.grace)
    everything = _estimate(student, samples, gradients=100)
    assert everything == _estimate(student, samples, gradients=9)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_frozen_parameters_and_dropout_do_not_count(drop):
    student = _student(attention_dropout=drop).train()
    for name, parameter in student.named_parameters():
        parameter.requires_grad_("mlp" in name)
    samples = _samples(4)
    found = _estimate(student, samples)
    student.eval()
    weights = [p for p in student.parameters() if p.requires_grad]
    lengths = [
        torch.cat([g.flatten() for g in s]).norm() for s in _slopes(student, samples, weights)
    ]
    assert found.gradient_norm == pytest.approx(float(torch.stack(lengths).mean()), rel=1e-5)


def test_only_the_parameters_that_are_picked_count():
    def last_layer(name):
        return "layers.1" in name

    picked, frozen, samples = _student(), _student(), _samples(4)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(last_layer(name))
    found = _estimate(picked, samples, include=last_layer)
    assert found == _estimate(frozen, samples)
    assert found.gradient_norm < _estimate(picked, samples).gradient_norm


def test_a_students_adapters_alone_are_counted():
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        _student(), LoraConfig(r=2, target_modules=["q_proj", "lm_head"], lora_dropout=0.5)
    )
    samples = _samples(4)
    found, plain = _estimate(adapted, samples), _estimate(_student(), samples)
    assert found.surprisal == pytest.approx(plain.surprisal, rel=1e-6)
    assert 0 < found.gradient_norm != pytest.approx(plain.gradient_norm)


def test_the_model_is_left_as_it_was():
    student = _student().train()
    student.model.layers[0].eval()
    first = next(student.parameters())
    first.grad = torch.ones_like(first)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    _estimate(student, _samples())
    assert student.training and not student.model.layers[0].training
    assert student.model.layers[1].training
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in student.parameters() if p is not first)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_ids_beyond_the_tokenizers_have_no_rank_and_no_probability():
    student = _student()
    samples = [([1, 2], [5, 6]), ([3], [7])]
    found = _estimate(student, samples, vocabulary=200, gradients=2)
    with torch.no_grad():
        student.get_output_embeddings().weight[200:] = 50.0
    changed = _estimate(student, samples, vocabulary=200, gradients=2)
    assert (found.rsr, found.surprisal) == (changed.rsr, changed.surprisal)
    assert found.gradient_norm == pytest.approx(changed.gradient_norm, rel=1e-6)


def test_a_text_that_the_student_has_learnt_suits_it_better_than_another():
    student, learnt, other = _student(initializer_range=0.02), _samples(6, 1), _samples(6, 2)
    optimiser = torch.optim.Adam(student.parameters(), lr=3e-3)
    for _ in range(8):
        loss = torch.zeros(())
        for prompt, answer in learnt:
            logits = _whole(student, prompt, answer)
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    known, unknown = (_estimate(student, text, gradients=0) for text in (learnt, other))
    assert known.surprisal < unknown.surprisal - 1
    assert known.rsr < unknown.rsr


def test_without_gradients_a_frozen_student_has_ranks_and_surprisal_alone():
    frozen = load_frozen(tiny.ref(0), device=CPU)
    found = _estimate(frozen, _samples(), gradients=0)
    assert found.gradient_norm is None and found.grace is None
    assert found.rsr > 0 and found.surprisal > 0


def test_a_student_without_gradients_is_refused():
    frozen = load_frozen(tiny.ref(0), device=CPU)
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        _estimate(frozen, _samples())


@pytest.mark.parametrize(
    "samples", [[], [([1], [])], [([], [1])]], ids=["none", "answer", "prompt"]
)
def test_samples_that_say_nothing_are_refused(samples):
    with pytest.raises(ValueError, match="needs samples"):
        _estimate(_student(), samples)


def test_answers_to_one_prompt_have_all_estimates_but_grace():
    prompt = [1, 2, 3]
    found = _estimate(_student(), [(prompt, [4]), (prompt, [5])])
    assert found.grace is None
    assert found.gradient_norm > 0 and found.surprisal > 0
    assert _estimate(_student(), [(prompt, [4]), ([3, 2, 1], [5])]).grace is not None
