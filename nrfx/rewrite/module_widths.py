"""The attributes of modules that repeat a width of their parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from nrfx.nn import ChannelScale


def _convolution(conv: Any) -> dict[str, int]:
    out, each_in = conv.weight.shape[:2]
    groups = 1 if conv.groups == 1 else out // (conv.out_channels // conv.groups)
    return {"out_channels": out, "in_channels": each_in * groups, "groups": groups}


def _transposed(conv: Any) -> dict[str, int]:
    into, each_out = conv.weight.shape[:2]
    groups = 1 if conv.groups == 1 else into // (conv.in_channels // conv.groups)
    return {"in_channels": into, "out_channels": each_out * groups, "groups": groups}


def _linear(linear: Any) -> dict[str, int]:
    return {"out_features": linear.weight.shape[0], "in_features": linear.weight.shape[1]}


def _norm(norm: Any) -> dict[str, int]:
    known = [tensor for tensor in (norm.weight, norm.running_mean) if tensor is not None]
    return {"num_features": known[0].shape[0]} if known else {}


def bare_width(norm: nn.Module) -> int | None:
    """The width that a norm without parameters states; None for any other module, and for one that states none."""
    if any(True for _ in norm.parameters(recurse=False)) or type(norm) not in WIDTHS:
        return None
    width = getattr(norm, "num_channels", getattr(norm, "num_features", None))
    return width if isinstance(width, int) else None


def fit_norm(norm: Any, width: int) -> None:
    """Makes a norm without parameters agree with the width that it now meets, in place."""
    if isinstance(norm, nn.GroupNorm):
        norm.num_channels, norm.num_groups = width, norm.num_groups * width // norm.num_channels
    elif hasattr(norm, "num_features"):
        norm.num_features = width


def _group_norm(norm: Any) -> dict[str, int]:
    if norm.weight is None:
        return {}
    width, each = norm.weight.shape[0], norm.num_channels // norm.num_groups
    return {"num_channels": width, "num_groups": width // each}


WIDTHS: Mapping[type[nn.Module], Callable[[Any], dict[str, int]]] = {
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.Linear: _linear,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.BatchNorm3d: _norm,
    nn.SyncBatchNorm: _norm,
    nn.InstanceNorm1d: _norm,
    nn.InstanceNorm2d: _norm,
    nn.InstanceNorm3d: _norm,
    nn.GroupNorm: _group_norm,
    nn.ConvTranspose1d: _transposed,
    nn.ConvTranspose2d: _transposed,
    nn.ConvTranspose3d: _transposed,
    nn.PReLU: lambda prelu: {"num_parameters": prelu.weight.shape[0]},
    ChannelScale: lambda scale: {"channels": scale.weight.shape[0]},
}


def fit_widths(module: nn.Module) -> None:
    """Makes `out_channels` and the like agree with the shapes of the module's parameters, in place."""
    widths = next((WIDTHS[kind] for kind in type(module).__mro__ if kind in WIDTHS), None)
    if widths is not None:
        for name, width in widths(module).items():
            setattr(module, name, width)
