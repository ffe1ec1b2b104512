"""The bank serves the checkpoint that was asked for, and reads none twice in a row."""

import gc
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file, save_file

from distill_ray.models.adapters import add_lora
from distill_ray.models.execution import Execution
from distill_ray.models.load import load_frozen, load_model
from distill_ray.models.ref import ModelRef
from distill_ray.models.teachers import TeacherBank

pytestmark = pytest.mark.heavy

IDS = torch.arange(24).reshape(2, 12) + 1
POSITIONS = torch.arange(12).expand(2, 12)


def _bank(**checkpoints):
    return TeacherBank(checkpoints, device=torch.device("cpu"))


def _logits(bank):
    head = bank.head(IDS, POSITIONS, torch.arange(IDS.numel()))
    return head.logits(slice(None)).reshape(*IDS.shape, -1)


def _expected(ref):
    with torch.no_grad():
        return load_model(ref).eval()(input_ids=IDS, position_ids=POSITIONS).logits


def test_the_logits_are_those_of_the_rung_in_use():
    checkpoints = {"a": [tiny.ref(1), tiny.ref(2)], "b": [tiny.ref(3, hidden_size=16)]}
    bank = _bank(**checkpoints)
    for name, checkpoint_index in [("a", 0), ("a", 1), ("b", 0), ("a", 0)]:
        bank.use(name, checkpoint_index)
        torch.testing.assert_close(_logits(bank), _expected(checkpoints[name][checkpoint_index]))


def test_a_teacher_gives_no_gradient():
    bank = _bank(a=[tiny.ref()])
    bank.use("a", 0)
    assert not _logits(bank).requires_grad


def test_a_teacher_in_use_is_not_read_again(tmp_path):
    folder = tmp_path / "teacher"
    load_model(tiny.ref(4)).save_pretrained(str(folder))
    bank = _bank(a=[ModelRef("path", str(folder))])
    bank.use("a", 0)
    before = _logits(bank)
    for file in folder.iterdir():
        file.unlink()
    bank.use("a", 0)
    assert torch.equal(_logits(bank), before)


def test_a_teacher_that_fails_to_load_leaves_none_in_its_place(tmp_path):
    bank = _bank(a=[tiny.ref()], gone=[ModelRef("path", str(tmp_path / "none"))])
    bank.use("a", 0)
    with pytest.raises(OSError, match="none"):
        bank.use("gone", 0)
    with pytest.raises(RuntimeError, match="no teacher in use"):
        _logits(bank)
    bank.use("a", 0)
    torch.testing.assert_close(_logits(bank), _expected(tiny.ref()))


def test_without_a_teacher_there_are_no_logits():
    with pytest.raises(RuntimeError, match="no teacher in use"):
        _logits(_bank(a=[tiny.ref()]))


@pytest.fixture
def adapters(tmp_path):
    """Folders of adapters on one base, two of one form and one of another, all of them trained."""

    def made(number, rank):
        form = {"alpha": 6.0, "dropout": 0.0, "target_modules": "all-linear"}
        model = add_lora(load_model(tiny.ref(5)), rank=rank, seed=number, **form)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:  # Fresh ones are zero: the adapter would do nothing.
                    generator = torch.Generator().manual_seed(number)
                    weight.copy_(torch.randn(weight.shape, generator=generator) / 5)
        model.save_pretrained(str(tmp_path / str(number)))
        return tiny.ref(5).with_adapter(str(tmp_path / str(number)))

    return [made(0, 4), made(1, 4), made(2, 3)]


def _of(ref):
    frozen = load_frozen(ref, device=torch.device("cpu"))
    return frozen(input_ids=IDS, position_ids=POSITIONS).logits


def test_adapters_of_one_base_are_swapped_in_place(adapters):
    bank = _bank(a=adapters[:2])
    places = []
    for checkpoint_index in (0, 1, 0):
        bank.use("a", checkpoint_index)
        torch.testing.assert_close(
            _logits(bank), _of(adapters[checkpoint_index]), rtol=1e-4, atol=1e-5
        )
        places.append([p.data_ptr() for p in bank._model.model.parameters()])
    assert places[0] == places[1] == places[2]
    assert not torch.allclose(_of(adapters[0]), _of(adapters[1]), atol=1e-2)


def test_an_adapter_of_another_form_and_another_base_are_loaded_anew(adapters):
    checkpoints = {"a": [adapters[0], adapters[2]], "b": [tiny.ref(6)], "c": [tiny.ref(5)]}
    bank = _bank(**checkpoints)
    for name, checkpoint_index in [
        ("a", 0),
        ("a", 1),
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("c", 0),
        ("a", 0),
    ]:
        bank.use(name, checkpoint_index)
        expected = _of(checkpoints[name][checkpoint_index])
        torch.testing.assert_close(_logits(bank), expected, rtol=1e-4, atol=1e-5)


