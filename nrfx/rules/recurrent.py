"""Recurrent layers: the features of their input may change, their hidden size stays.

The first layer reads the features, with one weight for each direction. What it gives passes gates before anything else
reads it. So the constant of a dead feature goes into the layer's own bias (which is exact, for it adds the same to the
gates at every step) or to a carrier, and never into a norm behind the layer.
"""

from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor, nn

from nrfx.labels import fill, layout
from nrfx.rules.contraction import Layer, per_example, reads_zeros
from nrfx.rules.effect import Call, Effect, Family, Reading, Site, Work, tensors, unknown
from nrfx.rules.registry import rule
from nrfx.rules.ties import ties_along


def _widths(layer: Any, _: int | None) -> dict[str, int]:
    return {"input_size": getattr(layer, _first(layer)[0]).shape[1]}


def _first(layer: Any) -> list[str]:
    """The names of the weights that read the input, one for each direction."""
    names = ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")
    return [name for name in names if isinstance(getattr(layer, name, None), Tensor)]


@rule(nn.LSTM, nn.GRU, nn.RNN, widths=_widths)
def recurrent(call: Call) -> Effect:
    """[steps, N, features] or [N, steps, features]; a matrix is one example, [steps, features]."""
    labels = call.args[0]
    if not isinstance(labels, Tensor):
        return unknown(call, "a packed sequence")
    steps = prod(labels.shape[:-1])
    return _gated(call, labels, per_example(steps, call.batch) if labels.dim() == 3 else steps)


@rule(nn.LSTMCell, nn.GRUCell, nn.RNNCell, widths=_widths)
def cell(call: Call) -> Effect:
    """One step, [N, features] or [features]."""
    labels: Tensor = call.args[0]
    return _gated(call, labels, per_example(prod(labels.shape[:-1]), call.batch))


def _gated(call: Call, labels: Tensor, steps: int) -> Effect:
    """`steps`: of one example."""
    module: Any = call.module
    axis = labels.dim() - 1
    cols = layout(labels, axis)
    hidden = call.opaque(f"the hidden size of {call.path}")
    sites: list[Site] = []
    readings: list[Reading] = []
    for name in _first(module):
        shape = tuple(getattr(module, name).shape)
        layer = Layer(call.path, call.name(f"{call.path}.{name}"), call.own(name.replace("weight", "bias")), shape)
        rows = fill(hidden, shape[:1])
        sites += layer.sites(rows, cols)
        readings.append(replace(layer.reading(rows, cols, axis), padded=reads_zeros(labels, axis)))
    gates = sum(reading.rows.numel() for reading in readings)
    others = [each for name, each in module.named_parameters() if each.dim() == 2 and name not in _first(module)]
    state = call.argument(1, "hx")
    named = {site.parameter for site in sites}
    return Effect(
        Family.CONTRACTION,
        out=call.opaque_like(call.val, f"what {call.path} gives"),
        sites=tuple(sites),
        ties=ties_along(labels, axis),
        pins=tuple(call.pin(given, f"{call.path} starts from it") for given in tensors(state)),
        work=(Work(steps * gates, None, cols), Work(steps * sum(each.numel() for each in others), None, None)),
        reading=readings[0],
        also=tuple(readings[1:]),
        fixed=tuple(name for name, _ in module.named_parameters() if call.name(f"{call.path}.{name}") not in named),
    )
