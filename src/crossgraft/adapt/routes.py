"""What the rows of a batch pass through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crossgraft.errors import InputError


class Route(NamedTuple):
    """What a row passes through: adapters by name, in order, and the task whose weights they use."""

    adapters: tuple[str, ...] = ()
    task: str | None = None

    def without(self, name: str) -> Route:
        """The route past an adapter."""
        return self._replace(adapters=tuple(other for other in self.adapters if other != name))


class Rows:
    """A route for each row of a batch.

    Raises:
        InputError: there are none.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        if not routes:
            raise InputError("no routes were given; give one for each row of the batch")
        self.routes = tuple(routes)
        self._groups: dict[tuple[int, torch.device], list[tuple[Route, Tensor]]] = {}

    def groups(self, batch: Tensor) -> list[tuple[Route, Tensor]]:
        """The distinct routes of a batch (B, ...) and the rows (n,) that take them.

        Raises:
            InputError: B is no multiple of the number of routes (beams repeat rows).
        """
        key = (batch.shape[0], batch.device)
        if key not in self._groups:
            self._groups[key] = self._find(*key)
        return self._groups[key]

    def _find(self, size: int, device: torch.device) -> list[tuple[Route, Tensor]]:
        if size % len(self.routes):
            raise InputError(f"a batch of {size} rows came where routes were set for {len(self.routes)}")
        every = [route for route in self.routes for _ in range(size // len(self.routes))]
        rows = {
            route: [row for row, other in enumerate(every) if other == route] for route in dict.fromkeys(self.routes)
        }
        with torch.inference_mode(False):  # they are kept, and may be used in a training step later
            return [(route, torch.tensor(numbers, device=device)) for route, numbers in rows.items()]

    def without(self, name: str) -> Rows:
        """The routes past an adapter."""
        return Rows([route.without(name) for route in self.routes])


Routes = Route | Rows
"""One route for the whole batch, or one for each row."""


def routes_of(routes: Routes) -> tuple[Route, ...]:
    """All routes, whichever kind it is."""
    return routes.routes if isinstance(routes, Rows) else (routes,)
