"""Layers that torch.fx records as one call, as it does those of torch.nn: leaves of a symbolic trace.

torch.fx takes a class for a leaf by its place in torch.nn and asks no other. A layer of nrfx records the call itself,
so that passes over graphs (quantization, a trace of the user's own) find the layer and not its operations. Traced
alone, a layer is looked into.
"""

from typing import Any

import torch
from torch import fx, nn


def recorded_call(layer: nn.Module, x: Any) -> Any:
    """The node that calls the layer, where x is a proxy of a trace of a module around it; None everywhere else.

    >>> from nrfx.nn import CrossLinear
    >>> net = nn.Sequential(CrossLinear((2, 1), (2, 2)), nn.ReLU())
    >>> [node.target for node in fx.symbolic_trace(net).graph.nodes if node.op == "call_module"]
    ['0', '1']
    """
    # torch.compile of torch 2.11 warns of the gradient of whatever is asked for its class
    if torch.compiler.is_compiling() or not isinstance(x, fx.Proxy):
        return None
    root = getattr(x.tracer, "root", layer)
    path = next((path for path, module in root.named_modules() if module is layer), "")
    return x.tracer.create_proxy("call_module", path, (x,), {}) if path else None
