"""The parts of a recipe that are options alone, each checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crossgraft.errors import InputError
from crossgraft.methods.options import check_number, check_whole


@dataclass(frozen=True)
class Visual:
    """Where visual features come from.

    `encoder`: a frozen encoder whose grids (or features, one token a frame) are computed from image files and kept in a
    store; None: examples name arrays (.npy). `side`: grids are max-pooled to side x side tokens; None: all tokens, as
    they are. `feature_width`: of the features; needed where no encoder says it. `images`: most images an input holds.
    `dtype`: of the encoder. `standardise`: each channel of the features, over the training images (`standard`).
    `scale_to_words`: a T5's visual tokens start as large as its words. The last two are ours, not VL-Adapter's.
    """

    encoder: str | None = None
    side: int | None = 6
    feature_width: int | None = None
    images: int = 2
    dtype: str = "float32"
    store: Path | None = None
    standardise: bool = True
    scale_to_words: bool = True

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("side", "feature_width") if getattr(self, name) is not None}
        check_whole(1, images=self.images, **given)


@dataclass(frozen=True)
class Knowledge:
    """What a text is shown beside itself, for methods that look at that (xadapter): images found for it, and the text
    as a dual encoder reads it.

    `encoder`: the dual encoder. `images`: folders or files of the bank's images. `count`: k, found for a text. `own`:
    while captions are learned, the image that a caption is of, found in the bank by the name of its file, stands in the
    place of the last one. `features`: what of an image is shown, its "embedding" or its pooled "feature". `choice`: the
    images nearest to the text, or "random" ones, as a control. `centre`: images are taken among images and texts among
    training texts before they are compared; without it a few images are the nearest to every text. `distinct`: a cosine
    from which on two images are the same, of which one is shown; None: no matter. `standardise`: each channel, over the
    bank. `dtype`: of the encoder. `store`: of the bank's features. `visual_width`, `text_width`: of
    what is shown, for `crossgraft params`; known by itself for pocket encoders.
    """

    encoder: str | None = None
    images: tuple[Path, ...] = ()
    count: int = 4
    own: bool = False
    features: Literal["embedding", "feature"] = "feature"
    choice: Literal["nearest", "random"] = "nearest"
    centre: bool = True
    distinct: float | None = None
    standardise: bool = True
    dtype: str = "float32"
    store: Path | None = None
    visual_width: int | None = None
    text_width: int | None = None

    def __post_init__(self) -> None:
        widths = {name: getattr(self, name) for name in ("visual_width", "text_width")}
        check_whole(1, count=self.count, **{name: value for name, value in widths.items() if value is not None})
        if self.distinct is not None:
            check_number(0, 1 + 1e-9, distinct=self.distinct)


@dataclass(frozen=True)
class Training:
    """How to train. Defaults are VL-Adapter's where the paper has them.

    `max_steps`, if given, stands over `epochs`. `sampling`: how often each task's batches come: in proportion to their
    number, to its power 1 / `temperature`, or equally. `text_length`, `answer_length`: tokens after which texts are
    cut, where a task does not say.
    `dtype`: "bfloat16" trains and answers under autocast. `checkpoint_steps`: steps between checkpoints (None: at the
    ends of epochs, at most one a minute). `validation_limit`: only so many examples of each task, the first ones, are
    validated on.
    `patience`: epochs without a better mean validation score after which training stops (None: never).
    `cache_frozen`: keep what frozen layers give, where that is always the same (`adapt.prefix`).
    """

    epochs: float = 20.0
    max_steps: int | None = None
    batch_size: int = 16
    eval_batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 5.0
    sampling: Literal["proportional", "temperature", "uniform"] = "proportional"
    temperature: float = 2.0
    text_length: int = 512
    answer_length: int = 40
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    checkpoint_steps: int | None = None
    validate: bool = True
    validation_limit: int | None = None
    patience: int | None = None
    gradient_checkpointing: bool = False
    cache_frozen: bool = True
    log_steps: int = 50

    def __post_init__(self) -> None:
        whole = ("batch_size", "eval_batch_size", "accumulate", "text_length", "answer_length", "log_steps")
        optional = ("max_steps", "checkpoint_steps", "validation_limit", "patience")
        given = tuple(name for name in optional if getattr(self, name) is not None)
        check_whole(1, **{name: getattr(self, name) for name in whole + given})
        check_whole(0, seed=self.seed)
        check_number(0, weight_decay=self.weight_decay, clip=self.clip)
        check_number(0, 1 + 1e-9, warmup=self.warmup)
        for name in ("epochs", "learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected a number above 0")
        if self.epochs == float("inf"):
            raise InputError("epochs is inf, expected a finite number")
        if self.patience is not None and not self.validate:
            raise InputError("patience waits for better validation scores; it needs validate=true")


@dataclass(frozen=True)
class Head:
    """The answers that a classifier tells apart: by default those of the training examples.

    `minimum`: an answer needs to be right for so many of them (VQA: 9 by custom). `file`: a JSON list of answers
    instead. `count`: how many there are, for `crossgraft params`, which reads no data.
    """

    minimum: int = 1
    file: Path | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        check_whole(1, minimum=self.minimum)
        if self.count is not None:
            check_whole(2, count=self.count)


@dataclass(frozen=True)
class Search:
    """A placement search (`placement`). `method`: which of the recipe's is placed. `option`: of that method, in which
    the placements differ. `values`: of the option; None: for "layer", every layer of the stack that its tokens enter.
    `rule`: which choice counts, the `bandit`'s or that of scoring all of them. `epochs`: of training. `draws`: how many
    placements a step of the bandit compares. `rate`: of its preferences. `holdout`: share of train that scores.
    """

    method: str = "dvp"
    option: str = "layer"
    values: tuple[Any, ...] | None = None
    rule: Literal["bandit", "exhaustive"] = "bandit"
    epochs: float = 2.0
    draws: int = 5
    rate: float = 0.005
    holdout: float = 0.1

    def __post_init__(self) -> None:
        check_whole(2, draws=self.draws)
        check_number(0, rate=self.rate)
        if not 0 < self.epochs < float("inf"):
            raise InputError(f"epochs is {self.epochs}, expected a finite number above 0")
        if not 0 < self.holdout < 1:
            raise InputError(f"holdout is {self.holdout}, expected a share between 0 and 1")
