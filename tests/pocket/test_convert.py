"""Conversion keeps what a network computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fake_wheels import lite0_checkpoint, t5_files
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor
from torch.nn import functional

from crossgraft.encoders.efficientnet_lite import STAGES, EfficientNetLite0
from crossgraft.errors import CrossgraftError
from crossgraft.pocket.convert import clip_vision_state, efficientnet_lite0_state, t5_state

# -- EfficientNet-Lite0


def reference(raw: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-Lite0 as its paper's table says, batch norms apart and on their running statistics -> logits."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = raw[f"{conv}.weight"]
        kernel = weight.shape[-1]
        need = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)  # TensorFlow's SAME
        before, after = need // 2, need - need // 2
        x = functional.conv2d(functional.pad(x, (before, after, before, after)), weight, stride=stride, groups=groups)
        statistics = (raw[f"{norm}.running_mean"], raw[f"{norm}.running_var"])
        return functional.batch_norm(x, *statistics, raw[f"{norm}.weight"], raw[f"{norm}.bias"], eps=1e-3)

    x = functional.relu6(layer(x, "_conv_stem", "_bn0", stride=2))
    number = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            name, start = f"_blocks.{number}", x
            if stage.expand > 1:
                x = functional.relu6(layer(x, f"{name}._expand_conv", f"{name}._bn0"))
            stride = stage.stride if repeat == 0 else 1
            x = functional.relu6(layer(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, groups=x.shape[1]))
            x = layer(x, f"{name}._project_conv", f"{name}._bn2")
            x = x + start if repeat else x
            number += 1
    x = functional.relu6(layer(x, "_conv_head", "_bn1")).mean((2, 3))
    return functional.linear(x, raw["_fc.weight"], raw["_fc.bias"])


def test_folding_batch_norms_changes_nothing(tmp_path: Path) -> None:
    raw = lite0_checkpoint()
    torch.save(raw, tmp_path / "lite0.pth")
    model = EfficientNetLite0().eval()
    model.load_state_dict(efficientnet_lite0_state(tmp_path / "lite0.pth"))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        grid, pooled, logits = model(x)
        expected = reference(raw, x)
    assert grid.shape == (1, 49, 1280)
    assert expected.std() > 0.05  # something to compare
    torch.testing.assert_close(grid.mean(1), pooled)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"_conv_stem.weight": print}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        efficientnet_lite0_state(tmp_path / "evil.pth")


# -- CLIP

FLOATS = {
    "vision_model.embeddings.class_embedding": (6,),
    "vision_model.embeddings.position_embedding.weight": (5, 6),
    "vision_model.embeddings.patch_embedding.weight": (6, 3, 2, 2),
    "vision_model.post_layernorm.weight": (6,),
    "vision_model.post_layernorm.bias": (6,),
    "vision_model.encoder.layers.0.self_attn.q_proj.bias": (6,),
    "vision_model.encoder.layers.0.mlp.fc1.bias": (8,),
}
LAYERS = {  # module: its input, width in, width out, name of the bias or None
    "encoder.layers.0.self_attn.q_proj": ("x", 6, 6, "vision_model.encoder.layers.0.self_attn.q_proj.bias"),
    "encoder.layers.0.mlp.fc1": ("q_proj_out", 6, 8, "vision_model.encoder.layers.0.mlp.fc1.bias"),
    "visual_projection": ("fc1_out", 8, 4, None),
}


def quantised_linear(module: str, source: str, bias: str | None, number: int) -> list[onnx.NodeProto]:
    """The nodes that dynamic quantisation makes of a linear layer."""
    last, weight = module.rpartition(".")[2], f"onnx::MatMul_{number}"
    made = {part: f"{source}_{last}_{part}" for part in ("quantized", "scale", "zero_point")}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [source], list(made.values())),
        helper.make_node("Mul", [made["scale"], f"{weight}_scale"], [f"{last}_scales"]),
        helper.make_node(
            "MatMulInteger",
            [made["quantized"], f"{weight}_quantized", made["zero_point"], f"{weight}_zero_point"],
            [f"{last}_integer"],
            name=f"{last}_MatMul_quant",
        ),
        helper.make_node("Cast", [f"{last}_integer"], [f"{last}_cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{last}_cast", f"{last}_scales"], [f"{last}_product" if bias else f"{last}_out"]),
    ]
    return [*nodes, helper.make_node("Add", [bias, f"{last}_product"], [f"{last}_out"])] if bias else nodes


def clip_graph(path: Path, layers: dict[str, tuple[str, int, int, str | None]]) -> dict[str, np.ndarray]:
    """Write a small graph in the layout of the real one; return its float weights (out, in)."""
    rng = np.random.default_rng(0)
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in FLOATS.items()}
    constants["/vision_model/Constant_output_0"] = np.ones(3, dtype=np.float32)
    nodes, weights = [], {}
    for number, (module, (source, wide, out, bias)) in enumerate(layers.items(), start=1541):
        levels = rng.integers(-128, 128, (wide, out)).astype(np.int8)
        scale = rng.uniform(0.005, 0.02, out).astype(np.float32)
        zero = rng.integers(-10, 10, out).astype(np.int8)
        name = f"onnx::MatMul_{number}"
        constants |= {f"{name}_quantized": levels, f"{name}_scale": scale, f"{name}_zero_point": zero}
        weights[module] = ((levels.astype(np.float32) - zero) * scale).T
        nodes += quantised_linear(module, source, bias, number)
    graph = helper.make_graph(
        nodes,
        "clip",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 6])],
        [helper.make_tensor_value_info("visual_projection_out", TensorProto.FLOAT, [3, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return weights


def test_the_weights_of_a_quantised_graph_come_back_under_their_names(tmp_path: Path) -> None:
    weights = clip_graph(tmp_path / "clip.onnx", LAYERS)
    state = clip_vision_state(tmp_path / "clip.onnx")
    names = {f"vision_model.{name}.weight" for name in LAYERS if name != "visual_projection"}
    assert state.keys() == FLOATS.keys() | names | {"visual_projection.weight"}
    for module, weight in weights.items():
        name = "visual_projection" if module == "visual_projection" else f"vision_model.{module}"
        torch.testing.assert_close(state[f"{name}.weight"], torch.from_numpy(weight.copy()))
        assert state[f"{name}.weight"].is_contiguous()
    # And the float layers compute what the graph does, up to its rounding of activations to 8 bits.
    x = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    (theirs,) = ReferenceEvaluator(str(tmp_path / "clip.onnx")).run(None, {"x": x})
    ours = torch.from_numpy(x)
    for name in ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.mlp.fc1"):
        full = f"vision_model.{name}"
        ours = functional.linear(ours, state[f"{full}.weight"], state[f"{full}.bias"])
    ours = functional.linear(ours, state["visual_projection.weight"])
    similarity = functional.cosine_similarity(ours.flatten(), torch.from_numpy(theirs).flatten(), dim=0)
    assert similarity > 0.999


def test_a_graph_of_another_layout_is_refused(tmp_path: Path) -> None:
    second = {"second_projection": ("fc1_out", 8, 4, None)}
    clip_graph(tmp_path / "clip.onnx", LAYERS | second)
    with pytest.raises(CrossgraftError, match="one matrix product without a bias, found 2"):
        clip_vision_state(tmp_path / "clip.onnx")


# -- T5


def write_t5(folder: Path) -> dict[str, Tensor]:
    files, weights = t5_files()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return weights


def edit_graph(file: Path, change: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.load(str(file))
    change(model.graph)
    onnx.save(model, str(file))


def test_the_weights_of_t5_come_back_under_their_names(tmp_path: Path) -> None:
    weights = write_t5(tmp_path)
    state = t5_state(tmp_path / "encoder.onnx", tmp_path / "decoder.onnx")
    assert state.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(state[name], weight, rtol=0, atol=0)
        assert state[name].is_contiguous()
    assert not torch.equal(state["lm_head.weight"], state["shared.weight"])


def test_a_weight_of_t5_that_no_module_uses_is_refused(tmp_path: Path) -> None:
    write_t5(tmp_path)
    edit_graph(tmp_path / "decoder.onnx", lambda graph: graph.node.pop())
    with pytest.raises(CrossgraftError, match=r"decoder\.onnx: nothing says which module onnx::MatMul_\d+_quantized"):
        t5_state(tmp_path / "encoder.onnx", tmp_path / "decoder.onnx")


def test_two_embeddings_of_t5_are_refused(tmp_path: Path) -> None:
    write_t5(tmp_path)

    def other_scale(graph: onnx.GraphProto) -> None:
        (scale,) = (tensor for tensor in graph.initializer if tensor.name == "m.shared.weight_scale")
        scale.CopyFrom(numpy_helper.from_array(np.float32(1), scale.name))

    edit_graph(tmp_path / "decoder.onnx", other_scale)
    with pytest.raises(CrossgraftError, match=r"shared\.weight is not what the encoder's graph says"):
        t5_state(tmp_path / "encoder.onnx", tmp_path / "decoder.onnx")
