"""A frozen backbone with named adapters: add, set, disable, enable, delete, merge; one for a batch or one for each row.

The backbone stays as it is. Adapters act through forward hooks on its modules, so no key of its state dict changes and
taking them off restores it bit for bit. Parameters of the backbone that an adapter trains (layer norms, a projection, a
head) are copies: while the adapter is active they stand in the place of the originals, which are kept untouched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from crossgraft.adapt.copies import Copies
from crossgraft.adapt.graft import Graft
from crossgraft.adapt.hooks import GraftHooks
from crossgraft.adapt.memory import Memory, checked
from crossgraft.adapt.parameters import select_parameters
from crossgraft.adapt.routes import Route, Routes, Rows, routes_of
from crossgraft.adapt.sites import find_sites, find_stacks
from crossgraft.errors import InputError
from crossgraft.registry import nearest

IGNORED = -100  # labels with this value are no target


class AdaptedModel(nn.Module):
    """A frozen model and its adapters; called like the model itself.

    Attributes:
        backbone: the frozen model.
        grafts: name -> what the adapter of that name puts in.
        stacks, sites: of the backbone, by name.

    Raises:
        InputError: the backbone is of a family that is not in `sites.LAYOUTS`.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.training = backbone.training
        self.backbone = backbone
        self.stacks = find_stacks(backbone)
        self.sites = find_sites(backbone)
        self.grafts: nn.ModuleDict = nn.ModuleDict()
        self._hooks = GraftHooks(backbone, self.stacks, self.grafts)
        self._copies = Copies(backbone)
        self._enabled: Routes = Route()  # what `enable` goes back to
        self._were_trainable = {name for name, value in backbone.named_parameters() if value.requires_grad}
        backbone.requires_grad_(False)

    # ---------------------------------------------------------------- adapters by name

    def add(self, name: str, graft: Graft, *, tune: Iterable[str] = (), in_place: bool = False) -> None:
        """Add an adapter and make it the active one.

        Args:
            name: what to call it.
            graft: what it puts in; it is moved to the backbone's device and dtype, and trains or not as the backbone.
            tune: roles or patterns of parameters of the backbone that it trains copies of (`select_parameters`).
            in_place: train those parameters themselves. It saves a copy of them, and the backbone is lost.

        Raises:
            InputError: the name is taken or cannot be one; a pattern matches nothing; the model has no such sites.
        """
        if name in self.grafts:
            raise InputError(f"there is an adapter {name!r} already; delete it, or choose another name")
        if not name or "." in name or hasattr(self.grafts, name):
            raise InputError(
                f"{name!r} cannot be an adapter's name: it has to be some text without dots, and no word that "
                "torch.nn.ModuleDict has a use for"
            )
        if in_place and self.grafts:
            raise InputError("training the backbone in place needs it without other adapters; detach them first")
        for stack, layer in graft.inserted.items():
            if stack not in self.stacks or not 0 <= layer < self.stacks[stack].n_layers:
                have = ", ".join(f"{name} with layers 0 to {own.n_layers - 1}" for name, own in self.stacks.items())
                raise InputError(f"tokens are to enter layer {layer} of {stack!r}; this model has {have}")
        if unknown := [site for site in graft.sites if site not in self.sites]:
            raise InputError(f"the graft is for a site {unknown[0]!r}, which this model does not have")
        tuned = select_parameters(self.backbone, tune)
        self._hooks.add(graft)
        self._set_routes(Route())
        first = next(self.backbone.parameters())
        self._copies.add(name, tuned, in_place=in_place)
        self.grafts[name] = graft.to(device=first.device, dtype=first.dtype).train(self.backbone.training)
        self.set_active(name)

    def set_active(self, *names: str, task: str | None = None) -> None:
        """Make these adapters, in this order, the ones that every row passes through; `task` as for `set_task`.

        Raises:
            InputError: an unknown adapter or task; one is named twice; two train the same parameter of the backbone.
        """
        self._set_routes(Route(names, task))

    def set_task(self, task: str | None) -> None:
        """The task of the batches to come, for adapters that have weights of their own for each task."""
        if not isinstance(self.routes, Route):
            raise InputError("each row has a route of its own; call set_active first")
        for name in self.routes.adapters:
            self.grafts[name].check_task(task)  # type: ignore[operator]
        self._hooks.routes = self._enabled = self.routes._replace(task=task)

    def set_rows(self, routes: Sequence[Route | str | None]) -> None:
        """A route for each row of the batches to come: an adapter's name, a `Route`, or None for the backbone alone.

        A batch whose rows were repeated (beams, several samples a prompt) repeats the routes likewise.

        Raises:
            InputError: as for `set_active`; an adapter trains the backbone in place.
        """
        rows = Rows([route if isinstance(route, Route) else Route((route,) if route else ()) for route in routes])
        if self._copies.in_place is not None:
            raise InputError(f"{self._copies.in_place!r} trains the backbone in place, so no row can do without it")
        for route in rows.routes:
            for name in self._known(route.adapters):
                self.grafts[name].check_task(route.task)  # type: ignore[operator]
        self._set_routes(rows)

    def set_memory(self, *, question: Tensor | None = None, **memories: Memory | Tensor | None) -> None:
        """What the batches to come look at beside the text, by name: `visual=tokens` (B, T, g), or a `Memory` with a
        mask. What is not named is forgotten: without any, adapters that make tokens of a memory leave the text alone.

        A batch whose rows were repeated (beams) repeats the memory's likewise.

        Args:
            question: of a causal model's texts, which tokens ask (B, L); what follows is an answer, of which adapters
                make nothing. By default it is where `labels` are -100, all that `generate` is given, or everything.

        Raises:
            InputError: shapes that are none of a memory.
        """
        self._hooks.question = question
        self._hooks.memories = {name: checked(name, memory) for name, memory in memories.items() if memory is not None}

    @contextmanager
    def remembering(
        self, *, question: Tensor | None = None, **memories: Memory | Tensor | None
    ) -> Iterator[AdaptedModel]:
        """`set_memory`, inside a `with`."""
        before, asked = self._hooks.memories, self._hooks.question
        self.set_memory(question=question, **memories)
        try:
            yield self
        finally:
            self._hooks.memories, self._hooks.question = before, asked

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the active adapters; empty if rows have routes of their own."""
        return self.routes.adapters if isinstance(self.routes, Route) else ()

    @property
    def routes(self) -> Routes:
        """What batches pass through now: a `Route`, or `Rows`."""
        return self._hooks.routes

    def disable(self) -> None:
        """The backbone alone, until `enable` or a call that sets what is active."""
        self._refuse_in_place("disabled")
        enabled = self._enabled
        self._set_routes(Route())
        self._enabled = enabled

    def enable(self) -> None:
        """Undo `disable`."""
        self._set_routes(self._enabled)

    @contextmanager
    def disabled(self) -> Iterator[AdaptedModel]:
        """The backbone alone, inside a `with`."""
        with self.restoring_routes():
            self.disable()
            yield self

    @contextmanager
    def restoring_routes(self) -> Iterator[None]:
        """After the `with`, what is active is what was before."""
        before, enabled = self.routes, self._enabled
        try:
            yield
        finally:
            self._set_routes(before)
            self._enabled = enabled

    def delete(self, name: str) -> None:
        """Take an adapter away; what else is active stays so."""
        self._known((name,))
        if name == self._copies.in_place:
            self._refuse_in_place("deleted")
        self._remove(name)

    def detach(self) -> nn.Module:
        """Take all adapters away -> the backbone, as it was before `AdaptedModel` was made of it."""
        for name in list(self.grafts):
            self.delete(name)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name in self._were_trainable)
        return self.backbone

    @torch.no_grad()
    def merge(self, name: str, task: str | None = None) -> None:
        """Write an adapter into the backbone's weights and take it away; the outputs stay what they were.

        Raises:
            InputError: it is of a kind that no change of weights equals (one with an activation in between).
        """
        self._known((name,))
        graft: Graft = self.grafts[name]  # type: ignore[assignment]
        if graft.prompted or graft.inserted:
            raise InputError(f"{name!r} puts tokens before the text, which no change of weights equals")
        deltas = graft.deltas(task) if graft.sites else {}
        tuned = self._copies.of(name)
        routes, enabled = self._remove(name)
        self._set_routes(Route())  # what the places hold now are the backbone's own parameters
        parameters = dict(self.backbone.named_parameters())
        for key, copy in tuned.items():
            parameters[key].copy_(copy)
        for path, delta in deltas.items():
            self.backbone.get_submodule(path).weight += delta  # type: ignore[operator]
        self._set_routes(routes)
        self._enabled = enabled

    def tuned(self, name: str) -> dict[str, nn.Parameter]:
        """The parameters of the backbone that an adapter trains, by name: its copies of them."""
        self._known((name,))
        return self._copies.of(name)

    # ---------------------------------------------------------------- the model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        labels = kwargs.get("labels")
        with self._asking(None if labels is None else labels == IGNORED):
            return self.backbone(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's `generate`, with the adapters."""
        given = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else kwargs.get("inputs_embeds")))
        asked = None if given is None else torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        with self._asking(asked):
            return self.backbone.generate(*args, **kwargs)  # type: ignore[operator]

    @contextmanager
    def _asking(self, question: Tensor | None) -> Iterator[None]:
        """Inside the `with`, tokens that enter a causal model are made of this part (B, L) of the text, unless
        `set_memory` has said of which."""
        if not self._hooks.ask or self._hooks.question is not None:
            yield
            return
        self._hooks.question = question
        try:
            yield
        finally:
            self._hooks.question = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "backbone" or name.startswith("__"):
                raise
            return getattr(self.backbone, name)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """As the backbone's, and safe for tasks: a layer is computed again along the routes it was computed along.

        Adapters that train copies of the backbone's parameters have to stay active until `backward` is done.
        """

        def contexts() -> tuple[Any, Any]:
            return nullcontext(), self._hooks.along(self.routes)

        options = {"use_reentrant": False, "context_fn": contexts} | (activation_checkpointing_kwargs or {})
        if hasattr(self.backbone, "activation_checkpointing_enable"):
            self.backbone.activation_checkpointing_enable(options, **kwargs)  # type: ignore[operator]
        else:  # its name before transformers 5.20
            self.backbone.gradient_checkpointing_enable(options, **kwargs)  # type: ignore[operator]

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """The older name of `activation_checkpointing_enable`, which trainers still call."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> AdaptedModel:
        """`to`, `half`, ...: the originals move too while copies stand in their places, and so do idle copies."""
        with self.restoring_routes():
            self._set_routes(Route())
            super()._apply(fn, recurse)
            self._copies.apply(fn, recurse)
        return self

    # ---------------------------------------------------------------- routes

    def _known(self, names: Iterable[str]) -> tuple[str, ...]:
        names = tuple(names)
        for name in names:
            if name not in self.grafts:
                raise InputError(
                    f"no adapter {name!r}; {nearest(name, self.grafts)}there are: {', '.join(self.grafts) or 'none'}"
                )
        return names

    def _refuse_in_place(self, verb: str) -> None:
        if self._copies.in_place is not None:
            raise InputError(
                f"{self._copies.in_place!r} trained the backbone's own parameters and cannot be {verb}: "
                "load the backbone again"
            )

    def _set_routes(self, routes: Routes) -> None:
        """Everything that can be wrong is found before anything changes."""
        for route in routes_of(routes):
            if len(set(self._known(route.adapters))) < len(route.adapters):
                raise InputError(f"{', '.join(route.adapters)}: an adapter is named twice; name each once")
            self._copies.owners(route.adapters)
            if route.task is not None:
                for name in route.adapters:
                    self.grafts[name].check_task(route.task)  # type: ignore[operator]
        self._copies.put_back()
        self._hooks.routes = self._enabled = routes
        if isinstance(routes, Route):
            self._copies.put_in(routes.adapters)
        else:
            self._copies.hook_rows(routes, self._hooks)

    def _remove(self, name: str) -> tuple[Routes, Routes]:
        """Take an adapter away -> what is active without it, and what `enable` goes back to."""
        routes, enabled = self.routes.without(name), self._enabled.without(name)
        self._set_routes(Route())
        del self.grafts[name]
        self._copies.remove(name)
        self._hooks.drop_unused()
        self._set_routes(routes)
        self._enabled = enabled
        return routes, enabled
