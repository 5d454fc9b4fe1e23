"""One thread for small problems: on them, threads only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

SMALL = 2**20
"""Elements of the support's keys up to which one thread is at least as fast (160 x 1280 keys: 10 to 40 times)."""


@contextmanager
def threads_for(key: Tensor) -> Iterator[None]:
    """Compute in one thread, PyTorch's and BLAS's alike, if the support's keys (M, f) are few and on a CPU."""
    if key.device.type != "cpu" or key.numel() > SMALL:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
