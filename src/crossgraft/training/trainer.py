"""Training on many tasks: Hugging Face's Trainer with batches of one task, official metrics, and adapters to save."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from crossgraft.adapt import AdaptedModel
from crossgraft.adapt.prefix import frozen_layers
from crossgraft.encoders.meter import Meter
from crossgraft.errors import InputError
from crossgraft.files import write_json
from crossgraft.methods.attach import adapter_state, load_adapter_state
from crossgraft.training.batches import IGNORED, Collator, Rows, TaskBatches
from crossgraft.training.prefix_cache import PrefixCache, inputs_of, samples_of
from crossgraft.training.recipe import Training

STATE_FILE = "adapters.safetensors"
COMPLETE = "complete.json"  # written last: a checkpoint without it was cut off
CHECKPOINT = "checkpoint-"

Validation = Callable[[], dict[str, float]]
"""-> metrics, of which "mean" decides when to stop and what is best."""


def arguments(training: Training, folder: Path, steps: int, device: str) -> TrainingArguments:
    """The Trainer's arguments for a recipe's `training`."""
    by_steps = training.checkpoint_steps is not None
    return TrainingArguments(
        output_dir=str(folder),
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
        report_to=["tensorboard"] if importlib.util.find_spec("tensorboard") else [],
        remove_unused_columns=False,
        disable_tqdm=True,  # `Progress` shows it, on stderr
        use_cpu=device == "cpu",
        ddp_find_unused_parameters=True,  # a batch uses the weights of one task
        accelerator_config={"even_batches": False},  # `TaskBatches` sees to it
    )


class MultiTaskTrainer(Trainer):
    """Trains the active adapters of an `AdaptedModel` around a `VisionSeq2Seq`.

    Args:
        model: the adapted model.
        args: from `arguments`.
        batches, collator: what to train on.
        training: the recipe's.
        folder: of the run; the best adapters are kept in it.
        validation: run after each epoch, or None.
        cache: for what frozen layers give, or None to compute it each time.
    """

    def __init__(
        self,
        model: AdaptedModel,
        args: TrainingArguments,
        batches: TaskBatches,
        collator: Collator,
        training: Training,
        folder: Path,
        validation: Validation | None,
        cache: PrefixCache | None,
    ) -> None:
        self.batches, self.training, self.folder = batches, training, folder
        self.validation, self.cache = validation, cache
        self.frozen: dict[str, int] = {}  # task -> layers whose states are kept
        rows = Rows(sum(batches.sizes.values()))
        # `evaluate` has the validation examples of its own; transformers only asks that there be some.
        super().__init__(model=model, args=args, data_collator=collator, train_dataset=rows, eval_dataset=rows)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over samples
        self.remove_callback(PrinterCallback)  # it prints on stdout, which belongs to --json
        self.add_callback(_Epochs(batches))
        if training.patience is not None:
            self.add_callback(_Patience(training.patience))

    def get_train_dataloader(self) -> DataLoader[Any]:
        self.batches.world = self.args.world_size
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Each sample's token-mean cross-entropy times its weight, mean over the batch (VL-Adapter, VL-T5)."""
        adapted = self.accelerator.unwrap_model(model)
        adapted.set_task(inputs["task"])
        outputs = model(**self.encoder_inputs(adapted, inputs, "train"), labels=inputs["labels"])
        loss = weighted_loss(outputs.logits, inputs["labels"], inputs["weights"])
        return (loss, outputs) if return_outputs else loss

    def encoder_inputs(self, adapted: AdaptedModel, batch: dict[str, Any], split: str) -> dict[str, Any]:
        """What the encoder reads of a batch: its inputs, or the states after the layers frozen for its task."""
        inputs = inputs_of(batch)
        if self.cache is None:
            return inputs
        task = batch["task"]
        if task not in self.frozen:
            unused = () if "visual" in inputs else ("visual_embedding.",)
            self.frozen[task] = frozen_layers(adapted, unused=unused)
        if not self.frozen[task]:
            return inputs
        device = next(adapted.parameters()).device
        samples = samples_of(batch["rows"], split)
        return {"prefix": self.cache.prefix(adapted.backbone, self.frozen[task], samples, inputs, device)}  # type: ignore[arg-type]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Official metrics on the validation examples; the best adapters so far are kept."""
        assert self.validation is not None
        metrics = {f"eval_{name}": value for name, value in self.validation().items()}
        best = [entry["eval_mean"] for entry in self.state.log_history if "eval_mean" in entry]
        if metrics["eval_mean"] > max(best, default=-math.inf):
            save_state(self.accelerator.unwrap_model(self.model), self.folder / "best")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---------------------------------------------------------------- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        save_state(self.accelerator.unwrap_model(self.model), Path(output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self._get_output_dir(trial=trial)) / f"{CHECKPOINT}{self.state.global_step}"
        if self.args.should_save:
            write_json(folder / COMPLETE, {"step": self.state.global_step})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_state(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint))


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """logits (B, M, V), labels (B, M) with -100 where there is none, weights (B,) -> the mean over samples of weight
    times token-mean cross-entropy."""
    losses = functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    counts = (labels != IGNORED).sum(1).clamp(min=1)
    return (losses.sum(1) / counts * weights.to(losses.dtype)).mean()


def save_state(model: AdaptedModel, folder: Path) -> None:
    """Write what all adapters trained; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"{name}/{key}": value.detach().cpu().clone()
        for name in model.grafts
        for key, value in adapter_state(model, name).items()
    }
    temporary = folder / f".{STATE_FILE}.tmp"
    save_file(state, temporary)
    temporary.replace(folder / STATE_FILE)


def load_state(model: AdaptedModel, folder: Path) -> None:
    """Give the adapters what `save_state` wrote.

    Raises:
        InputError: the file is missing, damaged, or of other adapters.
    """
    path = folder / STATE_FILE
    try:
        state = load_file(path)
    except Exception as error:  # safetensors meets damage with several exceptions
        raise InputError(f"{path}: cannot be read ({error}); train again without --resume") from error
    for name in model.grafts:
        own = {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}
        load_adapter_state(model, name, own, str(path))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; ones that a kill cut off are removed."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob(f"{CHECKPOINT}*"):
        number = path.name.removeprefix(CHECKPOINT)
        if (path / COMPLETE).is_file() and number.isdecimal():
            found.append((int(number), path))
        else:
            shutil.rmtree(path)
    return max(found)[1] if found else None


class _Epochs(TrainerCallback):
    """Tells the batches which epoch it is, however accelerate has wrapped them."""

    def __init__(self, batches: TaskBatches) -> None:
        self._batches = batches

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._batches.set_epoch(int(state.epoch + 1e-6))


class Progress(TrainerCallback):
    """A bar of steps on stderr, and a line for each validation.

    Args:
        meter: shared with the validation, which interrupts it.
        say: is told scores.
    """

    def __init__(self, meter: Meter, say: Callable[[str], None]) -> None:
        self._meter, self._say = meter, say

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._meter.start("training", state.max_steps, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._meter.advance(1)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), math.nan)
        self._say(f"epoch {state.epoch:g}: loss {loss:.3f}, mean validation score {metrics['eval_mean']:.2f}")
        self._meter.start("training", state.max_steps, state.global_step)


class _Patience(TrainerCallback):
    """Stops when the mean validation score has not risen for so many epochs."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scores = [entry["eval_mean"] for entry in state.log_history if "eval_mean" in entry]
        if len(scores) - 1 - scores.index(max(scores)) >= self._epochs:
            control.should_training_stop = True
