"""What grafts look at beside the text, such as the tokens of an image: handed over by a side channel.

Through a model's arguments it could not come: `generate` refuses those it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from crossgraft.errors import InputError


class Memory(NamedTuple):
    """Tokens (B, T, g) and their mask (B, T), 1 for what is there; without one, all is. A row of zeros has nothing."""

    tokens: Tensor
    mask: Tensor | None = None

    def rows(self, rows: Tensor) -> Memory:
        """Some rows of the batch."""
        return Memory(self.tokens[rows], None if self.mask is None else self.mask[rows])

    def seen(self) -> tuple[Tensor, Tensor | None]:
        """-> which tokens to attend to (B, T), and which rows have any (B,); None if all have.

        A row that has none is told to attend to all: nobody is to look at what comes of it.
        """
        if self.mask is None:
            return torch.ones(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device), None
        mask = self.mask.bool()
        present = mask.any(1)
        return mask | ~present[:, None], None if bool(present.all()) else present


Memories = Mapping[str, Memory]
"""By what they are of: "visual", "text"."""


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
    for name, memory in memories.items():
        have = len(memory.tokens)
        if size % have:
            raise InputError(
                f"memory {name!r} is of {have} rows, and a batch of {size} came; set the batch's own memory"
            )
        every = torch.arange(have, device=memory.tokens.device).repeat_interleave(size // have)
        found[name] = memory if size == have else memory.rows(every)
    return found
