"""`bench shard`: its input, the memory it measures, and that both arms make the same shards."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from distill_ray.bench.arms.shard import measure, role
from distill_ray.bench.commands import app
from distill_ray.bench.harness.descendants import Process, below, end
from distill_ray.bench.harness.result import ArmResult, Comparison, Unit
from distill_ray.bench.harness.table import markdown, tables
from distill_ray.bench.harness.tree_memory import SYSTEM, WORKER, TreeSampler
from distill_ray.bench.suites.corpus import Corpus, write_corpus, write_tokenizer
from distill_ray.bench.suites.peers import Settings
from distill_ray.bench.suites.shard import MB, hours, report, shard
from distill_ray.bench.suites.work import ShardWork
from distill_ray.config.errors import InputError
from distill_ray.data.packing import pack, split_long, text_sample
from distill_ray.data.rows import SPLITS
from distill_ray.data.tokenizer import encode, load_tokenizer, train_tokenizer
from distill_ray.data.transforms import content_key, split_of
from distill_ray.runtime.progress import Event

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

MIB = 2**20


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("rows"), 300_000)


def texts_of(corpus: Corpus) -> list[str]:
    lines = [line for file in corpus.files for line in Path(file).read_bytes().splitlines()]
    return [json.loads(line)["text"] for line in lines]


def test_the_input_is_the_same_in_every_run(corpus: Corpus, tmp_path: Path) -> None:
    again = write_corpus(tmp_path, 300_000)
    for one, other in zip(corpus.files, again.files, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()


def test_the_input_has_the_size_and_the_duplicates_that_it_says(corpus: Corpus) -> None:
    texts = texts_of(corpus)
    sizes = [Path(file).stat().st_size for file in corpus.files]
    assert sum(sizes) == corpus.size_bytes
    assert all(75_000 <= size < 100_000 for size in sizes)
    assert len(texts) == corpus.rows
    assert len({content_key(text) for text in texts}) == len(set(texts))
    assert len(set(texts)) == corpus.rows - corpus.duplicates
    assert 0.01 < corpus.duplicates / corpus.rows < 0.06
    lengths = sorted(map(len, texts))
    assert 350 < sum(lengths) / len(lengths) < 700
    assert lengths[-1] > 5 * lengths[len(lengths) // 2]


def test_the_peer_packs_as_our_packing_does() -> None:
    from distill_ray.bench.arms.shard_datasets import Keys, Pack, first_of_each

    rng = random.Random(0)
    words = ["one", "two", "three", "Four", "\u00e9t\u00e9", "\u4e2d"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(80)]
    texts[40:44] = texts[:4]
    tokenizer = train_tokenizer(texts, 300)
    keyed = Keys(validation=0.2, test=0.2)(pa.table({"text": texts}))
    batch = pa.table({"text": texts}).append_column("key", keyed["key"])
    batch = batch.append_column("split", keyed["split"])
    is_first = first_of_each(keyed["key"])
    rows = Pack(tokenizer, is_first, 32)(batch, list(range(len(texts)))).to_pylist()

    unique = list(dict.fromkeys(texts))
    for split in SPLITS:
        samples = [
            text_sample(f"text:{key}", tokenizer(text)["input_ids"], tokenizer.eos_token_id)
            for text in unique
            if split_of(key := content_key(text), validation=0.2, test=0.2) == split
        ]
        assert max(len(sample.ids) for sample in samples) > 32
        prefix = f"text:{split}:000000000"
        expected = list(pack(split_long(samples, 32), 32, tokenizer.eos_token_id, prefix))
        packed = [row for row in rows if row["split"] == split]
        assert packed == [row | {"split": split} for row in expected]


HOLD = "import time; held = bytearray(b'x') * ({mib} * 2**20); {then}; time.sleep(60)"


def test_a_process_and_what_it_starts_are_measured_apart_and_together() -> None:
    child = HOLD.format(mib=50, then="print(flush=True)")
    then = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(mib=100, then=then)], stdout=subprocess.PIPE
    )
    sampler = TreeSampler(parent.pid, lambda process: WORKER, interval_s=0.02)
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        sampler.start()
        time.sleep(0.3)
        peaks = sampler.stop()
    finally:
        started = below(parent.pid)
        parent.kill()
        end(started, 0)
        parent.communicate(timeout=10)
    assert 100 * MIB <= peaks.driver < 130 * MIB
    assert 50 * MIB <= peaks.worker < 80 * MIB
    assert peaks.system == 0
    assert peaks.total == pytest.approx(peaks.driver + peaks.worker, rel=0.05)
    assert peaks.total < peaks.total_with_files < peaks.total + 60 * MIB
    assert peaks.samples > 2
    assert peaks.cpu_seconds > 0
    assert peaks.sampling_cpu_seconds > 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/y", SYSTEM),
        ("/x/gcs_server --log_dir=/tmp", SYSTEM),
        ("ray::RuntimeEnvAgent", SYSTEM),
        ("ray::IDLE", WORKER),
        ("ray::MapBatches(Clean)", WORKER),
        ("python -m distill_ray.bench.arms.shard_datasets /tmp/x", WORKER),
    ],
)
def test_rays_own_processes_are_told_from_workers(command: str, expected: str) -> None:
    assert role(Process(1, 0, 0, command)) == expected


def test_a_program_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"exit code 1:[\s\S]*No module named '?bench"):
        measure("bench.nowhere", ShardWork((), 0, ""), tmp_path)


def unit(seconds: float, **figures: float) -> Unit:
    held = dict.fromkeys(("worker", "system", "total", "total_with_files"), 10.0 * MIB)
    phases = {"phase: reading": seconds / 4, "phase: packing": seconds * 3 / 4}
    other = {"tokens_per_s": 1000.0, "start_s": 2.0, "total_s": 3.0, "rows_read": 100.0}
    named = {f"{name}_bytes": size for name, size in held.items()}
    return Unit(0, seconds, seconds, (1.0,), figures=phases | other | named | figures)


def comparison(size_mb: int, ours: float, driver_mib: float) -> Comparison:
    arms = (
        ArmResult("datasets", (unit(2.0, driver_bytes=1.0),) * 3, warmup=0),
        ArmResult("ours", (unit(ours, driver_bytes=driver_mib * MIB),) * 3, warmup=0),
    )
    return Comparison(f"Shard {size_mb} MB", arms, "datasets", 0.0, compared="count")


def test_sizes_are_judged_by_time_memory_of_the_driver_and_linearity() -> None:
    works = [ShardWork((), size * MB, "", processes=2) for size in (50, 200)]
    comparisons = [comparison(50, 1.0, 300), comparison(200, 4.4, 360)]
    judged = report(comparisons, works, Settings(3))
    assert [(t.what, pytest.approx(t.value), t.met) for t in judged.targets] == [
        ("Shard 200 MB: time, ours / datasets", 2.2, False),
        ("Shard 200 MB / 50 MB: memory of the driver", 1.2, False),
        ("Shard 200 MB / 50 MB: time a byte", 1.1, True),
    ]
    text = markdown(judged)
    assert "| 200 MB, ours | 1,000 | 4.4 | 2.0 | 3.0 | 360.0 MiB | 10.0 MiB |" in text
    assert "| 200 MB, ours, packing | 3.3 | 30.3 |" in text
    assert len(list(tables(judged))) == 5
    # 10**12 bytes at 200 MB in 4.4 s on 2 cores, and 64 such pairs.
    assert f"1 TB takes {1e12 / (200e6 / 4.4) / 64 / 3600:.2f} h" in text
    assert "a byte a row that is shuffled is 0.00 GB" in text


def test_an_arm_that_failed_leaves_targets_unmeasured() -> None:
    failed = ArmResult("ours", (), warmup=0, error="no memory")
    one = comparison(200, 4.0, 300)
    broken = replace(one, arms=(one.arms[0], failed))
    judged = report([broken], [ShardWork((), 200 * MB, "")], Settings(3))
    assert [target.met for target in judged.targets] == [None]
    assert "| 200 MB, ours | - | - |" in markdown(judged)


def test_time_before_a_part_is_finished_belongs_to_its_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from distill_ray.bench.arms import shard_ours

    clock = SimpleNamespace(monotonic=iter([12.0, 13.0, 17.0]).__next__)
    monkeypatch.setattr(shard_ours, "time", clock)
    phases = shard_ours.Phases()
    for kind, stage, text in (
        ("started", "shard", ""),
        ("progress", "ray", "starting"),
        ("progress", "shard", "reading"),
        ("progress", "shard", "reading"),
        ("progress", "shard", "packing"),
    ):
        phases.emit(Event(kind, stage, text))
    assert phases.seconds(10.0, 18.0) == {"reading": 3.0, "packing": 4.0, "the rest": 1.0}


def test_hours_add_up_over_phases() -> None:
    assert hours(3600, 2, [10.0, 5.0]) == pytest.approx(3600 / 20 / 3600 + 3600 / 10 / 3600)


@pytest.mark.parametrize("sizes", [[], [50, 50], [0], [-1, 2]])
def test_sizes_that_make_no_sense_are_refused(sizes: list[float]) -> None:
    with pytest.raises(InputError, match="--sizes"):
        shard(Settings(1), sizes_mb=sizes)


def test_sizes_that_are_no_numbers_are_refused() -> None:
    result = CliRunner().invoke(app, ["shard", "--sizes", "50;200"]).exception
    assert isinstance(result, InputError)
    assert "'50;200' isn't a list of numbers" in str(result)


@pytest.mark.heavy
def test_the_peer_counts_what_is_in_its_files(corpus: Corpus, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer", corpus, 500)
    tokenizer = tmp_path / "tokenizer"
    work = ShardWork(corpus.files, corpus.size_bytes, str(tokenizer), length=128)
    (tmp_path / "run").mkdir()
    program = "distill_ray.bench.arms.shard_datasets"
    # Workers of so few rows live for less than a second.
    outcome, peaks = measure(program, work, tmp_path / "run", interval_s=0.02)
    unique = set(texts_of(corpus))
    loaded = load_tokenizer(tokenizer)
    for split in SPLITS:
        texts = [
            text
            for text in unique
            if split_of(content_key(text), validation=0.05, test=0.05) == split
        ]
        assert outcome.rows[split] == len(texts)
        assert outcome.tokens[split] == sum(len(encode(loaded, text)) + 1 for text in texts)
    assert outcome.duplicates == corpus.duplicates
    assert peaks.driver > 50 * MIB
    assert peaks.worker > 0
    assert not (tmp_path / "run" / "output").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_both_arms_make_the_same_shards(tmp_path: Path) -> None:
    file = tmp_path / "shard.json"
    result = CliRunner().invoke(app, ["shard", "--small", "--pairs", "1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(file.read_text())
    (compared,) = printed["comparisons"]
    theirs, ours = compared["arms"]
    assert compared["same_work"] is True
    assert theirs["losses"] == ours["losses"]
    assert all(count > 0 for count in ours["losses"][0])
    assert ours["figures"][0]["system_bytes"] > 0
    assert theirs["figures"][0]["system_bytes"] == 0
