"""Modules at sites of a frozen transformer. Knows no method: those are in `crossgraft.methods`."""

from crossgraft.adapt.adapted import AdaptedModel
from crossgraft.adapt.graft import Graft
from crossgraft.adapt.insertion import Inserted, Text
from crossgraft.adapt.memory import Memories, Memory, Shown
from crossgraft.adapt.routes import Route
from crossgraft.adapt.sites import LAYOUTS, Layout, Site, Stack, find_sites, find_stacks, select_sites

__all__ = [
    "LAYOUTS",
    "AdaptedModel",
    "Graft",
    "Inserted",
    "Layout",
    "Memories",
    "Memory",
    "Route",
    "Shown",
    "Site",
    "Stack",
    "Text",
    "find_sites",
    "find_stacks",
    "select_sites",
]
