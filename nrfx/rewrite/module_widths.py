"""The attributes of modules that repeat a width, such as `out_channels`: which there are is said with the op's rule."""

from typing import Any

from torch import nn

from nrfx.rules import op_of
from nrfx.rules.registry import widths_of


def fit_widths(module: nn.Module, met: int | None = None) -> None:
    """Makes `out_channels` and the like agree with the shapes of the module's parameters, in place.

    A parametrized module keeps its widths, and asking for its weight would compute it: in train mode spectral_norm then
    writes into its buffers.

    Args:
        met: the width that the module meets in the graph; it decides where there are no parameters.
    """
    op = op_of(module)
    if op is None or op.widths is None:
        return
    if "parametrizations" in module._modules and nn.utils.parametrize.is_parametrized(module):
        return
    kind, own = type(module), vars(module)
    for name, width in widths_of(module, met).items():
        if name in own and kind.__setattr__ is nn.Module.__setattr__ and not hasattr(kind, name):
            own[name] = width  # a module takes long to set an attribute
        else:
            setattr(module, name, width)


def bare_width(module: Any) -> int | None:
    """The width that a norm without parameters states; None for any other module, and for one that states none."""
    op = op_of(module)
    if op is None or op.widths is None or any(True for _ in module.parameters(recurse=False)):
        return None
    width = getattr(module, "num_channels", getattr(module, "num_features", None))
    return width if isinstance(width, int) else None