def test_a_swap_that_fails_leaves_the_adapter_in_use(adapters, tmp_path):
    bank = _bank(a=adapters[:2])
    bank.use("a", 0)
    (tmp_path / "1" / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(Exception, match=r"(?i)header"):
        bank.use("a", 1)
    torch.testing.assert_close(_logits(bank), _of(adapters[0]), rtol=1e-4, atol=1e-5)


def test_a_teacher_with_a_temperature_divides_its_logits_by_it():
    plain = tiny.ref(7, initializer_range=0.5)
    bank = _bank(a=[plain, replace(plain, temperature=2.5)])
    bank.use("a", 0)
    hot = _logits(bank)
    bank.use("a", 1)
    torch.testing.assert_close(_logits(bank), hot / 2.5)


# Read ahead. Weights whose files are gone can't be read a second time.


def _expect(bank, *checkpoint):
    """Have it read ahead to the end."""
    bank.expect(*checkpoint)
    while bank.reading:
        time.sleep(0.001)


def _files(*refs):
    folders = [Path(ref.adapter or ref.location) for ref in refs]
    return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]


def _remove_weights(*refs):
    for file in _files(*refs):
        file.unlink()


def _exactly(bank, ref, execution=None):
    """Whether it holds what a bank of its own would load, and says the same."""
    alone = TeacherBank(
        {"a": [ref, *bank.checkpoints["a"]]}, device=torch.device("cpu"), execution=execution
    )
    alone.use("a", 0)
    found, expected = (one._model.model.state_dict() for one in (bank, alone))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert all(found[name].dtype == weight.dtype for name, weight in expected.items())
    torch.testing.assert_close(_logits(bank), _logits(alone))


@pytest.fixture
def saved(tmp_path):
    """Writes checkpoints of a form: as many as there are seeds."""

    def made(*seeds, **form):
        refs = [ModelRef("path", str(tmp_path / f"checkpoint-{seed}")) for seed in seeds]
        for seed, ref in zip(seeds, refs, strict=True):
            load_model(tiny.ref(seed, **form)).save_pretrained(ref.location)
        return refs

    return made


FORMS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "with biases": {"model_type": "qwen2"},
    "capped, tied": {"model_type": "gemma2", "head_dim": 8},
    "fused, transposed": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
}


@pytest.mark.parametrize(
    ("form", "precision", "attention"),
    [*((form, "float32", "eager") for form in FORMS), ("tied", "bfloat16", "sdpa")],
)
def test_a_checkpoint_that_was_read_ahead_is_put_in_place_and_is_the_one_that_loading_gives(
    saved, form, precision, attention
):
    execution = Execution(precision, attention)
    refs = saved(1, 2, **FORMS[form])
    bank = TeacherBank({"a": refs}, device=torch.device("cpu"), execution=execution)
    bank.use("a", 0)
    model = bank._model.model
    contents = [file.read_bytes() for file in _files(*refs)]
    for checkpoint_index in (1, 0):
        _expect(bank, "a", checkpoint_index)
        bank.use("a", checkpoint_index)
        assert bank._model.model is model, "no other is built"
        assert not bank.reading
        _exactly(bank, refs[checkpoint_index], execution)
        assert not any(p.requires_grad for p in model.parameters())
    assert [file.read_bytes() for file in _files(*refs)] == contents


def test_what_was_read_ahead_is_not_read_again(saved):
    refs = saved(1, 2)
    bank = _bank(a=refs)
    bank.use("a", 0)
    expected = _expected(refs[1])
    _expect(bank, "a", 1)
    _remove_weights(refs[1])
    bank.expect("a", 1)
    bank.use("a", 1)
    torch.testing.assert_close(_logits(bank), expected)


def test_a_switch_waits_for_what_is_being_read(saved):
    # Wider, so that reading takes a while.
    refs = saved(1, 2, hidden_size=256, intermediate_size=2048)
    bank = _bank(a=refs)
    bank.use("a", 0)
    bank.expect("a", 1)
    bank.use("a", 1)
    _exactly(bank, refs[1])


def test_equal_weights_are_read_once_whatever_is_done_with_their_logits(saved):
    (ref,) = saved(1)
    bank = _bank(a=[ref, replace(ref, temperature=2.0)], b=[ref])
    bank.use("a", 0)
    plain = _logits(bank)
    _remove_weights(ref)
    for name, checkpoint_index, temperature in (("a", 1, 2.0), ("b", 0, 1.0), ("a", 0, 1.0)):
        bank.expect(name, checkpoint_index)
        assert not bank.reading
        bank.use(name, checkpoint_index)
        torch.testing.assert_close(_logits(bank), plain / temperature)


