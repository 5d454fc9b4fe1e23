"""Placement search: what it learns from, that a kill changes nothing, and that cheap scores are the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_run import WIDTH, recipe, save_data, save_language_model

from crossgraft.errors import InputError
from crossgraft.reporting.search_page import search_page
from crossgraft.tasks import Example
from crossgraft.training import placement
from crossgraft.training.placement import PlacementSearch, search, softmax
from crossgraft.training.recipe import recipe_from
from crossgraft.training.search_setup import hold_out
from crossgraft.training.search_state import SearchState

# BERT's first token at layer 0 is blind, and it says so.
pytestmark = pytest.mark.filterwarnings("ignore:dvp. the first token entering layer 0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def values(family: str, data: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    training = {"learning_rate": 0.01, "batch_size": 8, "epochs": 1}
    made = recipe(save_language_model(folder / "model", family), data, folder / "run", training=training)
    made["tasks"] = {"vqa": made["tasks"]["vqa"]}
    made |= {"model": "classifier", "method": [{"name": "adapter", "reduction": 4}, {"name": "dvp", "dropout": 0.0}]}
    return made | {"search": {"epochs": 2, "draws": 2, "holdout": 0.25}} | changes


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_search_says_what_it_found(family: str, data: Path, tmp_path: Path, cli: Any) -> None:
    made = values(family, data, tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
    document = cli("search", tmp_path / "recipe.yaml", "--device", "cpu", "--json").json
    assert document["placements"] == ["layer 0", "layer 1"]
    assert document["chosen"] == document["bandit"]["choice"]
    assert sum(document["bandit"]["chances"].values()) == pytest.approx(1)
    assert document["exhaustive"]["scores"].keys() == {"layer 0", "layer 1"}
    assert document["agree"] == (document["bandit"]["choice"] == document["exhaustive"]["choice"])
    assert "12 training examples held out; val and test not read" in document["protocol"]
    assert list(document["data"]) == ["vqa/train"]
    assert json.loads((tmp_path / "run" / "search.json").read_text()) == document
    page = (tmp_path / "run" / "search.html").read_text()
    assert "<svg" in page
    assert "layer 1" in page
    assert not (tmp_path / "run" / "checkpoints").exists()
    again = cli("search", tmp_path / "recipe.yaml", "--device", "cpu", "--resume").out
    assert f"chosen: {document['chosen']}" in again
    assert "holds a run already" in cli("search", tmp_path / "recipe.yaml", "--device", "cpu").error


class Killed(Exception):  # noqa: N818
    pass


def test_a_search_that_is_killed_goes_on_to_the_same_numbers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = []
    for name, at in (("whole", None), ("killed", 5)):
        made = recipe_from(values("bert", data, tmp_path / name), "test")
        with monkeypatch.context() as patch:
            patch.setattr(placement, "CHECKPOINT_SECONDS", 0.0)
            step = PlacementSearch.train_step

            def stopping(self: PlacementSearch, *args: Any, at: Any = at, step: Any = step) -> float:
                if self.state.step == at:
                    raise Killed
                return step(self, *args)  # type: ignore[no-any-return]

            patch.setattr(PlacementSearch, "train_step", stopping)
            if at is not None:
                with pytest.raises(Killed):
                    search(made, device="cpu")
        documents.append(search(made, resume=at is not None, device="cpu"))
    for document in documents:
        for key in ("seconds", "settings"):
            del document[key]
        del document["exhaustive"]["seconds"]
    assert documents[0] == documents[1]


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_scores_with_a_shared_bottom_are_those_of_each_alone(family: str, data: Path, tmp_path: Path) -> None:
    made = recipe_from(values(family, data, tmp_path), "test")
    found: dict[str, Any] = {}

    def look(self: PlacementSearch, advance: Any) -> dict[str, float]:
        rows = self.held[:8]
        logits: list[torch.Tensor] = []
        own = self.form._own  # type: ignore[attr-defined]
        self.form._own = lambda value, task: logits.append(own(value, task)) or logits[-1]  # type: ignore[attr-defined]
        together = self.answers(rows, self.names)
        found["together"], alone = list(logits), {}
        logits.clear()
        for name in self.names:
            alone |= self.answers(rows, [name])
        found["alone"], found["same"] = logits, together == alone
        return dict.fromkeys(self.names, 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlacementSearch, "exhaustive", look)
        search(made, device="cpu")
    assert found["same"]
    for one, other in zip(found["together"], found["alone"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_any_method_may_be_placed(data: Path, tmp_path: Path) -> None:
    sites = [["encoder.0.feed_forward"], ["encoder.1.feed_forward"], ["encoder.*.output"]]
    options = {"method": "adapter", "option": "sites", "values": sites, "epochs": 1, "holdout": 0.25}
    document = search(recipe_from(values("bert", data, tmp_path, search=options), "test"), device="cpu")
    assert len(document["placements"]) == 3
    assert "<svg" in search_page(document)


def test_what_is_held_out_is_by_image() -> None:
    shown = [(Path(f"{row // 2}.jpg"),) for row in range(20)] + [()] * 4
    examples = {"a": [Example(str(row), images, "") for row, images in enumerate(shown)]}
    learned, held = hold_out(examples, 0.25, seed=0)
    assert sorted(learned["a"] + held["a"]) == list(range(24))
    pictures = [{shown[place] for place in places if shown[place]} for places in (learned["a"], held["a"])]
    assert not pictures[0] & pictures[1]
    assert hold_out(examples, 0.25, seed=0) == (learned, held)
    assert hold_out(examples, 0.25, seed=1) != (learned, held)
    with pytest.raises(InputError, match=r"a: 1 images are too few"):
        hold_out({"a": examples["a"][:2]}, 0.5, seed=0)


def test_the_bandit_prefers_what_is_better_by_the_papers_rule() -> None:
    run = PlacementSearch.__new__(PlacementSearch)
    made = recipe_from(
        {"name": "x", "backbone": "t5-base", "method": "dvp", "search": {"draws": 3, "rate": 0.1},
         "visual": {"feature_width": WIDTH}}, "test",
    )  # fmt: skip
    run.recipe, run.names, run.state = made, ("a", "b", "c"), SearchState.new(3, 0)
    run.held = [placement.Row("t", 0, 0)]
    run.scores = lambda rows, names: {name: {"a": 10.0, "b": 40.0, "c": 10.0}[name] for name in names}  # type: ignore[method-assign]
    run.bandit_step()
    share = 1 / 3 * 2 / 3
    assert run.state.preferences == pytest.approx([0.1 * -10 * share, 0.1 * 20 * share, 0.1 * -10 * share])
    for _ in range(20):
        run.bandit_step()
    assert softmax(run.state.preferences)[1] > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"method": "dvpp"}}, r"search.method: 'dvpp' is none of the recipe's methods: adapter, dvp"),
        ({"search": {"option": "layers"}}, r"search.option: dvp has no option 'layers'"),
        ({"search": {"values": [1]}}, r"search.values: 1 placements; a search needs two"),
        ({"search": {"values": [0, 7]}}, r"tokens are to enter layer 7"),
        ({"search": {"method": "adapter", "option": "sites"}}, r"search.values is needed"),
        ({"method": ["full", "dvp"]}, r"a search needs a frozen backbone"),
    ],
)
def test_what_cannot_be_searched(changes: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        search(recipe_from(values("bert", data, tmp_path, **changes), "test"), device="cpu")
    assert not (tmp_path / "run").exists()
    for text in ("draws is 1", "holdout is 1.0", "epochs is 0.0"):
        key, value = text.split(" is ")
        with pytest.raises(InputError, match=text):
            recipe_from(values("bert", data, tmp_path, search={key: json.loads(value)}), "test")
