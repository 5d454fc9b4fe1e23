"""Where a module goes best: a search over candidate placements that share one frozen model and one training.

Dynamic visual prompting (arXiv 2306.00409) finds the layer of its prompt this way: every step trains one placement,
drawn uniformly; then a few placements, drawn by a softmax over preferences, answer one small batch, and those better
than their mean are preferred more (a k-armed bandit). `bandit` is that rule. `exhaustive` is ours: all placements
answer the same examples, which costs little, since the layers below a placement are run once for all. Both look at a
part of train that is held out for them, in eval mode; val and test are never read.

A placement is any variant of one of the recipe's methods that differs in one option: the layer of a prompt, the sites
of an adapter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossgraft.adapt import AdaptedModel
from crossgraft.adapt.prefix import Prefix, captured, lowest_layer
from crossgraft.encoders.load import device_of
from crossgraft.encoders.meter import Meter
from crossgraft.environment import check_environment, quiet_transformers
from crossgraft.errors import InputError
from crossgraft.files import read_json, write_json
from crossgraft.reporting.results import SCHEMA_VERSION, versions
from crossgraft.training import run_folder
from crossgraft.training.batches import Collator, Row, TaskBatches
from crossgraft.training.build import build_backbone, load_tokenizer
from crossgraft.training.data import Data, Say, load_data
from crossgraft.training.forms import Form, form_of
from crossgraft.training.prefix_cache import inputs_of
from crossgraft.training.recipe import Recipe
from crossgraft.training.search_setup import attach_all, hold_out
from crossgraft.training.search_state import SearchState

SEARCH, PAGE = "search.json", "search.html"
CHECKPOINT_SECONDS = 60.0
POINTS = 40  # of a preference curve


@dataclass
class PlacementSearch:
    """A search under way.

    Attributes:
        names: of the placements.
        shared: of the adapters that all placements share.
    """

    recipe: Recipe
    model: AdaptedModel
    form: Form
    collator: Collator
    held: list[Row]
    names: tuple[str, ...]
    shared: tuple[str, ...]
    device: torch.device
    state: SearchState

    def train_step(self, rows: Sequence[Row], optimizer: torch.optim.Optimizer) -> float:
        """One ordinary step of one placement -> its loss."""
        name = self.names[self.state.rng.randrange(len(self.names))]
        self.model.set_active(*self.shared, name)
        self.model.train()
        batch = self._batch(rows, training=True)
        self.model.set_task(batch["task"])
        with self._autocast():
            loss, _ = self.form.loss(self.model, self.model, inputs_of(batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [value for group in optimizer.param_groups for value in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, self.recipe.training.clip or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def bandit_step(self) -> None:
        """A few placements answer one small batch: a[i] += rate * (score - mean) * p_i (1 - p_i)."""
        search, state = self.recipe.search, self.state
        chances = softmax(state.preferences)
        drawn: list[int] = []
        while len(drawn) < min(search.draws, len(self.names)):
            (arm,) = state.rng.choices(range(len(self.names)), chances)
            if arm not in drawn:
                drawn.append(arm)
        first = state.rng.choice(self.held)
        same = [row for row in self.held if row.task == first.task]
        rows = state.rng.sample(same, min(self.recipe.training.batch_size, len(same)))
        found = self.scores(rows, [self.names[arm] for arm in drawn])
        scores = [found[self.names[arm]] for arm in drawn]
        mean = sum(scores) / len(scores)
        for arm, score in zip(drawn, scores, strict=True):
            state.preferences[arm] += search.rate * (score - mean) * chances[arm] * (1 - chances[arm])

    def exhaustive(self, advance: Callable[[int], None]) -> dict[str, float]:
        """Each placement's mean over tasks of its score on all that is held out."""
        size, found = self.recipe.training.eval_batch_size, {name: [] for name in self.names}  # type: ignore[var-annotated]
        for task in dict.fromkeys(row.task for row in self.held):
            rows = [row for row in self.held if row.task == task]
            answers: dict[str, list[str]] = {name: [] for name in self.names}
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                for name, texts in self.answers(part, self.names).items():
                    answers[name] += texts
                advance(len(part))
            for name, texts in answers.items():
                found[name].append(self._score(rows, texts))
        return {name: sum(scores) / len(scores) for name, scores in found.items()}

    def scores(self, rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
        """Each placement's score, in percent, on rows of one task."""
        return {name: self._score(rows, texts) for name, texts in self.answers(rows, names).items()}

    @torch.no_grad()
    def answers(self, rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[str]]:
        """What each placement answers to rows of one task; the layers below it are run once for all of them."""
        self.model.eval()
        batch = self._batch(rows, training=False)
        task, inputs = batch["task"], inputs_of(batch)
        found = {}
        with self._autocast():
            prefixes = self._prefixes(names, inputs, task) if len(names) > 1 and "val" in self.form.cached else {}
            for name in names:
                self.model.set_active(*self.shared, name, task=task)
                given: dict[str, Any] = inputs
                if name in prefixes:
                    given = {"prefix": prefixes[name], **self.form.prefix_inputs(inputs)[1]}
                found[name] = self.form.answers(self.model, self.collator.tokenizer, given, task, batch["examples"])
        return found

    def _prefixes(self, names: Sequence[str], inputs: dict[str, Tensor], task: str) -> dict[str, Prefix]:
        """Of each placement that leaves the bottom of the encoder alone, what that bottom makes of the batch."""
        stack = self.form.stack(self.model)
        depth = {name: lowest_layer(self.model.grafts[name], stack) for name in names}  # type: ignore[arg-type]
        depths = sorted({k for k in depth.values() if k})
        if not depths:
            return {}
        self.model.set_active(*self.shared, task=task)
        below, _ = self.form.prefix_inputs(inputs)
        with self.form.seeing(self.model, inputs), ExitStack() as hooks:
            taken = {k: hooks.enter_context(captured(self.model.backbone, stack, k)) for k in depths[:-1]}
            last = self.form.capture(self.model, depths[-1], **below)
        states = {k: found[0] for k, found in taken.items()} | {depths[-1]: last.states}
        return {name: last._replace(layers=k, states=states[k]) for name, k in depth.items() if k}

    def _score(self, rows: Sequence[Row], answers: Sequence[str]) -> float:
        task = self.collator.tasks[rows[0].task]
        examples = [self.collator.examples[row.task][row.place] for row in rows]
        return float(task.score(examples, answers)[task.metric])

    def _batch(self, rows: Sequence[Row], *, training: bool) -> dict[str, Any]:
        self.collator.training = training
        return {
            key: value.to(self.device) if isinstance(value, Tensor) else value
            for key, value in self.collator(rows).items()
        }

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.training.dtype == "bfloat16")


