"""Training on many tasks: Hugging Face's Trainer with batches of one task, official metrics, and adapters to save."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from crossgraft.adapt import AdaptedModel
from crossgraft.adapt.prefix import frozen_layers
from crossgraft.errors import InputError, first_line
from crossgraft.training import processes
from crossgraft.training.batches import Collator, Rows, TaskBatches
from crossgraft.training.callbacks import Epochs, Patience, SaveAfterValidation
from crossgraft.training.checkpoints import (
    CHECKPOINT,
    COMPLETE,
    Checkpoint,
    complete,
    load_state,
    remove_broken,
    save_state,
)
from crossgraft.training.forms import Form
from crossgraft.training.prefix_cache import PrefixCache, inputs_of
from crossgraft.training.run_folder import CHECKPOINTS
from crossgraft.training.settings import Training

EPOCH_SECONDS = 60.0  # shorter epochs have no checkpoint each, which for full fine-tuning is three times the model

Validation = Callable[[], dict[str, float]]
"""-> metrics, of which "mean" decides when to stop and what is best."""


def arguments(training: Training, folder: Path, steps: int, device: torch.device) -> TrainingArguments:
    """The Trainer's arguments for a recipe's `training`.

    Raises:
        InputError: the device is an accelerator that is not the first, or one without bfloat16.
    """
    try:
        made = _arguments(training, folder, steps, device)
    except ValueError as error:  # transformers looks at what the device can do
        raise InputError(f"training: {first_line(error)}") from error
    if (made.device.index or 0) != (device.index or 0):
        raise InputError(
            f"a process trains on the first accelerator that it sees; for {device} "
            f"set CUDA_VISIBLE_DEVICES={device.index} and leave --device out"
        )
    made._n_gpu = min(made.n_gpu, 1)  # else several GPUs are shared out by nn.DataParallel, which knows no tasks
    return made


def _arguments(training: Training, folder: Path, steps: int, device: torch.device) -> TrainingArguments:
    by_steps = training.checkpoint_steps is not None
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps if training.max_steps is not None else -1,
        gradient_accumulation_steps=training.accumulate,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=round(training.warmup * steps),
        max_grad_norm=training.clip,
        bf16=training.dtype == "bfloat16",
        seed=training.seed,
        save_strategy="steps" if by_steps else "epoch",
        save_steps=training.checkpoint_steps or 500,
        save_total_limit=2,
        eval_strategy="epoch" if training.validate else "no",
        logging_steps=training.log_steps,
        report_to=[],  # `tensorboard` does it
        remove_unused_columns=False,
        disable_tqdm=True,  # `Progress` shows it, on stderr
        use_cpu=device.type == "cpu",
        ddp_find_unused_parameters=True,  # a batch uses the weights of one task
        accelerator_config={"even_batches": False},  # `TaskBatches` sees to it
    )


def tensorboard(folder: Path) -> list[TrainerCallback]:
    """A callback that writes curves into a folder, if TensorBoard is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(folder)))]  # type: ignore[no-untyped-call]


class MultiTaskTrainer(Trainer):
    """Trains the active adapters of an `AdaptedModel` around a `VisionSeq2Seq`.

    Args:
        model: the adapted model.
        args: from `arguments`.
        batches, collator: what to train on.
        form: what kind of model it is.
        pictured: the tasks of which any example, of any split, has an image.
        training: the recipe's.
        best: a folder for the adapters with the best mean score so far.
        validation: run after each epoch, or None.
        cache: for what frozen layers give, or None to compute it each time.
    """

    def __init__(
        self,
        model: AdaptedModel,
        args: TrainingArguments,
        batches: TaskBatches,
        collator: Collator,
        form: Form,
        pictured: frozenset[str],
        training: Training,
        best: Path,
        validation: Validation | None,
        cache: PrefixCache | None,
    ) -> None:
        self.batches, self.best, self.form, self.pictured = batches, best, form, pictured
        self.validation, self.cache = validation, cache
        self.frozen: dict[str, int] = {}  # task -> layers whose states are kept
        self.rows = Rows(sum(batches.sizes.values()))
        # `evaluate` has the validation examples of its own; transformers only asks that there be some.
        super().__init__(
            model=model, args=args, data_collator=collator, train_dataset=self.rows, eval_dataset=self.rows
        )
        self.model_accepts_loss_kwargs = False  # the loss is a mean over samples
        self.remove_callback(PrinterCallback)  # it prints on stdout, which belongs to --json
        self.add_callback(Epochs(batches))
        self.add_callback(SaveAfterValidation(EPOCH_SECONDS if training.checkpoint_steps is None else 0.0))
        if training.patience is not None:
            self.add_callback(Patience(training.patience))
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training, those before a checkpoint that it was resumed from too."""
        return time.monotonic() - self._began

    def fit(self, checkpoint: Checkpoint | None) -> None:
        """Train, from a checkpoint if there is one; not at all if training was done by then."""
        self._began = time.monotonic() - (checkpoint.seconds if checkpoint else 0.0)
        if checkpoint is not None and checkpoint.done:
            self.state = TrainerState.load_from_json(str(checkpoint.folder / "trainer_state.json"))
            load_state(self.accelerator.unwrap_model(self.model), checkpoint.folder)
            return
        if processes.is_first():
            remove_broken(Path(str(self.args.output_dir)))
        processes.wait()
        self.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(self.rows, batch_sampler=self.batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The form's loss."""
        adapted = self.accelerator.unwrap_model(model)
        adapted.set_task(inputs["task"])
        with self.accelerator.autocast():
            given = self.encoder_inputs(adapted, inputs, "train")
        loss, outputs = self.form.loss(model, adapted, given, inputs)
        return (loss, outputs) if return_outputs else loss

    def encoder_inputs(self, adapted: AdaptedModel, batch: dict[str, Any], split: str) -> dict[str, Any]:
        """What the encoder reads of a batch: its inputs, or the states after the layers frozen for its task.

        Of which splits those are kept, the form says.
        """
        inputs = inputs_of(batch)
        if self.cache is None or split not in self.form.cached:
            return inputs
        task = batch["task"]
        below, beside = self.form.prefix_inputs(inputs)
        if task not in self.frozen:
            unused = self.form.unused(task in self.pictured)
            self.frozen[task] = frozen_layers(adapted, self.form.stack(adapted).name, unused=unused)
        if not self.frozen[task]:
            return inputs
        first = next(adapted.parameters())
        samples, run = self.form.samples(batch, split), partial(self.form.capture, adapted)
        return {
            "prefix": self.cache.prefix(run, self.frozen[task], samples, below, first.device, first.dtype),
            **beside,
        }

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Official metrics on the validation examples; the best adapters so far are kept."""
        assert self.validation is not None
        metrics = {f"eval_{name}": value for name, value in self.validation().items()}
        best = [entry["eval_mean"] for entry in self.state.log_history if "eval_mean" in entry]
        if metrics["eval_mean"] > max(best, default=-math.inf) and self.args.should_save:
            save_state(self.accelerator.unwrap_model(self.model), self.best)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---------------------------------------------------------------- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        if self.args.should_save:  # all processes come here
            save_state(self.accelerator.unwrap_model(self.model), Path(output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"{CHECKPOINT}{self.state.global_step}"
        if self.args.should_save:
            (folder / COMPLETE).unlink(missing_ok=True)  # it is written over
        super()._save_checkpoint(model, trial)
        processes.wait()  # each one writes the state of its random numbers
        if self.args.should_save:
            complete(folder, self.seconds, self.control.should_training_stop)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_state(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint))
