"""Where a module can be put into a frozen transformer: a table of stacks, and the sites that a model has.

A stack is a run of layers (an encoder, a decoder, a tower). A site is named after its place and not after the attribute
that a library happened to give it, so one pattern fits every family:

    encoder.3.self_attention      output of a sublayer, before dropout, residual and layer norm
    encoder.3.feed_forward        (decoders also have cross_attention)
    encoder.3.self_attention.q    output of a projection inside a sublayer: q, k, v, o
    encoder.3.input               what a layer is given
    encoder.3.output              what a layer gives
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate

from torch import nn

from crossgraft.errors import InputError
from crossgraft.registry import nearest


@dataclass(frozen=True)
class Layout:
    """Where the parts of one class of stack are.

    `layers`: attribute of the stack that holds its layers. `sublayers`: sublayer -> module in a layer whose output is
    the sublayer's, before dropout and residual. `projections`: sublayer -> {q, k, v, o -> linear module in a layer}.
    `entry`: class of the module whose `forward` takes token ids, where that is a parent of the stack; `embed` its token
    embedding. `tail`: attributes of the stack that come behind its layers.
    """

    layers: str
    sublayers: Mapping[str, str]
    projections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    entry: tuple[str, ...] = ()
    embed: str = "embed_tokens"
    tail: tuple[str, ...] = ("final_layer_norm", "layer_norm", "norm")


def _linears(prefix: str, names: str) -> dict[str, str]:
    return dict(zip("qkvo", (f"{prefix}.{name}" for name in names.split()), strict=True))


_HF = "q_proj k_proj v_proj out_proj"
_BART_ENCODER = Layout(
    layers="layers",
    sublayers={"self_attention": "self_attn", "feed_forward": "fc2"},
    projections={"self_attention": _linears("self_attn", _HF)},
)
_BART_DECODER = Layout(
    layers="layers",
    sublayers={"self_attention": "self_attn", "cross_attention": "encoder_attn", "feed_forward": "fc2"},
    projections={
        "self_attention": _linears("self_attn", _HF),
        "cross_attention": _linears("encoder_attn", _HF),
    },
)
_LLAMA = Layout(
    layers="layers",
    sublayers={"self_attention": "self_attn", "feed_forward": "mlp"},
    projections={"self_attention": _linears("self_attn", "q_proj k_proj v_proj o_proj")},
)


def _bert(entry: str) -> Layout:
    attention = {name: f"attention.self.{word}" for name, word in zip("qkv", ("query", "key", "value"), strict=True)}
    return Layout(
        layers="layer",
        sublayers={"self_attention": "attention.output.dense", "feed_forward": "output.dense"},
        projections={"self_attention": attention | {"o": "attention.output.dense"}},
        entry=(entry,),
        embed="embeddings.word_embeddings",
    )


_CLIP = Layout(
    layers="layers",
    sublayers={"self_attention": "self_attn", "feed_forward": "mlp"},
    projections={"self_attention": _linears("self_attn", _HF)},
    entry=("CLIPTextModel", "CLIPVisionModel"),
    embed="",
)

LAYOUTS: dict[str, Layout] = {
    "T5Encoder": Layout(
        layers="block",
        sublayers={"self_attention": "layer.0.SelfAttention", "feed_forward": "layer.1.DenseReluDense"},
        projections={"self_attention": _linears("layer.0.SelfAttention", "q k v o")},
    ),
    "T5Decoder": Layout(
        layers="block",
        sublayers={
            "self_attention": "layer.0.SelfAttention",
            "cross_attention": "layer.1.EncDecAttention",
            "feed_forward": "layer.2.DenseReluDense",
        },
        projections={
            "self_attention": _linears("layer.0.SelfAttention", "q k v o"),
            "cross_attention": _linears("layer.1.EncDecAttention", "q k v o"),
        },
    ),
    "BertEncoder": _bert("BertModel"),
    "RobertaEncoder": _bert("RobertaModel"),
    "CLIPEncoder": _CLIP,
    **{f"{family}Encoder": _BART_ENCODER for family in ("Bart", "MBart", "Marian")},
    **{f"{family}Decoder": _BART_DECODER for family in ("Bart", "MBart", "Marian")},
    **{f"{family}Model": _LLAMA for family in ("Llama", "Mistral", "Qwen2", "Qwen3")},
}
"""Class name of a stack -> its layout. A family of your own is one more entry. T5's one class of stack is two."""


@dataclass(frozen=True)
class Stack:
    """One stack of a model: its name ("encoder", "decoder", "text", "vision"), its path, and where its parts are.

    `entry`: path of the module whose `forward` takes the stack's tokens. `width`: of its hidden states.
    """

    name: str
    path: str
    entry: str
    layout: Layout
    n_layers: int
    width: int

    def layer_path(self, layer: int) -> str:
        return _join(self.path, f"{self.layout.layers}.{layer}")


@dataclass(frozen=True)
class Site:
    """A place where hidden states can be changed.

    `module`: path of the module that is hooked. `before`: its input is changed, not its output. `width_in`, `width`: of
    the module's input and of what is changed.
    """

    name: str
    stack: str
    layer: int
    part: str
    module: str
    width_in: int
    width: int
    before: bool = False