def test_equal_adapters_are_read_once(adapters):
    soft = replace(adapters[0], temperature=2.0)
    bank = _bank(a=[adapters[0], soft, adapters[1]])
    bank.use("a", 0)
    plain = _logits(bank)
    _remove_weights(adapters[0])
    _expect(bank, "a", 1)
    bank.use("a", 1)
    torch.testing.assert_close(_logits(bank), plain / 2.0)


def test_an_adapter_that_was_read_ahead_is_swapped_in_without_being_read_again(adapters):
    bank = _bank(a=adapters[:2])
    bank.use("a", 0)
    model, expected = bank._model.model, _of(adapters[1])
    _expect(bank, "a", 1)
    _remove_weights(adapters[1])
    bank.use("a", 1)
    assert bank._model.model is model
    torch.testing.assert_close(_logits(bank), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ahead", [False, True], ids=["read now", "read ahead"])
def test_a_swapped_adapter_is_exactly_the_one_that_loading_gives(adapters, ahead):
    bank = _bank(a=adapters[:2])
    for checkpoint_index in (0, 1, 0):
        if ahead:
            _expect(bank, "a", checkpoint_index)
        bank.use("a", checkpoint_index)
        _exactly(bank, adapters[checkpoint_index])


@pytest.mark.parametrize("other", ["wider", "deeper", "an adapter", "of one weight less"])
def test_a_checkpoint_of_another_form_is_loaded_whatever_was_read_ahead(saved, adapters, other):
    (first,) = saved(1)
    second = {
        "wider": lambda: saved(2, hidden_size=48)[0],
        "deeper": lambda: saved(2, num_hidden_layers=3)[0],
        "an adapter": lambda: adapters[0],
        "of one weight less": lambda: saved(2, tie_word_embeddings=True)[0],
    }[other]()
    bank = _bank(a=[first, second])
    for checkpoint_index in (0, 1, 0):
        _expect(bank, "a", checkpoint_index)
        bank.use("a", checkpoint_index)
        expected = _of(bank.checkpoints["a"][checkpoint_index])
        torch.testing.assert_close(_logits(bank), expected, rtol=1e-4, atol=1e-5)


def test_weights_that_were_read_ahead_in_vain_do_no_harm(saved, adapters):
    full = saved(1, 2, 3)
    bank = _bank(a=full, b=adapters)
    bank.use("a", 0)
    for expected, used in [
        (("a", 1), ("a", 2)),
        (("b", 0), ("a", 0)),
        (("a", 2), ("b", 1)),
        (("b", 0), ("b", 1)),
        (("b", 0), ("a", 1)),
        (("a", 0), ("a", 0)),
    ]:
        _expect(bank, *expected)
        bank.use(*used)
        torch.testing.assert_close(
            _logits(bank), _of(bank.checkpoints[used[0]][used[1]]), rtol=1e-4, atol=1e-5
        )
        assert bank._held == bank.checkpoints[used[0]][used[1]]


def test_a_checkpoint_that_was_read_ahead_may_come_later(saved):
    refs = saved(1, 2, 3)
    bank = _bank(a=refs)
    bank.use("a", 0)
    expected = _expected(refs[1])
    _expect(bank, "a", 1)
    bank.use("a", 2)
    _remove_weights(refs[1])
    bank.use("a", 1)
    torch.testing.assert_close(_logits(bank), expected)


@pytest.mark.parametrize("what", ["cut off", "missing"])
@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_file_that_can_not_be_read_ahead_is_an_error_where_it_is_used(
    saved, adapters, kind, what
):
    refs = saved(1, 2) if kind == "full" else adapters[:2]
    bank = _bank(a=refs)
    bank.use("a", 0)
    expected = [_of(ref) for ref in refs]
    (file,) = _files(refs[1])
    whole = file.read_bytes()
    file.write_bytes(whole[:100]) if what == "cut off" else file.unlink()
    _expect(bank, "a", 1)
    torch.testing.assert_close(_logits(bank), expected[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(Exception, match=r"(?i)header|no file|holds no"):
        bank.use("a", 1)
    # What stopped the run is mended, and the same bank goes on.
    file.write_bytes(whole)
    bank.use("a", 1)
    torch.testing.assert_close(_logits(bank), expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_that_lacks_a_weight_is_not_mixed_with_the_one_before(adapters):
    bank = _bank(a=adapters[:2])
    bank.use("a", 0)
    (file,) = _files(adapters[1])
    weights = load_file(file)
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, file)
    expected = _of(adapters[1])  # Its lora_B is a fresh one, zero.
    bank.use("a", 1)
    torch.testing.assert_close(_logits(bank), expected, rtol=1e-4, atol=1e-5)


def test_the_thread_ends_with_its_bank(saved):
    before = threading.enumerate()
    refs = saved(1, 2)
    bank = _bank(a=refs)
    bank.use("a", 0)
    _expect(bank, "a", 1)
    (thread,) = set(threading.enumerate()) - set(before)
    del bank
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
