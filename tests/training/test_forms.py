"""Classifiers and causal models through the whole of a run: trained on features as arrays, scored, asked again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import WIDTH, WORDS, recipe, save_data, save_language_model
from tokenizers import processors
from transformers import AutoTokenizer

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError
from crossgraft.models.classifier import VisionClassifier
from crossgraft.tasks import Example
from crossgraft.training.build import count_parameters, load_tokenizer
from crossgraft.training.data import Data
from crossgraft.training.forms import Lesson, form_of
from crossgraft.training.forms.base import BETWEEN
from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import evaluate, train

METHOD = {"name": "dvp", "dropout": 0.0}
TRAINING = {"epochs": 12, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def values(family: str, data: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    made = recipe(
        save_language_model(folder / "model", family), data, folder / "run", training=changes.pop("training", {})
    )
    made["tasks"] = {"vqa": made["tasks"]["vqa"]}
    return made | changes


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_a_classifier_learns_what_only_the_image_tells(family: str, data: Path, tmp_path: Path) -> None:
    made = values(family, data, tmp_path, model="classifier", method=METHOD, training=TRAINING)
    made["training"] |= {"epochs": 40 if family == "t5" else 16}
    document = train(recipe_from(made, "test"))
    assert document["metrics"]["vqa/test"]["accuracy"]["mean"] > 80
    classes = json.loads((tmp_path / "run" / "classes.json").read_text())
    assert classes == {"vqa": sorted(["red", "green", "blue", "grey", "circle", "square", "star"])}
    again = evaluate(tmp_path / "run", split="test")
    assert again["metrics"]["vqa"]["accuracy"] == pytest.approx(document["metrics"]["vqa/test"]["accuracy"]["mean"])


def test_a_causal_model_writes_the_answer(data: Path, tmp_path: Path) -> None:
    made = values("llama", data, tmp_path, model="causal", method=[METHOD, {"name": "adapter", "reduction": 2}])
    made["training"] |= TRAINING | {"epochs": 30}
    document = train(recipe_from(made, "test"))
    assert document["metrics"]["vqa/test"]["accuracy"]["mean"] > 80


@pytest.mark.parametrize(("family", "kind"), [("bert", "classifier"), ("llama", "classifier"), ("llama", "causal")])
def test_what_frozen_layers_give_is_kept_and_changes_nothing(
    family: str, kind: str, data: Path, tmp_path: Path
) -> None:
    weights = []
    for cached in (True, False):
        folder = tmp_path / str(cached)
        made = values(family, data, folder, model=kind, method=METHOD | {"layer": 1}, training=TRAINING)
        made["training"] |= {"epochs": 2, "cache_frozen": cached}
        document = train(recipe_from(made, "test"))
        assert document["frozen_layers"] == ({"vqa": 1} if cached else {})
        assert (document["cached"] is not None and document["cached"]["reused"] > 0) == cached
        weights.append(load_file(folder / "run" / "adapters" / "dvp" / "adapter_model.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


def test_several_batches_a_step_are_one_large_batch(data: Path, tmp_path: Path) -> None:
    states = []
    for accumulate, size in ((1, 8), (2, 4)):
        folder = tmp_path / str(accumulate)
        made = values("bert", data, folder, model="classifier", method=METHOD)
        made["training"] |= {"epochs": 3, "accumulate": accumulate, "batch_size": size, "validate": False}
        made["tasks"]["vqa"]["limits"] = {"train": 8}  # one step an epoch, whatever the order
        train(recipe_from(made, "test"))
        states.append(load_file(folder / "run" / "adapters" / "dvp" / "adapter_model.safetensors"))
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4)


def tokens(folder: Path, family: str = "llama") -> tuple[Any, Any]:
    made = recipe_from(
        {
            "name": "x",
            "backbone": str(save_language_model(folder / "model", family)),
            "method": "bitfit",
            "model": "causal",
            "visual": {"feature_width": WIDTH},
        },
        "test",
    )
    form = form_of(made, {})
    return form, load_tokenizer(made.backbone, form)


def test_a_causal_model_is_taught_the_answer_alone(tmp_path: Path) -> None:
    form, tokenizer = tokens(tmp_path)
    inputs = form.texts(tokenizer, ["what colour is it ?", "shape ?"], 8)
    assert inputs["attention_mask"][1].tolist() == [0, 0, 0, 1, 1, 1]  # padded on the left
    made = form.targets(tokenizer, inputs, Lesson("", (), [("red star", 1.0), ("blue", 0.5)], 8))
    red, star, blue = (WORDS.index(word) for word in ("red", "star", "blue"))
    ignored = [-100] * 3
    assert made["labels"].tolist() == [[*ignored, *ignored, red, star, 1], [*ignored, blue, 1, -100, *ignored]]
    assert made["attention_mask"][1].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert torch.equal(made["input_ids"][0, :6], inputs["input_ids"][0])
    assert torch.equal(made["input_ids"][1, :3], inputs["input_ids"][1, 3:])


def test_answers_of_a_classifier_are_those_of_train_and_frequent_enough(data: Path, tmp_path: Path) -> None:
    made = values("bert", data, tmp_path, model="classifier", method=METHOD, head={"minimum": 100})
    with pytest.raises(InputError, match=r"vqa: 0 answers to choose among; lower head.minimum"):
        train(recipe_from(made, "test"))
    made["head"] = {"count": 5}
    with pytest.raises(InputError, match=r"head.count is 5, and the training answers give 7"):
        train(recipe_from(made, "test"))
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_classifier_needs_its_answers(data: Path, tmp_path: Path) -> None:
    made = values("bert", data, tmp_path, model="classifier", method=METHOD)
    made["training"] |= {"max_steps": 2}
    train(recipe_from(made, "test"))
    (tmp_path / "run" / "classes.json").write_text("[]")
    with pytest.raises(InputError, match=r"classes.json: expected the answers of each task"):
        evaluate(tmp_path / "run")


# ---------------------------------------------------------------- pairs of texts, numbers, and no images at all


PAIRS = ("RTE", "STS-B")


def save_paired(folder: Path, family: str = "bert") -> Path:
    """A tiny model whose tokenizer knows pairs, as BERT's does: token types tell which text a token is of."""
    save_language_model(folder, family)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = AutoTokenizer.from_pretrained(folder, sep_token="</s>", model_input_names=names)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=[("</s>", 1)]
    )
    tokenizer.save_pretrained(folder)
    return folder


