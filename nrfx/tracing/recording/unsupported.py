"""Models of which no graph can be made, whatever their forward does."""

import torch
from torch import fx, nn

from nrfx.errors import TraceError
from nrfx.tracing.graph.walk import held, named_modules
from nrfx.tracing.values.causes import place

_WRAPPERS = ("torch._dynamo", "torch.nn.parallel", "torch.distributed")
_QUANTIZED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.nn.quantized",
    "torch.nn.intrinsic.quantized",
)


def refuse_unsupported(model: nn.Module) -> None:
    """Raises TraceError for a model, or one of its modules, of a kind that no graph stands for."""
    if not isinstance(model, nn.Module):
        raise TraceError(f"trace wants an nn.Module and got {type(model).__name__}.")
    modules = named_modules(model)
    odd = {kind for kind in {type(module) for _, module in modules} if _is_odd(kind)}
    for path, module in modules:
        if type(module) in odd:
            _refuse_kind(path, module)
            if isinstance(module, torch.jit.ScriptModule):
                continue
        weight = module._parameters.get("weight")
        if weight is not None and not isinstance(weight, nn.UninitializedParameter) and not weight.numel():
            raise TraceError(
                f"{place(path, type(module).__name__)} has a weight of shape {list(weight.shape)}: it has no channels."
            )
    if type(model).__call__ is not nn.Module.__call__ and not isinstance(model, fx.GraphModule):
        raise TraceError(
            f"{type(model).__name__} has a __call__ of its own, which a graph does not record: use forward."
        )
    for name, tensor in (*held(model).parameters, *held(model).buffers):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise TraceError(f"{name} has no shape yet: run one batch through the model before tracing it.")


def _is_odd(kind: type[nn.Module]) -> bool:
    """Whether a class of modules is one that may be refused."""
    return issubclass(kind, torch.jit.ScriptModule) or kind.__module__.startswith((*_QUANTIZED, *_WRAPPERS))


def _refuse_kind(path: str, module: nn.Module) -> None:
    """Raises TraceError for a module of a class for which no graph stands, at that place."""
    where, of_file = place(path, type(module).__name__), type(module).__module__
    if isinstance(module, torch.jit.ScriptModule):
        if path:  # one call of the graph (scripted.py)
            return
        raise TraceError(
            f"{where} is a TorchScript module, of which no graph can be made: trace the model it was made from. As a "
            "submodule it would be one call, which keeps the widths that it touches."
        )
    if of_file.startswith(_QUANTIZED) and not isinstance(module, torch.ao.nn.quantized.FloatFunctional):
        raise TraceError(f"{where} is quantized: trace the float model.")
    if of_file.startswith(_WRAPPERS) and not (path and isinstance(module, nn.DataParallel)):
        raise TraceError(f"{where} wraps a module: trace that one, and wrap the result.")