def search(recipe: Recipe, *, resume: bool = False, device: str = "auto", say: Say = lambda _: None) -> dict[str, Any]:
    """Search the placement of one of a recipe's methods -> the document that search.json holds.

    Args:
        resume: go on with the search in the recipe's folder.

    Raises:
        InputError: bad data or options; the folder holds something else; nothing to resume.
    """
    if not recipe.tasks:
        raise InputError(f"{recipe.name}: tasks: none is named, so there is nothing to search on")
    tasks = recipe.make_tasks()
    if hidden := [name for name, task in tasks.items() if task.cloze]:
        raise InputError(
            f"{recipe.name}: tasks.{hidden[0]}: training examples of masked words ask nothing that placements could be "
            "compared by; search on a task with questions"
        )
    check_environment()
    quiet_transformers()
    where, folder = device_of(device), recipe.out_folder
    with run_folder.claimed(folder, recipe, resume), Meter(True, unit="steps") as meter:
        if (folder / SEARCH).is_file():
            say(f"{folder}: the search is done")
            return dict(read_json(folder / SEARCH))
        data = load_data(recipe, tasks, ("train",), str(where), say)
        document = _search(recipe, data, folder, where, say, meter)
        write_json(folder / SEARCH, document)
        SearchState.clear(folder)
    return document


