"""What two processes check together; `test_distributed.py` starts them. `torchrun`'s environment is expected."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tiny_models import backbone, inputs, output
from torch import Tensor
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError
from crossgraft.methods.adapter import Adapter
from crossgraft.methods.attach import adapter_state, attach, load_adapter_state, save_adapter
from crossgraft.methods.base import Method
from crossgraft.methods.lora import LoRA

TASKS, ROWS = ("a", "b", "c"), 4
CASES: dict[str, tuple[str, Method]] = {
    "adapter": ("t5", Adapter(reduction=4, sharing="multiple", init="normal")),
    "lora": ("bart", LoRA(r=3, dropout=0.0)),
}


def adapted(case: str) -> AdaptedModel:
    """A model with an adapter, layer norms trained too, the same in every process."""
    family, method = CASES[case]
    model = AdaptedModel(backbone(family))
    torch.manual_seed(1)
    attach(model, "new", method, tasks=TASKS, also_train=("layer_norms",))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def loss(case: str, model: torch.nn.Module, rows: slice) -> Tensor:
    """Of some rows of a common batch."""
    family, _ = CASES[case]
    batch = {name: value[rows] for name, value in inputs(family, rows=ROWS).items()}
    return output(family, model, batch).square().mean()


def alone(case: str, task: str) -> dict[str, Tensor]:
    """Gradients of one process that has the whole batch."""
    model = adapted(case)
    model.set_task(task)
    loss(case, model, slice(None)).backward()
    return gradients(model)


def gradients(model: AdaptedModel) -> dict[str, Tensor]:
    found = {name: value.grad for name, value in model.grafts.named_parameters()}
    found |= {name: value.grad for name, value in model.tuned("new").items()}
    return {name: full(value) for name, value in found.items() if value is not None}


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """DDP gives a gradient of zero to what was not used; that is none."""
    found = {name: value for name, value in found.items() if name in expected or value.any()}
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-4 * float(expected[name].abs().max()))
        for name in expected
    )


def check_ddp(case: str, share: slice) -> dict[str, bool]:
    """Tasks take turns, so weights of the others are unused in each step."""
    model = adapted(case)
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    results = {}
    for task in TASKS:
        model.set_task(task)
        parallel.zero_grad(set_to_none=True)
        loss(case, parallel, share).backward()
        results[f"ddp {case} {task}"] = same(gradients(model), alone(case, task))
    return results


def check_fsdp(case: str, share: slice, folder: Path) -> dict[str, bool]:
    """Layers and the whole are sharded; gradients, an optimizer's step, and the saved files are as of one process."""
    one, model = adapted(case), adapted(case)
    shard(model)
    results = {}
    for task in TASKS[:2]:
        model.set_task(task)
        model.zero_grad(set_to_none=True)
        loss(case, model, share).backward()
        results[f"fsdp {case} {task}"] = same(gradients(model), alone(case, task))
    step(model)
    one.set_task(TASKS[1])
    loss(case, one, slice(None)).backward()
    step(one)
    save_adapter(model, "new", folder / case)
    dist.barrier()
    saved, expected = load_file(folder / case / "adapter_model.safetensors"), folder / f"{case}-one"
    if dist.get_rank() == 0:
        save_adapter(one, "new", expected)
        single = load_file(expected / "adapter_model.safetensors")
        close = all(torch.allclose(saved[name], single[name], rtol=1e-3, atol=1e-5) for name in single)
        results[f"fsdp {case} saved"] = saved.keys() == single.keys() and close
        texts = [json.loads((path / "adapter_config.json").read_text()) for path in (folder / case, expected)]
        results[f"fsdp {case} config"] = texts[0] == texts[1]
    load_adapter_state(model, "new", adapter_state(adapted(case), "new"), "memory")
    model.set_task(TASKS[0])
    one = adapted(case)
    one.set_task(TASKS[0])
    with torch.no_grad():
        results[f"fsdp {case} load"] = torch.allclose(loss(case, model, share), loss(case, one, share))
    try:
        model.disable()
    except InputError as error:
        results[f"fsdp {case} says that copies cannot be switched"] = "FSDP" in str(error)
    return results


def check_switching() -> dict[str, bool]:
    """Of a sharded model adapters without copies can be switched, and it generates."""
    models = []
    for sharded in (False, True):
        model = AdaptedModel(backbone("t5"))
        torch.manual_seed(1)
        for name in ("one", "two"):
            attach(model, name, Adapter(reduction=4, init="normal", std=0.3))
        if sharded:
            shard(model.eval())
            register_fsdp_forward_method(model, "generate")
        models.append(model.eval())
    results = {}
    for active in (("one",), ("two",), (), ("one", "two")):
        with torch.no_grad():
            for model in models:
                model.set_active(*active)
            found, expected = (output("t5", model, inputs("t5")) for model in models)
            results[f"fsdp switched to {active}"] = torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
            written = [model.generate(**inputs("t5"), max_new_tokens=3, do_sample=False) for model in models]
            results[f"fsdp generates with {active}"] = torch.equal(*written)
    return results


def shard(model: AdaptedModel) -> None:
    """Layers one by one, then the whole."""
    for stack in model.stacks.values():
        for layer in range(stack.n_layers):
            fully_shard(model.backbone.get_submodule(stack.layer_path(layer)))
    fully_shard(model)


def step(model: AdaptedModel) -> None:
    torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-3).step()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    share = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    results: dict[str, bool] = {}
    for case in CASES:
        results |= check_ddp(case, share)
        results |= check_fsdp(case, share, folder)
    results |= check_switching()
    dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
