"""A finished run at work: images and a question in, an answer out, with no data set and no store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from crossgraft.adapt import AdaptedModel
from crossgraft.encoders.base import Encoder
from crossgraft.encoders.images import ImageSource, read_image
from crossgraft.encoders.load import device_of, load_encoder
from crossgraft.encoders.pooled import pooled
from crossgraft.environment import check_environment, quiet_transformers
from crossgraft.errors import InputError
from crossgraft.registry import nearest
from crossgraft.tasks import Example, Task
from crossgraft.training.batches import Collator, Row
from crossgraft.training.build import load_tokenizer
from crossgraft.training.forms import Form
from crossgraft.training.knowledge import KnowledgeSource
from crossgraft.training.prefix_cache import inputs_of
from crossgraft.training.recipe import Recipe
from crossgraft.training.run import check_encoder, read_form, read_run, trained_model
from crossgraft.training.standard import Standard, read_standard


@dataclass
class Answerer:
    """Answers questions about images with the adapters of a run. Make one with `load`.

    Attributes:
        recipe: of the run.
        tasks: name in the run -> task.
        model: the adapted language model.
    """

    recipe: Recipe
    tasks: dict[str, Task]
    model: AdaptedModel
    encoder: Encoder
    form: Form
    _collator: Collator

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Answerer:
        """Read a run's folder.

        Raises:
            InputError: no finished run, or one whose features were made by no encoder that it names.
        """
        check_environment()
        quiet_transformers()
        folder = Path(folder)
        recipe, where = read_run(folder), device_of(device)
        if recipe.visual.encoder is None:
            raise InputError(f"{folder}: the run names no encoder for images (it learned from arrays, or texts)")
        inner = load_encoder(recipe.visual.encoder, device=str(where), dtype=recipe.visual.dtype)
        encoder = pooled(inner, recipe.visual.side)
        tasks = recipe.make_tasks()
        width = encoder.feature_dim if next(iter(tasks.values())).visual == "frames" else encoder.grid_shape[1]
        check_encoder(folder, encoder.fingerprint)
        standard = read_standard(folder, width) if recipe.visual.standardise else None
        form = read_form(recipe, tasks, folder)
        knowledge = KnowledgeSource.open(recipe, device=str(where))
        if knowledge is not None:
            knowledge.restore(folder)
        model = trained_model(recipe, form, folder, width, where)
        training = recipe.training
        collator = Collator(
            tasks,
            {},
            load_tokenizer(recipe.backbone, form),
            _Live(encoder, width, standard),  # type: ignore[arg-type]
            form,
            training.text_length,
            training.answer_length,
            training.seed,
            training=False,
            knowledge=knowledge,
        )
        return cls(recipe, tasks, model, encoder, form, collator)

    def __call__(self, images: Sequence[ImageSource], text: str = "", *, task: str | None = None) -> str:
        """Answer one question.

        Args:
            images: files, PIL images or encoded bytes: as many as the task's examples have, or the frames of a video.
            text: the question; empty for captions.
            task: a task of the run; may be left out if there is just one.

        Raises:
            InputError: no such task; an image that cannot be read; more images than the model takes.
        """
        name = task if task is not None else next(iter(self.tasks))
        if name not in self.tasks or (task is None and len(self.tasks) > 1):
            hint = nearest(name, self.tasks) if task is not None else ""
            raise InputError(f"task: {hint}name one of the run's: {', '.join(self.tasks)}")
        self._collator.examples = {name: [Example("0", tuple(images), text)]}  # type: ignore[arg-type]
        self.model.set_task(name)
        device = next(self.model.parameters()).device
        batch = self._collator([Row(name, 0, 0)])
        inputs = {key: value.to(device) for key, value in inputs_of(batch).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.training.dtype == "bfloat16"):
            return self.form.answers(self.model, self._collator.tokenizer, inputs, name, batch["examples"])[0]


class _Live:
    """Features that are computed when they are asked for."""

    def __init__(self, encoder: Encoder, feature_width: int, standard: Standard | None) -> None:
        self._encoder, self.feature_width, self._standard = encoder, feature_width, standard

    def of(self, example: Example, kind: str) -> Tensor:
        pixels = torch.stack([self._encoder.preprocess(read_image(source)) for source in example.images])
        features = self._encoder.encode_images(pixels, grid=kind == "grid")
        found = features.feature[None] if kind == "frames" else features.grid
        assert found is not None
        found = found.clone().cpu()
        return found if self._standard is None else self._standard(found)
