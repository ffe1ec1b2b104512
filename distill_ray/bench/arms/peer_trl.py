"""TRL's GKDTrainer on the same models, data, order and loss. Tested with TRL 1.16.

What makes it the same work: beta 0 is the forward KL, which TRL computes at temperature 1 whatever
`temperature` is (its `compute_loss` doesn't pass it on: it is for sampling); lmbda 0 never samples
from the student. TRL divides the sum over supervised tokens by their number, as the plain loop
does, so no factor is needed. Its batches carry labels: label i + 1 is supervised where our mask
supervises the prediction at i. Rows hold one sample each, as TRL passes no position ids.

Left as TRL ships them: gradient checkpointing (on; `tuned` turns it off), the fused AdamW and the
attention implementation. Logging, saving and evaluation are off.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer

from distill_ray.bench.arms.inputs import batch, load_pair
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.suites.work import StepWork

IGNORED = -100


def step(turns: ArmClient, *, work: StepWork, tuned: bool) -> None:
    """Take distillation steps of `GKDTrainer.train`, one a turn, through its callbacks."""
    pair = load_pair(work, turns.device)
    turns.tell(**pair.facts)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"gradient_checkpointing": False} if tuned else {}
        config = GKDConfig(
            output_dir=folder,
            beta=0.0,
            lmbda=0.0,
            temperature=1.0,
            per_device_train_batch_size=work.rows,
            max_steps=turns.total,
            train_sampling_strategy="sequential",
            learning_rate=work.learning_rate,
            lr_scheduler_type="constant",
            adam_beta1=work.betas[0],
            adam_beta2=work.betas[1],
            weight_decay=work.weight_decay,
            max_grad_norm=work.clip,
            bf16=work.precision == "bfloat16",
            use_cpu=turns.device.type == "cpu",
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        # The trainer needs a tokenizer, though the rows are ids already.
        words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
        trainer = _Trainer(
            model=pair.student,
            teacher_model=pair.teacher,
            args=config,
            train_dataset=_labelled_rows(work, turns.total, pair.vocabulary),
            data_collator=_collate,
            processing_class=PreTrainedTokenizerFast(
                tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
            ),
        )
        trainer.add_callback(_TakeTurns(turns, trainer))
        trainer.train()


class _Trainer(GKDTrainer):  # type: ignore[misc]
    """A GKDTrainer that keeps the loss of its last step, which the shipped one only logs."""

    last_loss: Tensor

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run one forward and backward pass, and keep its loss."""
        self.last_loss = super().training_step(*args, **kwargs)
        return self.last_loss


class _TakeTurns(TrainerCallback):  # type: ignore[misc]
    """Ends a turn at the end of each step, so a turn includes fetching the rows."""

    def __init__(self, turns: ArmClient, trainer: _Trainer) -> None:
        self._turns, self._trainer = turns, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the first turn, once the trainer is built."""
        control.should_training_stop = not self._turns.wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End this turn, and wait for the next."""
        self._turns.done([self._trainer.last_loss.item()])
        control.should_training_stop = not self._turns.wait()


def _labelled_rows(work: StepWork, steps: int, vocabulary: int) -> Any:
    """Rows of all batches, in order, with labels where a prediction is supervised."""
    ids, labels = [], []
    for number in range(steps):
        rows = batch(work, number, vocabulary)
        targets = torch.full_like(rows.input_ids, IGNORED)
        targets[:, 1:] = rows.input_ids[:, 1:].masked_fill(~rows.teacher_mask[:, :-1], IGNORED)
        ids += rows.input_ids.tolist()
        labels += targets.tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def _collate(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
    """Stack rows of one length into tensors, each [B, T]."""
    ids = torch.tensor([row["input_ids"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
