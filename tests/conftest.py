"""What all tests share: no network, a home of their own, a tiny encoder, small data sets, and the command line."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test waits for a hub

import numpy as np
import pytest
from PIL import Image

from crossgraft.home import home

USER_HOME = home()
EMOJI = Path(__file__).resolve().parent.parent / "demo" / "emoji"
WORDS = ["a", "an", "photo", "of", "the", "red", "green", "blue", "bird", "fruit", "heart", "in", "style", "."]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220)}


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor write what the user keeps under $CROSSGRAFT_HOME."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSGRAFT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def pocket_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary $CROSSGRAFT_HOME that shows the user's pulled pocket models; feature stores stay in it."""
    from crossgraft.pocket.pull import is_pulled
    from crossgraft.pocket.sources import POCKET_MODELS

    models = USER_HOME / "models"
    folder = tmp_path_factory.mktemp("pocket-home")
    (folder / "models").symlink_to(models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSGRAFT_HOME", str(folder))
        absent = [name for name in POCKET_MODELS if not is_pulled(name)]
        if absent:
            pytest.fail(
                f"{', '.join(absent)}: not in {models}, or of another version; "
                "run `make models` (or `crossgraft models pull pocket`) first"
            )
        yield folder


@dataclass(frozen=True)
class Outcome:
    """What one command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """stdout, which has to be one JSON object and nothing else."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> str:
        """The one line that a user sees of bad input: exit code 2, nothing on stdout, no traceback."""
        assert (self.code, self.out) == (2, ""), self
        lines = self.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.err
        assert "Traceback" not in self.err
        return lines[-1].removeprefix("error: ")


Cli = Callable[..., Outcome]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run one `crossgraft` command in this process, by the entry point that the installed command has."""

    def call(*arguments: object) -> Outcome:
        from crossgraft.cli.main import main

        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["crossgraft", *map(str, arguments)])
            patch.setenv("COLUMNS", "80")
            with pytest.raises(SystemExit) as end:
                main()
        code = end.value.code
        assert isinstance(code, int)
        return Outcome(code, out.getvalue(), err.getvalue())

    return call


def save_tokenizer(folder: Path, *, pad: str) -> int:
    """A word tokenizer that ends each text with its highest id, as CLIP's does; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: row for row, word in enumerate(["<pad>", "<unk>", *WORDS, "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = ("<end>", vocabulary["<end>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[end])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token=pad, eos_token="<end>")
    fast.save_pretrained(folder)
    return len(vocabulary)


def tower(**values: Any) -> dict[str, Any]:
    """Settings of a tiny transformer tower."""
    return {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2} | values


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A random CLIP: 32 px in patches of 8, projection to 16, 12 text positions; padded by its end token."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    words = save_tokenizer(folder, pad="<end>")
    text = tower(
        vocab_size=words, max_position_embeddings=12, eos_token_id=words - 1, bos_token_id=0, pad_token_id=words - 1
    )
    config = CLIPConfig(text_config=text, vision_config=tower(image_size=32, patch_size=8), projection_dim=16)
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random CLIP in Hugging Face's format. Do not change it; copy it."""
    return save_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


def make_colours(folder: Path, photos: int, seed: int = 0) -> Path:
    """An image folder of three classes, so many noisy pictures each."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(photos):
            pixels = np.clip(np.array(colour) + rng.normal(0, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}_{i}.png")
    return folder


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: red, green and blue, seven pictures each. Do not change it; copy it."""
    return make_colours(tmp_path_factory.mktemp("data") / "colours", 7)


@pytest.fixture(scope="session")
def emoji_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split file over images below `EMOJI`: bird, fruit, vehicle; 5 to train, 2 to validate, 3 to test each."""
    listed = json.loads((EMOJI / "noto.json").read_text(encoding="utf-8"))
    split: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(("bird", "fruit", "vehicle")):
        train, test = ([entry[0] for entry in listed[part] if entry[2] == name] for part in ("train", "test"))
        parts = {"train": train[:5], "val": train[5:7], "test": test[:3]}
        for part, paths in parts.items():
            split[part] += [[path, label, name] for path in paths]
    assert [len(entries) for entries in split.values()] == [15, 6, 9]
    file = tmp_path_factory.mktemp("split") / "small.json"
    file.write_text(json.dumps(split), encoding="utf-8")
    return file


@pytest.fixture
def fewshot_run(cli: Cli, colours: Path, tiny_clip: Path, tmp_path: Path) -> Cli:
    """`crossgraft fewshot` on the colours and the tiny encoder, with a store and an output folder of its own."""

    def call(*arguments: object, data: Path = colours, model: object = tiny_clip) -> Outcome:
        common = ("--model", model, "--out", tmp_path / "out", "--store", tmp_path / "store", "--device", "cpu")
        return cli("fewshot", data, *common, *arguments)

    return call
