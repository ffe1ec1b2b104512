"""What a worker fetches before it loads a model. Starts no Ray."""

from pathlib import Path

from distill_ray.models.ref import ModelRef
from distill_ray.stages.results.local_files import local_ref


def test_a_file_of_a_package_is_looked_up_where_the_model_is_loaded() -> None:
    ref = ModelRef("gguf", "pkg://some_package/model.gguf", layers=2)
    assert local_ref(ref) == ref


def test_an_artifact_s_uri_becomes_a_folder_here(tmp_path: Path) -> None:
    ref = ModelRef("path", f"file://{tmp_path}", layers=2)
    assert local_ref(ref) == ModelRef("path", str(tmp_path), layers=2)
