"""What differs between the kinds of language models that see: how one is built, fed, taught and asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn

from crossgraft.adapt import AdaptedModel, Memory
from crossgraft.adapt.prefix import Prefix
from crossgraft.adapt.sites import Stack
from crossgraft.methods.xadapter import READ, RETRIEVED
from crossgraft.tasks import Example, Task

if TYPE_CHECKING:
    from crossgraft.training.recipe import Recipe

Drawn = Sequence[tuple[str, float]]
"""Of each example, the answer that is trained on and the weight of its loss."""


class Lesson(NamedTuple):
    """What a batch is trained on: a task's name, its examples, what was drawn of their answers, and how many tokens of
    an answer at most."""

    task: str
    examples: Sequence[Example]
    drawn: Drawn
    length: int


BETWEEN = "\nsentence2: "  # T5 was trained on pairs with this word between them

TEXT = ("input_ids", "attention_mask")
TYPES = "token_type_ids"  # which of two texts a token is of
VISUAL = ("visual", "visual_mask")
_MEMORY = {name: (f"memory_{name}", f"memory_{name}_mask") for name in (RETRIEVED, READ)}
MEMORIES = tuple(key for keys in _MEMORY.values() for key in keys)
"""Keys of a batch: text; images (B, I, T, g) and their mask (B, I, T); memories (B, T, g) and their masks (B, T)."""


class Form(ABC):
    """A kind of model, for the tasks of a recipe.

    Class attributes:
        also_train: what of the backbone is trained where a recipe does not say.
        padding: the side of texts that is padded.
        cached: the splits of which what frozen layers give is kept; test is read once.
        learns: whether it is made for the answers of the training examples (`learn_answers`).
        types: whether its models may be told which of two texts a token is of.
    """

    also_train: ClassVar[tuple[str, ...]] = ()
    padding: ClassVar[str] = "right"
    cached: ClassVar[tuple[str, ...]] = ("train", "val")
    learns: ClassVar[bool] = False
    types: ClassVar[bool] = False

    def __init__(self, recipe: Recipe, tasks: Mapping[str, Task]) -> None:
        self.recipe, self.tasks = recipe, tasks

    def learn_answers(self, examples: Mapping[str, Sequence[Example]]) -> None:  # noqa: B027
        """What there is to know of the training examples before a model is built; nothing, for most."""

    def state(self) -> dict[str, Any]:
        """What `learn_answers` found, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take back what `state` gave."""

    @abstractmethod
    def laid_out(self, feature_width: int) -> nn.Module:
        """The backbone without weights; made on PyTorch's meta device."""

    @abstractmethod
    def pretrained(self, folder: str, feature_width: int) -> nn.Module:
        """The backbone with its weights, from a folder or a Hugging Face name."""

    def texts(
        self, tokenizer: Any, texts: Sequence[str], length: int, seconds: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """-> input_ids, attention_mask (B, L), of at most so many tokens; of pairs also token_type_ids, if the form has
        `types` and the tokenizer makes them.

        Args:
            seconds: of each text, the other one of a pair, or "". The tokenizer puts them together (BERT: [SEP],
                RoBERTa: </s></s>) and cuts the longer one; where it has no separator (T5, LLaMA), `BETWEEN` does, and
                the end is cut.
        """
        given: list[Any] = list(texts)
        if any(seconds):
            own = tokenizer.sep_token is not None
            pairs = zip(texts, seconds, strict=True)
            given = [((one, two) if own else one + BETWEEN + two) if two else one for one, two in pairs]
        tokens = tokenizer(given, padding=True, truncation=True, max_length=length, return_tensors="pt")
        names = (*TEXT, TYPES) if self.types and any(seconds) else TEXT
        return {name: tokens[name] for name in names if name in tokens}

    @abstractmethod
    def targets(self, tokenizer: Any, inputs: Mapping[str, Tensor], lesson: Lesson) -> dict[str, Tensor]:
        """What a batch holds to train on, beside or instead of its inputs."""

    @abstractmethod
    def loss(
        self, model: nn.Module, adapted: AdaptedModel, given: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """(model to call, the adapted model in it, what it reads, the batch) -> the loss, and the outputs."""

    @abstractmethod
    def answers(
        self, adapted: AdaptedModel, tokenizer: Any, given: dict[str, Any], task: str, examples: Sequence[Example]
    ) -> list[str]:
        """One answer an example, of a model in eval mode."""

    def unused(self, pictured: bool) -> tuple[str, ...]:
        """Prefixes of parameters that a task does not use; `pictured`: whether any of its examples has an image."""
        return ()

    def stack(self, adapted: AdaptedModel) -> Stack:
        """The stack whose frozen layers need not be run again."""
        return adapted.backbone.encoder_stack  # type: ignore[return-value]

    def capture(self, adapted: AdaptedModel, layers: int, **inputs: Tensor) -> Prefix:
        """What the first layers of that stack make of `prefix_inputs`, in evaluation."""
        return adapted.backbone.capture(layers, **inputs)  # type: ignore[operator, no-any-return]

    def samples(self, batch: Mapping[str, Any], split: str) -> list[Hashable]:
        """What each row of a batch is: two that are equal have the same states. Epochs do not matter."""
        return [(split, row.task, row.place) for row in batch["rows"]]

    def seeing(self, adapted: AdaptedModel, given: Mapping[str, Any]) -> AbstractContextManager[dict[str, Any]]:
        """A context in which adapters look at what a batch holds for them; gives what is left to read."""
        return looking(adapted, given)

    def prefix_inputs(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the frozen layers read, and what the model is given beside what they made of it."""
        below = {name: value for name, value in inputs.items() if name in (*TEXT, TYPES)}
        return below, {name: value for name, value in inputs.items() if name not in below}


@contextmanager
def looking(
    adapted: AdaptedModel, given: Mapping[str, Any], question: Tensor | None = None
) -> Iterator[dict[str, Any]]:
    """Inside the `with`, adapters see the batch's images (B, I, T, g), one behind the other; -> what is left to read.
    `question` as in `AdaptedModel.set_memory`."""
    visual, mask = given.get("visual"), given.get("visual_mask")
    memory = None if visual is None else Memory(visual.flatten(1, 2), None if mask is None else mask.flatten(1))
    with knowing(adapted, given, question, visual=memory) as left:
        yield {name: value for name, value in left.items() if name not in VISUAL}


@contextmanager
def knowing(
    adapted: AdaptedModel, given: Mapping[str, Any], question: Tensor | None = None, **memories: Memory | None
) -> Iterator[dict[str, Any]]:
    """Inside the `with`, adapters look at the memories in a batch, and at these; -> what is left to read."""
    found = {name: Memory(given[key], given[mask]) for name, (key, mask) in _MEMORY.items() if key in given}
    with adapted.remembering(question=question, **found, **memories):
        yield {name: value for name, value in given.items() if name not in MEMORIES}


def in_batch(memories: Mapping[str, Memory]) -> dict[str, Tensor]:
    """Memories as a batch holds them, for `knowing`."""
    batch: dict[str, Tensor] = {}
    for name, memory in memories.items():
        tokens, mask = _MEMORY[name]
        assert memory.mask is not None
        batch |= {tokens: memory.tokens, mask: memory.mask}
    return batch
