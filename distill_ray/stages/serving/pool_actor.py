"""What a process of a teacher pool does."""

from __future__ import annotations

from dataclasses import replace

import ray
import torch
import transformers

from distill_ray.config.serving import PoolServing
from distill_ray.engine.build import teacher_bank
from distill_ray.engine.job import TrainingSpec
from distill_ray.engine.teachers.messages import Answer, Output, Request, answer, output
from distill_ray.models.teachers import TeacherBank
from distill_ray.stages.results.local_files import local_ref


class LazyTeacherBank:
    """A training's teachers; a checkpoint's files come to this machine when it is asked for."""

    def __init__(self, training_spec: TrainingSpec, device: torch.device) -> None:
        teaching = training_spec.teaching
        assert teaching is not None
        self._checkpoints = {name: list(refs) for name, refs in teaching.checkpoints.items()}
        teaching = replace(teaching, checkpoints=self._checkpoints)
        self._bank = teacher_bank(replace(training_spec, teaching=teaching), device)

    def bank(self, teacher: str, checkpoint_index: int) -> TeacherBank:
        """The bank, which can load this checkpoint now."""
        refs = self._checkpoints[teacher]
        refs[checkpoint_index] = local_ref(refs[checkpoint_index])
        return self._bank


class TeacherActor:
    """A process that answers for the teachers of a training.

    It keeps nothing that a call needs: a new process in its place gives the same answers.
    """

    def __init__(self, training_spec: TrainingSpec, serving: PoolServing) -> None:
        torch.set_num_threads(max(1, int(serving.cpus_per_actor)))
        self._device = torch.device("cuda" if serving.gpus_per_actor else "cpu")
        self._teachers = LazyTeacherBank(training_spec, self._device)
        self._targets = serving.targets
        self._is_new = bool(ray.get_runtime_context().was_current_actor_reconstructed)

    def targets(self, request: Request) -> Answer:
        """What the teacher says about a batch."""
        bank = self._teachers.bank(request.teacher, request.checkpoint_index)
        reply = answer(bank, request, self._targets, self._device)
        reply, self._is_new = replace(reply, by_new_process=self._is_new), False
        return reply

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Read a checkpoint's weights in the background."""
        self._teachers.bank(teacher, checkpoint_index).expect(teacher, checkpoint_index)

    def output(self, teacher: str, checkpoint_index: int) -> Output:
        """The output weights of a checkpoint."""
        return output(
            self._teachers.bank(teacher, checkpoint_index), teacher, checkpoint_index, self._device
        )

    def describe(self) -> dict[str, str]:
        """Versions and device; answers at once, whatever the teacher does."""
        device = self._device.type
        if device == "cuda":
            device = torch.cuda.get_device_name(self._device)
        return {**versions(), "device": device}


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a teacher says."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}
