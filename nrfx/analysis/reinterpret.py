"""The steps of a graph interpreted on other kinds of values: constants, ids of gammas."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from nrfx.analysis.channels import Channels, Step
from nrfx.ids import components
from nrfx.nests import with_tensors
from nrfx.rules import Family
from nrfx.rules.registry import is_of_torch


def flow(channels: Channels, value: Callable[[Step, tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Interprets the steps in order on another kind of value.

    Args:
        value: (step, args, kwargs) -> the value of the step; args and kwargs hold the values of its operands.
    """
    values: dict[tuple[str, str], Any] = {}
    for step in channels.steps:
        args, kwargs = operands(step, values)
        plain = step.effect.family is Family.VALUE
        values[step.mode, step.node.name] = step.effect.out if plain else value(step, args, kwargs)


def operands(step: Step, values: Mapping[tuple[str, str], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a step, with the value of each node in place of the node."""

    def read(arg: fx.Node) -> Any:
        return values[step.mode, arg.name]

    given, named = arguments(step.node)
    args: Any = fx.map_arg(given, read)
    kwargs: Any = fx.map_arg(named, read) if named else {}  # a plain one: the nests of fx are slower to walk
    return args, kwargs


def arguments(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The node's arguments, with `input`, `tensors` and `other` of torch in their places, if passed by name."""
    if not node.kwargs or (node.op == "call_function" and not is_of_torch(node.target)):
        return node.args, node.kwargs
    args, kwargs = list(node.args), dict(node.kwargs)
    for index, names in enumerate((("input", "tensors"), ("other",))):
        name = next((name for name in names if name in kwargs), None)
        if name is not None and len(args) == index:
            args.append(kwargs.pop(name))
    return tuple(args), kwargs


def joined_by(step: Step, labels: Tensor, count: int) -> Tensor:
    """The labels, with one for all of those that the step ties: its result carries one label in their place.

    A pool behind a pixel shuffle reads several labels as one channel: what holds of the one must hold of them all.

    Args:
        count: labels of the network.
    """
    pairs = [torch.broadcast_tensors(*tie) for tie in step.effect.ties]
    if not pairs:
        return labels
    left, right = (torch.cat([side.reshape(-1) for side in sides]) for sides in zip(*pairs, strict=True))
    both = (left >= 0) & (right >= 0)
    root = components(count, left[both], right[both])
    return torch.where(labels >= 0, root[labels.clamp(min=0)], labels) if count else labels


def like(nest: Any, value: Callable[[Tensor], Tensor]) -> Any:
    """The nest with each label tensor replaced by value(labels)."""
    if isinstance(nest, Tensor):
        return value(nest)
    if type(nest) is tuple:  # nearly all nests; with_tensors is slower
        return tuple(like(part, value) for part in nest)
    return with_tensors(nest, value)
