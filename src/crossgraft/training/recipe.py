"""Recipes: a run as a YAML file, changed by dotted `key=value` pairs, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from crossgraft.config import from_mapping
from crossgraft.errors import InputError
from crossgraft.methods import get_method
from crossgraft.methods.base import Method
from crossgraft.methods.options import check_whole
from crossgraft.registry import nearest
from crossgraft.tasks import get_task
from crossgraft.tasks.base import Task
from crossgraft.training.settings import Head, Knowledge, Search, Training, Visual


@dataclass(frozen=True)
class Recipe:
    """A run: a frozen backbone, methods put into it, and tasks it learns.

    `model`: how it answers: "seq2seq" writes, and reads image tokens behind the text (VL-Adapter); "classifier" chooses
    among known answers, "causal" goes on with the text, and "masked" fills in masked words; these see images by a
    method such as dvp or xadapter. `method`: options with "name", or a list of them that are active together.
    `also_train`: roles or patterns of backbone parameters that are trained too; None: as the model has it
    (`Form.also_train`). `tasks`: name in this run -> options with "task". `knowledge`: what texts are shown beside
    themselves. `data`: what stands for {data} in paths of tasks and knowledge. `head`: of a classifier. `search`: of
    placements.
    """

    name: str
    backbone: str
    method: Any
    model: Literal["seq2seq", "classifier", "causal", "masked"] = "seq2seq"
    visual: Visual = field(default_factory=Visual)
    knowledge: Knowledge = field(default_factory=Knowledge)
    tasks: dict[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    also_train: tuple[str, ...] | None = None
    head: Head = field(default_factory=Head)
    search: Search = field(default_factory=Search)
    extra_tokens: int = 0
    data: str = "data"
    out: Path | None = None
    about: str = ""

    def __post_init__(self) -> None:
        check_whole(0, extra_tokens=self.extra_tokens)

    @property
    def out_folder(self) -> Path:
        return self.out or Path("runs") / self.name

    def methods(self) -> dict[str, Method]:
        """Adapter's name -> method; several are named after their methods.

        Raises:
            InputError: no such method, or an unknown option.
        """
        listed = self.method if isinstance(self.method, list) else [self.method]
        made: dict[str, Method] = {}
        for entry in listed:
            options = {"name": entry} if isinstance(entry, str) else entry
            if not isinstance(options, Mapping) or "name" not in options:
                raise InputError(f"{self.name}: method: expected options with a 'name', found {options!r:.60}")
            cls = get_method(str(options["name"]))
            if cls.name in made:
                raise InputError(f"{self.name}: method: {cls.name} is listed twice")
            own = {key: value for key, value in options.items() if key != "name"}
            made[cls.name] = from_mapping(cls, own, f"{self.name}: method")
        if not made:
            raise InputError(f"{self.name}: method: none is named")
        return made

    def make_tasks(self) -> dict[str, Task]:
        """Name in this run -> task.

        Raises:
            InputError: no such task, or an unknown option.
        """
        return {name: self._task(name, options) for name, options in self.tasks.items()}

    def _task(self, name: str, options: Any) -> Task:
        if not isinstance(options, Mapping) or "task" not in options:
            raise InputError(f"{self.name}: tasks.{name}: expected options with a 'task', found {options!r:.60}")
        if not isinstance(name, str) or not name or "." in name:
            raise InputError(f"{self.name}: tasks: {name!r} cannot be a task's name: it has to be text without dots")
        own = {key: placed(value, self.data) for key, value in options.items() if key != "task"}
        return from_mapping(get_task(str(options["task"])), own, f"{self.name}: tasks.{name}")


def placed(value: Any, data: str) -> Any:
    """{data} in every text."""
    if isinstance(value, str):
        return value.replace("{data}", data)
    if isinstance(value, Mapping):
        return {key: placed(part, data) for key, part in value.items()}
    return [placed(part, data) for part in value] if isinstance(value, list) else value


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    A recipe may name another one under "base", relative to its own folder, and then says only what is different: keys
    below keys are merged, everything else is replaced.

    Args:
        path: the YAML file.
        overrides: key=value pairs, keys with dots, values in YAML: "training.epochs=3", "method.sharing=multiple".

    Raises:
        InputError: a file is missing or no YAML (with the line); an unknown key (with the nearest known one), or a
            value of another kind.
    """
    values = _read(path, ())
    for pair in overrides:
        _override(values, pair)
    return recipe_from(values, str(path))


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's values, laid over those of its base."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe{f' (the base of {above[-1]})' if above else ''}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    values = _yaml(text, str(path))
    if not isinstance(values, dict):
        raise InputError(f"{path}: a recipe holds keys and values; known keys: {_known()}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str) or path.resolve() in above:
        raise InputError(f"{path}: base: expected another recipe's path, found {base!r:.60}")
    return _merged(_read(path.parent / base, (*above, path.resolve())), values)


def _merged(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def recipe_from(values: Mapping[str, Any], where: str) -> Recipe:
    """A checked recipe from what a YAML file, or a run's recipe.json, holds."""
    recipe = from_mapping(Recipe, values, where)
    recipe.methods()
    recipe.make_tasks()
    return recipe


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{where}{line}: not YAML ({error.problem})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not YAML ({error})") from error


def _override(values: dict[str, Any], pair: str) -> None:
    key, equals, text = pair.partition("=")
    if not equals or not key:
        raise InputError(f"{pair!r} is no override; give key=value, such as training.epochs=3")
    *path, last = key.split(".")
    if path and path[0] not in _names():
        raise InputError(f"{pair}: unknown key {path[0]!r}; {nearest(path[0], _names())}known: {_known()}")
    holder: Any = values
    for part in path:
        if isinstance(holder, dict) and isinstance(holder.get(part, {}), dict | list):
            holder = holder.setdefault(part, {})
        elif isinstance(holder, list) and part.isdecimal() and int(part) < len(holder):
            holder = holder[int(part)]
        else:
            raise InputError(f"{pair}: {part!r} has nothing below it")
    if not isinstance(holder, dict):
        raise InputError(f"{pair}: {path[-1]!r} holds no keys")
    holder[last] = _yaml(text, pair)


def _names() -> list[str]:
    return [item.name for item in fields(Recipe)]


def _known() -> str:
    return ", ".join(_names())
