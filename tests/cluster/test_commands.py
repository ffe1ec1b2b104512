"""`distill-ray cluster ...`, as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hub_cache import write_hub

ROOT = Path(__file__).parents[2]


def distill_ray(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "distill_ray", "cluster", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **variables},
    )


@pytest.mark.heavy
def test_a_typo_ends_with_exit_code_2_and_says_what_was_meant(tmp_path: Path) -> None:
    wrong = tmp_path / "aws.yaml"
    text = (ROOT / "cluster" / "aws.yaml").read_text()
    wrong.write_text(text.replace("MarketType: spot", "MarktType: spot", 1))
    done = distill_ray("validate", str(wrong))
    assert done.returncode == 2 and not done.stdout
    place = "available_node_types.teacher.node_config.InstanceMarketOptions.MarktType"
    assert f"{place}: unknown key. Did you mean 'MarketType'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.heavy
def test_a_file_is_rendered_filled_in_and_valid(tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "hub")
    words = ["render", "--provider", "kuberay", str(ROOT / "configs" / "cloud.yaml")]
    words += ["--out", str(tmp_path), "--fill", "image=registry.example/distill-ray:1"]
    done = distill_ray(*words, HF_HUB_CACHE=str(hub))
    assert done.returncode == 0, done.stderr
    made = [Path(line) for line in done.stdout.split()]
    assert [path.name for path in made] == [
        "raycluster.yaml",
        "rayjob.yaml",
        "kueue.yaml",
        "network.yaml",
    ]
    checked = distill_ray("validate", *map(str, made))
    assert checked.returncode == 0 and "still to be filled in" not in checked.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "is not a mapping"),
        ("a: [", "can't be read"),
        ("provider: {type: azur}", "provider.type: 'azur' is not known"),
        ("provider: aws", "provider.type: None is not known"),
        ("kind: RayJub\napiVersion: ray.io/v1", "Did you mean 'ray.io/v1 RayJob'"),
        ("kind: RayJob\nkind: RayJob\napiVersion: ray.io/v1", "key 'kind' is given twice"),
    ],
)
def test_what_is_no_cluster_file_is_said_in_one_message(
    tmp_path: Path, text: str, said: str
) -> None:
    from distill_ray.cluster.validate import validate
    from distill_ray.config import InputError

    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        validate(file)


def test_an_option_that_ray_start_does_not_have_is_found() -> None:
    from distill_ray.runtime.ray_launcher import start_problems

    assert not list(start_problems("here", "ray start --head --num-cpus=0\n--dashboard-host=::1"))
    (problem,) = start_problems("here", "ray start --address=$RAY_HEAD_IP:6379 --num-cpu=0")
    assert str(problem) == "here: ray start has no --num-cpu. Did you mean 'num-cpus'?"
