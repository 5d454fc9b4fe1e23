"""Object colours asked of a language model, zero-shot: every prompt about every object, scored and written down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossgraft.encoders.fingerprint import fingerprint
from crossgraft.encoders.load import device_of
from crossgraft.encoders.meter import Meter
from crossgraft.environment import check_environment, quiet_transformers
from crossgraft.errors import InputError, first_line
from crossgraft.files import write_bytes, write_json
from crossgraft.folders import replacing
from crossgraft.models.choice_scoring import KINDS, MASKED, ChoiceScorer, kind_of
from crossgraft.pocket.resolve import model_folder
from crossgraft.reporting.colors_page import colors_page
from crossgraft.reporting.results import SCHEMA_VERSION, peak_memory_mb, summary, versions
from crossgraft.tasks.color_prompts import PROMPTS, check_prompts, fill
from crossgraft.tasks.colors import COLORS, SPELLINGS, ColorData
from crossgraft.tasks.files import read_lines
from crossgraft.tasks.metrics import color_scores as metrics
from crossgraft.training.build import load_tokenizer

RESULTS, PAGE, ANSWERS, RETRIEVED = "results.json", "colors.html", "answers.jsonl", "retrieved.html"
PROTOCOL = "zero-shot: no label is used; the likeliest of 11 colours, a fixed list of prompts"


@dataclass(frozen=True)
class ColorRun:
    """What came out.

    Attributes:
        document: of results.json.
        answers: a row for each prompt and object, of answers.jsonl.
        right: whether each answer is right (prompts, objects).
    """

    document: dict[str, Any]
    answers: list[dict[str, Any]]
    right: NDArray[np.bool_]

    def write(self, folder: Path, retrieved: str | None = None) -> None:
        """Write results.json, colors.html and answers.jsonl; an older run in the folder is replaced.

        Args:
            retrieved: a page with the images that the model was shown, for retrieved.html.

        Raises:
            InputError: the folder is a file, or holds something else.
        """
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in self.answers)
        with replacing(folder, (RESULTS, PAGE, ANSWERS, RETRIEVED), "run of colors") as new:
            write_json(new / RESULTS, self.document)
            write_bytes(new / PAGE, colors_page(self.document).encode())
            write_bytes(new / ANSWERS, lines.encode("utf-8"))
            if retrieved is not None:
                write_bytes(new / RETRIEVED, retrieved.encode("utf-8"))


def plain_scorer(
    model: str, *, kind: str = "auto", device: str = "auto", say: Callable[[str], None] = lambda _: None
) -> ChoiceScorer:
    """A scorer of colours by a language model as it is.

    Args:
        model: a pocket model, a folder, or a Hugging Face name.
        kind: masked or causal; auto: as its configuration says.

    Raises:
        InputError: no such model; it is neither kind; its weights lack the head that names words.
    """
    import transformers as hf

    if kind not in ("auto", *KINDS):
        raise InputError(f"--kind {kind!r} is unknown: choose from auto, {', '.join(KINDS)}")
    check_environment()
    quiet_transformers()
    where, folder = device_of(device), model_folder(model)
    try:
        config = hf.AutoConfig.from_pretrained(folder)
        chosen: Any = kind_of(config) if kind == "auto" else kind
        if chosen == "causal" and config.model_type in MASKED and not getattr(config, "is_decoder", False):
            raise InputError(f"a {config.model_type} model that reads both ways goes on with no text; use kind masked")
        loader: Any = hf.AutoModelForMaskedLM if chosen == "masked" else hf.AutoModelForCausalLM
        language, loading = loader.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except InputError as error:
        raise InputError(f"{model}: {error}") from None
    except Exception as error:  # transformers meets damaged files and absent hubs with nearly any exception
        raise InputError(f"cannot load {model!r} as a folder or Hugging Face name: {first_line(error)}") from error
    if absent := sorted(loading["missing_keys"]):  # transformers fills these with random numbers
        raise InputError(
            f"{model}: its weights lack {len(absent)} tensors of a {chosen} language model, such as {absent[0]}, so "
            "its answers would be noise; choose a model with that head, or train one"
        )
    language.requires_grad_(False)
    language.eval().to(where)
    return ChoiceScorer(language, load_tokenizer(model), SPELLINGS, kind=chosen, say=say)


def run_colors(
    scorer: ChoiceScorer,
    data: ColorData,
    prompts: Sequence[str] = PROMPTS,
    *,
    model: str,
    method: str = "zero-shot",
    about: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ColorRun:
    """Ask for the colour of every object by every prompt.

    Args:
        scorer: made for `SPELLINGS`.
        model: what the model is called in the results.
        method: zero-shot, or what was done to the model before.
        about: more to say in the results, such as {"adapter": folder}.
        limit: only so many objects, the first ones.
        seed: of the bootstrap, the only thing that is drawn.
        progress: show a bar on stderr.

    Raises:
        InputError: no objects; bad prompts; a scorer of other choices.
    """
    if limit is not None and limit < len(data.objects):
        note = f"the first {limit} of {len(data.objects)} objects only"
        data = replace(data, objects=data.objects[: max(limit, 0)], notes=(*data.notes, note))
    objects = data.objects
    if not objects:
        raise InputError(f"{data.name}: no objects to ask about; give a larger --limit, or other data")
    if scorer.choices != COLORS:
        raise InputError(f"the scorer chooses among {', '.join(scorer.choices)}; expected {', '.join(COLORS)}")
    prompts = check_prompts(prompts)
    texts = [[fill(prompt, one) for one in objects] for prompt in prompts]
    started = time.perf_counter()
    with Meter(progress, unit="questions") as meter:
        meter.start("asking", len(prompts) * len(objects))
        flat = scorer([text for own in texts for text in own], meter.advance)
    seconds = time.perf_counter() - started
    scores = flat.double().numpy().reshape(len(prompts), len(objects), len(COLORS))
    if not np.isfinite(scores).all():
        raise InputError(f"{model}: gives scores that are no numbers; its weights may be damaged")
    truths = np.array([COLORS.index(one.color) for one in objects])
    answers = scores.argmax(2)
    right = answers == truths
    fair = metrics.without_bias(scores).argmax(2)
    found = _figures(prompts, right, fair == truths, seed) | _table(answers, truths)
    numbers = {"accuracy": found["mean"]["mean"], "accuracy_without_bias": found["mean_without_bias"]["mean"]}
    people = _agreement(scores, data)
    document = {
        "schema_version": SCHEMA_VERSION,
        "task": "object colour",
        "method": method,
        "protocol": PROTOCOL,
        "seeds": [seed],
        "settings": {
            "kind": scorer.kind,
            "words": "one token each" if scorer.one_token else "mean log-probability over tokens",
            "spellings": {color: list(words) for color, words in SPELLINGS.items() if len(words) > 1},
            "ending": scorer.ending if scorer.kind == "masked" else None,
            "prompts": list(prompts),
            "limit": limit,
        },
        "backbone": _backbone(scorer, model),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "files": dict(data.files)}
        | {"objects": len(objects), "classes": len(COLORS)},
        "warnings": list(data.notes),
        "metrics": {data.name: {name: summary([value]) for name, value in (numbers | people).items()}},
        "colors": found,
        "parameters": _parameters(scorer),
        "seconds": {"asking": seconds},
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
    } | dict(about or {})
    rows = [
        {
            "prompt": number,
            "text": texts[number][place],
            "object": one.phrase,
            "color": one.color,
            "answer": COLORS[answers[number, place]],
            "without_bias": COLORS[fair[number, place]],
            "log_probabilities": dict(zip(COLORS, scores[number, place].round(5).tolist(), strict=True)),
        }
        for number in range(len(prompts))
        for place, one in enumerate(objects)
    ]
    return ColorRun(document, rows, right)


def _figures(prompts: Sequence[str], right: NDArray[Any], fair: NDArray[Any], seed: int) -> dict[str, Any]:
    """Accuracy in percent: a prompt, their mean with its interval, their range; the same without the prompts' bias."""
    own, own_fair = 100 * right.mean(1), 100 * fair.mean(1)
    return {
        "prompts": [
            {"prompt": prompt, "accuracy": float(value), "without_bias": float(other)}
            for prompt, value, other in zip(prompts, own, own_fair, strict=True)
        ],
        "mean": metrics.bootstrap(100 * right.mean(0), seed=seed)._asdict(),
        "range": [float(own.min()), float(own.max())],
        "mean_without_bias": metrics.bootstrap(100 * fair.mean(0), seed=seed)._asdict(),
        "range_without_bias": [float(own_fair.min()), float(own_fair.max())],
        "interval": {"level": metrics.LEVEL, "resamples": metrics.RESAMPLES, "over": "objects", "seed": seed},
    }


