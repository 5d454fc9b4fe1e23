"""What the numbers hold for: protocol, seeds, fingerprints, settings, versions, warnings, skipped images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from crossgraft.reporting.groups import Group, shots_text
from crossgraft.reporting.markup import Markup, clean, join, plural, shorten, tag
from crossgraft.reporting.run_folder import RunFolder
from crossgraft.reporting.sections import note, section

PROTOCOLS = {
    "none": "hyperparameters are fixed values, or come from the support alone",
    "min4": "hyperparameters were searched on min(shots, 4) validation photos a class, so more labels than the shots",
    "full": "hyperparameters were searched on the whole validation split, so far more labels than the shots",
}
_SKIPPED = 50


def tiles(group: Group) -> Markup:
    """Model, data, protocol and seeds at a glance."""
    run = group.runs[0]
    classes = run.data.get("classes")
    seeds = sorted({seed for one in group.runs for seed in one.seeds})
    pairs = [
        (
            "Data",
            shorten(run.data["name"], 40),
            plural(classes, "class", "classes") if isinstance(classes, int) else "",
        ),
        ("Frozen encoder", _model_name(run), str(run.backbone.get("dtype", ""))),
        ("Protocol", run.protocol, ""),
        ("Shots", ", ".join(str(k) for k in group.shots), plural(len(group.names), "method")),
        ("Seeds", ", ".join(map(str, seeds)), plural(len(seeds), "draw of the support", "draws of the support")),
    ]
    items = [
        tag("div", tag("dt", name), tag("dd", tag("bdi", value), tag("small", more))) for name, value, more in pairs
    ]
    return tag("dl", *items, class_="tiles")


def provenance_section(group: Group, key: str) -> Markup:
    """All that a reader needs to repeat the runs or to doubt them."""
    return section(f"{key}-provenance", "Where the numbers come from", *(_run(run, group) for run in group.runs))


def _run(run: RunFolder, group: Group) -> Markup:
    document = run.document
    memory = document.get("peak_memory_mb")
    explained = PROTOCOLS.get(run.protocol, "unknown to this version")
    pairs: list[tuple[str, object]] = [
        ("protocol", join([tag("b", run.protocol), f": {explained}"])),
        ("seeds", ", ".join(map(str, run.seeds))),
        ("data", join([tag("bdi", run.data["name"]), " ", _code(run.data["fingerprint"])])),
        ("encoder", join([tag("bdi", _model_name(run)), " ", _code(run.backbone["fingerprint"])])),
        ("computed", _inline({key: run.backbone.get(key) for key in ("device", "dtype", "draft")})),
        ("settings", _inline(document.get("settings"))),
        ("versions", _inline(document.get("versions"))),
        ("peak memory", f"{memory:,.0f} MB" if isinstance(memory, int | float) else "not recorded"),
    ]
    rows = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs]
    title = tag("h4", "Run ", tag("bdi", run.path.name or str(run.path))) if len(group.runs) > 1 else None
    return join([title, tag("dl", *rows, class_="facts"), _warnings(run), _skipped(run), _hyperparameters(run)])


def _warnings(run: RunFolder) -> Markup:
    if not run.warnings:
        return note("No warnings.")
    return tag("div", tag("h5", "Warnings"), tag("ul", *(tag("li", one) for one in run.warnings)), class_="warn")


def _skipped(run: RunFolder) -> Markup:
    count = run.document.get("skipped_images")
    if run.skipped is None:
        known = plural(count, "image") if isinstance(count, int) else "an unknown number of images"
        return (
            note(f"Skipped: {known}; the list (skipped.json) is not here.") if count != 0 else note("No image skipped.")
        )
    if not run.skipped:
        return note("No image skipped.")
    folders = {os.path.dirname(path) for path, _ in run.skipped}
    common = os.path.commonpath(folders) if len({os.path.isabs(folder) for folder in folders}) == 1 else ""
    rows = [
        tag(
            "tr",
            tag("th", tag("bdi", os.path.relpath(path, common) if common else path), scope="row"),
            tag("td", reason),
        )
        for path, reason in run.skipped[:_SKIPPED]
    ]
    head = tag("thead", tag("tr", tag("th", "file", scope="col"), tag("th", "reason", scope="col")))
    more = len(run.skipped) - _SKIPPED
    return tag(
        "details",
        tag("summary", f"{plural(len(run.skipped), 'image')} skipped"),
        tag("div", tag("table", head, tag("tbody", *rows)), class_="scroll", tabindex=0),
        note(f"and {more:,} more, in skipped.json") if more > 0 else None,
    )


def _hyperparameters(run: RunFolder) -> Markup:
    rows = []
    for record in run.records:
        given = [{key: value for key, value in one.items() if key != "random_state"} for one in record.hyperparameters]
        if not any(given):
            continue
        distinct = list(dict.fromkeys(json.dumps(one, sort_keys=True) for one in given))
        said = " | ".join(_inline(json.loads(one)) for one in distinct)
        rows.append(
            tag(
                "tr",
                tag("th", tag("bdi", record.method), scope="row"),
                tag("td", shots_text(record.shots)),
                tag("td", said, class_="each"),
            )
        )
    if not rows:
        return join([])
    heads = [tag("th", name, scope="col") for name in ("method", "shots", "what it ran with (| between seeds)")]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return tag(
        "details", tag("summary", "Hyperparameters of every fit"), tag("div", table, class_="scroll", tabindex=0)
    )


def _model_name(run: RunFolder) -> str:
    """The name, of a model folder its last part: a page that is passed on need not tell where a home folder is."""
    name = str(run.backbone["name"])
    return os.path.basename(name.rstrip("/")) if os.path.isabs(name) else name


def _inline(value: Any) -> str:
    """A flat JSON object as "key value, key value"; lists by their length where they are long."""
    if not isinstance(value, Mapping):
        return "not recorded"
    return ", ".join(f"{key} {_plain(one)}" for key, one in value.items()) or "none"


def _plain(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"({len(value)})"
    if isinstance(value, list | dict) and not value:
        return "none"
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
    return clean(text)


def _code(fingerprint: str) -> Markup:
    return tag("code", fingerprint[:16], title=fingerprint)