def save_glue(folder: Path, count: int = 40) -> Path:
    """RTE and STS-B in their layout, of which the second text tells the answer."""
    for corpus, labels in (("RTE", ("entailment", "not_entailment")), ("STS-B", ("4.5", "0.5"))):
        (folder / corpus).mkdir(parents=True)
        name = "label" if corpus == "RTE" else "score"
        for part, n in (("train", count), ("dev", 8), ("test", 4)):
            lines = ["index\tsentence1\tsentence2" + ("" if part == "test" else f"\t{name}")]
            for row in range(n):
                first = f"what {WORDS[12 + row % 7]} is {WORDS[12 + row // 7 % 7]}"
                end = "" if part == "test" else f"\t{labels[row % 2]}"
                lines.append(f"{row}\t{first}\ta {('red', 'blue')[row % 2]}{end}")
            (folder / corpus / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_glue(tmp_path_factory.mktemp("glue"))


def text_values(folder_of_model: Path, glue: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of pairs without a word on images."""
    made = recipe(folder_of_model, glue, folder, training=changes.pop("training", {}))
    del made["visual"]
    tasks = {corpus.lower(): {"task": "glue", "corpus": corpus, "folder": str(glue / corpus)} for corpus in PAIRS}
    return made | {"model": "classifier", "tasks": tasks, "method": {"name": "full"}} | changes


def test_pairs_are_encoded_as_the_tokenizer_has_them(tmp_path: Path) -> None:
    bert = save_paired(tmp_path / "bert")
    form = form_of(recipe_from(text_values(bert, tmp_path, tmp_path / "run", tasks={}), "test"), {})
    tokenizer = load_tokenizer(str(bert), form)
    what, is_, red, blue = (WORDS.index(word) for word in ("what", "is", "red", "blue"))
    made = form.texts(tokenizer, ["what is", "red"], 8, ["blue", ""])
    assert made["input_ids"].tolist() == [[what, is_, 1, blue, 1], [red, 1, 0, 0, 0]]
    assert made["token_type_ids"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    cut = form.texts(tokenizer, ["what is is is is"], 5, ["red blue"])  # the longer one is cut
    assert cut["input_ids"].tolist() in ([[what, 1, red, blue, 1]], [[what, is_, 1, red, 1]])
    assert form.texts(tokenizer, ["what"], 8, [""]).keys() == {"input_ids", "attention_mask"}
    other, joined = tokens(tmp_path / "llama")
    assert joined.sep_token is None
    ids = other.texts(joined, ["what is", "red"], 12, ["blue", ""])
    assert ids.keys() == {"input_ids", "attention_mask"}
    assert ids["input_ids"][0].tolist() == joined(f"what is{BETWEEN}blue").input_ids
    assert ids["input_ids"][1, -2:].tolist() == [red, 1]


def test_token_types_reach_the_model_with_and_without_a_prefix(tmp_path: Path) -> None:
    bert = save_paired(tmp_path / "bert")
    form = form_of(recipe_from(text_values(bert, tmp_path, tmp_path / "run", tasks={}), "test"), {})
    inputs = form.texts(load_tokenizer(str(bert), form), ["what is", "red"], 8, ["blue", "a star"])
    model = AdaptedModel(VisionClassifier.from_language_model(str(bert), classes=3, seed=0).eval())
    below, beside = form.prefix_inputs(inputs)
    assert (below.keys(), beside) == (inputs.keys(), {})
    with torch.no_grad():
        logits = model(**inputs).logits
        prefix = form.capture(model, 1, **below)
        torch.testing.assert_close(model(prefix=prefix, **beside).logits, logits)
        blind = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        assert (model(**blind).logits - logits).abs().max() > 0.01
        assert (model(prefix=form.capture(model, 1, **blind)).logits - logits).abs().max() > 0.01


def test_pairs_and_numbers_share_a_run_without_images(glue: Path, tmp_path: Path) -> None:
    made = text_values(save_paired(tmp_path / "bert"), glue, tmp_path / "run", training={"epochs": 12})
    made["training"]["learning_rate"] = 1e-3
    document = train(recipe_from(made, "test"))
    assert document["metrics"]["rte/test"]["accuracy"]["mean"] == 100
    assert document["metrics"]["sts-b/test"]["pearson"]["mean"] > 90
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == {
        "rte": ["entailment", "not_entailment"],
        "sts-b": ["score"],
    }
    again = evaluate(tmp_path / "run", split="test")["metrics"]
    assert again["sts-b"]["pearson"] == pytest.approx(document["metrics"]["sts-b/test"]["pearson"]["mean"])
    index, row = (tmp_path / "run" / "answers" / "sts-b-test").read_text().splitlines()[:2]
    assert index == "index\tprediction"
    assert float(row.split("\t")[1]) == pytest.approx(4.5, abs=1)
    handed = evaluate(tmp_path / "run", split="submission")
    assert handed["metrics"] == {}
    lines = Path(handed["answers"]["rte"]).read_text().splitlines()
    assert lines == ["index\tprediction", "0\tentailment", "1\tnot_entailment", "2\tentailment", "3\tnot_entailment"]


def test_a_number_is_one_output_and_its_loss_is_the_squared_error(glue: Path, tmp_path: Path) -> None:
    made = recipe_from(text_values(save_paired(tmp_path / "bert"), glue, tmp_path / "run"), "test")
    tasks = made.make_tasks()
    form = form_of(made, tasks)
    form.learn_answers({name: task.load("train") for name, task in tasks.items()})
    assert count_parameters(made)["total"] == sum(
        value.numel() for value in VisionClassifier.from_language_model(made.backbone, classes=3).parameters()
    )
    tokenizer = load_tokenizer(made.backbone, form)
    inputs = form.texts(tokenizer, ["what", "is"], 8, ["red", "blue"])
    drawn = [("4.5", 1.0), ("0.5", 1.0)]
    labels = form.targets(tokenizer, inputs, Lesson("sts-b", (), drawn, 8))
    assert labels["labels"].tolist() == [4.5, 0.5]
    model = AdaptedModel(VisionClassifier.from_language_model(made.backbone, classes=3, seed=0).eval())
    loss, outputs = form.loss(model, model, dict(inputs), {"task": "sts-b", **labels})
    assert loss.item() == pytest.approx((outputs.logits[:, 2] - labels["labels"]).square().mean().item())
    answers = form.answers(model, tokenizer, dict(inputs), "sts-b", [])
    assert answers == [f"{value:.3f}" for value in outputs.logits[:, 2].tolist()]


def test_what_frozen_layers_give_of_pairs_is_kept_and_changes_nothing(glue: Path, tmp_path: Path) -> None:
    weights = []
    for cached in (True, False):
        folder = tmp_path / str(cached)
        method = {"name": "adapter", "reduction": 4, "sites": ["encoder.1.feed_forward"]}
        made = text_values(save_paired(folder / "bert"), glue, folder / "run", method=method)
        made["training"] |= {"epochs": 3, "cache_frozen": cached}
        document = train(recipe_from(made, "test"))
        assert document["frozen_layers"] == ({"rte": 1, "sts-b": 1} if cached else {})
        weights.append(load_file(folder / "run" / "adapters" / "adapter" / "adapter_model.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("family", "kind"), [("llama", "causal"), ("llama", "classifier"), ("t5", "seq2seq")])
def test_texts_alone_need_no_visual_in_any_model(family: str, kind: str, glue: Path, tmp_path: Path) -> None:
    made = text_values(save_language_model(tmp_path / "model", family), glue, tmp_path / "run", model=kind)
    made |= {"method": {"name": "adapter", "reduction": 4}}
    made["training"] |= {"max_steps": 2}
    assert train(recipe_from(made, "test"))["metrics"].keys() >= {"rte/test", "sts-b/test"}


def test_a_method_that_looks_at_images_has_to_know_how_wide_they_are(glue: Path, tmp_path: Path) -> None:
    made = recipe_from(text_values(save_paired(tmp_path / "bert"), glue, tmp_path / "run", method=METHOD), "test")
    for run in (train, count_parameters):
        with pytest.raises(InputError, match=r"visual.feature_width is needed"):
            run(made)


def test_fingerprints_change_with_a_second_text_alone() -> None:
    plain = Example("1", (), "what", (("red", 1.0),), "red")
    pair = Example("1", (), "what", (("red", 1.0),), "red", second="is")
    found = [Data({"val": {"x": [one]}}, None, []).fingerprints()["x/val"] for one in (plain, pair)]  # type: ignore[arg-type]
    values = ["1", "what", (("red", 1.0),), "red", [], ()]
    assert found[0] == hashlib.sha256(json.dumps(values, default=repr).encode()).hexdigest()
    assert found[1] != found[0]
