"""Trained copies of a backbone's parameters, put into the places of the originals and taken out again.

The originals are never written to. While an adapter is active its copies stand in their places, so whatever reads a
parameter (its module, another module, a tied head, an optimizer) reads the copy. An adapter that trains the backbone in
place has no copies: its parameters are the backbone's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from crossgraft.adapt.hooks import GraftHooks
from crossgraft.adapt.parameters import places_of
from crossgraft.adapt.routes import Rows
from crossgraft.errors import InputError


class Copies:
    """The copies of all adapters of a backbone, by the adapter's name and the parameter's.

    Args:
        backbone: the model whose parameters are copied.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        # A list of parameters is a module, which knows how to move to another device; names have dots, so it is a list.
        self._held: dict[str, tuple[list[str], nn.ParameterList]] = {}
        self._in_place: dict[str, list[str]] = {}
        self._displaced: dict[str, list[tuple[nn.Module, str, nn.Parameter]]] = {}  # originals whose place a copy has
        self._standing: dict[str, nn.Parameter] = {}  # the copies that have it
        self._row_hooks: list[Any] = []

    @property
    def in_place(self) -> str | None:
        """The adapter that trains the backbone's own parameters, if there is one."""
        return next(iter(self._in_place), None)

    def add(self, adapter: str, names: list[str], *, in_place: bool = False) -> None:
        """Copy these parameters for an adapter, or train them themselves. No copies may be in place."""
        parameters = dict(self._backbone.named_parameters())
        if in_place:
            self._in_place[adapter] = names
            for name in names:
                parameters[name].requires_grad_(True)
        else:
            copies = [nn.Parameter(parameters[name].detach().clone()) for name in names]
            self._held[adapter] = names, nn.ParameterList(copies)

    def remove(self, adapter: str) -> None:
        """Forget an adapter's copies; parameters that it trained in place are frozen as they are."""
        parameters = dict(self._backbone.named_parameters())
        for name in self._in_place.pop(adapter, ()):
            parameters[name].requires_grad_(False)
        self._held.pop(adapter, None)

    def of(self, adapter: str) -> dict[str, nn.Parameter]:
        """Name -> the parameter that an adapter trains.

        Those that are in place are read from their places: sharding (FSDP2) puts parameters of its own there.
        """
        if adapter in self._in_place:
            parameters = dict(self._backbone.named_parameters())
            return {name: parameters[name] for name in self._in_place[adapter]}
        names, copies = self._held[adapter]
        return {name: self._live(name, copy) for name, copy in zip(names, copies, strict=True)}

    def _live(self, name: str, copy: nn.Parameter) -> nn.Parameter:
        if self._standing.get(name) is not copy:
            return copy
        module, leaf, _ = self._displaced[name][0]
        return module._parameters[leaf]  # type: ignore[return-value]

    def owners(self, adapters: Iterable[str]) -> dict[str, str]:
        """Parameter -> which of these adapters trains it.

        Raises:
            InputError: two of them train the same one.
        """
        owner: dict[str, str] = {}
        for adapter in adapters:
            for name in self._in_place.get(adapter) or self._held[adapter][0]:
                if name in owner:
                    raise InputError(
                        f"{owner[name]!r} and {adapter!r} both train {name}: they cannot be active together; "
                        "make one of them active, or train it with one of them only"
                    )
                owner[name] = adapter
        return owner

    def put_in(self, adapters: Iterable[str]) -> None:
        """The copies of these adapters into the places of the originals."""
        adapters = [adapter for adapter in adapters if adapter in self._held]
        copies = {name: copy for adapter in adapters for name, copy in self.of(adapter).items()}
        for name, places in places_of(self._backbone, copies).items():
            self._standing[name] = copies[name]
            self._displaced[name] = [(module, leaf, module._parameters[leaf]) for module, leaf in places]  # type: ignore[misc]
            for module, leaf in places:
                module._parameters[leaf] = copies[name]

    def put_back(self) -> None:
        """The originals into their places.

        Raises:
            InputError: something other than our copies stands there, so that it could not be told what is lost.
        """
        for name, places in self._displaced.items():
            if any(module._parameters[leaf] is not self._standing[name] for module, leaf, _ in places):
                raise InputError(
                    f"{name}: the adapter's copy was replaced while it was active, as FSDP does when it shards; such a "
                    "model keeps the adapters that were active when it was sharded"
                )
        for places in self._displaced.values():
            for module, leaf, original in places:
                module._parameters[leaf] = original
        self._displaced.clear()
        self._standing.clear()
        for hook in self._row_hooks:
            hook.remove()
        self._row_hooks.clear()

    def apply(self, fn: Any, recurse: bool) -> None:
        """`nn.Module._apply` (`to`, `half`, ...) for the copies, none of which may be in place."""
        for _, copies in self._held.values():
            copies._apply(fn, recurse)

    def hook_rows(self, rows: Rows, hooks: GraftHooks) -> None:
        """Have the modules of which rows have trained copies compute those rows again, with the copies."""
        by_module: dict[nn.Module, dict[str, dict[str, nn.Parameter]]] = {}  # module -> adapter -> leaf -> copy
        for adapter in dict.fromkeys(adapter for route in rows.routes for adapter in route.adapters):
            copies = self.of(adapter)
            for name, places in places_of(self._backbone, copies).items():
                for module, leaf in places:
                    by_module.setdefault(module, {}).setdefault(adapter, {})[leaf] = copies[name]
        for module, by_adapter in by_module.items():
            hook = partial(_again, hooks, by_adapter)
            self._row_hooks.append(module.register_forward_hook(hook, with_kwargs=True, prepend=True))


def _again(
    hooks: GraftHooks,
    by_adapter: dict[str, dict[str, nn.Parameter]],
    module: nn.Module,
    args: Any,
    kwargs: Any,
    output: Any,
) -> Any:
    """A forward hook: the rows of a module's output whose route has copies of its parameters, computed with them."""
    if not isinstance(output, Tensor) or kwargs:
        raise InputError(
            f"{type(module).__name__} holds parameters that an adapter trains, and cannot compute rows of a batch "
            "with different ones; run the adapters one after the other"
        )
    assert isinstance(hooks.routes, Rows)
    out = output.clone()
    for route, numbers in hooks.routes.groups(output):
        state = {leaf: copy for adapter in route.adapters for leaf, copy in by_adapter.get(adapter, {}).items()}
        if state:
            copies: dict[str, Tensor] = {f"module.{leaf}": copy for leaf, copy in state.items()}
            chosen = tuple(value[numbers] if isinstance(value, Tensor) else value for value in args)
            with hooks.along(Rows([route])):  # modules inside it meet rows of this route only
                part = functional_call(_Unhooked(module), copies, chosen)
            out = out.index_copy(0, numbers, part)
    return out


class _Unhooked(nn.Module):
    """A module without its hooks: `functional_call` on the module itself would run them again."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Any:
        return self.module.forward(*args)
