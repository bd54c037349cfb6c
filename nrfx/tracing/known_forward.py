"""Which modules a graph calls as a whole: those whose class runs a forward of torch.nn or nrfx.nn as it was written.

Their class tells what they compute, so that a rule can describe them. All other modules are recorded op by op.
"""

import functools
from typing import Any

from torch import nn

from nrfx.tracing.module import ByMode

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
    if "forward" in vars(module) or nn.utils.parametrize.is_parametrized(module):
        return False
    kind: Any = type(module)
    if kind in COMPOSED:
        return False
    return has_known_forward(kind)


@functools.cache
def has_known_forward(kind: Any) -> bool:
    """Whether a class runs a forward of torch.nn or nrfx.nn, and overrides no method that this forward may call."""
    if kind.__module__.startswith("nrfx.nn") or issubclass(kind, ByMode):
        return True
    origin = next(base for base in kind.__mro__ if "forward" in vars(base))
    known = origin.__module__.startswith(("torch.nn.", "torch.ao.nn."))
    # nn.Module has a forward that raises; a Sequential only calls others, which are recorded one by one
    if not known or origin is nn.Module or issubclass(kind, nn.Sequential):
        return False
    subclasses = kind.__mro__[: kind.__mro__.index(origin)]
    methods = {name for name in dir(origin) if callable(getattr(origin, name, None))} - _COSMETIC
    return all(sub.__module__.startswith("torch.") or not methods & vars(sub).keys() for sub in subclasses)
