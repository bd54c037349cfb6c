"""The share of the weights of a network that can change width, and the reasons why the others cannot."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nrfx.analysis.channels import Channels, Space, Step

WEIGHTS = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
NO_GAMMA = "no norm or scale tells which channels are dead"
UNREAD = "no forward reads it"
ON_THE_CHANNELS = "it reads and gives no channels"


@dataclass(frozen=True)
class Shares:
    """Shares of the params of all convolutions and linear layers.

    Attributes:
        free: in layers with an axis whose space nothing pins.
        mortal: in layers with a free axis that has a gamma, which shows its dead channels, so that `rejuvenate` can
            change its width.
        pins: why the other layers do not change, "share reason", the largest share first.
    """

    free: float
    mortal: float
    pins: tuple[str, ...]


def shares(model: nn.Module, channels: Channels) -> Shares:
    """The shares of a network, under residual="coupled"."""
    layers = layer_params(model)
    total = max(sum(layers.values()), 1)
    free, mortal, reasons = 0, 0, Counter[str]()
    for name, params in layers.items():
        spaces = [_spaces(channels, layout) for layout in channels.layouts.get(channels.aliases.get(name, name), ())]
        around = [space for axis in spaces for space in axis]
        free += params * any(space.free for space in around)
        if any(_mortal(space) for space in around):
            mortal += params
        else:
            reasons[_reason(name, spaces, channels)] += params
    pins = tuple(f"{params / total:.1%} {reason}" for reason, params in reasons.most_common())
    return Shares(free / total, mortal / total, pins)


def layer_params(model: nn.Module) -> Mapping[str, int]:
    """Params of each convolution, linear layer and attention projection, bias included, by the name of its weight."""
    layers: dict[str, int] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        linear = isinstance(module, _ConvNd | nn.Linear | nn.MultiheadAttention) or type(module).__name__ == "Conv1D"
        if linear:  # transformers' Conv1D is a linear layer
            own = {name: tensor for name, tensor in module.named_parameters(recurse=False) if id(tensor) not in seen}
            seen |= {id(tensor) for tensor in own.values()}
            weights = [name for name in WEIGHTS if name in own]
            beside = sum(tensor.numel() for name, tensor in own.items() if name not in weights)
            for index, name in enumerate(weights):
                full = f"{path}.{name}" if path else name
                layers[full] = own[name].numel() + (beside if index == 0 else 0)
    return layers


def _mortal(space: Space) -> bool:
    return space.free and space.normed and not space.frozen


def _spaces(channels: Channels, layout: Tensor | None) -> list[Space]:
    """The spaces along an axis."""
    if layout is None:
        return []
    indices = channels.spaces_along(layout)
    return [channels.spaces[index] for index in torch.unique(indices[indices >= 0]).tolist()]


def _reason(name: str, spaces: Iterable[list[Space]], channels: Channels) -> str:
    """Why a layer does not change width: the pin of its output, else of its input."""
    for axis in spaces:
        for space in axis:
            return NO_GAMMA if space.pinned is None else general(space.pinned)
    for step in channels.steps:
        if step.effect.pins and _reads(step, name):
            return general(step.effect.pins[0].reason)
    return ON_THE_CHANNELS if channels.layouts.get(name) else UNREAD


def _reads(step: Step, name: str) -> bool:
    """Whether a node calls the module with this weight, or takes the weight or a value computed from it."""
    if step.node.op == "call_module":
        return name.startswith(f"{step.path}.")
    sources = [
        *step.node.all_input_nodes,
        *(source for node in step.node.all_input_nodes for source in node.all_input_nodes),
    ]
    return any(node.op == "get_attr" and node.target == name for node in sources)


def general(reason: str) -> str:
    """The reason without names and numbers of nodes, so that like reasons count together."""
    return re.sub(r"\b\w+(\.\w+)*_\d+(_\w+)*\b|\b\w+(\.\d+)+(\.\w+)*\b", "...", reason)
