"""What a placement search goes on from when it was killed: safetensors for tensors, JSON for the rest."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossgraft.adapt import AdaptedModel
from crossgraft.files import read_json, write_json
from crossgraft.training.checkpoints import load_state, save_state

FOLDER = "checkpoints"
SLOTS = ("even", "odd")  # written in turn, so that one is whole at any moment
MOMENTS, STATE = "optimizer.safetensors", "state.json"


@dataclass
class SearchState:
    """Steps done, seconds they took, preferences of the placements, the curve so far, and who draws.

    Make one with `new`.
    """

    preferences: list[float]
    rng: random.Random
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    _saves: int = 0

    @classmethod
    def new(cls, placements: int, seed: int) -> SearchState:
        torch.manual_seed(seed)
        return cls([0.0] * placements, random.Random(f"{seed} search"))

    def save(self, folder: Path, model: AdaptedModel, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
        """Write a checkpoint; a kill leaves the one before."""
        slot = folder / FOLDER / SLOTS[self._saves % 2]
        shutil.rmtree(slot, ignore_errors=True)
        save_state(model, slot)
        state = optimizer.state_dict()["state"]
        moments = {
            f"{number}/{name}": value.detach().cpu().clone()
            for number, own in state.items()
            for name, value in own.items()
            if isinstance(value, Tensor)
        }
        save_file(moments | {"torch": torch.get_rng_state()}, slot / MOMENTS)
        version, numbers, gauss = self.rng.getstate()
        about = {
            "step": self.step,
            "seconds": self.seconds,
            "preferences": self.preferences,
            "curve": self.curve,
            "rng": [version, list(numbers), gauss],
            "schedule": schedule.last_epoch,
            "saves": self._saves,
        }
        write_json(slot / STATE, about)  # last: a slot without it was cut off
        self._saves += 1

    def load(self, folder: Path, model: AdaptedModel, optimizer: torch.optim.Optimizer, schedule: Any) -> bool:
        """Take the newest whole checkpoint, if there is one -> whether there was."""
        slots = [folder / FOLDER / name for name in SLOTS if (folder / FOLDER / name / STATE).is_file()]
        if not slots:
            return False
        slot = max(slots, key=lambda path: int(read_json(path / STATE)["step"]))
        about = read_json(slot / STATE)
        load_state(model, slot)
        moments = load_file(slot / MOMENTS)
        torch.set_rng_state(moments.pop("torch"))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in moments.items():
            number, name = key.split("/")
            state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        schedule.last_epoch = about["schedule"]
        for group, base, rule in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * rule(schedule.last_epoch)
        version, numbers, gauss = about["rng"]
        self.rng.setstate((version, tuple(numbers), gauss))
        self.step, self.seconds = about["step"], about["seconds"]
        self.preferences, self.curve = about["preferences"], about["curve"]
        self._saves = about["saves"] + 1
        return True

    @staticmethod
    def clear(folder: Path) -> None:
        """The search is done."""
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
