"""From the weight files that wheels carry to PyTorch state dicts with standard names.

Needs `onnx` (the `pull` extra) for CLIP and T5; runs none of the wheels' code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossgraft.errors import CrossgraftError

BATCH_NORM_EPS = 1e-3  # EfficientNet's, not PyTorch's 1e-5


def clip_vision_state(onnx_file: Path) -> dict[str, Tensor]:
    """The float weights of OpenAI CLIP ViT-B/16's image tower from its dynamically quantised ONNX graph.

    Norms, embeddings and biases are float and carry their Hugging Face names. A linear weight is int8 per output
    channel, stored [in, out] under an anonymous name, so its name is found through the `Add` of its bias: from there up
    through Mul and Cast to the MatMulInteger. The one matrix product without a bias is `visual_projection`.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_file)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    state = {
        name: torch.from_numpy(value.astype(np.float32))
        for name, value in constants.items()
        if name.startswith("vision_model.") and name.endswith((".weight", ".bias", "_embedding"))
    }

    def product_above(name: str) -> tuple[object, list[object]] | None:
        """The MatMulInteger that `name` comes from, and the scaling Mul nodes passed on the way up."""
        scalings: list[object] = []
        while (node := producer.get(name)) is not None and node.op_type in ("Mul", "Cast"):
            if node.op_type == "Mul":
                scalings.append(node)
            name = node.input[0]
        return (node, scalings) if node is not None and node.op_type == "MatMulInteger" else None

    def dequantised(node, scalings) -> Tensor:  # type: ignore[no-untyped-def]
        weight, zero_point = node.input[1], node.input[3]
        # The product of the activation's and the weight's scale is itself a Mul; the weight's is the constant one.
        candidates = [name for mul in scalings for name in (*mul.input, *_inputs(producer.get(mul.input[1])))]
        scale = next(constants[name] for name in candidates if name in constants)
        zero = constants[zero_point].astype(np.float32)
        return torch.from_numpy(((constants[weight].astype(np.float32) - zero) * scale).T.copy())

    used: set[str] = set()
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next((name for name in node.input if name.startswith("vision_model.") and name.endswith(".bias")), None)
        other = next((name for name in node.input if name != bias), None)
        if bias is None or other is None or (found := product_above(other)) is None:
            continue
        state[bias.removesuffix("bias") + "weight"] = dequantised(*found)
        used.add(found[0].name)  # type: ignore[attr-defined]
    without_bias = [node for node in graph.node if node.op_type == "MatMulInteger" and node.name not in used]
    if len(without_bias) != 1:
        raise CrossgraftError(f"{onnx_file}: expected one matrix product without a bias, found {len(without_bias)}")
    scalings = [n for n in graph.node if n.op_type == "Mul" and _leads_to(n, without_bias[0], producer)]
    state["visual_projection.weight"] = dequantised(without_bias[0], scalings)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _inputs(node) -> list[str]:  # type: ignore[no-untyped-def]
    return [] if node is None else list(node.input)


def _leads_to(mul, product, producer) -> bool:  # type: ignore[no-untyped-def]
    """Whether a Mul scales the output of this product, with at most a Cast between them."""
    source = producer.get(mul.input[0])
    if source is not None and source.op_type == "Cast":
        source = producer.get(source.input[0])
    return source is not None and source.name == product.name


def t5_state(encoder: Path, decoder: Path) -> dict[str, Tensor]:
    """The float weights of a `T5ForConditionalGeneration` from its dynamically quantised ONNX graphs.

    Norms are float, embeddings and relative position biases 8-bit, all under their module's name (the encoder's begins
    with `enc.`, the decoder's with `m.`). A linear weight is 8-bit, stored [in, out] under an anonymous name; the name
    of the MatMulInteger that uses it is its module's path. Scale and zero point are one number a tensor. The encoder's
    embedding is the decoder's `shared`. The output layer is a weight of its own.

    Raises:
        CrossgraftError: a weight of a graph has no name, or the two graphs disagree about one.
    """
    import onnx
    from onnx import numpy_helper

    state: dict[str, Tensor] = {}
    for file, root, top in ((encoder, "enc.", "encoder."), (decoder, "m.", "")):
        graph = onnx.load(str(file)).graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        linear = {
            node.input[1]: node.name.removesuffix("/MatMul_quant").strip("/").replace("/", ".")
            for node in graph.node
            if node.op_type == "MatMulInteger"
        }
        for constant, value in constants.items():
            if not constant.endswith((".weight", "_quantized")):
                continue  # scales, zero points, shapes
            stored = constant.removesuffix("_quantized")
            module = linear.get(constant, stored.removesuffix(".weight"))
            if not module.startswith(root):
                raise CrossgraftError(f"{file}: nothing says which module {constant} belongs to")
            name = (top + module.removeprefix(root)).replace("encoder.embed_tokens", "shared") + ".weight"
            weight = value.astype(np.float32)
            if stored != constant:
                weight = (weight - constants[f"{stored}_zero_point"].astype(np.float32)) * constants[f"{stored}_scale"]
            tensor = torch.from_numpy(weight.T.copy() if constant in linear else weight)
            if name in state and not torch.equal(state[name], tensor):
                raise CrossgraftError(f"{file}: {name} is not what the encoder's graph says")
            state[name] = tensor
    return state


def efficientnet_lite0_state(checkpoint: Path) -> dict[str, Tensor]:
    """EfficientNet-Lite0's checkpoint under our names, batch norms folded into the convolutions before them."""
    raw = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = {}

    def fold(conv: str, norm: str, name: str) -> None:
        scale = raw[f"{norm}.weight"] / torch.sqrt(raw[f"{norm}.running_var"] + BATCH_NORM_EPS)
        state[f"{name}.weight"] = raw[f"{conv}.weight"] * scale[:, None, None, None]
        state[f"{name}.bias"] = raw[f"{norm}.bias"] - raw[f"{norm}.running_mean"] * scale

    fold("_conv_stem", "_bn0", "stem")
    fold("_conv_head", "_bn1", "head")
    for i in range(len({key.split(".")[1] for key in raw if key.startswith("_blocks.")})):
        block = f"_blocks.{i}"
        if f"{block}._expand_conv.weight" in raw:
            fold(f"{block}._expand_conv", f"{block}._bn0", f"blocks.{i}.expand")
        fold(f"{block}._depthwise_conv", f"{block}._bn1", f"blocks.{i}.depthwise")
        fold(f"{block}._project_conv", f"{block}._bn2", f"blocks.{i}.project")
    state["classifier.weight"], state["classifier.bias"] = raw["_fc.weight"], raw["_fc.bias"]
    return {name: tensor.contiguous() for name, tensor in state.items()}
