"""How far a student's inner layers are from a teacher's. N tokens, T keys, H hidden.

Two kinds of state: `hidden`, through a learned projection (FitNets, arXiv 1412.6550; TinyBERT,
arXiv 1909.10351), and `attention`, the maps averaged over their heads. Every distance gives one
number a token, 0 where both sides agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

States = Mapping[str, Sequence[Tensor]]
"""Kind → what some layers made of N tokens: `hidden` [N, H], `attention` [N, T], where a token
looks. Keys that it can't see have 0."""
Pairs = tuple[tuple[int, int], ...]
"""(layer of the student, layer of the teacher), counted from 1."""


@dataclass(frozen=True)
class MatchTargets:
    """The teacher's states that a student's layers imitate on N predictions."""

    teacher: str
    states: States
    """States of the teacher's layers, in the order of the pairs."""
    weight: Tensor
    """[N] float32; 0 where the teacher doesn't supervise: its values there may be NaN."""


@dataclass(frozen=True)
class Match:
    """Settings of one kind of matched state."""

    pairs: Mapping[str, Pairs]
    """Teacher → layers; their distances are averaged."""
    distance: str
    """A key of DISTANCES."""
    weight: float = 1.0
    widths: Mapping[str, int] = field(default_factory=dict)
    """Teacher → its hidden size, where a projection leads to it."""

    def layers(self, teacher: str, side: int) -> tuple[int, ...]:
        """The layers that are read: side 0 is the student's, 1 the teacher's."""
        return tuple(pair[side] for pair in self.pairs[teacher])


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos, as half the squared distance of the directions: exact where they are close.

    Args:
        student: [N, D]; receives the gradient.
        teacher: [N, D]; a constant.
    """
    gap = F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)
    return gap.square().sum(dim=-1) / 2


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over the hidden dimensions."""
    return (student - teacher).square().mean(dim=-1)


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared differences, summed over the keys: how many there are depends on the padding."""
    return (student - teacher).square().sum(dim=-1)


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of two distributions, in nats; keys that neither sees add nothing."""
    tiny = torch.finfo(student.dtype).tiny
    ratio = teacher.clamp_min(tiny).log() - student.clamp_min(tiny).log()
    return (teacher * ratio).sum(dim=-1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine,
    "mse": mse,
    "kl": kl,
    "squared_error": squared_error,
}


def pairs_of(layers: str | Mapping[int, int], student: int, teacher: int) -> Pairs:
    """Pair the student's layers with the teacher's.

    Args:
        layers: `last`; `uniform`, every layer of the student with the one of the teacher at the
            same relative depth; or student layer → teacher layer.
        student, teacher: how many each has.

    Raises:
        ValueError: a layer doesn't exist.
    """
    if layers == "last":
        return ((student, teacher),)
    if isinstance(layers, str):
        return tuple((i, max(1, round(i * teacher / student))) for i in range(1, student + 1))
    for student_layer, teacher_layer in layers.items():
        if student_layer > student or teacher_layer > teacher:
            raise ValueError(
                f"layer {student_layer} can't be matched with layer {teacher_layer}: the student "
                f"has {student} layers, the teacher {teacher}"
            )
    return tuple(sorted(layers.items()))


class Matching(nn.Module):
    """Distances of the student's layers to those of the current teacher, with projections."""

    def __init__(self, kinds: Mapping[str, Match], width: int, *, seed: int = 0) -> None:
        """Draw the projections.

        Args:
            kinds: `hidden`, `attention` or both.
            width: hidden size of the student.
            seed: seed of the projections, which are orthogonal: they keep lengths and angles.
        """
        super().__init__()
        self.kinds = dict(kinds)
        self.projections = nn.ModuleDict()
        # A private generator state: every rank and every rerun draws the same.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for kind, match in self.kinds.items():
                for teacher, teacher_width in match.widths.items():
                    layers = [_projection(width, teacher_width) for _ in match.pairs[teacher]]
                    self.projections[f"{kind}-{teacher}"] = nn.ModuleList(layers)

    def layers(self, teacher: str, side: int) -> dict[str, tuple[int, ...]]:
        """Kind → the layers that are read of the student (side 0) or the teacher (1)."""
        return {kind: match.layers(teacher, side) for kind, match in self.kinds.items()}

    def forward(self, student_states: States, towards: MatchTargets) -> tuple[Tensor, Tensor]:
        """Sum weight · distance over all kinds; returns each kind's distances [kinds, N] too."""
        # Selected before anything is computed: a token without weight may be NaN.
        rows = towards.weight.nonzero()[:, 0]
        weight = towards.weight[rows]
        total, values = weight.new_zeros(()), []
        for kind, match in self.kinds.items():
            distances = self._distances(kind, match, student_states, towards, rows)
            total = total + match.weight * (weight * distances).sum()
            values.append(torch.zeros_like(towards.weight).index_copy(0, rows, distances.detach()))
        return total, torch.stack(values)

    def _distances(
        self, kind: str, match: Match, student_states: States, towards: MatchTargets, rows: Tensor
    ) -> Tensor:
        """Average the distances over the pairs of layers, [n], for the tokens in `rows`."""
        name = f"{kind}-{towards.teacher}"
        states = [x[rows] for x in student_states[kind]]
        if name in self.projections:
            layers = self.projections[name].children()
            states = [layer(x) for layer, x in zip(layers, states)]
        pairs = zip(states, towards.states[kind])
        distance = DISTANCES[match.distance]
        distances = [distance(_wide(x), _wide(y[rows].detach())) for x, y in pairs]
        return torch.stack(distances).mean(dim=0).to(towards.weight.dtype)


def _projection(width: int, teacher_width: int) -> nn.Linear:
    layer = nn.Linear(width, teacher_width, bias=False)
    nn.init.orthogonal_(layer.weight)
    return layer


def _wide(x: Tensor) -> Tensor:
    """Convert to float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
