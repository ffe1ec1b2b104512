"""Save and restore a session: weights, optimiser, schedule, curve. It then takes the same steps."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from distill_ray.core.schedule import ScheduleState, Switch
from distill_ray.engine import comm
from distill_ray.engine.session import Session

STATE = "session.json"


def save(session: Session, folder: Path, *, job: str) -> None:
    """Write a session into an empty folder; every rank calls it, each with its own folder.

    Args:
        session: between two steps.
        folder: this rank's; the folders of all ranks merge in storage.
        job: what is being trained; `restore` refuses another.
    """
    session.backend.save(folder)
    # What dropout draws from next, on this rank.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    torch.save({"cpu": torch.get_rng_state(), "cuda": cuda}, folder / f"random-{comm.rank()}.pt")
    if comm.rank() != 0:
        return
    state: dict[str, Any] = {
        "job": job,
        "step": session.step,
        "world_size": comm.world(),
        "initial_loss": session.initial_loss,
        "history": session.history,
        "skipped_steps": [session.skipped.total, session.skipped.in_a_row],
    }
    if session.teaching is not None:
        state["schedule"] = session.teaching.state.to_dict()
        state["best_loss"] = session.teaching.best_loss
        state["log"] = [asdict(entry) for entry in session.teaching.log]
        state["stalls"] = session.teaching.stalls
        state["tokens_by_teacher"] = session.tokens_by_teacher
    (folder / STATE).write_text(json.dumps(state))


def restore(session: Session, folder: Path, *, job: str) -> None:
    """Bring a freshly built session to where `save` left it; every rank calls it.

    The number of ranks may differ. Batches then stay the same; sums are added up in another order,
    and dropout draws other numbers.

    Args:
        session: freshly built.
        folder: with the merged files of all ranks.
        job: what is being trained, as `save` names it.

    Raises:
        ValueError: the checkpoint belongs to another job. The session is unchanged.
    """
    state = json.loads((folder / STATE).read_text())
    if state["job"] != job:
        raise ValueError(
            f"checkpoint of another job: {folder} holds {state['job']!r}, but {job!r} is training"
        )
    session.backend.load(folder, state["world_size"])
    if state["world_size"] == comm.world():
        random = torch.load(folder / f"random-{comm.rank()}.pt", weights_only=True)
        torch.set_rng_state(random["cpu"])
        if random["cuda"]:
            torch.cuda.set_rng_state_all(random["cuda"])
    else:
        torch.manual_seed(hash((state["step"], comm.world(), comm.rank())))
    session.step = state["step"]
    session.initial_loss = state["initial_loss"]
    session.history = state["history"]
    session.skipped.total, session.skipped.in_a_row = state["skipped_steps"]
    if session.teaching is not None:
        session.teaching.state = ScheduleState.from_dict(state["schedule"])
        session.teaching.best_loss = state["best_loss"]
        session.tokens_by_teacher = state["tokens_by_teacher"]
        session.teaching.log = [Switch(**row) for row in state["log"]]
        session.teaching.stalls = [(step, seconds) for step, seconds in state["stalls"]]


def export(session: Session, folder: Path) -> None:
    """Write the student as a Hugging Face folder (an adapter, if that is what was trained).

    Every rank calls it; rank 0 writes.
    """
    with session.backend.unsharded() as model:
        if comm.rank() == 0:
            model.save_pretrained(str(folder), safe_serialization=True)
    comm.barrier()
