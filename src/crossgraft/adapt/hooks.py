"""How grafts act: hooks on a backbone's modules that send hidden states along the routes of their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossgraft.adapt.graft import Graft
from crossgraft.adapt.insertion import Inserted, InsertionHooks, Pass, Text
from crossgraft.adapt.memory import Memories, Shown, for_batch, shown_to
from crossgraft.adapt.prompts import PromptHooks
from crossgraft.adapt.routes import Route, Routes, routes_of
from crossgraft.adapt.sites import Site, Stack
from crossgraft.errors import InputError


class HookState(NamedTuple):
    """Routes, memories, which of the text asks, and the pass of each stack that tokens enter."""

    routes: Routes
    memories: Memories
    question: Tensor | None
    passes: dict[str, Pass]


class GraftHooks:
    """The hooks at all sites that any graft uses.

    They are bound methods and no closures, so that a deep copy of a model has hooks of its own.

    Args:
        backbone: the model that is hooked.
        stacks: its stacks.
        grafts: adapter -> its graft; the hooks see what is added to it later.

    Attributes:
        routes: what the batches to come pass through.
        memories: what they look at beside the text.
        question: which of the text asks (`InsertionHooks.question`).
    """

    def __init__(self, backbone: nn.Module, stacks: Mapping[str, Stack], grafts: nn.ModuleDict) -> None:
        self._backbone, self._stacks, self._grafts = backbone, stacks, grafts
        self.routes: Routes = Route()
        self.memories: Memories = {}
        self._question: Tensor | None = None
        self._at_sites: dict[str, Any] = {}
        self._at_prompts: PromptHooks | None = None
        self._at_layers: dict[str, InsertionHooks] = {}

    def add(self, graft: Graft) -> None:
        """Hook what a graft needs and no other has hooked yet."""
        if graft.prompted and self._at_prompts is None:
            self._at_prompts = PromptHooks(self._backbone, self._stacks, self._prompt)
        for stack in graft.inserted:
            if stack not in self._at_layers:
                self._at_layers[stack] = InsertionHooks(self._backbone, self._stacks, stack, self._insert)
        for name, site in graft.sites.items():
            if name not in self._at_sites:
                self._at_sites[name] = self._hook(site)

    def drop_unused(self) -> None:
        """Unhook what no graft needs any more."""
        used = {site for graft in self._grafts.values() for site in graft.sites}  # type: ignore[union-attr]
        for site in [site for site in self._at_sites if site not in used]:
            self._at_sites.pop(site).remove()
        if self._at_prompts is not None and not any(graft.prompted for graft in self._grafts.values()):
            self._at_prompts.remove()
            self._at_prompts = None
        inserted = {stack for graft in self._grafts.values() for stack in graft.inserted}  # type: ignore[union-attr]
        for stack in [stack for stack in self._at_layers if stack not in inserted]:
            self._at_layers.pop(stack).remove()

    @property
    def question(self) -> Tensor | None:
        return self._question

    @question.setter
    def question(self, value: Tensor | None) -> None:
        self._question = value
        for hooks in self._at_layers.values():
            hooks.question = value

    @property
    def ask(self) -> bool:
        """Whether tokens enter a causal model, where a question has to be told from its answer."""
        return bool(self._at_layers) and "encoder" not in self._stacks

    def state(self) -> HookState:
        """What decides how a layer computes now."""
        passes = {stack: hooks.now for stack, hooks in self._at_layers.items()}
        return HookState(self.routes, self.memories, self.question, passes)

    def restore(self, state: HookState) -> None:
        self.routes, self.memories, self.question = state.routes, state.memories, state.question
        for stack, now in state.passes.items():
            self._at_layers[stack].now = now

    def along(self, routes: Routes) -> Along:
        """A context in which batches take these routes, and all else is as now; it can be entered again."""
        return Along(self, self.state()._replace(routes=routes))

    # ---------------------------------------------------------------- sites

    def _hook(self, site: Site) -> Any:
        module = self._backbone.get_submodule(site.module)
        # First of all hooks: transformers records hidden states by hooks of its own, which must see the change.
        if site.before:
            return module.register_forward_pre_hook(partial(self._before, site.name), prepend=True, with_kwargs=True)
        return module.register_forward_hook(partial(self._after, site.name), prepend=True, with_kwargs=True)

    def _before(self, site: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        changed = self._change(site, given, given)
        return ((changed, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": changed})

    def _after(self, site: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        if isinstance(output, tuple):
            return (self._change(site, output[0], given), *output[1:])
        return self._change(site, output, given)

    def _change(self, site: str, hidden: Tensor, given: Tensor) -> Tensor:
        """hidden (B, L, width) at a site, given (B, L, width_in) -> what the rows' adapters make of it."""
        if isinstance(self.routes, Route):
            return self._along(self.routes, site, hidden, given, partial(shown_to, self.memories, len(hidden)))
        out = hidden
        for route, rows in self.routes.groups(hidden):
            if any(site in self._grafts[name].sites for name in route.adapters):  # type: ignore[operator]
                shown = partial(shown_to, self.memories, len(hidden), rows)
                out = out.index_copy(0, rows, self._along(route, site, hidden[rows], given[rows], shown))
        return out

    def _along(
        self, route: Route, site: str, hidden: Tensor, given: Tensor, shown: Callable[[], Mapping[str, Shown]]
    ) -> Tensor:
        for name in route.adapters:
            graft: Graft = self._grafts[name]  # type: ignore[assignment]
            if site not in graft.sites:
                continue
            if graft.looks:
                hidden = graft.look(graft.sites[site], hidden, given, shown(), route.task)
            else:
                hidden = graft.change(graft.sites[site], hidden, given, route.task)
        return hidden

    # ---------------------------------------------------------------- prompts

    def _prompt(self, stack: str, batch: Tensor) -> Tensor | None:
        """The tokens (B, P, width) before a batch (B, ...) of a stack, or None."""
        if isinstance(self.routes, Route):
            tokens = self._tokens(self.routes, stack)
            return None if tokens is None else tokens.expand(batch.shape[0], -1, -1)
        groups = [(self._tokens(route, stack), rows) for route, rows in self.routes.groups(batch)]
        parts = [(tokens, rows) for tokens, rows in groups if tokens is not None]
        if not parts:
            return None
        lengths = {0 if tokens is None else len(tokens) for tokens, _ in groups}
        if len(lengths) > 1:
            raise InputError(
                f"rows have prompts of different lengths ({sorted(lengths)}), which one batch cannot hold; "
                "put rows whose prompts are equally long into one batch"
            )
        out = parts[0][0].new_empty(batch.shape[0], *parts[0][0].shape)
        for tokens, rows in parts:
            out = out.index_copy(0, rows, tokens.expand(len(rows), -1, -1))
        return out

    def _tokens(self, route: Route, stack: str) -> Tensor | None:
        """All prompts of a route (P, width), one behind the other."""
        grafts: list[Graft] = [self._grafts[name] for name in route.adapters]  # type: ignore[misc]
        tokens = [graft.prompt(stack, route.task) for graft in grafts if stack in graft.prompted]
        return torch.cat(tokens) if tokens else None

    # ---------------------------------------------------------------- tokens before a layer

    def _insert(self, stack: str, layer: int, given: Callable[[], Text]) -> Inserted | None:
        """What the rows' adapters let into a stack before a layer, all together."""
        active = {name for route in routes_of(self.routes) for name in route.adapters}
        if not any(self._grafts[name].inserted.get(stack) == layer for name in active):  # type: ignore[operator, union-attr]
            return None
        text = given()
        memories = for_batch(self.memories, len(text.states))
        if isinstance(self.routes, Route):
            return self._entering(self.routes, stack, layer, text, memories)
        groups = []
        for route, rows in self.routes.groups(text.states):
            own = {name: memory.rows(rows) for name, memory in memories.items()}
            groups.append((rows, self._entering(route, stack, layer, text.rows(rows), own)))
        return _together(groups, text.states)

    def _entering(self, route: Route, stack: str, layer: int, text: Text, memories: Memories) -> Inserted | None:
        """Of the rows of one route; what a later adapter lets in stands before what an earlier one does."""
        found: Inserted | None = None
        for name in route.adapters:
            graft: Graft = self._grafts[name]  # type: ignore[assignment]
            if graft.inserted.get(stack) == layer:
                more = graft.insert(stack, text, memories, route.task)
                found = more if found is None else found if more is None else more.before(found)
        return found


