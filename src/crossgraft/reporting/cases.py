"""Single images: what was confused with what, and what decided hits and misses."""

from __future__ import annotations

from collections.abc import Callable

from crossgraft.reporting.groups import Group, shots_text
from crossgraft.reporting.markup import Markup, clean, join, plural, shorten, tag
from crossgraft.reporting.recorded import Case, Confusion, Recorded, RecordedTest, read_recorded
from crossgraft.reporting.run_folder import RunFolder
from crossgraft.reporting.sections import note, section
from crossgraft.reporting.thumbnails import Thumbnails

PAIRS = 8
"""Confusion pairs a method and test set."""
_PICTURES = 4
_MISSES, _HITS = 6, 4


def cases_section(
    group: Group, key: str, thumbnails: Thumbnails, notes: list[str], tell: Callable[[str], None]
) -> Markup:
    """Confusion pairs and evidence, folded by method, the most accurate open; `notes` takes what had to be left out."""
    found: dict[tuple[RunFolder, str], Recorded] = {}
    for run in group.runs:
        recorded, said = read_recorded(run, PAIRS, tell)
        notes += said
        found |= {(run, method): one for method, one in recorded.items()}
    rows = {(row.run, row.record.method): row.name for row in group.rows}
    ordered = [(at, name) for style in group.styles for at, name in rows.items() if name == style and at in found]
    if not ordered:
        return section(
            f"{key}-images",
            "Image by image",
            note("Nothing was recorded of single images (no predictions/ beside these results)."),
        )
    parts = [_method(found[at], name, thumbnails, number == 0) for number, (at, name) in enumerate(ordered)]
    absent = [name for at, name in rows.items() if at not in found]
    first = found[ordered[0][0]]
    lead = note(
        f"Recorded for {shots_text(first.shots)} and seed {first.seed}. Misses are those that the method was surest "
        "of; hits run from its surest to its least sure. The bar: how much of the lead of the predicted class over the "
        "mean of all comes from support photos, and how much from class texts; below it the photos that voted, with "
        "what each adds to the logit. An affinity ratio g, where there is one, is the image cache's weight beside the "
        "text cache's."
    )
    missing = note("Not recorded: ", ", ".join(absent), ".") if absent else None
    return section(f"{key}-images", "Image by image", lead, *parts, missing)


def _method(recorded: Recorded, name: str, thumbnails: Thumbnails, opened: bool) -> Markup:
    parts: list[Markup] = []
    for test, one in recorded.tests.items():
        content = join([_confusions(one, thumbnails), _evidence(one, thumbnails)])
        wrong = tag("span", f"{one.misses:,} of {plural(one.images, 'photo')} wrong", class_="aside")
        if len(recorded.tests) > 1:
            content = tag("details", tag("summary", "Test set ", tag("bdi", test), wrong), content, open=not parts)
        parts.append(content)
    misses = sum(one.misses for one in recorded.tests.values())
    images = sum(one.images for one in recorded.tests.values())
    wrong = tag("span", f"{misses:,} of {plural(images, 'photo')} wrong", class_="aside")
    summary = tag("summary", tag("b", tag("bdi", name)), wrong)
    return tag("details", summary, *parts, open=opened, class_="method")


def _confusions(one: RecordedTest, thumbnails: Thumbnails) -> Markup:
    if not one.confusions:
        return note("Not one miss.")
    shown = sum(len(pair.pictures) for pair in one.confusions)
    return join(
        [
            tag("h5", "Most confused"),
            tag("ul", *(tag("li", _pair(pair, thumbnails)) for pair in one.confusions), class_="pairs"),
            note(f"These pairs are {shown:,} of {plural(one.misses, 'miss', 'misses')}.")
            if shown < one.misses
            else None,
        ]
    )


def _pair(pair: Confusion, thumbnails: Thumbnails) -> Markup:
    pictures = [
        thumbnails(picture, f"{shorten(pair.truth, 60)}, taken for {shorten(pair.predicted, 60)}, {probability:.0%}")
        for picture, probability in pair.pictures[:_PICTURES]
    ]
    example = None
    if pair.example is not None:
        says = f"a support photo of {shorten(pair.predicted, 60)}"
        example = tag("span", thumbnails(pair.example, says), tag("small", "support"), class_="example")
    return join(
        [
            tag(
                "p",
                tag("span", f"{len(pair.pictures)}\u00d7", class_="count"),
                _name(pair.truth),
                tag("span", " taken for ", class_="aside"),
                _name(pair.predicted),
            ),
            tag("div", *pictures, tag("span", "→", class_="arrow", aria_hidden="true"), example, class_="strip"),
        ]
    )


