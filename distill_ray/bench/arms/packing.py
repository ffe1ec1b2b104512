"""Arms on short samples of unequal lengths: padded, grouped by length, or packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill_ray.bench.arms import plain
from distill_ray.bench.arms.engine import session_of
from distill_ray.bench.arms.inputs import load_pair
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.suites.work import SamplesWork
from distill_ray.data.batches import Batch, collate
from distill_ray.data.packing import Sample, pack, text_sample, unpacked
from distill_ray.engine.loop import train_step

END = 0


def samples(work: SamplesWork, number: int, vocabulary: int) -> list[Sample]:
    """Draw the samples of a step: random ids, lengths log-uniform as in short messages."""
    rng = np.random.default_rng([work.step.seed, number])
    low, high = np.log(work.shortest), np.log(work.longest)
    lengths = np.exp(rng.uniform(low, high, work.samples)).round().astype(int)
    return [
        text_sample(str(i), rng.integers(1, vocabulary, n - 1).tolist(), END)
        for i, n in enumerate(lengths)
    ]


def cut(work: SamplesWork, texts: Sequence[Sample], way: str) -> list[Batch]:
    """Make micro-batches: `padded` in random order, `grouped` by length, or `packed`."""
    if way == "packed":
        rows = list(pack(texts, work.step.length, END, "bench"))
    else:
        ordered = sorted(texts, key=lambda s: len(s.ids)) if way == "grouped" else texts
        rows = list(unpacked(ordered, "bench"))
    size = {"padded": work.batch, "grouped": work.group, "packed": work.step.rows}[way]
    micro_batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [collate(micro_batch, [False] * len(micro_batch)) for micro_batch in micro_batches]


class Cut:
    """A batch source of samples that are all cut in one way."""

    def __init__(self, work: SamplesWork, vocabulary: int, way: str) -> None:
        self._work, self._vocabulary, self._way = work, vocabulary, way
        self._number, self._batches = -1, list[Batch]()

    def step(self, number: int) -> list[Batch]:
        """Return all micro-batches of a step; the latest step stays in memory."""
        if number != self._number:
            texts = samples(self._work, number, self._vocabulary)
            self._number, self._batches = number, cut(self._work, texts, self._way)
        return self._batches

    def batch(self, step: int, micro: int) -> Batch:
        """Return micro-batch `micro` of a step."""
        return self.step(step)[micro]


def ours(turns: ArmClient, *, work: SamplesWork, way: str) -> None:
    """Take our engine's steps on samples that are cut in this way."""
    pair = load_pair(work.step, turns.device)
    turns.tell(**pair.facts)
    session = session_of(pair, work.step, turns.device, turns.total)
    source = Cut(work, pair.vocabulary, way)
    session.source = source
    for number in turns:
        batches = source.step(number)
        session.num_micro = len(batches)
        loss, _, tokens, _ = train_step(session)
        session.step += 1
        turns.done([loss], amount=tokens)


def floor(turns: ArmClient, *, work: SamplesWork) -> None:
    """Take the plain loop's steps on padded micro-batches, whose gradients add up."""
    pair = load_pair(work.step, turns.device)
    turns.tell(**pair.facts)
    optimiser = plain.adamw(pair.student, work.step)
    source = Cut(work, pair.vocabulary, "padded")
    for number in turns:
        batches = [rows.to(turns.device) for rows in source.step(number)]
        loss = plain.one_step(pair, optimiser, batches, work.step)
        turns.done([loss], amount=sum(int(rows.teacher_mask.sum()) for rows in batches))
