"""What was retrieved for some texts, as one page: the pictures, best first, with their cosines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossgraft.encoders.retrieve import Hits, ImageBank
from crossgraft.errors import InputError
from crossgraft.reporting.markup import Markup, join, plural, shorten, tag
from crossgraft.reporting.report import page
from crossgraft.reporting.thumbnails import Picture, Thumbnails


def explain(bank: ImageBank, texts: Sequence[str], hits: Hits, captions: Mapping[str, str] | None = None) -> str:
    """The page, as HTML that needs nothing else.

    Args:
        bank: where the images lie. Files that its store names, and that still hold what was encoded, are shown; for
            others stand name or caption, and content hash, or the row where the bank knows no more.
        texts: Q texts.
        hits: what was found for them, (Q, k).
        captions: content hash -> what to write below an image; default: the name of its file.

    Raises:
        InputError: another number of texts than of hits.
    """
    if len(texts) != len(hits.rows):
        raise InputError(f"{len(texts)} texts, but hits for {len(hits.rows)}; give the texts that were retrieved for")
    thumbnails = Thumbnails()
    shown = [
        _text(bank, text, rows, scores, paths, captions or {}, thumbnails)
        for text, rows, scores, paths in zip(
            texts, hits.rows.tolist(), hits.scores.tolist(), bank.paths(hits.rows), strict=True
        )
    ]
    k = hits.rows.shape[1]
    body = join(
        [
            tag("p", "crossgraft retrieval", class_="kicker"),
            tag("h1", f"{plural(k, 'image')} for each of {plural(len(texts), 'text')}"),
            tag(
                "p",
                f"From a bank of {plural(len(bank), 'image')}, "
                "best first, with the cosine to the text; \u2013: not searched for.",
            ),
            _left_out(thumbnails),
            tag("div", *shown, class_="cases"),
            thumbnails.definitions(),
        ],
        "\n",
    )
    return page("retrieved images", tag("article", body, class_="group"))


def _text(
    bank: ImageBank,
    text: str,
    rows: Sequence[int],
    scores: Sequence[float],
    paths: Sequence[Path | None],
    captions: Mapping[str, str],
    thumbnails: Thumbnails,
) -> Markup:
    items = []
    for rank, (row, score, path) in enumerate(zip(rows, scores, paths, strict=True), start=1):
        sha256 = bank.hashes[row] if bank.hashes is not None else ""
        called = captions.get(sha256) or (path.name if path is not None else f"row {row}")
        short = f"{shorten(called, 26)} {sha256[:12]}".rstrip()  # all that is seen of a picture that cannot be shown
        if path is None:
            says = f"hit {rank}: {called} {sha256} (no file is known)"
            picture = tag("span", short, class_="thumb none", title=says, role="note")
        else:
            picture = thumbnails(Picture(path, short, sha256), f"hit {rank}")
        name = tag("small", tag("bdi", shorten(called, 24), class_="name"), title=called)
        cosine = "\u2013" if math.isnan(score) else f"{score:.3f}".replace("-", "\u2212")
        items.append(tag("li", picture, name, tag("small", cosine, class_="value")))
    heading = tag("p", tag("b", tag("bdi", shorten(text, 400))))
    return tag("section", heading, tag("ul", *items, class_="votes", aria_label="Images, best first"), class_="case")


def _left_out(thumbnails: Thumbnails) -> Markup | None:
    """Why some pictures are named only; call it when all were asked for."""
    said = []
    if thumbnails.missing:
        said.append(f"{plural(thumbnails.missing, 'file')} moved, deleted or changed since they were encoded")
    if thumbnails.left_out:
        said.append(f"{plural(thumbnails.left_out, 'image')} not shown, to keep the page small")
    return tag("p", "Named, not shown: ", "; ".join(said), ".", class_="note") if said else None
