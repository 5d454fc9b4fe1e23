"""The open registry of few-shot methods: a method adds itself with `@register("its-name")`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossgraft.registry import Registry

if TYPE_CHECKING:
    from crossgraft.fewshot.base import FewShotClassifier

METHODS: Registry[type[FewShotClassifier]] = Registry("method", "method")
register = METHODS.register
get_method = METHODS.find
