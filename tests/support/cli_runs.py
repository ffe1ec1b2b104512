"""The route and a study as commands: started, killed, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import failing_teachers as doomed
import yaml
from tiny_run import config, rows, tiny_model, training

Files = dict[str, str]
INTERRUPTED = 130
STUDIES = {
    "study.yaml": ["study", "ranking"],
    "schedule.yaml": ["study", "schedule"],
    "texts.yaml": ["study", "domain-data"],
}
"""Config → the command that it is for; other files are runs."""


def write_configs(path: Path, workers: int) -> Path:
    """A run's and a study's, with enough steps that a kill falls into the middle."""
    data = config(path)
    for recipe in data["adapt"]["recipes"].values():
        recipe["token_budget"] = 40960
    data["student"]["model"] = tiny_model(24, 1)
    data["distill"] |= {"token_budget": 102400, "save_steps": 20, "eval_steps": 50}
    data |= {"storage": str(path / "runs" / "which")}
    data["probe"]["race"] = {"max_seeds": 3}
    data["cluster"] |= {"num_workers": workers, "max_failures": 0}
    _with_failing_teachers(data, path)
    (path / "tiny.yaml").write_text(yaml.safe_dump(data))
    study = {"name": "which", "storage": str(path / "runs"), "seeds": [0, 1], "num_curve_points": 2}
    study |= {"results": str(path / "results"), "domains": {"tiny": {}}}
    shared = {k: v for k, v in data.items() if k not in ("name", "storage")}
    (path / "study.yaml").write_text(yaml.safe_dump({**study, "run": shared}))
    return path


def write_schedule_study(path: Path, workers: int) -> Path:
    """A study of schedules on one domain; its arms switch often in few steps."""
    data = config(path)
    for recipe in data["adapt"]["recipes"].values():
        recipe["token_budget"] = 40960
    data["probe"]["token_budget"] = 4096
    data["distill"] |= {"token_budget": 30720, "eval_steps": 10}
    data["cluster"] |= {"num_workers": workers, "max_failures": 0}
    shared = {k: v for k, v in data.items() if k not in ("name", "storage")}
    arms = {
        "on_plateau": {"distill": {"schedule": {"window": 4, "min_gain": 0.2}}},
        "ranked": {"distill": {"schedule": {"interval": 15, "probe_steps": 2}}},
        "ranked-aw": None,
    }
    study = {"name": "when", "storage": str(path / "runs"), "seeds": [0, 1], "num_curve_points": 1}
    study |= {"results": str(path / "results"), "domains": {"tiny": {}}, "arms": arms}
    (path / "schedule.yaml").write_text(yaml.safe_dump({**study, "run": shared}))
    return path


def write_domain_study(path: Path, workers: int) -> Path:
    """A study of text on one domain: findings, and talk of the weather."""
    data = config(path)
    talk = [f"{a} {b} {c}." for a in WHEN for b in WEATHER for c in WHERE]
    (path / "talk.txt").write_text("\n".join(talk))
    talked = {"name": "talk", "kind": "generic", "source": {"text": str(path / "talk.txt")}}
    data["corpora"]["sources"].append(talked)
    model = tiny_model(32, 2)
    data["teachers"] = [
        {"name": "raw", "model": model, "recipes": ["reads"]},
        {"name": "adapted", "model": model, "recipes": ["reads", "reads-findings"]},
    ]
    data["adapt"]["recipes"] = {
        "reads": training(mix={"talk": 1}),
        "reads-findings": training(mix={"findings": 4, "talk": 1}),
        "fine-tune": training(mix={"organ.labelled": 1}, token_budget=10240),
    }
    del data["probe"]
    data["distill"] = training(objective={"alpha": 0.9}, token_budget=15360)
    data["cluster"] |= {"num_workers": workers, "max_failures": 0}
    shared = {k: v for k, v in data.items() if k not in ("name", "storage")}
    mixes = {"talk": {"talk": 1}, "mixed": {"talk": 7, "findings": 3}, "findings": {"findings": 1}}
    arms = [{"name": name, "mix": mix} for name, mix in mixes.items()]
    study = {"name": "texts", "storage": str(path / "runs"), "seeds": [0, 1], "num_curve_points": 1}
    study |= {"results": str(path / "results"), "domains": {"tiny": {}}, "arms": arms}
    (path / "texts.yaml").write_text(yaml.safe_dump({**study, "run": shared}))
    return path


WHEN = ("Today", "On Monday", "Last week", "In spring", "At night", "This morning")
WEATHER = ("it rains", "the sun shines", "it is windy", "there is fog", "snow falls", "it is mild")
WHERE = ("in town", "at the sea", "in the hills", "all over the country", "where we live")


def _with_failing_teachers(data: dict[str, Any], path: Path) -> None:
    tokens = path / "tokenizer"
    size = doomed.tokenizer(tokens, (row["text"] for row in rows()), 320)
    init = {**tiny_model(32, 5)["init"], "vocab_size": size}
    folders = {
        "broken": {"path": str(doomed.broken(path / "broken", init))},
        "killer": {"path": str(doomed.killer(path / "killer", init)), "trust_remote_code": True},
    }
    data["student"]["tokenizer"] = {"path": str(tokens)}
    data["teachers"] += [
        {"name": name, "model": model, "tokenizer": {"path": str(tokens)}}
        for name, model in folders.items()
    ]


def command(folder: Path, *flags: str, file: str = "tiny.yaml") -> list[str]:
    what = STUDIES.get(file, ["run"])
    return [sys.executable, "-m", "distill_ray", *what, str(folder / file), *flags]


def run(
    folder: Path, *flags: str, file: str = "tiny.yaml"
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run to the end; events and result."""
    done = subprocess.run(
        [*command(folder, *flags, file=file), "--json"],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    events = [line["event"] for line in lines if "event" in line]
    return events, lines[-1]["result"]


def kill_in(
    folder: Path,
    stage: str,
    done: int,
    file: str = "tiny.yaml",
    how: signal.Signals = signal.SIGKILL,
) -> list[dict[str, Any]]:
    """Start the run and kill the driver, or interrupt it, once `stage` has got that far."""
    process = subprocess.Popen(
        [*command(folder, file=file), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Started in the background, a shell's children would pass interruptions over.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line).get("event", {}))
        if events[-1].get("stage") == stage and events[-1].get("completed", 0) >= done:
            os.kill(process.pid, how)
            break
    ends = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: INTERRUPTED}
    # An interruption lets the trials at work come to rest.
    assert process.wait(timeout=300) == ends[how], f"ended before {stage} was reached"
    return events


def manifests(folder: Path) -> Files:
    found = sorted((folder / "runs").rglob("manifest.json"))
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def stages(events: list[dict[str, Any]], kind: str) -> set[str]:
    return {event["stage"] for event in events if event["kind"] == kind}
