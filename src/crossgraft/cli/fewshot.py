"""`crossgraft fewshot`: a classifier from a few photos a class."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crossgraft.cli.options import Device, Draft, Dtype, Json, Model, Split, Workers, check_out_folder, print_json, say
from crossgraft.errors import InputError

if TYPE_CHECKING:
    from crossgraft.encoders.base import Encoder
    from crossgraft.fewshot.run import FewShotRun, Fit


def fewshot(
    data: Annotated[Path, typer.Argument(help="Image folder (a folder a class), CoOp split file, or CSV.")],
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for results.json, adapters/ and predictions/.")],
    method: Annotated[str, typer.Option(help="A method, several with commas, or all.")] = "auto",
    shots: Annotated[str, typer.Option(help="Photos a class: a number, several with commas, or all.")] = "16",
    seeds: Annotated[str, typer.Option(help="Seeds of the draw, with commas.")] = "1,2,3",
    protocol: Annotated[
        str, typer.Option(help="What hyperparameters may see: none, min4 or full (validation photos).")
    ] = "none",
    split: Split = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="Another test set with the same class names; repeatable.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON: templates, or descriptions per class.")] = None,
    key: Annotated[
        str, typer.Option(help="What caches compare: the un-projected feature, or the embedding.")
    ] = "feature",
    views: Annotated[int, typer.Option(min=0, help="Augmented views averaged with each support photo.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A method's parameter, as name=value; repeatable.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Feature store.  [default: one a model under $CROSSGRAFT_HOME]")
    ] = None,
    workers: Workers = 1,
    device: Device = "auto",
    dtype: Dtype = "float32",
    draft: Draft = False,
    as_json: Json = False,
) -> None:
    """Fit few-shot classifiers on a frozen encoder, score them on test sets they never saw, save them."""
    wanted = _shots(shots)
    seed_list = list(dict.fromkeys(_number(text, "--seeds", 0) for text in _list(seeds, "--seeds")))
    params = dict(_parameter(text) for text in set_ or [])
    if key not in ("feature", "embedding"):
        raise InputError(f"--key is {key!r}: choose feature or embedding")
    check_out_folder(out)

    from crossgraft.encoders.load import load_encoder
    from crossgraft.encoders.prompts import Prompts
    from crossgraft.encoders.store import default_store
    from crossgraft.fewshot import METHODS, get_method
    from crossgraft.fewshot.data import load_data, load_test_data
    from crossgraft.fewshot.run import run_fewshot
    from crossgraft.files import write_json
    from crossgraft.reporting.predictions import write_predictions
    from crossgraft.reporting.results import few_shot_results

    methods = list(METHODS) if method == "all" else list(dict.fromkeys(_list(method, "--method")))
    for name in methods:
        get_method(name)
    images = load_data(data, split=split)
    tests = [load_test_data(path, images.classes) for path in test or []]
    prompt_set = Prompts.read(prompts) if prompts else Prompts()
    prompt_set.texts(images.classes)
    if undescribed := prompt_set.undescribed(images.classes):
        names = ", ".join(undescribed[:5]) + (", ..." if len(undescribed) > 5 else "")
        say(
            f"note: {prompts} has no description of {names}; the templates alone speak for {len(undescribed)} class(es)"
        )
    encoder = load_encoder(model, device=device, dtype=dtype, draft=draft)
    run = run_fewshot(
        images,
        encoder,
        store or default_store(encoder),
        methods=methods,
        shots=wanted,
        seeds=seed_list,
        protocol=protocol,  # type: ignore[arg-type]  # checked inside
        prompts=prompt_set,
        tests=tests,
        key=key,  # type: ignore[arg-type]  # checked above
        views=views,
        params=params,
        workers=workers,
        on_fit=_Progress(len(methods) * len(wanted) * len(seed_list)),
    )
    settings = {
        "key": key,
        "views": views,
        "templates": list(prompt_set.templates),
        "descriptions": len(prompt_set.descriptions),
        "set": params,
    }
    document = few_shot_results(run, encoder, protocol=protocol, seeds=seed_list, settings=settings)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made ({error.strerror}); give another folder") from error
    write_json(out / "results.json", document)  # before the adapters: the costly part
    write_json(out / "skipped.json", run.skipped)
    write_predictions(run, out / "predictions")
    _save_adapters(run, encoder, out / "adapters", settings | {"protocol": protocol})
    _report(document, run, out, as_json)


class _Progress:
    """Says on stderr how far the fits are, every two seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.said = total, 0, time.monotonic()

    def __call__(self, fit: Fit) -> None:
        self.done += 1
        if time.monotonic() - self.said > 2:
            self.said = time.monotonic()
            say(f"fitted {self.done} of {self.total}: {fit.method}, shots {fit.shots}, seed {fit.seed}")


def _save_adapters(run: FewShotRun, encoder: Encoder, folder: Path, settings: dict[str, Any]) -> None:
    """One adapter a method: of the last number of shots asked for, and the first seed."""
    from crossgraft.fewshot.persist import save_classifier

    shots, seed = run.fits[-1].shots, run.fits[0].seed
    for fit in run.fits:
        if fit.shots == shots and fit.seed == seed:
            extra = settings | {
                "shots": shots,
                "seed": seed,
                "data": run.data.fingerprint,
                "support": [str(path) for path in fit.support],
            }
            save_classifier(fit.classifier, folder / fit.method, encoder=encoder.identity, extra=extra)


def _report(document: dict[str, Any], run: FewShotRun, out: Path, as_json: bool) -> None:
    if run.skipped:
        say(f"{len(run.skipped)} image(s) could not be used: {out / 'skipped.json'}")
    for warning in run.warnings:
        say(f"note: {warning}")
    if as_json:
        print_json(document)
        return
    from rich.console import Console

    from crossgraft.reporting.table import few_shot_tables, setting

    console = Console()
    if not document["runs"][0]["metrics"]:
        say("every photo went into the classifier, so nothing is left to test it on (give --test, or fewer --shots)")
    console.print(setting(document), markup=False, highlight=False)
    for table in few_shot_tables(document):
        console.print(table)
    say(f"results: {out / 'results.json'}; classifiers: {out / 'adapters'} (use with `crossgraft predict`)")
    say(f"as a page: crossgraft report {out} --out {out / 'report.html'}")


def _list(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"{option} is {text!r}: expected one value, or several with commas between")
    return parts


def _number(text: str, option: str, least: int) -> int:
    # Ten digits and more overflow what random generators take as a seed.
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise InputError(f"{option}: {text[:40]!r} is not a whole number from {least} to 999999999")
    return int(text)


def _shots(text: str) -> list[int | Literal["all"]]:
    wanted: list[int | Literal["all"]] = [
        "all" if part == "all" else _number(part, "--shots", 1) for part in _list(text, "--shots")
    ]
    return sorted(set(wanted), key=lambda k: float("inf") if k == "all" else k)


def _parameter(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InputError(f"--set {text!r}: expected name=value, such as beta=3")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-99-99 looks like a date
        raise InputError(
            f"--set {text!r}: the value cannot be read; expected a number, a word, true or false"
        ) from error
    if isinstance(parsed, str):
        with suppress(ValueError):  # YAML reads 1e-3 as a word
            parsed = float(parsed)
    if not isinstance(parsed, bool | int | float | str):
        raise InputError(f"--set {text!r}: expected a number, a word, true or false")
    return name, parsed
