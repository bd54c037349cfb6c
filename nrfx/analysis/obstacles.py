"""What stands between a module and the rule of its class: hooks, a weight that is computed, a forward of its own.

Each is told with what to do about it. The hook of a known kind is told by its kind, any other by its name.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from nrfx.rules.registry import ruled_base
from nrfx.tracing import runs_known_forward
from nrfx.tracing.graph.scripted import Scripted

KINDS: dict[type, str] = {
    WeightNorm: "torch.nn.utils.weight_norm computes its weight in a hook: remove_weight_norm undoes it",
    SpectralNorm: "torch.nn.utils.spectral_norm computes its weight in a hook: remove_spectral_norm undoes it",
    BasePruningMethod: "torch.nn.utils.prune masks its weight in a hook: prune.remove makes the mask permanent",
}
"""Hooks of torch, and what they do."""
QUANTIZED = "torch.ao.quantization works on its weight or output: trace the float model, and quantize what comes of it"


def obstacle(module: nn.Module) -> str | None:
    """Why the rule of its class does not tell what the module computes; None where it does."""
    if isinstance(module, Scripted):
        return f"{module.kind} is a TorchScript module, whose code is not looked into: use the module it was made from"
    if isinstance(module, parametrize.ParametrizationList):
        kinds = ", ".join(type(part).__name__.strip("_") for part in module)
        return f"{kinds} computes a weight: torch.nn.utils.parametrize.remove_parametrizations undoes it"
    kind = type(module)
    ruled = ruled_base(kind)
    if ruled is not None and kind.forward is not ruled.forward and kind.__module__.startswith("torch.ao."):
        return QUANTIZED
    if not runs_known_forward(module) or (ruled is not None and kind.forward is not ruled.forward):
        return f"{kind.__name__} has a forward of its own"
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    if hooks:
        return _of_hooks(hooks)
    computed = [name for name in ("weight", "bias") if name not in module._parameters and _holds(module, name)]
    return f"its {computed[0]} is computed from other tensors" if computed else None


def hooked_work(module: nn.Module) -> int:
    """The multiply-adds of the known hooks of a module in eval mode, whatever the batch: u^T W v of spectral_norm."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
    weights = [(hook, getattr(module, f"{hook.name}_orig")) for hook in hooks]
    return sum(weight.numel() + weight.shape[hook.dim] for hook, weight in weights)


def _of_hooks(hooks: Sequence[Any]) -> str:
    """The first hook of a known kind, else the names of all."""
    known = [told for hook in hooks for kind, told in KINDS.items() if isinstance(hook, kind)]
    if known:
        return known[0]
    if any(str(getattr(hook, "__module__", "")).startswith("torch.ao.") for hook in hooks):
        return QUANTIZED
    names = ", ".join(dict.fromkeys(_name(hook) for hook in hooks))
    return f"it has forward hooks ({names}), which may do anything: remove them, and register them on the new network"


def _name(hook: Any) -> str:
    """The name of a function, or of the class of a callable, as its author wrote it."""
    while isinstance(hook, partial):
        hook = hook.func
    name: str = getattr(hook, "__qualname__", type(hook).__qualname__)
    return name.rpartition("<locals>.")[2]


def _holds(module: nn.Module, name: str) -> bool:
    """Whether an attribute that is no parameter is a tensor, or a property that gives one (a parametrization)."""
    own = vars(module).get(name, getattr(type(module), name, None))
    return isinstance(own, Tensor | property) or module._buffers.get(name) is not None
