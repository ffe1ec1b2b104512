"""Numbers that aren't finite, planted into chosen steps of a session."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from distill_ray.data.batches import Batch, BatchSource
from distill_ray.engine import comm
from distill_ray.engine.session import Session
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef

POISON = 299
"""A token id that is in no row. Its embedding is no number in models that `poisoned` made."""


@dataclass(frozen=True)
class Trouble:
    """Where it strikes, in micro-batch 0."""

    steps: tuple[int, ...]
    """Counted from 0."""
    rank: int = 0
    what: str = "loss"
    """`loss`: a token whose embedding isn't a number. `gradient`: a slope of a finite loss."""

    def strikes(self, step: int, micro: int) -> bool:
        return step in self.steps and micro == 0 and comm.rank() == self.rank

    def plant(self, session: Session) -> None:
        """Into a session that hasn't begun."""
        if self.what == "loss":
            session.source = _Rows(session.source, self)
        else:
            _steep(session, self)


@dataclass
class _Rows:
    """A batch source that puts the poisonous token where a prediction is supervised."""

    source: BatchSource
    trouble: Trouble

    def batch(self, step: int, micro: int) -> Batch:
        batch = self.source.batch(step, micro)
        if not self.trouble.strikes(step, micro):
            return batch
        row, column = batch.teacher_mask.nonzero()[0].tolist()
        ids = batch.input_ids.clone()
        ids[row, column] = POISON
        return replace(batch, input_ids=ids)


def _steep(session: Session, trouble: Trouble) -> None:
    """√(0 · loss) adds nothing to the loss, and its slope isn't a number."""
    losses, calls = session.backend.losses, []

    def steep(*args):
        found = losses(*args)
        if not torch.is_grad_enabled():
            return found
        calls.append(None)
        step, micro = divmod(len(calls) - 1, session.num_micro)
        if not trouble.strikes(step, micro):
            return found
        return replace(found, total=found.total + (0 * found.total).sqrt())

    session.backend.losses = steep


def poisoned(folder: Path, ref: ModelRef) -> ModelRef:
    """The same model, but the embedding of POISON isn't a number; its output weights stay whole."""
    model = load_model(ref)
    assert not model.config.tie_word_embeddings
    model.get_input_embeddings().weight.data[POISON] = float("nan")
    model.save_pretrained(folder)
    return ModelRef("path", str(folder))