def find_stacks(model: nn.Module) -> dict[str, Stack]:
    """The stacks of a model, by name.

    Raises:
        InputError: there is none whose class is in `LAYOUTS`, or two have the same name.
    """
    stacks: dict[str, Stack] = {}
    modules = dict(model.named_modules())
    for path, module in modules.items():
        kind = _kind(module)
        if kind is None:
            continue
        layout = LAYOUTS[kind]
        layers = module.get_submodule(layout.layers)
        entry = _entry(path, modules, layout.entry)
        name = _name(kind, entry, modules)
        if name in stacks:
            raise InputError(f"the model has two stacks that would be called {name!r}: {stacks[name].path} and {path}")
        config = getattr(module, "config", None) or modules[entry].config
        width = getattr(config, "d_model", None) or config.hidden_size
        stacks[name] = Stack(name, path, entry, layout, len(layers), int(width))  # type: ignore[arg-type]
    if not stacks:
        raise InputError(
            f"{type(model).__name__}: has no layers that crossgraft knows; known stacks: {', '.join(LAYOUTS)} "
            "(crossgraft.adapt.LAYOUTS takes more)"
        )
    return stacks


def _kind(module: nn.Module) -> str | None:
    """The entry of `LAYOUTS` for a module; by its bases too, since FSDP2 derives a class of its own from each."""
    for base in type(module).__mro__:
        name = base.__name__
        if name == "T5Stack":
            return "T5Decoder" if module.is_decoder else "T5Encoder"
        if name in LAYOUTS:
            return name
    return None


def _entry(path: str, modules: Mapping[str, nn.Module], classes: tuple[str, ...]) -> str:
    """The nearest parent of one of these classes, or the stack itself."""
    parent = path
    while classes and parent:
        parent = parent.rpartition(".")[0]
        if any(base.__name__ in classes for base in type(modules[parent]).__mro__):
            return parent
    return path


def _name(kind: str, entry: str, modules: Mapping[str, nn.Module]) -> str:
    if kind == "CLIPEncoder":
        return "vision" if any(base.__name__ == "CLIPVisionModel" for base in type(modules[entry]).__mro__) else "text"
    return "encoder" if kind.endswith("Encoder") else "decoder"


def find_sites(model: nn.Module) -> dict[str, Site]:
    """All sites of a model, by name, in the order in which a forward pass meets the layers."""
    sites = {}
    for stack in find_stacks(model).values():
        for layer in range(stack.n_layers):
            for site in _layer_sites(model, stack, layer):
                sites[site.name] = site
    return sites


def _layer_sites(model: nn.Module, stack: Stack, layer: int) -> list[Site]:
    path = stack.layer_path(layer)

    def site(part: str, module: str, width_in: int, width: int, before: bool = False) -> Site:
        return Site(f"{stack.name}.{layer}.{part}", stack.name, layer, part, module, width_in, width, before)

    width = stack.width
    found = [site("input", path, width, width, before=True)]
    for sublayer, where in stack.layout.sublayers.items():
        for letter, linear in stack.layout.projections.get(sublayer, {}).items():
            module = model.get_submodule(_join(path, linear))
            found.append(site(f"{sublayer}.{letter}", _join(path, linear), module.in_features, module.out_features))  # type: ignore[arg-type]
        module = model.get_submodule(_join(path, where))
        found.append(site(sublayer, _join(path, where), getattr(module, "in_features", width), width))
    return [*found, site("output", path, width, width)]


def select_sites(sites: Mapping[str, Site], patterns: Iterable[str]) -> dict[str, Site]:
    """The sites that any pattern matches: shell patterns over names; a segment like 6-11 is a range of layers.

    Raises:
        InputError: a pattern matches nothing (a misspelt one must not go unnoticed).
    """
    if isinstance(patterns, str):
        raise InputError(f"sites: expected a list of patterns, found the text {patterns!r}; write [{patterns!r}]")
    chosen: dict[str, Site] = {}
    for pattern in patterns:
        matching = {name: site for name, site in sites.items() if _matches(pattern, name)}
        if not matching:
            plain = [re.sub(r"\.\d+\.", ".*.", name) for name in sites]
            raise InputError(
                f"sites: {pattern!r} matches nothing in this model; {nearest(pattern, plain)}"
                f"it has {', '.join(dict.fromkeys(plain))}"
            )
        chosen |= matching
    return {name: site for name, site in sites.items() if name in chosen}


def _matches(pattern: str, name: str) -> bool:
    wanted, have = pattern.split("."), name.split(".")
    if wanted[0] == "*" and len(wanted) == len(have) - 1:  # "*.feed_forward": any stack, any layer
        wanted = ["*", *wanted]
    if len(wanted) != len(have):
        return False
    for part, actual in zip(wanted, have, strict=True):
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        if span:
            if not (actual.isdecimal() and int(span[1]) <= int(actual) <= int(span[2])):
                return False
        elif not re.match(translate(part), actual):
            return False
    return True


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