def _search(recipe: Recipe, data: Data, folder: Path, device: torch.device, say: Say, meter: Meter) -> dict[str, Any]:
    training, tasks = recipe.training, recipe.make_tasks()
    examples = data.examples["train"]
    form = form_of(recipe, tasks)
    form.learn_answers(examples)
    data.learn(recipe, tasks, say)
    model = build_backbone(recipe, form, data.source.feature_width, device)
    names, shared = attach_all(model, recipe, form, data.widths())
    run_folder.begin(folder, recipe, data.identity(), form.state())

    learned, held = hold_out(examples, recipe.search.holdout, training.seed)
    tokenizer = load_tokenizer(recipe.backbone, form)
    lengths = (training.text_length, training.answer_length, training.seed)
    collator = Collator(tasks, examples, tokenizer, data.source, form, *lengths, knowledge=data.knowledge)
    sizes = {name: len(places) for name, places in learned.items()}
    batches = TaskBatches(sizes, training.batch_size, training.seed, training.sampling, training.temperature)
    steps = math.ceil(len(batches) * recipe.search.epochs)
    trained = [value for name in (*shared, *names) for value in _trained(model, name)]
    optimizer = torch.optim.AdamW(trained, training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(training.warmup, steps))
    state = SearchState.new(len(names), training.seed)
    if state.load(folder, model, optimizer, schedule):
        say(f"resuming from step {state.step}")
    held_rows = [Row(task, place, 0) for task, places in held.items() for place in places]
    run = PlacementSearch(recipe, model, form, collator, held_rows, names, shared, device, state)
    say(f"{len(names)} placements, {steps} steps, {len(held_rows)} examples held out of train")

    began, saved = time.monotonic() - state.seconds, time.monotonic()
    every = max(1, steps // POINTS)
    meter.start("searching", steps, state.step)
    while state.step < steps:
        epoch, at = divmod(state.step, len(batches))
        batches.set_epoch(epoch)
        for rows in list(batches)[at : at + steps - state.step]:
            placed = [replace(row, place=learned[row.task][row.place]) for row in rows]
            loss = run.train_step(placed, optimizer)
            schedule.step()
            run.bandit_step()
            state.step += 1
            state.seconds = time.monotonic() - began
            if state.step % every == 0 or state.step == steps:
                state.curve.append({"step": state.step, "loss": loss, "chances": softmax(state.preferences)})
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                state.save(folder, model, optimizer, schedule)
                saved = time.monotonic()
            meter.advance(1)
    state.save(folder, model, optimizer, schedule)
    meter.start("scoring", len(held_rows))
    scored_from = time.monotonic()
    scores = run.exhaustive(meter.advance)
    return _document(recipe, data, names, state, scores, time.monotonic() - scored_from, len(held_rows))


def _trained(model: AdaptedModel, name: str) -> list[Tensor]:
    grafted = [value for value in model.grafts[name].parameters() if value.requires_grad]
    return [*grafted, *model.tuned(name).values()]


def _schedule(warmup: float, steps: int) -> Callable[[int], float]:
    """Linear warm-up over that share of the steps, then linear decay."""
    rise = max(1, round(warmup * steps))
    return lambda step: min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))


def softmax(preferences: Sequence[float]) -> list[float]:
    top = max(preferences)
    powers = [math.exp(value - top) for value in preferences]
    return [value / sum(powers) for value in powers]


def _document(
    recipe: Recipe,
    data: Data,
    names: tuple[str, ...],
    state: SearchState,
    scores: Mapping[str, float],
    scoring: float,
    held: int,
) -> dict[str, Any]:
    chances = softmax(state.preferences)
    bandit = names[max(range(len(names)), key=chances.__getitem__)]
    best = max(names, key=scores.__getitem__)
    chosen = best if recipe.search.rule == "exhaustive" else bandit
    return {
        "schema_version": SCHEMA_VERSION,
        "task": f"placement search: {recipe.name}",
        "protocol": f"{held} training examples held out; val and test not read",
        "seeds": [recipe.training.seed],
        "method": recipe.search.method,
        "option": recipe.search.option,
        "placements": list(names),
        "chosen": chosen,
        "rule": recipe.search.rule,
        "bandit": {"choice": bandit, "chances": dict(zip(names, chances, strict=True)), "curve": state.curve},
        "exhaustive": {"choice": best, "scores": dict(scores), "seconds": scoring},
        "agree": bandit == best,
        "steps": state.step,
        "seconds": state.seconds,
        "data": data.fingerprints(),
        "settings": run_folder.plain(recipe),
        "versions": versions(),
    }