def _evidence(one: RecordedTest, thumbnails: Thumbnails) -> Markup:
    if one.cases is None:
        return note("This method keeps no evidence: it cannot say which photos and texts voted.")
    misses = [case for case in one.cases if not case.hit][:_MISSES]
    hits = [case for case in one.cases if case.hit]
    # Evenly spread over what was recorded, which runs from the surest to the least sure.
    hits = [hits[round(i * (len(hits) - 1) / max(_HITS - 1, 1))] for i in range(_HITS)] if len(hits) > _HITS else hits
    parts = []
    for title, cases in (("Why: the surest misses", misses), ("Why: hits", hits)):
        if cases:
            parts += [tag("h5", title), tag("div", *(_case(case, thumbnails) for case in cases), class_="cases")]
    return join(parts)


def _case(case: Case, thumbnails: Thumbnails) -> Markup:
    verdict = tag("span", "hit", class_="badge hit") if case.hit else tag("span", "miss", class_="badge miss")
    truth = None if case.hit else tag("p", "but it is ", _name(case.truth), class_="truth")
    head = tag(
        "div",
        thumbnails(case.picture, f"test photo of {shorten(case.truth, 60)}"),
        tag(
            "div",
            tag("p", verdict, " says ", _name(case.predicted), f" {case.probability:.0%}"),
            truth,
            tag("p", _ranking(case), class_="top"),
            class_="said",
        ),
        class_="head",
    )
    return tag("article", head, _shares(case), _votes(case, thumbnails), _texts(case), class_="case")


def _ranking(case: Case) -> Markup:
    rest = [pair for pair in case.top if pair[0] != case.predicted and pair[1] >= 0.005][:3]
    return (
        join(["then ", *_between([join([_name(name), f" {value:.0%}"]) for name, value in rest])]) if rest else join([])
    )


def _shares(case: Case) -> Markup:
    image = min(max(case.image_share, 0.0), 1.0)
    says = f"photos {image:.0%}, texts {1 - image:.0%}"
    bar = tag(
        "svg",
        tag("title", says),
        tag("rect", class_="image", width=100 * image, height=6),
        tag("rect", class_="text", x=100 * image, width=100 * (1 - image), height=6),
        viewBox="0 0 100 6",
        preserveAspectRatio="none",
        role="img",
        aria_label=says,
    )
    ratio = None if case.ratio is None else tag("span", f"affinity ratio g {case.ratio:.2f}", class_="aside")
    return tag(
        "div",
        tag("p", tag("span", f"photos {image:.0%}"), ratio, tag("span", f"texts {1 - image:.0%}")),
        bar,
        class_="shares",
    )


def _votes(case: Case, thumbnails: Thumbnails) -> Markup:
    votes = [vote for vote in case.votes if vote.contribution]
    if not votes:
        return tag("p", "No support photo voted.", class_="aside")
    items = [
        tag(
            "li",
            thumbnails(vote.picture, f"support photo of {shorten(vote.label, 60)}"),
            tag("small", _name(vote.label, 24)),
            tag("small", f"{vote.contribution:+.2f}".replace("-", "\u2212"), class_="value"),
        )
        for vote in votes
    ]
    return tag("ul", *items, class_="votes", aria_label="Support photos, by what they add to the logit")


def _texts(case: Case) -> Markup:
    items = [join([_name(label, 40), f" {cosine:.2f}"]) for label, cosine in case.texts]
    return tag("p", tag("span", "nearest class texts: ", class_="aside"), *_between(items), class_="texts")


def _between(parts: list[Markup]) -> list[object]:
    return [piece for i, part in enumerate(parts) for piece in ((", ", part) if i else (part,))]


def _name(name: str, length: int = 60) -> Markup:
    """A class name that cannot run its direction of writing into its neighbours, or over the page."""
    short = shorten(name, length)
    return tag("bdi", short, class_="name", title=None if short == clean(name) else name)
