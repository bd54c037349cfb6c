"""The state of an optimizer, carried across a rejuvenation.

A parameter scaled by f has its gradient scaled by 1 / f, and so has every running mean of gradients: exp_avg and
momentum buffers are divided by f, running means of squared gradients by f squared (`POWERS`). The state starts from
zero at new positions, and where a value was written anew. Adam's `step` belongs to a whole parameter and is not
restarted: the first steps of new channels are up to 6 times longer than usual. Not handled: optimizers that are not in
`POWERS`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from nrfx.errors import TrainingError
from nrfx.plan.origins import Factors, Origins, gather, scaled
from nrfx.rewrite.result import Rejuvenation

POWERS: Mapping[type[Optimizer], Mapping[str, int]] = {
    SGD: {"momentum_buffer": 1},
    Adam: {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
    AdamW: {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
}
"""Optimizer -> its state tensors of the parameter's shape -> the power of 1 / f that the tensor is multiplied by."""

State = dict[str, Any]


@dataclass(frozen=True)
class _Slot:
    """The new parameters that take the place of an old one in its group: names, parameters, states."""

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    states: tuple[State, ...]


def migrate(optimizer: Optimizer, old: nn.Module, result: Rejuvenation) -> None:
    """Makes `optimizer` train `result.module` where it trained `old`, with its state carried along.

    The optimizer, its param_groups and their options stay the same objects, so that a scheduler that holds them goes
    on. Each parameter of `old` is replaced, at its place in its group, by the new parameters that come from it (several
    where a weight was split into blocks). A new parameter without an ancestor joins the group of its nearest relative
    by module path. Parameters of other modules are left alone; those that were not in the optimizer are not added.

    Raises:
        TrainingError: the optimizer keeps state that cannot be transformed. Nothing was changed.
    """
    check_state(optimizer, old)
    slots = _slots(optimizer, old, result)
    for group in optimizer.param_groups:
        _replace(group, slots)
    for parameter, slot in slots.items():
        optimizer.state.pop(parameter, None)
        for new, state in zip(slot.parameters, slot.states, strict=True):
            if state:
                optimizer.state[new] = state


def check_state(optimizer: Optimizer, module: nn.Module) -> None:
    """Raises TrainingError where the optimizer's present state for the parameters of `module` cannot be transformed.

    >>> model = nn.Linear(2, 2)
    >>> check_state(SGD(model.parameters(), lr=0.1, momentum=0.9), model)
    """
    known = _powers(optimizer)
    for parameter, name in _names(module).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim() and (key not in known or value.shape != parameter.shape):
                raise TrainingError(
                    f"{type(optimizer).__name__} keeps {key!r} of shape {list(value.shape)} for {name}, and how that "
                    f"changes when channels come and go is not known. Known are {_known_state()}. Use one of these, or "
                    "clear optimizer.state before the rejuvenation, so that it starts anew."
                )


def _powers(optimizer: Optimizer) -> Mapping[str, int]:
    return next((powers for kind, powers in POWERS.items() if isinstance(optimizer, kind)), {})


def _known_state() -> str:
    return ", ".join(f"{kind.__name__} ({', '.join(powers)})" for kind, powers in POWERS.items())


def _names(module: nn.Module) -> dict[nn.Parameter, str]:
    """Each parameter once, with its first name."""
    return {parameter: name for name, parameter in module.named_parameters()}


def _slots(optimizer: Optimizer, old: nn.Module, result: Rejuvenation) -> dict[nn.Parameter, _Slot]:
    """Old parameter -> the new parameters that take its place, for the parameters that the optimizer holds."""
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    new = dict(result.module.named_parameters())
    successors = _successors(old, result, tuple(new))
    slots = {}
    for parameter in _names(old):
        if parameter in trained:
            names = successors.get(parameter, ())
            states = tuple(_state_of(name, new[name], parameter, optimizer, result) for name in names)
            slots[parameter] = _Slot(names, tuple(new[name] for name in names), states)
    return slots


def _successors(old: nn.Module, result: Rejuvenation, names: tuple[str, ...]) -> dict[nn.Parameter, tuple[str, ...]]:
    """Old parameter -> the names of the new parameters that take its place in its group."""
    # with every name of a tied parameter: an origin may point into any of them
    by_name = dict(old.named_parameters(remove_duplicate=False))
    ancestors = {name: parent for name in names if (parent := result.parents.get(name)) is not None}
    successors: dict[nn.Parameter, tuple[str, ...]] = {}
    for name in names:
        relative = name if name in ancestors else _nearest(name, tuple(ancestors))
        parameter = by_name[ancestors[relative]]
        successors[parameter] = (*successors.get(parameter, ()), name)
    return successors


def _nearest(name: str, others: tuple[str, ...]) -> str:
    """The first of the names that share the longest module path with `name`."""

    def shared(other: str) -> int:
        pairs = zip(name.split("."), other.split("."), strict=False)
        return next((depth for depth, (a, b) in enumerate(pairs) if a != b), 0)

    return max(others, key=shared)


def _replace(group: dict[str, Any], slots: Mapping[nn.Parameter, _Slot]) -> None:
    """Replaces every old parameter in the group's list of parameters, in place, and in that of names if it has one."""
    old_names = group.get("param_names", [""] * len(group["params"]))
    pairs = tuple(zip(group["params"], old_names, strict=True))
    new = [pair for parameter, name in pairs for pair in _following(parameter, name, slots)]
    group["params"][:] = [parameter for parameter, _ in new]
    if "param_names" in group:
        group["param_names"][:] = [name for _, name in new]


def _following(
    parameter: nn.Parameter, name: str, slots: Mapping[nn.Parameter, _Slot]
) -> Iterator[tuple[nn.Parameter, str]]:
    if parameter not in slots:
        yield parameter, name
        return
    yield from zip(slots[parameter].parameters, slots[parameter].names, strict=True)


def _state_of(name: str, new: nn.Parameter, old: nn.Parameter, optimizer: Optimizer, result: Rejuvenation) -> State:
    """The state of a new parameter; empty, as before a first step, where it has no ancestor."""
    if result.parents.get(name) is None or old not in optimizer.state:
        return {}
    powers = _powers(optimizer)
    origins = result.origins.get(name, (None,) * new.dim())
    factors = result.factors.get(name, (None,) * new.dim())
    return {
        key: _carried(value, new, origins, factors, powers[key])
        if isinstance(value, Tensor) and value.dim()
        else (value.clone() if isinstance(value, Tensor) else value)
        for key, value in optimizer.state[old].items()
    }


def _carried(
    value: Tensor,
    new: nn.Parameter,
    origins: Origins,
    factors: Factors,
    power: int,
) -> Tensor:
    """A state tensor gathered by origins and divided by the factors to a power; 0 where a position or factor is new."""
    shrinks = tuple(None if f is None else torch.where(f == 0, 0.0, f.double() ** -power) for f in factors)
    carried = scaled(gather(value, origins), shrinks)
    assert carried.shape == new.shape, f"origins give {list(carried.shape)}, the parameter has {list(new.shape)}"
    return torch.empty_like(new, dtype=value.dtype, requires_grad=False).copy_(carried)
