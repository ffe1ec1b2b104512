"""Several teachers at once, as one. B rows, T tokens, K kept predictions, S samples, M teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from distill_ray.core.head import Head
from distill_ray.core.head_loss import gold_nll
from distill_ray.core.mixture import Mixture
from distill_ray.core.strategies import EnsembleBatch, Strategy, member_checkpoint, require_weights
from distill_ray.core.weighting import means_of
from distill_ray.data.batches import Batch
from distill_ray.data.rows import stream_of
from distill_ray.engine.objective import SupervisedTokens, starts_of
from distill_ray.models.teachers import TeacherBank


class TeacherEnsemble:
    """All members are in this process, each with checkpoints of its own. See `TeacherSource`.

    The group has as many checkpoints as its longest checkpoints; see `core.strategies.member_rung`.
    """

    lookahead = 0

    def __init__(
        self,
        banks: Mapping[str, TeacherBank],
        strategy: Strategy,
        *,
        seed: int = 0,
        collective: bool = False,
    ) -> None:
        """Load nothing yet.

        Args:
            banks: member → its checkpoints.
            strategy: with its options filled in.
            seed: of what it draws.
            collective: whether all ranks must ask each member as often.
        """
        self.members = tuple(banks)
        self._banks, self._strategy = dict(banks), strategy
        self._seed, self._collective = seed, collective
        self._longest = max(len(bank.ladders[name]) for name, bank in banks.items())

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Have every member at its own checkpoint of the group's."""
        for name, bank in self._banks.items():
            bank.use(name, self._checkpoint_index(name, checkpoint_index))

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Read the members' weights into the main memory while training goes on."""
        for name, bank in self._banks.items():
            bank.expect(name, self._checkpoint_index(name, checkpoint_index))

    def _checkpoint_index(self, name: str, checkpoint_index: int) -> int:
        return member_checkpoint(
            checkpoint_index, len(self._banks[name].ladders[name]), self._longest
        )

    def announce(self, batches: Sequence[Batch]) -> None:
        """Nothing works ahead here."""

    def forget(self) -> None:
        """Nothing was."""

    @torch.no_grad()
    def reference(self, batch: Batch, kept: SupervisedTokens, *, temperature: float) -> Mixture:
        """What the members say together: each answers for the rows in which it has weight."""
        answers = _Answers(self._banks, batch, kept, self._collective)
        places = batch.places or (0,) * len(batch.row_ids)
        asked = EnsembleBatch(
            teachers=self.members,
            keys=[f"{self._seed} {place} {row}" for place, row in zip(places, batch.row_ids)],
            streams=[stream_of(row) for row in batch.row_ids],
            row=starts_of(batch).nonzero()[:, 0],
            losses=answers.losses,
        )
        weights = require_weights(self._strategy(asked), asked)  # [S, M]
        return answers.mixed(weights[kept.sample])


class _Answers:
    """What the members say of one batch; those that answer for all of it do so once."""

    def __init__(
        self,
        banks: Mapping[str, TeacherBank],
        batch: Batch,
        kept: SupervisedTokens,
        collective: bool,
    ) -> None:
        self._banks, self._batch, self._kept = banks, batch, kept
        self._collective = collective

    @cached_property
    def _whole(self) -> list[Head]:
        """Everyone's, of every kept prediction."""
        rows = torch.arange(len(self._batch.input_ids), device=self._kept.at.device)
        return [self._asked(bank, rows, self._kept.at) for bank in self._banks.values()]

    def losses(self) -> tuple[Tensor, Tensor]:
        """As `EnsembleBatch.losses`."""
        kept, starts = self._kept, starts_of(self._batch)
        gold = kept.terms[:2].any(dim=0)
        at, sample = gold.nonzero()[:, 0], kept.sample[gold]
        mean = partial(means_of, sample=sample, counted=gold[at], size=int(starts.sum()))
        found = [mean(gold_nll(head.at(at), kept.gold[at])) for head in self._whole]
        return torch.stack([losses for losses, _ in found], dim=1), found[0][1]

    def mixed(self, weights: Tensor) -> Mixture:
        """The mixture with these weights [K, M]."""
        if "_whole" in vars(self):
            return Mixture.of(self._whole, weights)
        columns = weights.unbind(dim=1)
        heads = tuple(self._part(bank, w) for bank, w in zip(self._banks.values(), columns))
        return Mixture(heads, weights)

    def _part(self, bank: TeacherBank, weight: Tensor) -> Head | None:
        """A member's answer for the predictions in which it has weight [K]."""
        length = self._batch.input_ids.shape[1]
        at = self._kept.at[weight != 0]
        rows, place = torch.unique(at // length, return_inverse=True)
        if len(rows):
            return self._asked(bank, rows, place * length + at % length)
        if self._collective:
            # The other ranks wait for this one in every layer.
            self._asked(bank, rows.new_zeros(1), at)
        return None

    def _asked(self, bank: TeacherBank, rows: Tensor, at: Tensor) -> Head:
        """Its forward pass over some rows, and the head on places [n] in them."""
        ids, positions = self._batch.input_ids, self._batch.position_ids
        if len(rows) < len(ids):
            ids, positions = ids[rows], positions[rows]
        return bank.head(ids, positions, at)
