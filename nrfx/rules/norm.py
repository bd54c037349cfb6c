"""Norms, and scales that stand in for them: their gammas say which channels are dead.

A batch norm is an affine map of each channel in eval mode. Instance and group norms use statistics of the example,
within a channel or a group: what they give is constant only where gamma is dead. A layer norm over channels changes
with every channel that goes, so that none may.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nrfx.labels import along, layout, varying
from nrfx.nn import ChannelScale
from nrfx.rules.effect import Call, Effect, Family, Norm, Site, Unfit, attempt, unknown
from nrfx.rules.registry import rule
from nrfx.rules.ties import ties_along

AXIS = 1


def _widths(norm: Any, met: int | None) -> dict[str, int]:
    known = [tensor.shape[0] for tensor in (norm.weight, norm.running_mean) if tensor is not None]
    return {"num_features": width} if (width := next(iter(known), met)) is not None else {}


def _group_widths(norm: Any, met: int | None) -> dict[str, int]:
    width = met if norm.weight is None else norm.weight.shape[0]
    return {} if width is None else {"num_channels": width, "num_groups": norm.num_groups * width // norm.num_channels}


def _scale_widths(scale: Any, _: int | None) -> dict[str, int]:
    return {"channels": scale.weight.shape[0]}


@rule(
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    norm=True,
    keeps_shape=True,
    workless=True,
    widths=_widths,
)
def batch_norm(call: Call) -> Effect:
    labels: Tensor = call.args[0]
    return _normed(labels, _of_module(call, layout(labels, AXIS), AXIS), ties_along(labels, AXIS))


@rule(
    F.batch_norm, weights=(1, 2, 3, 4, "running_mean", "running_var", "weight", "bias"), keeps_shape=True, workless=True
)
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


@rule(
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, norm=True, keeps_shape=True, workless=True, widths=_widths
)
def instance_norm(call: Call) -> Effect:
    """Each channel by its own statistics, over positions of the example; running ones only where it keeps them."""
    module: Any = call.module
    labels: Tensor = call.args[0]
    axis = labels.dim() - module._get_no_batch_dim()
    return _normed(labels, _of_module(call, layout(labels, axis), axis), (), ties_along(labels, axis))


@rule(nn.GroupNorm, norm=True, keeps_shape=True, workless=True, widths=_group_widths)
def group_norm(call: Call) -> Effect:
    module: Any = call.module
    labels: Tensor = call.args[0]
    names = (call.own("weight"), call.own("bias"))
    if module.num_groups == 1:
        return _over_all(call, labels, call.path)
    return _by_groups(call, labels, module.num_channels // module.num_groups, call.path, names, float(module.eps))


@rule(F.group_norm, torch.group_norm, weights=(2, 3, "weight", "bias"), keeps_shape=True, workless=True)
def functional_group_norm(call: Call) -> Effect:
    labels: Tensor = call.args[0]
    groups = call.argument(1, "num_groups")
    given = [call.argument(2, "weight"), call.argument(3, "bias")]
    names = (call.attribute(2, "weight"), call.attribute(3, "bias"))
    if any(value is not None and name is None for value, name in zip(given, names, strict=True)):
        return unknown(call, "a group norm with computed parameters")
    if groups == 1:
        return _over_all(call, labels, call.node.name)
    name: int | str = 1 if len(call.args) > 1 else "num_groups"
    computed = isinstance(call.node.args[1] if name == 1 else call.node.kwargs["num_groups"], fx.Node)
    # a number that the network computes from its widths is another one at new widths; a literal is that of the trace
    each, left = divmod((labels if call.before is None or computed else call.before.out).shape[AXIS], groups)
    if left:
        raise Unfit(f"{labels.shape[AXIS]} channels are no multiple of {groups} groups")
    key = names[0] or call.path
    effect = _by_groups(call, labels, each, key, names, float(call.argument(4, "eps", 1e-5)))
    if computed:
        return replace(effect, numbers=(each,))
    if call.before is None or labels.shape[AXIS] // each == groups:
        return effect
    return replace(effect, literals={name: labels.shape[AXIS] // each})


def _by_groups(
    call: Call, labels: Tensor, each: int, key: str, names: tuple[str | None, str | None], eps: float
) -> Effect:
    """A norm over groups of `each` channels, which come and go whole."""
    channels = layout(labels, AXIS)
    norm = Norm(_owner(call, names), key, channels, AXIS, *names, mean=None, var=None, eps=eps)
    groups = attempt(channels.view, -1, each)
    ties = ((groups.amax(1, keepdim=True).expand_as(groups), groups),) if each > 1 else ()
    return _normed(labels, norm, ties, ties_along(labels, AXIS))


def _over_all(call: Call, labels: Tensor, title: str) -> Effect:
    """A norm over one group of all channels. Labels as behind several groups: one group may be what is left of them."""
    mixed = _mixing(call, labels, f"{title} normalises over its channels")
    return replace(mixed, out=along(layout(labels, AXIS), AXIS, labels.shape), ties=ties_along(labels, AXIS))


def _owner(call: Call, names: tuple[str | None, str | None]) -> str:
    owned = next((name for name in names if name is not None), None)
    return call.path if call.module is not None or owned is None else owned.rpartition(".")[0]


def _of_module(call: Call, channels: Tensor, axis: int) -> Norm:
    """The norm that the called module is, with the parameters and statistics that it has."""
    module: Any = call.module
    gamma, beta, mean, var = map(call.own, ("weight", "bias", "running_mean", "running_var"))
    return Norm(call.path, call.path, channels, axis, gamma, beta, mean, var, eps=float(module.eps))


def _normed(labels: Tensor, norm: Norm, *ties: tuple[tuple[Tensor, Tensor], ...]) -> Effect:
    names = (norm.gamma, norm.beta, norm.mean, norm.var)
    return Effect(
        Family.NORM,
        out=along(norm.layout, norm.axis, labels.shape),
        sites=tuple(Site(name, 0, norm.layout) for name in names if name is not None),
        ties=tuple(tie for more in ties for tie in more),
        norm=norm,
    )


@rule(nn.LayerNorm, nn.RMSNorm, norm=True, keeps_shape=True, workless=True)
def layer_norm(call: Call) -> Effect:
    module: Any = call.module
    return _over_last(call, len(module.normalized_shape))


@rule(F.layer_norm, torch.layer_norm, F.rms_norm, weights=(2, 3, "weight", "bias"), keeps_shape=True, workless=True)
def functional_layer_norm(call: Call) -> Effect:
    return _over_last(call, len(call.argument(1, "normalized_shape")))


def _over_last(call: Call, count: int) -> Effect:
    """A norm over the last dims: free only where no channels lie along them."""
    labels: Tensor = call.args[0]
    last = set(range(labels.dim() - count, labels.dim()))
    if varying(labels) & last:
        return _mixing(call, labels, f"{_title(call)} normalises over its channels")
    return Effect(Family.MIXED, out=labels, fixed=("weight", "bias"))


@rule(nn.LocalResponseNorm, F.local_response_norm, keeps_shape=True, workless=True)
def response_norm(call: Call) -> Effect:
    return _mixing(call, call.args[0], f"{_title(call)} divides each channel by its neighbours")


@rule(
    F.instance_norm,
    torch.instance_norm,
    weights=(1, 2, 3, 4, "running_mean", "running_var", "weight", "bias"),
    keeps_shape=True,
    workless=True,
)
def functional_instance_norm(call: Call) -> Effect:
    labels: Tensor = call.args[0]
    given = [call.argument(index, name) for index, name in enumerate(_STATISTICS, start=1)]
    if any(value is not None for value in given):
        return _mixing(call, labels, f"{_title(call)} is given parameters as a function")
    return Effect(Family.MIXED, out=labels, ties=ties_along(labels, AXIS))


@rule(ChannelScale, workless=True, widths=_scale_widths)
def channel_scale(call: Call) -> Effect:
    """A gamma without statistics and without a beta."""
    module: Any = call.module
    labels: Tensor = call.args[0]
    axis = module.dim % labels.dim()
    channels = layout(labels, axis)
    norm = Norm(call.path, call.path, channels, axis, call.own("weight"), None, None, None, eps=0.0, scale=True)
    return _normed(labels, norm, (), ties_along(labels, axis))


def _mixing(call: Call, labels: Tensor, reason: str) -> Effect:
    """Channels pass, and none may come or go."""
    return Effect(Family.MIXED, out=labels, pins=(call.pin(labels, reason),))


def _title(call: Call) -> str:
    return call.path if call.module is not None else call.node.name
