"""Methods: one file each. The order of the imports is their order in tables."""

from crossgraft.methods import (  # noqa: I001
    adapter,
    hyperformer,
    compacter,
    lora,
    prompt_tuning,
    parameters_only,
    dvp,
    visual_tokens,
    xadapter,
)
from crossgraft.methods.base import METHODS, Method, get_method, register_method

__all__ = [
    "METHODS",
    "Method",
    "adapter",
    "compacter",
    "dvp",
    "get_method",
    "hyperformer",
    "lora",
    "parameters_only",
    "prompt_tuning",
    "register_method",
    "visual_tokens",
    "xadapter",
]
