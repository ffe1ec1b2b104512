"""The command, from flags to files."""

import json
import subprocess
import sys

import pytest
from safetensors.numpy import save_file
from transformers import AutoConfig
from typer.testing import CliRunner

from distill_ray.bench.commands import app
from distill_ray.bench.harness.machine import has_gpu
from distill_ray.bench.suites.peers import step_work
from distill_ray.bench.suites.work import PRESETS
from distill_ray.config.errors import InputError

# Each starts processes that import torch.
pytestmark = pytest.mark.heavy


def run(*flags):
    return CliRunner().invoke(app, [str(flag) for flag in flags])


def test_the_loss_prints_a_table_and_writes_json(tmp_path):
    file = tmp_path / "loss.json"
    said = run("loss", "--small", "--pairs", 1, "--threads", 1, "--json", file)
    assert said.exit_code == 0, said.output
    assert "full logits" in said.stdout
    assert "ours" in said.stdout
    found = json.loads(file.read_text())
    assert found["bench"] == "loss"
    assert found["settings"]["pairs"] == 1
    assert {"machine", "versions", "command"} <= set(found["environment"])


def test_a_step_prints_markdown_and_json():
    said = run("step", "--small", "--pairs", 1, "--threads", 1, "--markdown")
    assert said.exit_code == 0, said.output
    assert "| plain loop |" in said.stdout
    assert "| ours |" in said.stdout
    assert "There is no GPU here" in said.stdout or has_gpu()
    found = json.loads(said.stdout.splitlines()[-1])
    assert found["settings"]["work"]["rows"] == 2
    assert found["comparisons"][0]["arms"][0]["facts"]["vocabulary"] == 512


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--preset", "smol"], "--preset: no 'smol'. Did you mean 'small'?"),
        (["--peer", "tlr", "--small"], "--peer: no 'tlr'. Did you mean 'trl'?"),
        (["--precision", "float16"], "--precision: no 'float16'. Did you mean"),
        (["--teacher", "/nowhere.gguf"], "--teacher.gguf: no such file: /nowhere.gguf."),
    ],
)
def test_bad_input_is_said_before_anything_starts(flags, said):
    found = run("step", *flags).exception
    assert isinstance(found, InputError)
    assert said in str(found)


@pytest.mark.skipif(has_gpu(), reason="there it runs")
def test_the_large_preset_says_that_it_needs_a_gpu():
    assert "there is no GPU here" in str(run("step", "--preset", "llama-1b").exception)


def test_a_model_may_be_cut_to_its_first_layers(tmp_path):
    init = PRESETS["small"].teacher
    AutoConfig.for_model(**init).save_pretrained(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    work = step_work("small", "float32", student=f"{tmp_path}:2")
    assert (work.student.kind, work.student.layers) == ("path", 2)
    with pytest.raises(InputError, match="4 layers of 3 can't be kept"):
        step_work("small", "float32", student=f"{tmp_path}:4")


def test_the_command_line_is_there_before_torch():
    code = "import distill_ray.bench.commands, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
