"""Run one function on every part by Ray Data, and go on with what a killed run left."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import ray.data

from distill_ray.runtime.cluster import silence_logger
from distill_ray.runtime.external_errors import outside_cause
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import Storage, is_full
from distill_ray.stages.sharding.files import report_file

Result = dict[str, Any]
"""What a part's work reports: JSON, small, whatever the part's size."""
PHASES = {
    "read": "reading and cleaning",
    "ngrams": "reading tests",
    "hits": "looking for text of tests",
    "contamination": "looking for text of tests",
    "bands": "looking for near copies",
    "sample": "drawing text for the tokenizer",
    "pack": "tokenizing and packing",
}
BLOCKS_A_CPU = 8
"""Tasks that a CPU gets: enough that none waits long for the last one."""


class PartWork(Protocol):
    """The work on one part. It writes files named by the part, so a retry replaces them."""

    def __call__(self, item: Any, /) -> Result:
        """Do the work, and report on it."""


@dataclass(frozen=True)
class _Recorded:
    """Work whose reports are files, written last: a part with a report is done."""

    uri: str
    phase: str
    work: PartWork

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        out = Storage(self.uri)
        for number, item in pickle.loads(row["items"]):
            path = report_file(self.phase, number)
            if not out.exists(path):  # It does where another node died behind this part.
                out.write_bytes(path, json.dumps(self.work(item)).encode())
            yield {"number": number, "report": out.read_bytes(path)}


def over_parts(
    run: Run, out: Storage, phase: str, items: Sequence[tuple[int, Any]], work: PartWork
) -> Iterator[tuple[int, Result]]:
    """Yield each part's number and report, those of an earlier attempt first.

    Args:
        run: reports progress.
        out: where reports are.
        phase: names the reports.
        items: numbers, and what the work is given.
        work: is called on Ray's workers.
    """
    done = set(out.children(f"reports/{phase}"))
    missing = [item for item in items if report_file(phase, item[0]).rpartition("/")[2] not in done]
    finished = len(items) - len(missing)
    for number, _ in items:
        if report_file(phase, number).rpartition("/")[2] in done:
            yield number, json.loads(out.read_bytes(report_file(phase, number)))
    if not missing:
        return
    run.ray()
    silence_logger("ray.data")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    cpus = int(ray.cluster_resources().get("CPU", 1))
    num_blocks = min(len(missing), BLOCKS_A_CPU * cpus)
    blocks = [{"items": pickle.dumps(missing[i::num_blocks])} for i in range(num_blocks)]
    dataset = ray.data.from_items(blocks, override_num_blocks=num_blocks)
    try:
        for row in dataset.flat_map(_Recorded(out.uri, phase, work)).iter_rows():
            finished += 1
            run.note("shard", PHASES[phase.partition("-")[0]], completed=finished, total=len(items))
            run.raise_if_interrupted()
            yield row["number"], json.loads(row["report"])
    except ray.exceptions.RayTaskError as error:
        if is_full(error):
            raise (outside_cause(error) or error) from error
        raise
