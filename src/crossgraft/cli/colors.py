"""`crossgraft colors`: which colours a language model thinks that things have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossgraft.cli.options import Device, Json, check_out_folder, print_json, say
from crossgraft.errors import InputError

if TYPE_CHECKING:
    from crossgraft.training.knowledge import KnowledgeSource

_MEANS = ("mean", "mean_without_bias")


def colors(
    model: Annotated[
        str, typer.Option("--model", "-m", help="pocket-llama, a Hugging Face name, or a folder: a language model.")
    ],
    data: Annotated[
        Path, typer.Option(help="Memory Colors (JSON lines or CSV), Color Terms (CSV), or the folder of CoDa.")
    ],
    adapter: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="A run of an X-adapter, whose images the model is shown.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts of your own: a line each, with {object}.  [default: VaLM's nine]")
    ] = None,
    kind: Annotated[str, typer.Option(help="auto, masked or causal.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write results.json, colors.html and answers.jsonl here.")] = None,
    control: Annotated[
        Path | None, typer.Option(metavar="ANSWERS", help="answers.jsonl of a control: says how much better this is.")
    ] = None,
    look_for: Annotated[
        str,
        typer.Option(help="With --adapter: sentence, object, or label: which images are shown."),
    ] = "sentence",
    explain: Annotated[
        bool, typer.Option("--explain", help="With --adapter and --out: write retrieved.html, the images it was shown.")
    ] = False,
    correct: Annotated[
        bool, typer.Option("--correct", help="Take the authors' label where a copy is known to have a wrong one.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the confidence intervals.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many objects, the first ones.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Ask a language model for the colours of objects, zero-shot, by several prompts."""
    if out is not None:
        check_out_folder(out)
    if look_for not in ("sentence", "object", "label"):
        raise InputError(f"--look-for {look_for!r} is unknown: choose sentence, object or label")
    if look_for != "sentence" and adapter is None:
        raise InputError("--look-for says what an adapter is shown: give --adapter, too")
    if explain and (adapter is None or out is None):
        raise InputError("--explain shows what an adapter was shown: give --adapter and --out, too")
    from crossgraft.tasks.color_prompts import PROMPTS, fill, read_prompts
    from crossgraft.tasks.colors import read_colors

    objects = read_colors(data, correct=correct)
    chosen = PROMPTS if prompts is None else read_prompts(prompts)
    for note in objects.notes:
        say(f"note: {note}")
    from crossgraft.training.colors_run import against, plain_scorer, read_answers, run_colors

    other = None if control is None else read_answers(control)  # before the model is asked for minutes
    about: dict[str, Any] = {}
    knowledge, queries = None, None
    if adapter is None:
        scorer, method = plain_scorer(model, kind=kind, device=device, say=say), "zero-shot"
    else:
        from crossgraft.training.adapted_scorer import adapted_scorer

        if look_for != "sentence":
            queries = {fill(prompt, one): one.name for prompt in chosen for one in objects.objects}
        made = adapted_scorer(model, adapter, kind=kind, device=device, queries=queries, say=say)
        scorer, knowledge, method = made.scorer, made.knowledge, "adapted, then zero-shot"
        about = {"adapter": str(adapter), "look_for": look_for}
        about |= {} if knowledge is None else {"knowledge": knowledge.provenance()}
        if look_for == "label":
            about["labelled"] = _use_labels(knowledge, {one.phrase: one.name for one in objects.objects[:limit]})
    run = run_colors(
        scorer, objects, chosen, model=model, method=method, about=about, limit=limit, seed=seed, progress=True
    )
    if other is not None:
        run.document["control"] = against(run, other, seed=seed)
    retrieved = None
    if explain:
        retrieved = _explained(knowledge, [fill(chosen[0], one) for one in objects.objects[:limit]], queries or {})
    if out is not None:
        run.write(out, retrieved)
    if as_json:
        print_json(run.document)
        return
    _table(run.document)
    if out is not None:
        typer.echo(f"{out / 'colors.html'}: the page; results.json and answers.jsonl lie beside it")


def _use_labels(knowledge: KnowledgeSource | None, names: dict[str, str]) -> list[str]:
    """Show images by their label; the phrases, of phrase -> name, of objects that the bank has images of."""
    if knowledge is None:
        raise InputError("--look-for label: this adapter was shown no images")
    labelled = set(knowledge.use_labels(names.values()))
    say(f"{len(labelled)} of {len(names)} objects have images of their label; for the others they are searched for")
    return [phrase for phrase, name in names.items() if name in labelled]


def _explained(knowledge: KnowledgeSource | None, texts: list[str], queries: Mapping[str, str]) -> str:
    """The page of images that were found for texts."""
    from crossgraft.reporting.retrieved_page import explain

    if knowledge is None or knowledge.bank is None:
        raise InputError("--explain: this adapter was shown no images")
    asked = [queries.get(text, text) for text in texts]
    return explain(knowledge.bank, asked, knowledge.hits(asked))


def _table(document: dict[str, Any]) -> None:
    found = document["colors"]
    typer.echo(f"{'prompt':<44}{'accuracy %':>12}{'without bias':>14}")
    for one in found["prompts"]:
        typer.echo(f"{one['prompt']:<44}{one['accuracy']:>12.1f}{one['without_bias']:>14.1f}")
    typer.echo(f"{'mean':<44}{found['mean']['mean']:>12.1f}{found['mean_without_bias']['mean']:>14.1f}")
    for title, spans in (
        ("95 % interval over objects", [(found[key]["low"], found[key]["high"]) for key in _MEANS]),
        ("range over prompts", [found["range"], found["range_without_bias"]]),
    ):
        first, second = (f"{low:.1f}-{high:.1f}" for low, high in spans)
        typer.echo(f"{title:<44}{first:>12}{second:>14}")
    common = found["majority"]
    typer.echo(f"{'always ' + common['color']:<44}{common['accuracy']:>12.1f}")
    (numbers,) = document["metrics"].values()
    for name in ("jensen_shannon", "spearman", "kendall"):
        if name in numbers:
            typer.echo(f"{name + ' to people':<44}{numbers[name]['mean']:>12.3f}")
    if (control := document.get("control")) is not None:
        span = f"{control['low']:+.1f} to {control['high']:+.1f}"
        typer.echo(f"{'minus the control':<44}{control['mean']:>+12.1f}   {span}")
