"""Several processes that train together over gloo: what Ray Train's workers are, without Ray.

The functions that they run are here, since a new process can't import a test's module.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

if TYPE_CHECKING:
    from nonfinite_steps import Trouble

    from distill_ray.engine.backends.snapshot import Snapshot
    from distill_ray.engine.job import TrainingSpec
    from distill_ray.engine.session import Session

LIMIT_S = 540


def together(world: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(*args)` gives on each rank of a new process group.

    Args:
        world: processes.
        folder: a new one, where they meet and leave their results.
        function: of a module that a new process can import.
        args: the same for all.
    """
    folder.mkdir(parents=True)
    context = mp.get_context("forkserver")
    # One process does the slow imports, and every rank is a copy of it.
    context.set_forkserver_preload(["gloo_imports"])
    group = [
        context.Process(target=_rank, args=(rank, world, folder, function, args))
        for rank in range(world)
    ]
    for process in group:
        process.start()
    for process in group:
        process.join(LIMIT_S)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in group] == [0] * world
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(world)]


def _rank(
    rank: int, world: int, folder: Path, function: Callable[..., Any], args: Sequence[Any]
) -> None:
    torch.set_num_threads(1)
    # As launchers do; DeepSpeed asks for them.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    result = function(*args)
    (folder / str(rank)).write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


@dataclass(frozen=True)
class Task:
    """A job, with what happens to it."""

    job: TrainingSpec
    trouble: Trouble | None = None
    silent: tuple[str, ...] = ()
    """Rows that supervise nothing."""
    gradients: bool = False
    """Tell the gradient of the first step; of the plain backend."""
    shard: bool = False
    """Spread the teacher over the ranks."""
    digests: bool = False
    """Tell all tensors of a checkpoint after each step."""


class Silenced:
    """A batch source some of whose rows supervise nothing."""

    def __init__(self, source: Any, rows: Sequence[str]) -> None:
        self.source, self.rows = source, rows

    def batch(self, step: int, micro: int) -> Any:
        batch = self.source.batch(step, micro)
        loud = torch.tensor([row not in self.rows for row in batch.row_ids])[:, None]
        return replace(
            batch, label_mask=batch.label_mask & loud, teacher_mask=batch.teacher_mask & loud
        )


