"""Which modules a graph calls as a whole: those whose class runs a forward of torch.nn, of nrfx.nn or of a class with a
rule, as it was written.

Their class tells what they compute, so that a rule can describe them. All other modules are recorded op by op.
"""

import functools
from types import FunctionType
from typing import Any

from torch import nn

from nrfx.rules.registry import ruled_base
from nrfx.tracing.graph.module import ByMode
from nrfx.tracing.graph.scripted import Scripted

_COSMETIC = frozenset(
    {"__init__", "__repr__", "extra_repr", "reset_parameters", "__setstate__", "__getstate__", "__deepcopy__"}
)
"""Methods that a forward does not call."""

COMPOSED = (
    *(nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder),
    *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)
"""Modules of torch.nn that only call others, which have rules."""


def is_leaf(module: nn.Module) -> bool:
    """Whether the module runs the forward of its class, and this is torch's own or ours."""
    if isinstance(module, Scripted):
        return True
    if "parametrizations" in module._modules or type(module) in COMPOSED:
        return False
    return runs_known_forward(module)


def runs_known_forward(module: nn.Module) -> bool:
    """Whether the class of a module has a known forward, and no attribute of the module hides a method of it."""
    kind: Any = type(module)
    return has_known_forward(kind) and vars(module).keys().isdisjoint(_methods(kind))  # of these there are fewer


@functools.cache
def _methods(kind: Any) -> frozenset[str]:
    """The methods that a class and its bases have beyond nn.Module, and the forward."""
    bases = (base for base in kind.__mro__ if base not in nn.Module.__mro__)
    functions = {name for base in bases for name, value in vars(base).items() if isinstance(value, FunctionType)}
    return frozenset(functions | {"forward"})


def has_known_forward(kind: Any) -> bool:
    """Whether a class runs a forward of torch.nn, of nrfx.nn or of a class with a rule, and overrides no method that
    this forward may call."""
    if kind.__module__.startswith("nrfx.nn") or issubclass(kind, ByMode):
        return True
    return _runs_forward_of(kind, ruled_base(kind))


@functools.cache
def _runs_forward_of(kind: Any, ruled: Any) -> bool:
    """Whether the forward of a class is that of torch.nn, or of the class `ruled`, as it was written."""
    if ruled is not None and kind.forward is ruled.forward:
        return _unchanged_since(kind, ruled)
    origin = next(base for base in kind.__mro__ if "forward" in vars(base))
    known = origin.__module__.startswith(("torch.nn.", "torch.ao.nn."))
    # nn.Module has a forward that raises; a Sequential only calls others, which are recorded one by one
    if not known or origin is nn.Module or issubclass(kind, nn.Sequential):
        return False
    return _unchanged_since(kind, origin)


def _unchanged_since(kind: Any, origin: Any) -> bool:
    subclasses = kind.__mro__[: kind.__mro__.index(origin)]
    methods = {name for name in dir(origin) if callable(getattr(origin, name, None))} - _COSMETIC
    return all(sub.__module__.startswith("torch.") or not methods & vars(sub).keys() for sub in subclasses)