def _table(answers: NDArray[Any], truths: NDArray[Any]) -> dict[str, Any]:
    """Confusion and recall of each colour, and what the most frequent colour alone would score."""
    counts = metrics.confusion(answers, truths, len(COLORS))
    first, share = metrics.majority(truths)
    return {
        "names": list(COLORS),
        "objects": np.bincount(truths, minlength=len(COLORS)).tolist(),
        "confusion": counts.tolist(),  # a row a true colour, a column an answer, over all prompts
        "recall": [None if value is None else 100 * value for value in metrics.recalls(counts)],
        "majority": {"color": COLORS[first], "accuracy": 100 * share},
    }


def _agreement(scores: NDArray[Any], data: ColorData) -> dict[str, float]:
    """Of a data set with people's shares, how near the model's are, on average over prompts and objects."""
    shares = [one.shares for one in data.objects if one.shares is not None]
    if len(shares) < len(data.objects):
        return {}
    return {name: float(values.mean()) for name, values in metrics.agreement(scores, np.array(shares)).items()}


def _backbone(scorer: ChoiceScorer, name: str) -> dict[str, Any]:
    first = next(scorer.model.parameters())
    return {
        "name": name,
        "fingerprint": fingerprint(scorer.model.state_dict(), []),
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
    }


def _parameters(scorer: ChoiceScorer) -> dict[str, float]:
    sizes = [(one.numel(), one.requires_grad) for one in scorer.model.parameters()]
    total, trainable = sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
    return {"trainable": trainable, "total": total, "percent": 100 * trainable / total}


