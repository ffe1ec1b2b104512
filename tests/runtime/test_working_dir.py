"""What of a working directory travels with a job, and what a run misses of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.runtime import working_dir as packing
from distill_ray.runtime.working_dir import Package, package_problems, survey


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        *("run.yaml", "data/rows.jsonl", "data/kept.csv", "my_code/rows.py", "odd [1]!.txt"),
        *(".git/config", ".venv/lib/x.py", "runs/tiny/run.json", "my_code/__pycache__/rows.pyc"),
        *(".env", ".env.local", "id.pem", ".aws/credentials", ".mypy_cache/x", "a/b.egg-info/x"),
        *("other-env/pyvenv.cfg", "other-env/lib/y.py", "secret/notes.txt"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / ".gitignore").write_text("data/rows.*\n")
    return tmp_path


def problems(package: Package, *needed: str) -> list[str]:
    return [str(p) for p in package_problems(package, [("corpora", path) for path in needed])]


def test_code_and_data_travel_and_caches_environments_artifacts_and_secrets_stay(
    folder: Path,
) -> None:
    package = survey(folder, ["secret"], 1000)
    sent = {"run.yaml", "data/kept.csv", "my_code/rows.py", "odd [1]!.txt", ".gitignore"}
    assert set(package.files) == sent
    assert package.size_bytes == sum((folder / name).stat().st_size for name in sent)


def test_a_large_file_stays_and_only_that_one(folder: Path) -> None:
    (folder / "odd [1]!.txt").write_bytes(b"x" * 1001)
    (folder / "odd 1!.txt").write_text("its pattern must not take this one along")
    package = survey(folder, [], 1000)
    assert package.too_large == {"odd [1]!.txt": 1001}
    again = survey(folder, package.excludes, 10**9)
    assert "odd [1]!.txt" not in again.files and "odd 1!.txt" in again.files


def test_what_a_run_needs_and_is_not_sent_is_named_with_the_reason(folder: Path) -> None:
    (folder / "large").mkdir()
    (folder / "large" / "rows.jsonl").write_bytes(b"x" * (2 << 20))
    package = survey(folder, [], 1 << 20)
    assert problems(package, "data/kept.csv", "my_code", "/elsewhere/rows.jsonl") == []
    (ignored,) = problems(package, "./data/rows.jsonl")
    assert "data/rows.jsonl isn't sent: a pattern leaves it out" in ignored
    assert ".gitignore" in ignored
    (ignored,) = problems(package, "data")
    assert "data/rows.jsonl isn't sent" in ignored
    (large,) = problems(package, "large/rows.jsonl")
    assert "2 MiB, too large" in large and "max_file_mib" in large
    (outside,) = problems(package, "../rows.jsonl")
    assert "../rows.jsonl is outside the working directory" in outside


def test_a_package_that_ray_would_refuse_is_refused_with_its_largest_files(folder: Path) -> None:
    package = Package(folder, {"a": 1, "b": packing.MAX_BYTES, "c": 2}, {}, ())
    (problem,) = problems(package)
    assert problem.startswith(f"working directory: {packing.MAX_BYTES >> 20} MiB")
    assert "largest: b, c, a" in problem
