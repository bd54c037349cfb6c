"""Batch norms: per-channel affine maps in eval mode. Their gammas say which channels are dead."""

import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.labels import along, layout
from nrfx.rules.effect import Call, Effect, Family, Norm, Site, unknown
from nrfx.rules.registry import rule
from nrfx.rules.ties import ties_along

AXIS = 1


@rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def batch_norm(call: Call) -> Effect:
    labels: Tensor = call.args[0]
    channels = layout(labels, AXIS)
    norm = Norm(
        path=call.path,
        key=call.path,
        layout=channels,
        axis=AXIS,
        gamma=call.own("weight"),
        beta=call.own("bias"),
        mean=call.own("running_mean"),
        var=call.own("running_var"),
        eps=float(call.module.eps),  # type: ignore[union-attr, arg-type]
    )
    names = (norm.gamma, norm.beta, norm.mean, norm.var)
    return Effect(
        Family.NORM,
        out=along(channels, AXIS, labels.shape),
        sites=tuple(Site(name, 0, channels) for name in names if name is not None),
        ties=ties_along(labels, AXIS),
        norm=norm,
    )


@rule(F.batch_norm)
def functional_batch_norm(call: Call) -> Effect:
    """The function with parameters and buffers of the graph; with batch statistics in eval mode it keeps none."""
    labels: Tensor = call.args[0]
    given = [call.argument(index, name) for index, name in enumerate(_STATISTICS, start=1)]
    names = [call.attribute(index, name) for index, name in enumerate(_STATISTICS, start=1)]
    if any(value is not None and name is None for value, name in zip(given, names, strict=True)):
        return unknown(call, "a batch norm with computed parameters")
    mean, var, gamma, beta = names
    owned = next((name for name in (gamma, mean) if name is not None), None)
    path = call.path if owned is None else owned.rpartition(".")[0]
    batch_statistics = call.argument(5, "training", False) is True
    channels = layout(labels, AXIS)
    norm = Norm(
        path=path,
        key=gamma or mean or call.path,
        layout=channels,
        axis=AXIS,
        gamma=gamma,
        beta=beta,
        mean=None if batch_statistics else mean,
        var=None if batch_statistics else var,
        eps=float(call.argument(7, "eps", 1e-5)),
    )
    return Effect(
        Family.NORM,
        out=along(channels, AXIS, labels.shape),
        sites=tuple(Site(name, 0, channels) for name in names if name is not None),
        ties=ties_along(labels, AXIS),
        norm=norm,
    )


_STATISTICS = ("running_mean", "running_var", "weight", "bias")


@rule(nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm)
def example_norm(call: Call) -> Effect:
    return unknown(
        call, f"{type(call.module).__name__} normalises with statistics of the example, over channels or positions"
    )
