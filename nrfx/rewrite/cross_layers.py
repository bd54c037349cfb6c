"""Cross layers in place of the layers whose channels have several generations."""

from typing import Any

import torch
from torch import nn

from nrfx.nn import Cross, CrossLinear
from nrfx.plan.blocks import Blocks, form_of


def attending(module: nn.Module, blocks: Blocks) -> Cross:
    """The cross layer with attention between these blocks, and a copy of the dense layer's parameters."""
    form: Any = form_of(module)
    layer: Cross = form.from_dense(
        module,
        torch.bincount(blocks.columns, minlength=blocks.count).tolist(),
        torch.bincount(blocks.rows, minlength=blocks.count).tolist(),
        in_runs=blocks.runs(),
    )
    return layer


def cross_layer(module: nn.Module, blocks: Blocks, scheme: str) -> Cross:
    """The cross layer with these blocks and the module's kernel, stride and so on; on meta, without weights."""
    form = form_of(module)
    assert form is not None
    scheme = module.scheme if isinstance(module, Cross) else scheme
    config: dict[str, Any] = {
        "in_generations": torch.bincount(blocks.columns, minlength=blocks.count).tolist(),
        "out_generations": torch.bincount(blocks.rows, minlength=blocks.count).tolist(),
        "in_runs": blocks.runs(),
        "scheme": scheme,
        "bias": getattr(module, "bias", None) is not None,
        "present": blocks.present if scheme == "removed" else None,
    }
    if form is not CrossLinear:
        config |= {name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    return form(**config, device="meta")