def train_all(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Each job from start to end, one after the other: what this rank saw of it."""
    return [train_one(task) for task in tasks]


def train_one(task: Task) -> dict[str, Any]:
    """One job from start to end."""
    from distill_ray.engine.build import build_session, colocated
    from distill_ray.engine.loop import distill

    cpu, teacher = torch.device("cpu"), None
    if task.shard:
        teacher = colocated(task.job, cpu, shard=True)
    session = build_session(task.job, cpu, teacher)
    set_aside: dict[str, Any] = {}
    session.skipped.quarantine = set_aside.__setitem__
    if task.silent:
        session.source = Silenced(session.source, task.silent)
    if task.trouble is not None:
        task.trouble.plant(session)
    gradients = _recorded(session) if task.gradients else []
    held = _held(session)
    steps, digests, optimiser = [], [], []
    for step in distill(session):
        steps.append(step)
        optimiser.append(_moments(session))
        digests += [_digest(session)] if task.digests else []
    held_by_teacher = max(_held_by_teachers(teacher)) if teacher else None
    with session.backend.unsharded() as model:
        weights = {k: v.detach().float().numpy().copy() for k, v in model.state_dict().items()}
    return {
        "loss": [step.loss for step in steps],
        "norm": [step.grad_norm for step in steps],
        "terms": [step.terms for step in steps],
        "validation": [step.validation for step in steps if step.validation],
        "weights": weights,
        "bad": session.skipped.total,
        "set_aside": set_aside,
        "gradient": gradients[:1],
        "digests": digests,
        "held": held,
        "snapshot": _bytes(session.backend.snapshot()),
        "held_by_teacher": held_by_teacher,
        "checkpoints": [step.checkpoint_index for step in steps],
        "tokens_by_teacher": [step.tokens_by_teacher for step in steps],
        "teachers": [step.teacher for step in steps],
        "rates": [step.learning_rate for step in steps],
        "log": session.teaching.log if session.teaching else [],
        "counts": [counts for counts, _ in optimiser],
        "moments": [largest for _, largest in optimiser],
    }


def _moments(session: Session) -> tuple[set[int], float]:
    """Steps that this rank's optimiser has counted, and its largest first moment."""
    backend: Any = session.backend
    sharded = hasattr(backend, "_torch_optimizer")
    optimiser = backend._torch_optimizer() if sharded else backend._optimiser
    states = [state for state in optimiser.state.values() if state]
    counts = {int(state["step"]) for state in states}
    return counts, max((float(s["exp_avg"].abs().max()) for s in states), default=0.0)


def _bytes(taken: Snapshot) -> int:
    """All that it copied."""
    moments = [v for state in taken.moments.values() for v in state.values()]
    return sum(v.nbytes for v in [*taken.tensors, *moments] if isinstance(v, torch.Tensor))


def _held(session: Session) -> float:
    """Of the student, between two steps."""
    backend: Any = session.backend
    return _held_by(backend._engine.module if hasattr(backend, "_engine") else backend._student)


def _held_by_teachers(source: Any) -> list[float]:
    """Of each teacher that is spread over the ranks."""
    banks = source._banks.values() if hasattr(source, "_banks") else [source._bank]
    return [_held_by(bank._model._engine.module) for bank in banks]


def _held_by(module: torch.nn.Module) -> float:
    """Share of a module's numbers that are in this process."""
    parameters = [*module.parameters()]
    whole = sum(getattr(p, "ds_numel", p.numel()) for p in parameters)
    return sum(p.numel() for p in parameters) / whole


def _recorded(session: Session) -> list[Any]:
    """Collects what the plain backend's optimiser is given."""
    backend: Any = session.backend
    seen: list[Any] = []
    backend._optimiser.register_step_pre_hook(
        lambda *_: seen.append([p.grad.numpy().copy() for p in backend._trained])
    )
    return seen


def _digest(session: Session) -> dict[str, str]:
    """Each tensor of what this rank would save: weights, their float32 copies, moments."""
    with tempfile.TemporaryDirectory() as folder:
        session.backend.save(Path(folder))
        dist.barrier()
        files = sorted(path for path in Path(folder).rglob("*.pt"))
        return {
            f"{file.name}{name}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
            for file in files
            for name, tensor in _tensors(torch.load(file, weights_only=False), "")
        }


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value.detach().float().contiguous()
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _tensors(inner, f"{name}/{i}")


def gathered() -> dict[str, tuple[Any, Any]]:
    """Parts of all ranks and of a group, by `engine.gloo` and by torch: case → both."""
    from distill_ray.engine.backends import gloo

    found: dict[str, tuple[Any, Any]] = {}
    for group, members, dtype in _groups():
        mine = torch.arange(5, dtype=dtype) + 10 * dist.get_rank()
        expected = torch.empty(members * 5, dtype=dtype)
        dist.all_gather_into_tensor(expected, mine, group)
        ours = torch.empty_like(expected)
        gloo.all_gather(ours, mine, group)
        later = torch.empty_like(expected)
        work = gloo.all_gather(later, mine, group, async_op=True)
        assert work is not None
        work.wait()
        place = torch.full_like(expected, -1)
        here = place.view(members, -1)[dist.get_rank(group)]
        here.copy_(mine)
        gloo.all_gather(place, here, group)
        for how, made in (("waited", ours), ("later", later), ("in place", place)):
            case = f"{how}, {members} ranks, {dtype}"
            found[case] = (made.tolist(), expected.tolist())
    return found


def scattered(piece: int) -> dict[str, tuple[Any, Any]]:
    """This rank's part of sums over all ranks and over a group: case → ours and torch's.

    Args:
        piece: numbers that are sent at a time.
    """
    from distill_ray.engine.backends import gloo

    gloo.PIECE = piece
    found: dict[str, tuple[Any, Any]] = {}
    for group, members, dtype in _groups():
        whole = torch.arange(members * 5, dtype=dtype) * 2 ** dist.get_rank()
        expected, ours = torch.empty(5, dtype=dtype), torch.empty(5, dtype=dtype)
        dist.reduce_scatter_tensor(expected, whole.clone(), group=group)
        gloo.reduce_scatter(ours, whole, group=group)
        place = whole.clone()
        here = place.view(members, -1)[dist.get_rank(group)]
        gloo.reduce_scatter(here, place, group=group)
        largest, best = torch.empty_like(ours), torch.empty_like(ours)
        dist.reduce_scatter_tensor(best, whole.clone(), dist.ReduceOp.MAX, group=group)
        gloo.reduce_scatter(largest, whole.clone(), dist.ReduceOp.MAX, group=group)
        later = torch.empty_like(ours)
        work = gloo.reduce_scatter(later, whole.clone(), group=group, async_op=True)
        assert work is not None
        work.wait()
        made = {"sum": ours, "in place": here, "later": later}
        case = f"{members} ranks, {dtype}"
        found |= {f"{how}, {case}": (x.tolist(), expected.tolist()) for how, x in made.items()}
        found[f"largest, {case}"] = (largest.tolist(), best.tolist())
    return found


def _groups() -> Iterator[tuple[Any, int, torch.dtype]]:
    """All ranks, and a group of the last two where this rank is in it; its size, and a type."""
    rank, last = dist.get_rank(), dist.new_group([1, 2])
    for group, members in ((None, dist.get_world_size()), (last, 2)):
        if group is None or rank > 0:
            yield group, members, torch.float32
            yield group, members, torch.bfloat16


def train_part(
    job: TrainingSpec, start: Path | None, until: int, end: Path | None
) -> dict[str, Any]:
    """Some steps of a job on this group of ranks, from one checkpoint to another."""
    from distill_ray.engine import checkpoint
    from distill_ray.engine.build import build_session
    from distill_ray.engine.loop import distill

    session = build_session(job, torch.device("cpu"))
    if start is not None:
        checkpoint.restore(session, start, job="test")
    steps, rows = [], []
    source: Any = session.source
    for step in distill(session):
        steps.append(step)
        for micro in range(session.num_micro):
            rows += source.batch(step.number - 1, micro).row_ids
        if step.number == until:
            break
    if end is not None:
        end.mkdir(exist_ok=True)
        checkpoint.save(session, end, job="test")
        dist.barrier()
    with session.backend.unsharded() as model:
        weights = {k: v.detach().float().numpy().copy() for k, v in model.state_dict().items()}
    return {
        "loss": [s.loss for s in steps],
        "rows": rows,
        "weights": weights,
        "moments": _moments(session),
    }
