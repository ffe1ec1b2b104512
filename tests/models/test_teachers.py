"""The bank serves the checkpoint that was asked for, and reads none twice in a row."""

import pytest
import tiny
import torch

from distill_ray.models.load import load_model
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
