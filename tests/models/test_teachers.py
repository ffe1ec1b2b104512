"""The bank serves the checkpoint that was asked for, and reads none twice in a row."""

from dataclasses import replace

import pytest
import tiny
import torch

from distill_ray.models.adapters import add_lora
from distill_ray.models.load import load_frozen, load_model
from distill_ray.models.ref import ModelRef
from distill_ray.models.teachers import TeacherBank

IDS = torch.arange(24).reshape(2, 12) + 1
POSITIONS = torch.arange(12).expand(2, 12)


def _bank(**ladders):
    return TeacherBank(ladders, device=torch.device("cpu"))


def _logits(bank):
    head = bank.head(IDS, POSITIONS, torch.arange(IDS.numel()))
    return head.logits(slice(None)).reshape(*IDS.shape, -1)


def _expected(ref):
    with torch.no_grad():
        return load_model(ref).eval()(input_ids=IDS, position_ids=POSITIONS).logits


def test_the_logits_are_those_of_the_rung_in_use():
    ladders = {"a": [tiny.ref(1), tiny.ref(2)], "b": [tiny.ref(3, hidden_size=16)]}
    bank = _bank(**ladders)
    for name, rung in [("a", 0), ("a", 1), ("b", 0), ("a", 0)]:
        bank.use(name, rung)
        torch.testing.assert_close(_logits(bank), _expected(ladders[name][rung]))


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
    for rung in (0, 1, 0):
        bank.use("a", rung)
        torch.testing.assert_close(_logits(bank), _of(adapters[rung]), rtol=1e-4, atol=1e-5)
        places.append([p.data_ptr() for p in bank._model.model.parameters()])
    assert places[0] == places[1] == places[2]
    assert not torch.allclose(_of(adapters[0]), _of(adapters[1]), atol=1e-2)


def test_an_adapter_of_another_form_and_another_base_are_loaded_anew(adapters):
    ladders = {"a": [adapters[0], adapters[2]], "b": [tiny.ref(6)], "c": [tiny.ref(5)]}
    bank = _bank(**ladders)
    for name, rung in [("a", 0), ("a", 1), ("a", 0), ("b", 0), ("a", 1), ("c", 0), ("a", 0)]:
        bank.use(name, rung)
        expected = _of(ladders[name][rung])
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
