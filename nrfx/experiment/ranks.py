"""A run in several processes, as torchrun starts them: each has its share of every batch, and the first one the folder.

The share of a process is a part of the batch that one process alone would have seen, and gradients are averaged: the
steps are those of one process, where no layer looks at a whole batch (batch norms see their share).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nrfx.errors import UsageError
from nrfx.training.processes import Alone, processes

PATIENCE = 600.0
"""Seconds that a process waits for the others at the start, where one may load data that others have."""

BUCKET = 1 << 23
"""Numbers that are averaged at a time."""


@contextmanager
def launched(device: str) -> Iterator[str]:
    """Joins the processes that torchrun has started, for a `with` block; gives the device of this one.

    Args:
        device: that was asked for: "cuda" becomes the GPU of this process.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if not (dist.is_available() and dist.is_torchelastic_launched()) or count < 2 or dist.is_initialized():
        yield device
        return
    kind = torch.device(device).type
    own = f"{device}:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
    if kind == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=timedelta(seconds=PATIENCE))
    try:
        yield own
    finally:
        dist.destroy_process_group()


def ranks() -> Alone:
    """The processes of this run."""
    return processes(None, PATIENCE)


def check_batch(together: Alone, size: int) -> None:
    """Raises UsageError where a batch cannot be cut into as many shares of one size as there are processes."""
    if size % together.size:
        raise UsageError(
            f"A batch of {size} cannot be shared by {together.size} processes: make it a multiple of {together.size}."
        )


@torch.no_grad()
def average_gradients(together: Alone, module: nn.Module) -> None:
    """Gives all processes the mean of their gradients, some megabytes at a time."""
    if together.size == 1:
        return
    gradients = [each.grad for each in module.parameters() if each.grad is not None]
    for bucket in _buckets(gradients):
        flat = torch.cat([each.reshape(-1) for each in bucket])
        together.average(flat)
        for each, part in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
            each.copy_(part.view_as(each))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, of one dtype and device and some megabytes at a time."""
    bucket: list[Tensor] = []
    for each in tensors:
        alike = not bucket or (bucket[0].dtype, bucket[0].device) == (each.dtype, each.device)
        if bucket and (not alike or sum(other.numel() for other in bucket) + each.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(each)
    if bucket:
        yield bucket
