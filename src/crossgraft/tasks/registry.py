"""The open registry of tasks: a task adds itself with `@register_task("its-name")`."""

from __future__ import annotations

from crossgraft.registry import Registry
from crossgraft.tasks.base import Task

TASKS: Registry[type[Task]] = Registry("task", "name")
register_task = TASKS.register
get_task = TASKS.find
