"""What happens beside the steps of a training: epochs told, progress shown, time taken, an early stop, checkpoints."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from crossgraft.encoders.meter import Meter
from crossgraft.training.batches import TaskBatches


class Epochs(TrainerCallback):
    """Tells the batches which epoch it is, however accelerate has wrapped them."""

    def __init__(self, batches: TaskBatches) -> None:
        self._batches = batches

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._batches.set_epoch(int(state.epoch + 1e-6))


class SaveAfterValidation(TrainerCallback):
    """Checkpoints at the ends of epochs that know the epoch's validation: a run resumed before it would skip it.

    Args:
        seconds: epochs that end sooner than that after the last checkpoint need none of their own. A last one is
            written when training is done.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_training_stop or state.epoch == int(state.epoch):
            control.should_save = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        done = control.should_training_stop or state.global_step >= state.max_steps
        control.should_save = done or time.monotonic() - self._saved >= self._seconds

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved = time.monotonic()


class Patience(TrainerCallback):
    """Stops when the mean validation score has not risen for so many epochs."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scores = [entry["eval_mean"] for entry in state.log_history if "eval_mean" in entry]
        if len(scores) - 1 - scores.index(max(scores)) >= self._epochs:
            control.should_training_stop = True


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
        loss = next((f"loss {entry['loss']:.3f}, " for entry in reversed(state.log_history) if "loss" in entry), "")
        self._say(f"epoch {state.epoch:g}: {loss}mean validation score {metrics['eval_mean']:.2f}")
        self._meter.start("training", state.max_steps, state.global_step)


class StepTimer(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seconds.append(time.perf_counter() - self._started)

    def median(self) -> float | None:
        return statistics.median(self._seconds) if self._seconds else None
