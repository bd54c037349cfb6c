"""A shell: a copy of a module tree around tensors of one's own choice.

Shells let the package switch modes, trace and infer shapes without touching the module they come from: every
submodule, attribute and hook is copied, every parameter and buffer is what the caller says it is. Tied
tensors stay tied.
"""

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nrfx.tracing.scripted import Scripted

M = TypeVar("M", bound=nn.Module)


def shell(module: M, tensor: Callable[[Tensor], Tensor]) -> M:
    """A copy of `module` in which `tensor(t)` stands for every parameter and buffer t.

    >>> linear = nn.Linear(2, 3)
    >>> shell(linear, lambda t: t).weight is linear.weight
    True
    >>> shell(linear, on_meta).weight.device.type
    'meta'
    """
    memo: dict[int, Any] = {id(t): tensor(t) for t in (*module.parameters(), *module.buffers())}
    memo.update({id(value): tensor(value.detach()) for value in computed_attributes(module)})
    twin: M = _copy(module, memo)
    return twin


def computed_attributes(module: nn.Module) -> list[Tensor]:
    """Attributes that are results of arithmetic, such as the weight that a hook of weight_norm leaves behind in each
    forward: deepcopy refuses them.
    """
    values = (value for submodule in module.modules() for value in vars(submodule).values())
    return [value for value in values if isinstance(value, Tensor) and not value.is_leaf]


def _copy(module: Any, memo: dict[int, Any]) -> Any:
    """copy.deepcopy of a module, three times as fast: most of a module is empty dictionaries of hooks."""
    if id(module) in memo:
        return memo[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        memo[id(module)] = Scripted(module, lambda tensor: memo[id(tensor)])
        return memo[id(module)]
    kind: Any = type(module)
    if not _is_copied_by_contents(kind):
        return copy.deepcopy(module, memo)
    twin = memo[id(module)] = kind.__new__(kind)
    for key, value in vars(module).items():
        if key == "_modules":
            twin.__dict__[key] = {name: child and _copy(child, memo) for name, child in value.items()}
        elif key == "_compiled_call_impl":
            continue  # belongs to module.compile(), and to the module it was made of
        elif type(value) in _DIRECT:
            twin.__dict__[key] = value
        elif type(value) in (dict, OrderedDict, set) and not value:
            twin.__dict__[key] = type(value)()
        else:
            twin.__dict__[key] = copy.deepcopy(value, memo)
    return twin


_DIRECT = (int, float, str, bool, type(None))
_OWN_WAYS = frozenset({"__deepcopy__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__"})


@functools.cache
def _is_copied_by_contents(kind: Any) -> bool:
    """Whether deepcopy has no way of its own for this class."""
    for base in kind.__mro__:
        if base in (nn.Module, object):
            continue
        # torch's own __setstate__ only fills in what old checkpoints lack.
        own = _OWN_WAYS - {"__setstate__"} if base.__module__.startswith("torch.nn.modules") else _OWN_WAYS
        if own & vars(base).keys():
            return False
    return True


def same(tensor: Tensor) -> Tensor:
    """The tensor itself, for shells that share."""
    return tensor


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, dtype and kind (parameter or not) without data."""
    bare = torch.empty_like(tensor.detach(), device="meta")
    return nn.Parameter(bare, requires_grad=False) if isinstance(tensor, nn.Parameter) else bare
