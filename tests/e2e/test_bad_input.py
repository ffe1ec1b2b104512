"""Bad input: exit code 2, one message that says where, what and what would do; no traceback."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import config, tiny_model

from distill_ray.cli.main import main

pytestmark = pytest.mark.heavy


def in_a_shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "distill_ray", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which saves the imports; an exception fails the test."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["distill-ray", *arguments])
        patch.setattr(sys, "path", [*sys.path])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def refused(
    folder: Path, data: dict[str, Any], *flags: str, stage: str = "run", start: Any = command
) -> str:
    """The message of a run that must be refused."""
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(data))
    done = start(stage, str(file), *flags)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


def save_tokenizer(folder: Path, text: str) -> None:
    from distill_ray.data.tokenizer import train_tokenizer

    train_tokenizer([text] * 50, 300).save_pretrained(str(folder))


def save_model(folder: Path, *, pickled: bool = False, weights: bool = True) -> None:
    import torch

    from distill_ray.models.load import load_model
    from distill_ray.models.ref import ModelRef

    source = tiny_model(16, 0)
    model = load_model(ModelRef("init", init={**source["init"], "vocab_size": 300}))
    if weights and not pickled:
        model.save_pretrained(folder)
    else:
        model.config.save_pretrained(folder)
    if pickled:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")


def test_a_misspelt_key_names_the_nearest_one(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["distill"]["learning_rat"] = 1.0
    message = refused(tmp_path, data, start=in_a_shell)
    assert "distill.learning_rat: unknown key, got 1.0. Did you mean 'learning_rate'?" in message
    assert not (tmp_path / "runs").exists()


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["tasks"][0]["source"] = {"jsonl": str(tmp_path / "taks.jsonl")}
    message = refused(tmp_path, data)
    assert "tasks.0.source.jsonl: " in message and "taks.jsonl: no such file" in message
    assert "Did you mean 'task.jsonl'?" in message


def test_an_empty_corpus_is_seen_before_anything_starts(tmp_path: Path) -> None:
    data = config(tmp_path)
    (tmp_path / "corpus.txt").write_text("")
    message = refused(tmp_path, data, stage="plan", start=in_a_shell)
    assert "corpora.sources.0.source.text" in message
    assert "it has no rows" in message


def test_a_model_folder_without_weights_is_refused(tmp_path: Path) -> None:
    data = config(tmp_path)
    save_model(tmp_path / "bare", weights=False)
    data["teachers"][0]["model"] = {"path": str(tmp_path / "bare")}
    message = refused(tmp_path, data, stage="plan")
    assert "teachers.0.model.path" in message
    assert "has no weights" in message


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    data = config(tmp_path)
    save_model(tmp_path / "pickled", pickled=True)
    data["teachers"][0]["model"] = {"path": str(tmp_path / "pickled")}
    message = refused(tmp_path, data, stage="plan")
    assert "pickled weights only (pytorch_model.bin)" in message
    assert "safetensors" in message


def test_a_teacher_with_another_tokenizer_is_refused_with_the_overlap(tmp_path: Path) -> None:
    data = config(tmp_path)
    for name, text in (("one", "pain of the left heart"), ("two", "Zwölf Boxkämpfer jagen Viktor")):
        save_model(tmp_path / name)
        save_tokenizer(tmp_path / name, text)
    data["student"] = {"model": {"path": str(tmp_path / "one")}}
    data["teachers"][0] = {"name": "wide", "model": {"path": str(tmp_path / "two")}}
    message = refused(tmp_path, data, stage="plan")
    assert "wide's tokenizer differs from the student's" in message
    assert "% of the student's tokens are in it" in message


def test_a_chat_without_a_template_is_refused_before_anything_starts(tmp_path: Path) -> None:
    data = config(tmp_path)
    save_tokenizer(tmp_path / "bare", "pain of the left heart")
    data["student"]["tokenizer"] = {"path": str(tmp_path / "bare")}
    data["tasks"][0]["chat"] = True
    message = refused(tmp_path, data, stage="plan")
    assert "tasks.0.chat: the tokenizer has no chat template" in message
    assert "name the tokenizer of a chat model as student.tokenizer" in message


def test_more_workers_than_the_machine_has_are_refused(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["cluster"] = {"num_workers": 4, "cpus_per_worker": 1000}
    message = refused(tmp_path, data, stage="plan")
    assert "cluster.num_workers: 4 workers x 1000 CPU = 4000 CPUs, the cluster has" in message


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    message = refused(tmp_path, config(tmp_path), "--storage", str(tmp_path / "file" / "runs"))
    assert "can't be written" in message
    assert "--storage" in message


def test_a_name_that_another_config_uses_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    data = config(tmp_path)
    owner = {"config": "other.yaml", "sections": {"student": "x"}}
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/run.json").write_text(json.dumps(owner))
    message = refused(tmp_path, data)
    assert "'tiny'" in message
    assert "belongs to another config, other.yaml" in message
    assert "--set name=" in message
    assert json.loads((tmp_path / "runs/tiny/run.json").read_text()) == owner


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("distill", "write section.key=value"),
        ("teachers.widde.recipes=[]", "Did you mean 'wide'?"),
        ("distill.token_budget=-1", "distill.token_budget"),
    ],
)
def test_a_bad_flag_is_refused(tmp_path: Path, flag: str, expected: str) -> None:
    assert expected in refused(tmp_path, config(tmp_path), "--set", flag, stage="plan")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("storage=nowhere://bucket", "storage not accessible"),
        ("student.tokenizer={path: /nowhere}", "student.tokenizer.path: no such folder: /nowhere"),
        ("probe.seeds=[0, 0]", "seeds must differ"),
        ("seed=-1", "greater than or equal to 0"),
        ("tasks.organ.prompt='{} {text}'", "must hold {text} and no other field"),
        ("distill.mix={organ.prompts: 1}", "prompts alone teach nothing without a teacher"),
        ("adapt.recipes.full.num_checkpoints=500", "fewer than its 500 checkpoints"),
        ("tasks.organ.chat=true", "tasks.0.chat: a tokenizer trained here has no chat template"),
        ("teachers.wide.model={gguf: tests/conftest.py}", "is not a GGUF file"),
        (
            "distill.schedule={kind: plugin, function: 'json:nothing'}",
            "distill.schedule: json has no 'nothing'.",
        ),
    ],
)
def test_what_would_fail_later_is_refused_now(tmp_path: Path, flag: str, expected: str) -> None:
    assert expected in refused(tmp_path, config(tmp_path), "--set", flag, stage="plan")


def test_a_plan_that_may_fill_the_disk_ends_with_exit_code_2(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["distill"] |= {
        "token_budget": 10**13,
        "reassess": {"at_progress": []},
        "serving": {"kind": "cached"},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(data))
    done = command("plan", str(file))
    assert done.returncode == 2, done.stderr
    assert "GiB free. That may be too little: free space, set storage elsewhere" in done.stdout
    assert "Traceback" not in done.stderr


def test_every_problem_comes_at_once(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["corpora"]["sources"][0]["source"] = {"text": str(tmp_path / "gone.txt")}
    data["tasks"][0]["source"] = {"jsonl": str(tmp_path / "gone.jsonl")}
    data["distill"]["schedule"] = {"kind": "at_steps", "steps": [10_000]}
    message = refused(tmp_path, data, stage="plan")
    for part in ("gone.txt", "gone.jsonl", "step 10000 is never reached"):
        assert part in message
