"""The report page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from crossgraft import __version__
from crossgraft.reporting.cases import cases_section
from crossgraft.reporting.groups import Group, group_runs
from crossgraft.reporting.markup import Markup, escape, join, plural, tag
from crossgraft.reporting.numbers import headline, numbers_section
from crossgraft.reporting.provenance import provenance_section, tiles
from crossgraft.reporting.run_folder import read_run
from crossgraft.reporting.sections import accuracy_section, cost_section, shift_section, trust_section
from crossgraft.reporting.thumbnails import Thumbnails

_PARTS = (
    ("accuracy", "Accuracy"),
    ("shift", "Domain shift"),
    ("numbers", "All numbers"),
    ("images", "Image by image"),
    ("trust", "Trust"),
    ("cost", "Cost"),
    ("provenance", "Provenance"),
)


@dataclass(frozen=True)
class Report:
    """A page, and what it holds. `notes` say what could not be shown."""

    html: str
    runs: int
    groups: int
    pictures: int
    missing: int
    left_out: int
    notes: tuple[str, ...]


def build_report(folders: Sequence[Path], tell: Callable[[str], None] = lambda _: None) -> Report:
    """One page about several output folders of `crossgraft fewshot`.

    Runs on the same images, with the same encoder and protocol, share their charts; others get a part of their own.
    `tell` hears what is done now.

    Raises:
        InputError: a folder that holds no run, or a damaged one.
    """
    distinct = {folder.resolve(): folder for folder in folders}
    runs = [read_run(folder) for folder in distinct.values()]
    groups = group_runs(runs)
    thumbnails, notes = Thumbnails(), list[str]()
    several = len(groups) > 1
    parts = [_group(group, f"g{number}", several, thumbnails, notes, tell) for number, group in enumerate(groups)]
    if thumbnails.missing:
        notes.append(f"{plural(thumbnails.missing, 'photo')} moved, deleted or changed since the run: named, not shown")
    if thumbnails.left_out:
        notes.append(
            f"{plural(thumbnails.left_out, 'photo')} named, not shown, to keep the page small "
            f"(at most {thumbnails.limit} are shown)"
        )
    title = " and ".join(dict.fromkeys(str(group.runs[0].data["name"]) for group in groups))
    body = join(
        [
            tag("header", tag("p", "crossgraft report", class_="kicker"), tag("h1", tag("bdi", title))),
            _contents(groups) if len(groups) > 1 else None,
            _notes(notes),
            *parts,
            tag("footer", f"Written by crossgraft {__version__}. This file needs no network and no other file."),
            thumbnails.definitions(),
        ],
        "\n",
    )
    return Report(
        page(title, body),
        len(runs),
        len(groups),
        thumbnails.shown,
        thumbnails.missing,
        thumbnails.left_out,
        tuple(notes),
    )


def _group(
    group: Group, key: str, several: bool, thumbnails: Thumbnails, notes: list[str], tell: Callable[[str], None]
) -> Markup:
    images = cases_section(group, key, thumbnails, notes, tell)
    sections = {
        "accuracy": accuracy_section(group, key),
        "shift": shift_section(group, key),
        "numbers": numbers_section(group, key),
        "images": images,
        "trust": trust_section(group, key),
        "cost": cost_section(group, key),
        "provenance": provenance_section(group, key),
    }
    links = [tag("a", title, href=f"#{key}-{name}") for name, title in _PARTS if sections[name] is not None]
    title = tag("h2", tag("bdi", _title(group))) if several else None
    return tag(
        "article",
        title,
        tiles(group),
        headline(group),
        tag("nav", *links, aria_label="Parts of this report"),
        *(sections[name] for name, _ in _PARTS),
        id=key,
        class_="group",
    )


def _title(group: Group) -> str:
    run = group.runs[0]
    return f"{run.data['name']}, {str(run.backbone['name']).rsplit('/', 1)[-1]}, protocol {run.protocol}"


def _contents(groups: Sequence[Group]) -> Markup:
    items = [tag("li", tag("a", tag("bdi", _title(group)), href=f"#g{number}")) for number, group in enumerate(groups)]
    said = "These runs differ in their images, encoder or protocol, so they are not drawn in one chart:"
    return tag("nav", tag("p", said), tag("ul", *items), class_="contents", aria_label="Runs")


def _notes(notes: Sequence[str]) -> Markup | None:
    if not notes:
        return None
    return tag("aside", tag("ul", *(tag("li", one) for one in dict.fromkeys(notes))), class_="warn", aria_label="Notes")


def page(title: str, body: Markup) -> str:
    """Put the parts into the template. Only the page's own script may run, known by its hash."""
    folder = files("crossgraft.reporting")
    style, script, template = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js", "report.html")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    # What comes from files goes in last: it is not searched for places to fill.
    values = {"policy": policy, "style": style, "script": script, "title": escape(title), "body": body}
    head, *pieces = template.split("{{")
    filled = [head]
    for piece in pieces:
        name, rest = piece.split("}}", 1)
        filled += [values[name], rest]
    return "".join(filled)
