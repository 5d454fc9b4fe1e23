"""What grafts look at beside the text, such as the tokens of an image: handed over by a side channel.

Through a model's arguments it could not come: `generate` refuses those it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossgraft.errors import InputError


@dataclass(frozen=True, eq=False)
class Memory:
    """Tokens (B, T, g) and their mask (B, T), 1 for what is there; without one, all is. A row of zeros has nothing.

    `kept`: what grafts made of it and will want again (`once`).
    """

    tokens: Tensor
    mask: Tensor | None = None
    kept: dict[Any, tuple[Any, Any]] = field(default_factory=dict, repr=False)

    def rows(self, rows: Tensor | slice) -> Memory:
        """Some rows of the batch."""
        return Memory(self.tokens[rows], None if self.mask is None else self.mask[rows])

    def seen(self) -> tuple[Tensor, Tensor | None]:
        """-> which tokens to attend to (B, T), and which rows have any (B,); None if all have.

        A row that has none is told to attend to all: nobody is to look at what comes of it.
        """
        key = "seen", torch.is_inference_mode_enabled()  # what is made in there serves no backward pass
        given = () if self.mask is None else (self.mask,)
        found: tuple[Tensor, Tensor | None] = self.once(key, given, self._seen, learned=False)
        return found

    def _seen(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.mask is None:
            return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), None
        mask = self.mask.bool()
        present = mask.any(1)
        return mask | ~present[:, None], None if bool(present.all()) else present

    def once(self, key: Any, weights: Sequence[Tensor], make: Callable[[Tensor], Any], *, learned: bool = True) -> Any:
        """make(tokens), made once for this memory and again after the tokens or the weights it is made with changed
        (a write through `.data` is not noticed).

        Where gradients are wanted it is made each time, since a graph serves one backward pass only.

        Args:
            key: what is made; hashable.
            weights: what it depends on beside the tokens.
            learned: whether gradients go through it.
        """
        if (learned and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return make(self.tokens)
        now = [(value, 0 if value.is_inference() else value._version) for value in (self.tokens, *weights)]
        found = self.kept.get(key)
        if found is None or any(a is not b or old != new for (a, old), (b, new) in zip(found[0], now, strict=True)):
            found = self.kept[key] = (now, make(self.tokens))
        return found[1]


Memories = Mapping[str, Memory]
"""By what they are of: "visual", "text"."""


class Shown(NamedTuple):
    """A memory, and the rows of a batch that look at it: `size` rows of which `rows` are meant, None: all of them."""

    memory: Memory
    size: int
    rows: Tensor | None = None

    def spread(self, made: Tensor) -> Tensor:
        """What was made of the memory (M, ...) -> of the rows that look (B, ...), repeated as beams repeat rows."""
        have = len(made)
        if have != self.size:
            every = torch.arange(have, device=made.device).repeat_interleave(self.size // have)
            made = made[every]
        return made if self.rows is None else made[self.rows]


def checked(name: str, memory: Memory | Tensor) -> Memory:
    """A memory, or tokens alone, as a memory.

    Raises:
        InputError: shapes that are none of a memory.
    """
    made = memory if isinstance(memory, Memory) else Memory(memory)
    if made.tokens.ndim != 3 or not made.tokens.is_floating_point():
        raise InputError(
            f"memory {name!r}: expected tokens (batch, tokens, width) of floating point, found "
            f"{tuple(made.tokens.shape)} of {made.tokens.dtype}"
        )
    if made.mask is not None and made.mask.shape != made.tokens.shape[:2]:
        raise InputError(
            f"memory {name!r}: a mask of {tuple(made.mask.shape)} for tokens of {tuple(made.tokens.shape)}; expected "
            f"{tuple(made.tokens.shape[:2])}"
        )
    return made


def for_batch(memories: Memories, size: int) -> dict[str, Memory]:
    """The memories of a batch whose rows were repeated, as beams repeat them.

    Raises:
        InputError: the batch is no multiple of a memory's.
    """
    found = {}
    for name, shown in shown_to(memories, size).items():
        memory, mask = shown.memory, shown.memory.mask
        if size != len(memory.tokens):
            memory = Memory(shown.spread(memory.tokens), None if mask is None else shown.spread(mask))
        found[name] = memory
    return found


def shown_to(memories: Memories, size: int, rows: Tensor | None = None) -> dict[str, Shown]:
    """The memories as the rows of a batch look at them; `rows`: which of them are meant, None: all.

    Raises:
        InputError: the batch is no multiple of a memory's.
    """
    for name, memory in memories.items():
        if size % len(memory.tokens):
            raise InputError(
                f"memory {name!r} is of {len(memory.tokens)} rows, and a batch of {size} came; "
                "set the batch's own memory"
            )
    return {name: Shown(memory, size, rows) for name, memory in memories.items()}
