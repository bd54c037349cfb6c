"""DistributedDataParallel around a network that has changed in place: set up anew, as the same object.

Its reducer holds the nodes of autograd that accumulate the parameters' gradients, and buckets of their sizes. After an
event it gets another reducer, with the same settings and communication hook.
"""

import gc
from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nrfx.errors import TrainingError

_BY_BUCKET = ("error_dict", "p_memory_dict", "q_memory_dict")


def replicas_of(networks: Iterable[nn.Module]) -> list[DistributedDataParallel]:
    """All live DistributedDataParallel around one of the networks or around something that holds its parameters."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    parameters = {id(each) for network in networks for each in network.parameters()}
    found = [each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]
    return [
        each
        for each in found
        if "reducer" in vars(each) and any(id(one) in parameters for one in each.module.parameters())
    ]


def check_renewable(replica: DistributedDataParallel) -> None:
    """Raises TrainingError where it cannot be set up anew."""
    for setting, active in {
        "mixed_precision": replica.mixed_precision is not None,
        "delay_all_reduce_named_params": bool(replica._delay_all_reduce_params),
    }.items():
        if active:
            raise TrainingError(
                f"DistributedDataParallel with {setting} cannot be set up anew after an event: build it without. For "
                "lower precision use torch.autocast, or register_comm_hook with fp16_compress_hook."
            )


def renew(replica: DistributedDataParallel) -> None:
    """Gives it a reducer for the parameters that its network has now. Buckets, and gradients in them, are dropped.

    No process waits for another here.
    """
    builtin = None if replica._comm_hooks else _builtin_hook(replica)
    replica.reducer._remove_autograd_hooks()
    for handle in getattr(replica, "_accum_grad_hooks", ()):
        handle.remove()
    ignored = replica.parameters_to_ignore
    replica._module_parameters = [each for name, each in replica.module.named_parameters() if name not in ignored]
    parameters, sparse = replica._build_params_for_reducer()
    names = replica._build_debug_param_to_name_mapping(parameters)
    replica._ddp_init_helper(parameters, sparse, names, replica.static_graph)
    replica._has_rebuilt_buckets = False
    if replica.static_graph:
        replica._static_graph_delay_allreduce_enqueued = False
        replica.reducer._set_static_graph()
        assert replica.logger is not None
        replica.logger._set_static_graph()
    hooks, replica._comm_hooks = list(replica._comm_hooks), []
    for hook, state in hooks:
        for name in _BY_BUCKET:  # of PowerSGD: tensors of the shapes of buckets
            getattr(state, name, {}).clear()
        replica.register_comm_hook(state, hook)
    if builtin is not None:
        replica._register_builtin_comm_hook(builtin)
    if getattr(replica, "_use_python_reducer", False):
        replica._accum_grad_hooks = []
        replica._register_accum_grad_hook()


def _builtin_hook(replica: DistributedDataParallel) -> Any:
    """The hook of torch's own that it uses: only its log tells."""
    name = replica._get_ddp_logging_data().get("comm_hook", "")
    kinds: Any = vars(dist)["BuiltinCommHookType"]
    return dict(kinds.__members__).get(name.rpartition(".")[2])