class Along(AbstractContextManager[None]):
    """See `GraftHooks.along`. No generator, since checkpointing enters the same context once a backward pass."""

    def __init__(self, hooks: GraftHooks, state: HookState) -> None:
        self._hooks, self._state = hooks, state
        self._outside: list[HookState] = []

    def __enter__(self) -> None:
        self._outside.append(self._hooks.state())
        self._hooks.restore(self._state)

    def __exit__(self, *error: object) -> None:
        self._hooks.restore(self._outside.pop())


def _together(groups: list[tuple[Tensor, Inserted | None]], states: Tensor) -> Inserted | None:
    """What groups of rows let in -> the batch's; rows that let nothing in have tokens that are not there.

    Raises:
        InputError: groups let in different numbers of tokens.
    """
    some = [found for _, found in groups if found is not None]
    if not some:
        return None
    if len({found.tokens.shape[1] for found in some}) > 1:
        raise InputError("rows let different numbers of tokens in, which one batch cannot hold; run them apart")
    size, n, width = len(states), *some[0].tokens.shape[1:]
    tokens = some[0].tokens.new_zeros(size, n, width)
    shift = tokens.new_zeros(size, 1, width)
    present = torch.zeros(size, n, dtype=torch.bool, device=states.device)
    for rows, found in groups:
        if found is not None:
            tokens = tokens.index_copy(0, rows, found.tokens)
            there = torch.ones(len(rows), n, dtype=torch.bool, device=states.device)
            present[rows] = there if found.present is None else found.present
            if found.shift is not None:
                shift = shift.index_copy(0, rows, found.shift.expand(len(rows), -1, -1).to(shift.dtype))
    return Inserted(tokens, present, shift if any(found.shift is not None for found in some) else None)
