"""`crossgraft classes`: a saved classifier with a class more or less."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossgraft.cli.options import Device, Json, check_out_folder, print_json, say
from crossgraft.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from crossgraft.fewshot.base import FewShotClassifier
    from crossgraft.fewshot.predictor import Predictor

app = typer.Typer(help="List, add or remove the classes of a saved classifier.", no_args_is_help=True)

Out = Annotated[
    Path | None, typer.Option(help="Folder for the new adapter.  [one of --out and --in-place is required]")
]
InPlace = Annotated[bool, typer.Option("--in-place", help="Replace the adapter itself.")]


@app.callback()
def _adapter(
    context: typer.Context,
    adapter: Annotated[Path, typer.Argument(help="Adapter folder that `crossgraft fewshot` saved.")],
) -> None:
    context.obj = adapter


@app.command("list")
def list_classes(context: typer.Context, as_json: Json = False) -> None:
    """The classes, in the order of the outputs."""
    from crossgraft.fewshot.persist import load_classifier
    from crossgraft.fewshot.predictor import adapter_folder

    classifier = load_classifier(adapter_folder(context.obj))
    names = [str(name) for name in classifier.classes_.tolist()]
    if as_json:
        print_json({"adapter": str(context.obj), "method": classifier.method, "classes": names})
    else:
        typer.echo("\n".join(names))


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the new class.")],
    images: Annotated[list[Path], typer.Argument(help="Its photos.")],
    out: Out = None,
    in_place: InPlace = False,
    text: Annotated[
        list[str] | None, typer.Option(help="A description of the class, beside the templates' texts; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the encoder is, if it moved; it has to be the same one.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Add a class from its photos; the photos of the other classes are not needed."""
    from crossgraft.fewshot.predictor import Predictor, adapter_folder

    source = adapter_folder(context.obj)
    target = _target(source, out, in_place)
    predictor = Predictor.load(source, model=model, device=device)
    _check_name(name, predictor.classifier)
    embedded = _embed_texts(predictor, name, text or [])
    X, errors = predictor.features(images)
    skipped = {str(image): error for image, error in zip(images, errors, strict=True) if error is not None}
    for image, error in skipped.items():
        say(f"{image}: skipped, {error}")
    if X is None:
        raise InputError(f"no photo of {name!r} could be read")
    if predictor.config["extra"].get("views"):
        say("note: the support's photos were averaged with augmented views; the new class's are taken as they are")
    predictor.classifier.add_class(X, name, embedded)
    used = [str(image.absolute()) for image in images if str(image) not in skipped]
    extra = dict(predictor.config["extra"])
    if "support" in extra:
        extra["support"] = extra["support"] + used
    change = {"added": name, "photos": len(used)}
    _save(predictor.classifier, predictor.config, extra, target, change, as_json, {"skipped": skipped})


@app.command()
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the class.")],
    out: Out = None,
    in_place: InPlace = False,
    as_json: Json = False,
) -> None:
    """Remove a class; nothing else is needed."""
    from crossgraft.fewshot.persist import load_classifier, read_config
    from crossgraft.fewshot.predictor import adapter_folder

    source = adapter_folder(context.obj)
    target = _target(source, out, in_place)
    classifier, config = load_classifier(source), read_config(source)
    names, labels = classifier.classes_.tolist(), getattr(classifier, "labels_", None)
    classifier.remove_class(name)
    extra = dict(config.get("extra") or {})
    support = extra.pop("support", None)
    # Without labels it is not known whose the photos are; no such method names them, either.
    if isinstance(support, list) and labels is not None and len(labels) == len(support):
        rows = labels.tolist()
        extra["support"] = [path for path, row in zip(support, rows, strict=True) if names[row] != name]
    _save(classifier, config, extra, target, {"removed": name}, as_json, {})


def _target(source: Path, out: Path | None, in_place: bool) -> Path:
    if (out is None) != in_place:
        raise InputError("give --out NEW_DIR for a new adapter, or --in-place to replace this one")
    if out is None:
        return source
    check_out_folder(out)
    if out.resolve() == source.resolve():
        raise InputError(f"--out {out} is the adapter itself; give another folder, or --in-place to replace it")
    return out


def _check_name(name: str, classifier: FewShotClassifier) -> None:
    from crossgraft.encoders.prompts import prompt_name

    if not prompt_name(name):
        raise InputError("the name of the new class is empty; it is what its texts are made of")
    same = [str(one) for one in classifier.classes_ if prompt_name(str(one)).casefold() == prompt_name(name).casefold()]
    if same:
        raise InputError(f"there is a class {same[0]!r} already; remove it first, or take another name")


def _embed_texts(predictor: Predictor, name: str, descriptions: list[str]) -> Tensor | None:
    """The texts of the new class (P, d), made as those of the others were; None for a classifier without texts."""
    from crossgraft.encoders.prompts import DEFAULT_TEMPLATES, Prompts

    if predictor.classifier.text is None:
        return None
    extra = predictor.config["extra"]
    templates = extra.get("templates", list(DEFAULT_TEMPLATES))
    if not isinstance(templates, list) or not all(isinstance(template, str) for template in templates):
        raise InputError("adapter_config.json: extra.templates: expected a list of texts")
    if not templates and not descriptions:
        raise InputError(
            "the classes of this adapter have descriptions and no templates; describe the new one by --text"
        )
    if extra.get("descriptions") and not descriptions:
        say(f"note: other classes have descriptions; the templates alone speak for {name} (see --text)")
    prompts = Prompts(tuple(templates), {name: tuple(descriptions)} if descriptions else {})
    return prompts.encode_each(predictor.encoder, [name])[0]


def _save(
    classifier: FewShotClassifier,
    config: dict[str, Any],
    extra: dict[str, Any],
    target: Path,
    change: dict[str, Any],
    as_json: bool,
    also: dict[str, Any],
) -> None:
    from crossgraft.fewshot.persist import save_classifier

    extra["changes"] = [*extra.get("changes", []), change]
    save_classifier(classifier, target, encoder=config.get("encoder"), extra=extra)
    names = [str(name) for name in classifier.classes_.tolist()]
    if as_json:
        print_json({"adapter": str(target), "method": classifier.method, "classes": names} | change | also)
    else:
        typer.echo(f"{target}: {len(names)} classes")
    if classifier.calibration_ is not None:
        say("note: probabilities keep their scale; for a reject threshold (--reject) fit again")
