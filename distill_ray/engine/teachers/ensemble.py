"""An ensemble: several teachers that answer as one.

B rows, T tokens, K supervised predictions, S samples, M teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from distill_ray.core.head import Head
from distill_ray.core.head_loss import label_nll
from distill_ray.core.mixture import Mixture
from distill_ray.core.strategies import EnsembleBatch, Strategy, member_checkpoint, require_weights
from distill_ray.core.weighting import means_of
from distill_ray.data.batches import Batch
from distill_ray.data.rows import stream_of
from distill_ray.engine.objective import SupervisedTokens, starts_of
from distill_ray.models.teachers import TeacherBank


class TeacherEnsemble:
    """All members are in this process, each with checkpoints of its own. See `TeacherSource`.

    The ensemble has as many checkpoints as the member with the most; see
    `core.strategies.member_checkpoint`.
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
        """Set up the members, without loading any.

        Args:
            banks: member → its checkpoints.
            strategy: with its options filled in.
            seed: seed of the strategy's draws.
            collective: whether all ranks must run each member equally often.
        """
        self.members = tuple(banks)
        self._banks, self._strategy = dict(banks), strategy
        self._seed, self._collective = seed, collective
        self._longest = max(len(bank.checkpoints[name]) for name, bank in banks.items())

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Move every member to its checkpoint at the ensemble's `checkpoint_index`."""
        for name, bank in self._banks.items():
            bank.use(name, self._checkpoint_index(name, checkpoint_index))

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Read the members' weights into the main memory while training goes on."""
        for name, bank in self._banks.items():
            bank.expect(name, self._checkpoint_index(name, checkpoint_index))

    def _checkpoint_index(self, name: str, checkpoint_index: int) -> int:
        return member_checkpoint(
            checkpoint_index, len(self._banks[name].checkpoints[name]), self._longest
        )

    def announce(self, batches: Sequence[Batch]) -> None:
        """Do nothing: nothing works ahead here."""

    def forget(self) -> None:
        """Do nothing: nothing is announced."""

    @torch.no_grad()
    def reference(
        self, batch: Batch, supervised: SupervisedTokens, *, temperature: float
    ) -> Mixture:
        """Mix the members' outputs; each computes the rows in which it has weight."""
        outputs = _MemberOutputs(self._banks, batch, supervised, self._collective)
        places = batch.places or (0,) * len(batch.row_ids)
        ensemble_batch = EnsembleBatch(
            teachers=self.members,
            keys=[f"{self._seed} {place} {row}" for place, row in zip(places, batch.row_ids)],
            streams=[stream_of(row) for row in batch.row_ids],
            row=starts_of(batch).nonzero()[:, 0],
            losses=outputs.losses,
        )
        weights = require_weights(self._strategy(ensemble_batch), ensemble_batch)  # [S, M]
        return outputs.mixed(weights[supervised.sample])


class _MemberOutputs:
    """The members' outputs for one batch; full forward passes run once."""

    def __init__(
        self,
        banks: Mapping[str, TeacherBank],
        batch: Batch,
        supervised: SupervisedTokens,
        collective: bool,
    ) -> None:
        self._banks, self._batch, self._supervised = banks, batch, supervised
        self._collective = collective

    @cached_property
    def _all_heads(self) -> list[Head]:
        """Each member's head on every supervised prediction, in the order of the banks."""
        rows = torch.arange(len(self._batch.input_ids), device=self._supervised.positions.device)
        return [self._run(bank, rows, self._supervised.positions) for bank in self._banks.values()]

    def losses(self) -> tuple[Tensor, Tensor]:
        """Compute what `EnsembleBatch.losses` says."""
        supervised, starts = self._supervised, starts_of(self._batch)
        has_label = supervised.term_mask[:2].any(dim=0)
        labelled, sample = has_label.nonzero()[:, 0], supervised.sample[has_label]
        mean = partial(means_of, sample=sample, counted=has_label[labelled], size=int(starts.sum()))
        means = [
            mean(label_nll(head.select(labelled), supervised.next_tokens[labelled]))
            for head in self._all_heads
        ]
        return torch.stack([losses for losses, _ in means], dim=1), means[0][1]

    def mixed(self, weights: Tensor) -> Mixture:
        """Mix the members' heads with these weights [K, M]."""
        if "_all_heads" in vars(self):
            return Mixture.of(self._all_heads, weights)
        columns = weights.unbind(dim=1)
        heads = tuple(self._part(bank, w) for bank, w in zip(self._banks.values(), columns))
        return Mixture(heads, weights)

    def _part(self, bank: TeacherBank, weight: Tensor) -> Head | None:
        """Compute a member's head on the predictions in which it has weight [K]."""
        length = self._batch.input_ids.shape[1]
        positions = self._supervised.positions[weight != 0]
        rows, place = torch.unique(positions // length, return_inverse=True)
        if len(rows):
            return self._run(bank, rows, place * length + positions % length)
        if self._collective:
            # The other ranks wait for this one in every layer.
            self._run(bank, rows.new_zeros(1), positions)
        return None

    def _run(self, bank: TeacherBank, rows: Tensor, positions: Tensor) -> Head:
        """Run a member on some rows; the head is on positions [n] of these rows."""
        input_ids, position_ids = self._batch.input_ids, self._batch.position_ids
        if len(rows) < len(input_ids):
            input_ids, position_ids = input_ids[rows], position_ids[rows]
        return bank.head(input_ids, position_ids, positions)