@dataclass(frozen=True)
class Answers:
    """Another run's answers, such as a control's.

    Attributes:
        objects: phrase and colour of each.
        right: whether each answer is right (prompts, objects).
    """

    path: Path
    objects: list[tuple[str, str]]
    right: NDArray[np.bool_]


def read_answers(path: Path) -> Answers:
    """Read an answers.jsonl.

    Raises:
        InputError: it is none.
    """
    prompts: dict[int, list[tuple[str, str, str]]] = {}
    for row in read_lines(path):
        prompts.setdefault(row.get("prompt", int), []).append(
            (row.text("object"), row.text("color"), row.text("answer"))
        )
    asked = [[(phrase, color) for phrase, color, _ in rows] for rows in prompts.values()]
    if any(objects != asked[0] for objects in asked):
        raise InputError(f"{path}: its prompts are about different objects; is it cut off? Run it again")
    right = np.array([[answer == color for _, color, answer in rows] for rows in prompts.values()])
    return Answers(path, asked[0], right)


def against(run: ColorRun, control: Answers, *, seed: int = 0) -> dict[str, Any]:
    """How much more a run gets right than another one on the same objects.

    Returns:
        {"answers", "mean", "low", "high"}: the difference in points and its interval (`metrics.paired_difference`).

    Raises:
        InputError: the other run's objects are others.
    """
    own = [(row["object"], row["color"]) for row in run.answers if row["prompt"] == 0]
    if own != control.objects:
        raise InputError(f"{control.path}: was asked about other objects than this run; compare runs on the same data")
    found = metrics.paired_difference(100.0 * run.right, 100.0 * control.right, seed=seed)
    return {"answers": str(control.path), **found._asdict()}
