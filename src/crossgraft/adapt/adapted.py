"""A frozen backbone with named adapters: add, set, disable, enable, delete, merge; one for a batch or one for each row.

The backbone stays as it is. Adapters act through forward hooks on its modules, so no key of its state dict changes and
taking them off restores it bit for bit. Parameters of the backbone that an adapter trains (layer norms, a projection, a
head) are copies: while the adapter is active they stand in the place of the originals, which are kept untouched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from crossgraft.adapt.graft import Graft
from crossgraft.adapt.parameters import places_of, select_parameters
from crossgraft.adapt.prompts import PromptHooks
from crossgraft.adapt.sites import Site, find_sites, find_stacks
from crossgraft.errors import InputError
from crossgraft.registry import nearest


class Route(NamedTuple):
    """What a row passes through: adapters by name, in order, and the task whose weights they use."""

    adapters: tuple[str, ...] = ()
    task: str | None = None


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
        self.backbone = backbone
        self.stacks = find_stacks(backbone)
        self.sites = find_sites(backbone)
        self.grafts: nn.ModuleDict = nn.ModuleDict()
        self._routes: Route | tuple[Route, ...] = Route()
        self._last = Route()  # what `enable` goes back to
        self._tuned: dict[str, dict[str, nn.Parameter]] = {}  # adapter -> parameter's name -> its copy
        self._in_place: set[str] = set()  # adapters that train the backbone's own parameters
        self._displaced: list[tuple[nn.Module, str, nn.Parameter]] = []  # originals whose place a copy has
        self._site_hooks: dict[str, Any] = {}
        self._row_hooks: list[Any] = []
        self._prompt_hooks: PromptHooks | None = None
        self._were_trainable = [name for name, value in backbone.named_parameters() if value.requires_grad]
        backbone.requires_grad_(False)

    # ---------------------------------------------------------------- adapters by name

    def add(self, name: str, graft: Graft, *, tune: Iterable[str] = (), in_place: bool = False) -> None:
        """Add an adapter and make it the active one.

        Args:
            name: what to call it.
            graft: what it puts in; it is moved to the backbone's device and dtype.
            tune: roles or patterns of parameters of the backbone that it trains copies of (`select_parameters`).
            in_place: train those parameters themselves. It saves a copy of them, and the backbone is lost.

        Raises:
            InputError: the name is taken or cannot be one; a pattern matches nothing.
        """
        if name in self.grafts:
            raise InputError(f"there is an adapter {name!r} already; delete it, or choose another name")
        if not name or "." in name:
            raise InputError(f"{name!r} cannot be an adapter's name: it has to be some text without dots")
        if in_place and self.grafts:
            raise InputError("training the backbone in place needs it without other adapters; detach them first")
        self._set_routes(Route())
        first = next(self.backbone.parameters())
        tuned = select_parameters(self.backbone, tune)
        parameters = dict(self.backbone.named_parameters())
        if in_place:
            self._in_place.add(name)
            self._tuned[name] = {key: parameters[key].requires_grad_(True) for key in tuned}
        else:
            self._tuned[name] = {key: nn.Parameter(parameters[key].detach().clone()) for key in tuned}
        self.grafts[name] = graft.to(device=first.device, dtype=first.dtype)
        for site in graft.sites.values():
            self._hook(site)
        if graft.prompted and self._prompt_hooks is None:
            self._prompt_hooks = PromptHooks(self.backbone, self.stacks, self._prompt)
        self.set_active(name)

    def set_active(self, *names: str, task: str | None = None) -> None:
        """Make these adapters, in this order, the ones that every row passes through; `task` as for `set_task`."""
        self._set_routes(Route(self._known(names), task))

    def set_task(self, task: str | None) -> None:
        """The task of the batches to come, for adapters that have weights of their own for each task."""
        if not isinstance(self._routes, Route):
            raise InputError("each row has a route of its own; call set_active first")
        for name in self._routes.adapters:
            self.grafts[name].check_task(task)
        self._routes = self._last = self._routes._replace(task=task)

    def set_rows(self, routes: Sequence[Route | str | None]) -> None:
        """A route for each row of the batches to come: an adapter's name, a `Route`, or None for the backbone alone.

        A batch whose rows were repeated (beams, several samples a prompt) repeats the routes likewise.

        Raises:
            InputError: an unknown adapter or task; or one that trains the backbone in place.
        """
        if not routes:
            raise InputError("no routes were given; give one for each row of the batch")
        rows = []
        for route in routes:
            row = route if isinstance(route, Route) else Route((route,) if route else ())
            self._known(row.adapters)
            rows.append(row)
        if self._in_place:
            raise InputError(f"{min(self._in_place)!r} trains the backbone in place, so no row can do without it")
        self._set_routes(tuple(rows))

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the active adapters; empty if rows have routes of their own."""
        return self._routes.adapters if isinstance(self._routes, Route) else ()

    def disable(self) -> None:
        """The backbone alone, until `enable` or `set_active`."""
        self._refuse_in_place("disabled")
        last = self._last
        self._set_routes(Route())
        self._last = last

    def enable(self) -> None:
        """Undo `disable`."""
        self._set_routes(self._last)

    @contextmanager
    def disabled(self) -> Iterator[AdaptedModel]:
        """The backbone alone, inside a `with`."""
        before, last = self._routes, self._last
        self.disable()
        try:
            yield self
        finally:
            self._set_routes(before)
            self._last = last

    def delete(self, name: str) -> None:
        """Take an adapter away."""
        self._known((name,))
        if name in self._in_place:
            self._refuse_in_place("deleted")
        remaining = tuple(other for other in self.active if other != name)
        task = self._routes.task if isinstance(self._routes, Route) else None
        self._set_routes(Route())
        del self.grafts[name]
        del self._tuned[name]
        used = {site for graft in self.grafts.values() for site in graft.sites}
        for site in [site for site in self._site_hooks if site not in used]:
            self._site_hooks.pop(site).remove()
        if self._prompt_hooks is not None and not any(graft.prompted for graft in self.grafts.values()):
            self._prompt_hooks.remove()
            self._prompt_hooks = None
        self._set_routes(Route(remaining, task))

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
        graft = self.grafts[name]
        graft.check_task(task)
        if graft.prompted:
            raise InputError(f"{name!r} puts tokens before the text, which no change of weights equals")
        deltas = graft.deltas(task) if graft.sites else {}
        tuned = self._tuned[name]
        self._in_place.discard(name)
        self.delete(name)
        parameters = dict(self.backbone.named_parameters())
        for key, copy in tuned.items():
            parameters[key].copy_(copy)
        for path, delta in deltas.items():
            self.backbone.get_submodule(path).weight += delta  # type: ignore[operator]

    def tuned(self, name: str) -> dict[str, nn.Parameter]:
        """The parameters of the backbone that an adapter trains, by name: its copies of them."""
        self._known((name,))
        return dict(self._tuned[name])

    # ---------------------------------------------------------------- the model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.backbone(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's `generate`, with the adapters."""
        return self.backbone.generate(*args, **kwargs)  # type: ignore[operator]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "backbone":
                raise
            return getattr(self.backbone, name)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """As the backbone's, and safe for routes: a layer is computed again with the routes it was computed with."""

        def contexts() -> tuple[Any, Any]:
            return nullcontext(), self._as_it_was(self._routes)

        options = {"use_reentrant": False, "context_fn": contexts} | (kwargs.get("gradient_checkpointing_kwargs") or {})
        self.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)  # type: ignore[operator]

    @contextmanager
    def _as_it_was(self, routes: Route | tuple[Route, ...]) -> Iterator[None]:
        now, self._routes = self._routes, routes
        try:
            yield
        finally:
            self._routes = now

    def _apply(self, fn: Any, recurse: bool = True) -> AdaptedModel:
        """`to`, `half`, ...: the originals move too while copies stand in their places, and so do idle copies."""
        routes = self._routes
        self._put_back()
        super()._apply(fn, recurse)
        with torch.no_grad():
            for name, copies in self._tuned.items():
                for copy in () if name in self._in_place else copies.values():
                    copy.data = fn(copy.data)
                    if copy.grad is not None:
                        copy.grad.data = fn(copy.grad.data)
        self._set_routes(routes)
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
        if self._in_place:
            raise InputError(
                f"{min(self._in_place)!r} trained the backbone's own parameters and cannot be {verb}: "
                "load the backbone again"
            )

    def _set_routes(self, routes: Route | tuple[Route, ...]) -> None:
        self._put_back()
        self._routes = routes
        if isinstance(routes, Route):
            self._last = routes
            self._put_in(routes.adapters)
        else:
            self._hook_rows(routes)

    def _put_in(self, names: tuple[str, ...]) -> None:
        """Copies of the active adapters into the places of the originals."""
        owner: dict[str, str] = {}
        for name in names:
            for key in self._tuned[name]:
                if key in owner:
                    raise InputError(f"{owner[key]!r} and {name!r} both train {key}: they cannot be active together")
                owner[key] = name
        copied = {key: name for key, name in owner.items() if name not in self._in_place}
        for key, places in places_of(self.backbone, copied).items():
            for module, leaf in places:
                self._displaced.append((module, leaf, module._parameters[leaf]))  # type: ignore[arg-type]
                module._parameters[leaf] = self._tuned[copied[key]][key]

    def _put_back(self) -> None:
        for module, leaf, original in self._displaced:
            module._parameters[leaf] = original
        self._displaced.clear()
        for hook in self._row_hooks:
            hook.remove()
        self._row_hooks.clear()

    def _hook_rows(self, routes: tuple[Route, ...]) -> None:
        """Modules of which rows have trained copies compute those rows again, with the copies."""
        copies: dict[nn.Module, dict[str, dict[str, nn.Parameter]]] = {}  # module -> adapter -> leaf -> copy
        for name in dict.fromkeys(name for route in routes for name in route.adapters):
            for key, places in places_of(self.backbone, self._tuned[name]).items():
                for module, leaf in places:
                    copies.setdefault(module, {}).setdefault(name, {})[leaf] = self._tuned[name][key]
        for module, by_adapter in copies.items():
            hook = partial(self._again_with_copies, by_adapter)
            self._row_hooks.append(module.register_forward_hook(hook, with_kwargs=True, prepend=True))

    def _again_with_copies(
        self, by_adapter: dict[str, dict[str, nn.Parameter]], module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> Any:
        if not isinstance(output, Tensor) or kwargs:
            raise InputError(
                f"{type(module).__name__} holds parameters that an adapter trains, and cannot compute rows of a batch "
                "with different ones; run the adapters one after the other"
            )
        out = output.clone()
        for route, rows in self._groups(output):
            state = {leaf: copy for name in route.adapters for leaf, copy in by_adapter.get(name, {}).items()}
            if state:
                copies = {f"m.{leaf}": copy for leaf, copy in state.items()}
                with self._as_it_was((route,)):  # modules inside it meet rows of this route only
                    part = functional_call(_Unhooked(module), copies, args_of(args, rows))
                out = out.index_copy(0, rows, part)
        return out

    def _groups(self, batch: Tensor) -> list[tuple[Route, Tensor]]:
        """The distinct routes of a batch and the rows (n,) that take them."""
        assert not isinstance(self._routes, Route)
        routes, size = self._routes, batch.shape[0]
        if size % len(routes):
            raise InputError(f"a batch of {size} rows came where routes were set for {len(routes)}")
        every = [route for route in routes for _ in range(size // len(routes))]
        return [
            (route, torch.tensor([row for row, other in enumerate(every) if other == route], device=batch.device))
            for route in dict.fromkeys(every)
        ]

    # ---------------------------------------------------------------- hooks

    def _hook(self, site: Site) -> None:
        name = site.name
        if name in self._site_hooks:
            return
        module = self.backbone.get_submodule(site.module)
        # First of all hooks: transformers records hidden states by hooks of its own, which must see the change.
        if site.before:
            self._site_hooks[name] = module.register_forward_pre_hook(
                lambda _, args, kwargs: self._before(name, args, kwargs), prepend=True, with_kwargs=True
            )
        else:
            self._site_hooks[name] = module.register_forward_hook(
                lambda _, args, kwargs, output: self._after(name, args, kwargs, output), prepend=True, with_kwargs=True
            )

    def _before(self, site: str, args: Any, kwargs: Any) -> Any:
        if args:
            return (self._through(site, args[0], args[0]), *args[1:]), kwargs
        changed = self._through(site, kwargs["hidden_states"], kwargs["hidden_states"])
        return args, kwargs | {"hidden_states": changed}

    def _after(self, site: str, args: Any, kwargs: Any, output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        if isinstance(output, tuple):
            return (self._through(site, output[0], given), *output[1:])
        return self._through(site, output, given)

    def _through(self, site: str, hidden: Tensor, given: Tensor) -> Tensor:
        if isinstance(self._routes, Route):
            return self._along(self._routes, site, hidden, given)
        out = hidden
        for route, rows in self._groups(hidden):
            if any(site in self.grafts[name].sites for name in route.adapters):
                out = out.index_copy(0, rows, self._along(route, site, hidden[rows], given[rows]))
        return out

    def _along(self, route: Route, site: str, hidden: Tensor, given: Tensor) -> Tensor:
        for name in route.adapters:
            graft = self.grafts[name]
            if site in graft.sites:
                hidden = graft.change(graft.sites[site], hidden, given, route.task)
        return hidden

    def _prompt(self, stack: str, batch: Tensor) -> Tensor | None:
        """The tokens (B, P, width) before a batch (B, ...) of a stack, or None."""
        if isinstance(self._routes, Route):
            tokens = self._prompt_of(self._routes, stack)
            return None if tokens is None else tokens.expand(batch.shape[0], -1, -1)
        parts = [(self._prompt_of(route, stack), rows) for route, rows in self._groups(batch)]
        if all(tokens is None for tokens, _ in parts):
            return None
        lengths = {0 if tokens is None else len(tokens) for tokens, _ in parts}
        if len(lengths) > 1:
            raise InputError(f"rows have prompts of different lengths ({sorted(lengths)}), which one batch cannot hold")
        whole = [tokens for tokens, _ in parts if tokens is not None]
        out = whole[0].new_empty(batch.shape[0], *whole[0].shape)
        for tokens, (_, rows) in zip(whole, parts, strict=True):
            out = out.index_copy(0, rows, tokens.expand(len(rows), -1, -1))
        return out

    def _prompt_of(self, route: Route, stack: str) -> Tensor | None:
        """All prompts of a route, one behind the other."""
        tokens = [
            self.grafts[name].prompt(stack, route.task)
            for name in route.adapters
            if stack in self.grafts[name].prompted
        ]
        return torch.cat(tokens) if tokens else None


class _Unhooked(nn.Module):
    """A module without its hooks: `functional_call` on the module itself would run them again."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.m = module

    def forward(self, *args: Any) -> Any:
        return self.m.forward(*args)


def args_of(args: tuple[Any, ...], rows: Tensor) -> tuple[Any, ...]:
    """These rows of each tensor."""
    return tuple(value[rows] if isinstance(value, Tensor) else value for value in args)
