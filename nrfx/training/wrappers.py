"""What users wrap around a network: the network inside of it, and what must be told when the network has changed."""

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from nrfx.errors import TrainingError


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside of torch.compile, DistributedDataParallel and DataParallel, one in the other.

    Raises:
        TrainingError: a wrapper holds its parameters in one flat vector, in which channels are not to be found.

    >>> inside = nn.Linear(2, 2)
    >>> unwrapped(DataParallel(inside)) is inside
    True
    """
    while True:
        kind = type(module).__name__
        if kind == "FullyShardedDataParallel":
            raise TrainingError(
                "FullyShardedDataParallel flattens the parameters of its modules, so that the channels of a layer "
                "cannot be found in them: use torch.distributed.fsdp.fully_shard (FSDP2), which keeps them apart."
            )
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif kind == "OptimizedModule":  # naming the class would load the compiler
            inside = module._orig_mod
            assert isinstance(inside, nn.Module)
            module = inside
        else:
            return module


def group_of(module: nn.Module) -> Any:
    """The process group of the DistributedDataParallel that a module is or has inside; None where there is none."""
    while not isinstance(module, DistributedDataParallel):
        inside = getattr(module, "module" if isinstance(module, DataParallel) else "_orig_mod", None)
        if not isinstance(inside, nn.Module):
            return None
        module = inside
    return module.process_group
