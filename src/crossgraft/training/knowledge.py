"""What a text is shown beside itself: images that a frozen dual encoder finds for it, and the text as it reads it.

Methods that look at such memories (`Method.memories`, X-adapter) are fed by this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from crossgraft.adapt import Memory
from crossgraft.encoders.base import Encoder
from crossgraft.encoders.extract import extract
from crossgraft.encoders.images import IMAGE_SUFFIXES
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.retrieve import Hits, ImageBank
from crossgraft.encoders.store import default_store
from crossgraft.errors import InputError
from crossgraft.files import read_json, write_json
from crossgraft.methods.xadapter import READ, RETRIEVED
from crossgraft.tasks import Example
from crossgraft.tensors import read_tensors
from crossgraft.training.labelled import Labels
from crossgraft.training.memories import check_knowledge, looked_at
from crossgraft.training.recipe import Recipe, placed
from crossgraft.training.settings import Knowledge
from crossgraft.training.standard import ENOUGH, Standard, read_standard

Say = Callable[[str], None]
FILE, STANDARD, CENTRE = "knowledge.json", "knowledge.safetensors", "texts.safetensors"  # in a run's folder
REFERENCE = 256  # training texts whose mean is taken
IN_MEMORY = 2**30  # bytes of a bank's features that are held in memory; more stay on disk
REMEMBERED = 200_000  # texts whose images are not looked for again


@dataclass
class KnowledgeSource:
    """Gives the memories of texts. Make one with `open`.

    Attributes:
        settings: of the recipe.
        encoder: the dual encoder.
        memories: names of those that it gives.
        bank: of images, None where no method looks at images.
        standard: of the bank's features; None: as they are.
        mean: of texts' embeddings (d,), which is taken off those that images are looked for with; None: nothing is.
        files: name of an image's file -> the files that have it, and their rows in the bank.
    """

    settings: Knowledge
    encoder: Encoder
    memories: tuple[str, ...]
    bank: ImageBank | None = None
    standard: Standard | None = None
    mean: Tensor | None = None
    files: dict[str, list[tuple[Path, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._found: dict[str, Tensor] = {}
        self._labelled: dict[str, Tensor] = {}
        self._held: Tensor | None = None  # the features of a bank that is not too large

    @classmethod
    def open(cls, recipe: Recipe, *, device: str = "auto", say: Say = lambda _: None) -> KnowledgeSource | None:
        """Make ready what the recipe's methods look at: images are encoded, once, into a store.

        Returns:
            None, if they look at nothing.

        Raises:
            InputError: no encoder or no images are named, or none of them can be used; the encoder gives no tokens.
        """
        wanted = looked_at(recipe)
        if not wanted:
            return None
        settings = recipe.knowledge
        check_knowledge(recipe)
        encoder = load_encoder(str(settings.encoder), device=device, dtype=settings.dtype)
        if READ in wanted and encoder.text_width is None:
            raise InputError(f"knowledge.encoder: {encoder.name} gives no tokens of texts; use another encoder")
        source = cls(settings, encoder, wanted)
        if RETRIEVED in wanted:
            images = image_files([Path(placed(str(path), recipe.data)) for path in settings.images])
            done = extract(images, encoder, settings.store or default_store(encoder), wait=True)
            if done.skipped:
                bad = done.skipped[0]
                say(
                    f"{len(done.skipped)} images of the bank cannot be used; the first: {bad['path']} ({bad['reason']})"
                )
            hashes = list(dict.fromkeys(done.hash_of.values()))
            # A store may hold other images, too; one that holds these alone stays on disk.
            if settings.centre or set(done.store.hashes) != set(hashes):
                embeddings = done.store.gather(hashes)
                if settings.centre:
                    embeddings -= embeddings.mean(0)
                    if not embeddings.norm(dim=1).all():
                        raise InputError(
                            "knowledge.centre: an image is the bank's mean; add images, or set it to false"
                        )
                source.bank = ImageBank(embeddings, hashes, encoder.fingerprint, done.store)
            else:
                source.bank = ImageBank.from_store(done.store, encoder)
            for path, h in done.hash_of.items():
                source.files.setdefault(path.name, []).append((path, source.bank.row_of(h)))  # type: ignore[arg-type]
            if len(source.bank) < settings.count:
                raise InputError(f"knowledge.count is {settings.count}, and the bank holds {len(hashes)} images")
            if settings.standardise:
                source.standard = _standard(source.bank, settings.features)
        return source

    @property
    def widths(self) -> dict[str, int]:
        """Option of a method -> width of what it is shown."""
        found = {}
        if RETRIEVED in self.memories:
            own = {"embedding": self.encoder.embedding_dim, "feature": self.encoder.feature_dim}
            found["visual_width"] = own[self.settings.features]
        if READ in self.memories:
            found["text_width"] = self.encoder.text_width or 0
        return found

    def provenance(self) -> dict[str, Any]:
        """Says what it is, for results."""
        found = {"encoder": {"name": self.encoder.name, "fingerprint": self.encoder.fingerprint}}
        if self.bank is None:
            return found
        digest = hashlib.sha256("".join(sorted(self.bank.hashes or ())).encode()).hexdigest()
        return {**found, "images": len(self.bank), "bank": digest}

    def save(self, folder: Path) -> None:
        """Write into a run's folder what it takes to show the same again."""
        write_json(folder / FILE, self.provenance())
        if self.standard is not None:
            self.standard.save(folder, STANDARD)
        if self.mean is not None:
            save_file({"mean": self.mean.contiguous()}, folder / CENTRE)

    @property
    def centres(self) -> bool:
        """Whether texts are taken among training texts."""
        return self.settings.centre and self.bank is not None and self.settings.choice == "nearest"

    @property
    def shows_own(self) -> bool:
        """Whether captions that are learned are shown the images that they are of."""
        return self.settings.own and self.bank is not None and self.settings.choice == "nearest"

    def learn(self, examples: Sequence[Example], say: Say) -> None:
        """Know what training texts are like, those that images are looked for with later.

        Raises:
            InputError: captions are to be shown their own images, and the bank has none of these.
        """
        texts = [text for example in examples if (text := told(example)).strip()]
        if self.centres and texts:
            self.mean = self.encoder.encode_texts(texts[:: max(1, len(texts) // REFERENCE)]).mean(0).cpu()
        if self.shows_own:
            found = sum(self.own_row(own_image(example)) is not None for example in examples)
            if not found:
                raise InputError(
                    "knowledge.own: the bank has no image that a caption names; add their folder to images"
                )
            say(f"{found} of {len(examples)} captions are shown the image that they are of")

    def restore(self, folder: Path, say: Say = lambda _: None) -> None:
        """Look for images, and show them, as when a run was trained; the bank may have others than at that time.

        Raises:
            InputError: it was another encoder; a file is missing or damaged.
        """
        recorded, now = read_json(folder / FILE), self.provenance()
        trained = recorded.get("encoder", {}).get("fingerprint") if isinstance(recorded, dict) else None
        if trained != self.encoder.fingerprint:
            raise InputError(
                f"{folder}: learned what another dual encoder knows ({str(trained)[:12]}) than this one "
                f"({self.encoder.fingerprint[:12]}); use the one it was trained with, or train again"
            )
        if recorded.get("bank") != now.get("bank"):
            say(f"note: the bank has {now.get('images')} images, and not the {recorded.get('images')} of the training")
        if self.standard is not None:
            self.standard = read_standard(folder, self.widths["visual_width"], STANDARD)
        if self.centres:
            self.mean = read_tensors(folder / CENTRE).get("mean")
            if self.mean is None or self.mean.shape != (self.encoder.embedding_dim,):
                raise InputError(
                    f"{folder / CENTRE}: expected a mean of {self.encoder.embedding_dim} numbers; train again"
                )

    def own_row(self, name: str | None) -> int | None:
        """The row of the one image whose path ends in this name; None if there is none, or more than one."""
        if name is None:
            return None
        parts = Path(name).parts
        rows = {row for path, row in self.files.get(parts[-1], ()) if path.parts[-len(parts) :] == parts}
        return rows.pop() if len(rows) == 1 else None

    def of(
        self, texts: Sequence[str], queries: Sequence[str] | None = None, own: Sequence[str | None] = ()
    ) -> dict[str, Memory]:
        """The memories of texts (B), by name; a text without a word has none.

        Args:
            queries: what images are looked for with; None: the texts.
            own: names of the images that the texts are of; each stands in the place of the last image found.
        """
        made: dict[str, Memory] = {}
        if RETRIEVED in self.memories:
            features, mask = self._spread(texts if queries is None else queries, self._images)
            for row, name in enumerate(own):
                if (at := self.own_row(name)) is not None and mask[row].any():
                    features[row, -1] = self._features(torch.tensor([[at]]))[0, 0]
            made[RETRIEVED] = Memory(features, mask)
        if READ in self.memories:
            made[READ] = Memory(*self._spread(texts, self._tokens))
        return made

    def find(self, texts: Sequence[str]) -> Tensor:
        """Rows (n, k) of the bank: the images nearest to each text, or as many random ones, the same each time."""
        absent = [text for text in dict.fromkeys(texts) if text not in self._found]
        fresh = dict(zip(absent, self.hits(absent).rows, strict=True)) if absent else {}
        if len(self._found) < REMEMBERED:
            self._found |= fresh
        return torch.stack([fresh[text] if text in fresh else self._found[text] for text in texts])

    def use_labels(self, things: Iterable[str]) -> list[str]:
        """From now on show, for each thing that is looked for, images whose files are called so (`Labels`).

        Returns:
            the things that the bank has such images of; images for the others are found as ever.

        Raises:
            InputError: no image of the bank is called so; there is no bank.
        """
        if self.bank is None:
            raise InputError("this adapter was shown no images, so none can be looked for by their label")
        labels = Labels(file for files in self.files.values() for file in files)
        found = {thing: rows for thing in things if (rows := labels.rows(thing, self.settings.count))}
        if not found:
            raise InputError("no image of the bank is called as what is asked about; name its files or folders so")
        self._labelled = {thing: torch.tensor(rows) for thing, rows in found.items()}
        self._found.clear()
        return list(found)

    def hits(self, texts: Sequence[str]) -> Hits:
        """Rows as `find` has them, and their cosines; images that were not searched for have none, which is NaN."""
        found = self._searched(texts)
        for place, text in enumerate(texts):
            if text in self._labelled:
                found.rows[place], found.scores[place] = self._labelled[text], torch.nan
        return found

    def _searched(self, texts: Sequence[str]) -> Hits:
        assert self.bank is not None
        if self.settings.choice == "random":
            rows = torch.stack([self._random(text) for text in texts])
            return Hits(torch.full(rows.shape, torch.nan), rows)
        queries = self.encoder.encode_texts(texts).cpu()
        queries = queries if self.mean is None else queries - self.mean
        return self.bank.search(queries, self.settings.count, distinct=self.settings.distinct)

    def _random(self, text: str) -> Tensor:
        assert self.bank is not None
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 2**63
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self.bank), generator=generator)[: self.settings.count]

    def _images(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        features = self._features(self.find(texts))
        return features, torch.ones(features.shape[:2], dtype=torch.long)

    def _features(self, rows: Tensor) -> Tensor:
        """Of rows (n, k) of the bank, (n, k, g)."""
        assert self.bank is not None
        name = self.settings.features
        if self._held is None and len(self.bank) * self.widths["visual_width"] * 4 <= IN_MEMORY:
            self._held = self.bank.features(torch.arange(len(self.bank))[:, None], name)[:, 0]
        features = self.bank.features(rows, name) if self._held is None else self._held[rows]
        return features if self.standard is None else self.standard(features)

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens, mask = self.encoder.encode_text_tokens(texts)
        return tokens.cpu().clone(), mask.cpu().clone()  # clones of what was made in inference mode may be trained on

    def _spread(self, texts: Sequence[str], make: Any) -> tuple[Tensor, Tensor]:
        """What is made of texts (n, T, g) and its mask, zeros in the rows of texts without a word."""
        rows = [row for row, text in enumerate(texts) if text.strip()]
        if not rows:
            width = self.widths["visual_width" if make == self._images else "text_width"]
            return torch.zeros(len(texts), 1, width), torch.zeros(len(texts), 1, dtype=torch.long)
        made, mask = make([texts[row] for row in rows])
        if len(rows) == len(texts):
            return made, mask
        at = torch.tensor(rows)
        every = made.new_zeros(len(texts), *made.shape[1:]).index_copy(0, at, made)
        return every, mask.new_zeros(len(texts), mask.shape[1]).index_copy(0, at, mask)


def told(example: Example) -> str:
    """What may be looked for of an example: its text, or both of a pair."""
    return f"{example.text} {example.second}"


def own_image(example: Example) -> str | None:
    """The image that a caption is of, as its file names it."""
    return (example.about or {}).get("image")


def image_files(places: Sequence[Path]) -> list[Path]:
    """All image files in folders, and files that are named themselves, in order.

    Raises:
        InputError: one is not there, or there are no images in any.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        elif place.is_file():
            found.append(place)
        else:
            raise InputError(f"knowledge.images: {place}: no such file or folder")
    if not found:
        raise InputError(f"knowledge.images: no image in {', '.join(map(str, places))}: the bank would be empty")
    return found


def _standard(bank: ImageBank, features: str) -> Standard:
    some = torch.arange(0, len(bank), max(1, len(bank) // ENOUGH))[:, None]
    rows = bank.features(some, features)[:, 0].double()  # (n, g)
    return Standard.of(rows.mean(0), rows.std(0, correction=0))
