"""What texts are shown beside themselves: found, told no more than the masked text, and the same in a finished run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_run import SHAPES, WIDTH, save_data, save_language_model

from conftest import COLOURS
from crossgraft.encoders.extract import extract
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.store import content_hash
from crossgraft.errors import InputError
from crossgraft.tasks import Example
from crossgraft.tasks.cloze import MASK
from crossgraft.training import run_folder
from crossgraft.training.batches import Collator, Row
from crossgraft.training.build import build_backbone, count_parameters, load_tokenizer
from crossgraft.training.data import load_data
from crossgraft.training.forms import form_of
from crossgraft.training.knowledge import KnowledgeSource
from crossgraft.training.placement import PlacementSearch, search
from crossgraft.training.prefix_cache import inputs_of
from crossgraft.training.recipe import Recipe, recipe_from
from crossgraft.training.run import evaluate, train
from crossgraft.training.search_setup import attach_all
from crossgraft.training.search_state import SearchState


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions of coloured shapes, and a bank of plain pictures of each colour."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "bank").mkdir()
    for name, colour in COLOURS.items():
        for shade in range(3):
            picture = Image.new("RGB", (40, 40), tuple(min(255, part + 10 * shade) for part in colour))
            picture.save(folder / "bank" / f"{name}{shade}.png")
    texts = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES] * 4
    (folder / "captions.txt").write_text("\n".join(texts))
    return folder


def made(world: Path, clip: Path, folder: Path, family: str = "masked", **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny",
        "backbone": str(save_language_model(folder / "model", family)),
        "model": "causal" if family == "llama" else "masked",
        "visual": {"feature_width": 4},
        "method": {"name": "xadapter", "width": 8, "sites": ["*.1.output"]},
        "knowledge": {
            "encoder": str(clip),
            "images": [str(world / "bank")],
            "count": 2,
            "store": str(folder / "store"),
        },
        "tasks": {"captions": {"task": "cloze", "file": str(world / "captions.txt"), "words": "grounded"}},
        "training": {"epochs": 6, "batch_size": 8, "learning_rate": 0.02, "answer_length": 12},
        "out": str(folder / "run"),
    }
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) and key in values else value
    return recipe_from(values, "test")


@pytest.mark.parametrize("family", ["masked", "llama"])
def test_a_model_is_adapted_and_evaluated_again(family: str, world: Path, tiny_clip: Path, tmp_path: Path) -> None:
    recipe = made(world, tiny_clip, tmp_path, family)
    document = train(recipe)
    losses = [entry["loss"] for entry in document["history"] if "loss" in entry]
    assert document["metrics"]["captions/test"]["accuracy"]["mean"] >= 0
    assert document["knowledge"]["images"] == 9
    assert document["frozen_layers"] == ({"captions": 2} if family == "llama" else {})
    assert losses == [] or losses[-1] < losses[0]
    again = evaluate(tmp_path / "run")
    assert again["metrics"]["captions"]["accuracy"] == document["metrics"]["captions/test"]["accuracy"]["mean"]
    # A bank that has grown is another bank, but what features are standardised by is that of the training.
    kept = json.loads((tmp_path / "run" / "knowledge.json").read_text())
    assert kept["images"] == 9
    assert (tmp_path / "run" / "knowledge.safetensors").is_file()


def collator(recipe: Recipe, training: bool) -> Collator:
    tasks = recipe.make_tasks()
    data = load_data(recipe, tasks, ("train",), "cpu", lambda _: None)
    form = form_of(recipe, tasks)
    return Collator(
        tasks,
        data.examples["train"],
        load_tokenizer(recipe.backbone, form),
        data.source,
        form,
        32,
        32,
        0,
        training=training,
        knowledge=data.knowledge,
    )


@pytest.mark.parametrize("family", ["masked", "llama"])
def test_what_is_shown_does_not_know_the_masked_words(
    family: str, world: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    """Captions that differ in a masked colour alone are shown the same images and the same tokens."""
    make = collator(made(world, tiny_clip, tmp_path, family), training=True)
    examples = make.examples["captions"]
    shape = examples[0].text.split()[-1]
    rows = [Row("captions", place, 0) for place, one in enumerate(examples) if one.text.endswith(shape)][:4]
    assert len({examples[row.place].text for row in rows}) > 1
    batch = make(rows)
    for key in ("memory_retrieved", "memory_text", "memory_text_mask"):
        assert all(torch.equal(batch[key][0], other) for other in batch[key][1:]), key
    whole = make.knowledge.of([examples[row.place].text for row in rows])  # type: ignore[union-attr]
    assert not torch.equal(whole["text"].tokens[0], whole["text"].tokens[-1])
    learned = batch["labels"] != -100
    tokenizer = make.tokenizer
    words = {tokenizer.decode([token]) for token in batch["labels"][learned].tolist()}
    assert words <= set(COLOURS)
    if family == "llama":  # the text is whole: what comes later is hidden by causality
        assert [tokenizer.decode(ids[:3]) for ids in batch["input_ids"]] == [examples[row.place].text for row in rows]
    else:
        hidden = batch["input_ids"] == tokenizer.mask_token_id
        assert bool((learned | ~hidden).all())


def test_random_images_are_the_same_each_time_and_texts_without_words_have_none(
    world: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    source = KnowledgeSource.open(made(world, tiny_clip, tmp_path, knowledge={"choice": "random"}))
    assert source is not None
    texts = ["a red bird", "", "a blue heart"]
    first, second = source.of(texts), source.of(texts)
    assert torch.equal(first["retrieved"].tokens, second["retrieved"].tokens)
    assert first["retrieved"].mask.tolist() == [[1, 1], [0, 0], [1, 1]]  # type: ignore[union-attr]
    assert first["text"].mask[1].sum() == 0  # type: ignore[index]
    assert source.of([MASK[:0]])["text"].mask.sum() == 0  # type: ignore[union-attr]
    others = source.of(["a red bird"], ["a blue heart"])  # the text of one, images of the other
    assert torch.equal(others["retrieved"].tokens[0], first["retrieved"].tokens[2])


def test_a_captions_own_image_is_shown_while_it_is_learned(world: Path, tiny_clip: Path, tmp_path: Path) -> None:
    recipe = made(world, tiny_clip, tmp_path, knowledge={"own": True})
    for training in (True, False):
        make = collator(recipe, training=training)
        source = make.knowledge
        assert source is not None
        examples = [replace(make.examples["captions"][0], about={"image": f"red{n}.png"}) for n in range(3)]
        make.examples = {"captions": [*examples, replace(examples[0], about={"image": "no.png"})]}
        shown = make([Row("captions", place, 0) for place in range(4)])["memory_retrieved"]  # masked alike, or not
        own = source._features(torch.tensor([[source.own_row(f"red{n}.png")] for n in range(3)]))[:, 0]
        assert all(torch.equal(shown[n, -1], own[n]) for n in range(3)) == training


def test_own_images_are_told_apart_by_their_folders_in_any_store(world: Path, tiny_clip: Path, tmp_path: Path) -> None:
    for number, folder in enumerate(("cats", "dogs")):
        (tmp_path / "own" / folder).mkdir(parents=True)
        Image.new("RGB", (40, 40), (10, 200 * number, 90)).save(tmp_path / "own" / folder / "1.png")
    hashes = [content_hash(tmp_path / "own" / folder / "1.png") for folder in ("cats", "dogs")]
    extract([tmp_path / "own" / "dogs" / "1.png"], load_encoder(str(tiny_clip)), tmp_path / "store2")
    for centre, store in ((True, "store1"), (False, "store2")):  # the second one was filled in another order
        knowledge = {"images": [str(tmp_path / "own")], "count": 1, "centre": centre, "store": str(tmp_path / store)}
        source = KnowledgeSource.open(made(world, tiny_clip, tmp_path, knowledge=knowledge))
        assert source is not None
        assert source.bank is not None
        assert source.own_row("1.png") is None  # there are two
        rows = [source.own_row(f"{folder}/1.png") for folder in ("cats", "dogs")]
        assert [source.bank.hashes[row] for row in rows] == hashes  # type: ignore[index]


def test_a_resumed_run_wants_the_bank_it_began_with_and_a_finished_one_says_that_it_has_changed(
    world: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    shutil.copytree(world / "bank", tmp_path / "bank")
    recipe = made(world, tiny_clip, tmp_path, knowledge={"images": [str(tmp_path / "bank")]}, training={"max_steps": 2})
    train(recipe)
    Image.new("RGB", (40, 40), (1, 2, 3)).save(tmp_path / "bank" / "new.png")
    said: list[str] = []
    evaluate(tmp_path / "run", say=said.append)
    assert "note: the bank has 10 images, and not the 9 of the training" in said
    (tmp_path / "run" / "results.json").unlink()
    with pytest.raises(InputError, match="the data of knowledge is not what this run began with"):
        train(recipe, resume=True)
    (tmp_path / "run" / "texts.safetensors").unlink()
    with pytest.raises(InputError, match=r"texts\.safetensors"):
        evaluate(tmp_path / "run")


def test_a_masked_model_needs_the_head_that_names_words(world: Path, tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its weights lack .* tensors of a BertForMaskedLM, such as cls"):
        train(made(world, tiny_clip, tmp_path, "bert"))


@pytest.mark.parametrize("model", ["seq2seq", "classifier"])
def test_masked_words_are_for_models_that_fill_them_in(
    model: str, world: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    family = {"seq2seq": "t5", "classifier": "bert"}[model]
    with pytest.raises(InputError, match=rf"tasks.captions: cloze cannot be learned with model={model}"):
        train(made(world, tiny_clip, tmp_path, family, model=model))


def test_images_among_images_and_texts_among_texts(world: Path, tiny_clip: Path, tmp_path: Path) -> None:
    source = KnowledgeSource.open(made(world, tiny_clip, tmp_path))
    assert source is not None
    assert source.bank is not None
    texts = [f"a {colour} bird" for colour in COLOURS]
    source.learn([Example(text, (), text) for text in texts], lambda _: None)
    embeddings = source.bank.store.gather(source.bank.hashes)  # type: ignore[union-attr, arg-type]
    queries = source.encoder.encode_texts(texts)
    centred = torch.nn.functional.normalize(embeddings - embeddings.mean(0), dim=1)
    expected = ((queries - queries.mean(0)) @ centred.T).topk(2).indices
    assert torch.equal(source.find(texts), expected)


def test_parameters_are_counted_without_loading(world: Path, tiny_clip: Path, tmp_path: Path) -> None:
    recipe = made(world, tiny_clip, tmp_path)
    document = train(made(world, tiny_clip, tmp_path, training={"max_steps": 1}))
    assert count_parameters(recipe)["trainable"] == document["parameters"]["trainable"]


def test_bad_input(world: Path, tiny_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for knowledge, message in (
        ({"encoder": None}, "knowledge.encoder is needed: xadapter looks at"),
        ({"images": []}, "knowledge.images is needed"),
        ({"images": [str(tmp_path / "absent")]}, "absent: no such file or folder"),
        ({"images": [str(tmp_path / "empty")]}, "the bank would be empty"),
        ({"count": 20}, "knowledge.count is 20, and the bank holds 9 images"),
        ({"count": 0}, "count is 0"),
        ({"own": True}, "knowledge.own: the bank has no image that a caption names"),
    ):
        with pytest.raises(InputError, match=message):
            train(made(world, tiny_clip, tmp_path, knowledge=knowledge))
    train(made(world, tiny_clip, tmp_path, training={"max_steps": 1}))
    path = tmp_path / "run" / "knowledge.json"
    kept = json.loads(path.read_text())
    kept["encoder"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(kept))
    with pytest.raises(InputError, match="learned what another dual encoder knows"):
        evaluate(tmp_path / "run")


def test_a_search_places_the_experts(world: Path, tiny_clip: Path, tmp_path: Path) -> None:
    cloze = made(world, tiny_clip, tmp_path, search={"method": "xadapter", "option": "sites", "values": [["*"], ["*"]]})
    with pytest.raises(InputError, match=r"tasks.captions: training examples of masked words ask nothing"):
        search(cloze)
    data = save_data(tmp_path / "data", 20)
    places = [["encoder.0.output"], ["encoder.1.output"]]
    recipe = made(
        world,
        tiny_clip,
        tmp_path,
        "bert",
        model="classifier",
        search={"method": "xadapter", "option": "sites", "values": places, "draws": 2, "holdout": 0.25, "epochs": 1},
    )
    values = run_folder.plain(recipe)
    values["visual"] |= {"side": 2, "feature_width": WIDTH}
    values["tasks"] = {"vqa": {"task": "vqa-csv", "file": str(data / "questions.csv"), "images": str(data / "images")}}
    document = search(recipe_from(values, "test"))
    assert len(document["placements"]) == 2
    assert set(document["exhaustive"]["scores"]) == set(document["placements"])


def test_a_shared_bottom_sees_what_its_experts_look_at(world: Path, tiny_clip: Path, tmp_path: Path) -> None:
    """What is below a placement is run once for all, with the memory of the batch."""
    data = save_data(tmp_path / "data", 20)
    values = run_folder.plain(made(world, tiny_clip, tmp_path, "bert", model="classifier"))
    expert = {"name": "xadapter", "width": 8, "sites": ["encoder.0.output"]}
    values["method"] = [expert, {"name": "adapter", "reduction": 4}]
    values["visual"] |= {"side": 2, "feature_width": WIDTH}
    values["tasks"] = {"vqa": {"task": "vqa-csv", "file": str(data / "questions.csv"), "images": str(data / "images")}}
    values["search"] |= {"method": "adapter", "option": "sites"}
    values["search"]["values"] = [["encoder.1.feed_forward"], ["encoder.1.output"]]
    recipe = recipe_from(values, "test")
    tasks = recipe.make_tasks()
    found = load_data(recipe, tasks, ("train",), "cpu", lambda _: None)
    form = form_of(recipe, tasks)
    form.learn_answers(found.examples["train"])
    model = build_backbone(recipe, form, WIDTH, torch.device("cpu"))
    names, shared = attach_all(model, recipe, form, found.widths())
    for parameter in model.grafts.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    texts = (load_tokenizer(recipe.backbone, form), found.source, form, 32, 8, 0)
    make = Collator(tasks, found.examples["train"], *texts, training=False, knowledge=found.knowledge)
    inputs = inputs_of(make([Row("vqa", place, 0) for place in range(4)]))
    where = torch.device("cpu")
    run = PlacementSearch(recipe, model.eval(), form, make, [], names, shared, where, SearchState.new(2, 0))
    prefix = run._prefixes(names, inputs, "vqa")[names[0]]
    model.set_active(*shared, task="vqa")
    entry: Any = model.backbone.get_submodule(model.stacks["encoder"].entry)
    with form.seeing(model, inputs) as text, torch.no_grad():
        expected = entry(**text, output_hidden_states=True).hidden_states[1]
        blind, _ = form.prefix_inputs(inputs)
    # The states are taken before what an output site does to them, which is done again when they are resumed.
    with form.seeing(model, inputs), torch.no_grad():
        logits = model(**text).logits
        torch.testing.assert_close(model(prefix=prefix).logits, logits)
    assert not torch.allclose(model(prefix=form.capture(model, 1, **blind)).logits, logits)
    assert expected.shape == prefix.states.shape
