"""What the checkpoint of a trainer needs beside its weights, so that a run that had an event goes on.

Trainers keep weights by name and the state of an optimizer by position. Behind an event a fresh model has other layers,
and a fresh optimizer its parameters in another order. So a checkpoint also gets, as plain values,

plan         the architecture, as JSON (see nrfx.checkpoint.plan)
budget       that of the Rejuvenator: params and flops
state        that of the Rejuvenator
optimizers   for each optimizer and each of its groups the names of its parameters, in order
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import TypedDict

from nrfx.checkpoint.file import Stored
from nrfx.checkpoint.network import restored, savable
from nrfx.checkpoint.plan import Plan
from nrfx.checkpoint.tensors import registered
from nrfx.errors import CheckpointError, TrainingError
from nrfx.files import parsed
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.original import differing, follow, join, original_of
from nrfx.tracing.graph.stated import KEY
from nrfx.training.rejuvenator import Rejuvenator
from nrfx.training.resumed import State


class Kept(TypedDict):
    plan: str
    budget: dict[str, int | None]
    state: State
    optimizers: list[list[list[str]]]


"""What a checkpoint gets beside weights and optimizer states, as plain values."""


def kept(nr: Rejuvenator, root: nn.Module) -> Kept:
    """What a checkpoint of now needs; `root` is the module whose parameters the optimizers hold, by its names.

    Raises:
        CheckpointError: the network holds something that no file can.
    """
    names = {parameter: name for name, parameter in root.named_parameters()}
    plan = json.dumps(asdict(Plan.of(savable(nr.module))))
    optimizers = [
        [[names.get(parameter, "") for parameter in group["params"]] for group in optimizer.param_groups]
        for optimizer in nr.optimizers
    ]
    return {"plan": plan, "budget": asdict(nr.budget), "state": nr.state_dict(), "optimizers": optimizers}


def rebuild(traced: TracedModule, plan: str, weights: Mapping[str, Tensor], place: str) -> None:
    """Makes a traced module, and the model that was traced, the network of a checkpoint, in place.

    Args:
        traced: of a fresh instance of the model, joined to it or not.
        plan: of the network that was saved.
        weights: its parameters and buffers, by the names of the model; buffers that are not saved may be missing.
        place: where they come from, for errors.

    Raises:
        CheckpointError: they do not fit the model. Nothing was changed.
    """
    saved = parsed(Plan, plan, place, CheckpointError)
    unsaved = {name: buffer for name, buffer in registered(traced).items() if not isinstance(buffer, nn.Parameter)}
    not_kept = {*saved.aliases, KEY}  # torch loads the entry of a state dict
    tensors = {name: tensor for name, tensor in {**unsaved, **weights}.items() if name not in not_kept}
    network = restored(Stored(place, saved, tensors, None, None), traced)
    model = original_of(traced)
    if model is not None and differing(model, traced) is None:
        join(model, traced)
    else:
        model = None
    training = traced.training
    traced.become(network)
    traced.train(training)
    if model is not None:
        follow(model, traced)


def arrange(optimizer: Optimizer, groups: Sequence[Sequence[str]], root: nn.Module) -> None:
    """Gives the groups of an optimizer the parameters of a checkpoint, in its order; states that it has follow.

    The state that a fresh optimizer has loaded by position belongs to the parameter that had this position.

    Raises:
        CheckpointError: names or groups do not fit. Nothing was changed.
    """
    named = dict(root.named_parameters())
    wanted = [name for group in groups for name in group if name]
    if unknown := sorted({*wanted} - named.keys()):
        raise CheckpointError(
            f"The checkpoint's {type(optimizer).__name__} held {unknown[0]}, which the model lacks: build the "
            "model and its optimizers as in the run that was saved."
        )
    if len(groups) != len(optimizer.param_groups):
        raise CheckpointError(
            f"The checkpoint's {type(optimizer).__name__} had {len(groups)} groups, and this one has "
            f"{len(optimizer.param_groups)}: build it as in the run that was saved."
        )
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(held) != len([name for group in groups for name in group]):
        raise CheckpointError(
            f"The checkpoint's {type(optimizer).__name__} held {sum(map(len, groups))} parameters, and this one holds "
            f"{len(held)}: build it as in the run that was saved."
        )
    states = [optimizer.state.pop(parameter, None) for parameter in held]
    position = 0
    for group, names in zip(optimizer.param_groups, groups, strict=True):
        before = held[position : position + len(names)]
        group["params"][:] = [named[name] if name else old for name, old in zip(names, before, strict=True)]
        if "param_names" in group:
            group["param_names"][:] = list(names)
        position += len(names)
    now = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, state in zip(now, states, strict=True):
        if state is not None:
            optimizer.state[parameter] = state


def network_in(module: nn.Module, path: str | None) -> tuple[str, nn.Module]:
    """The network inside of a trainer's module, with its path: the one named, or the only child with parameters.

    Raises:
        TrainingError: there is none of that name, or several children have parameters.

    >>> network_in(nn.ModuleDict({"net": nn.Linear(1, 1), "loss": nn.MSELoss()}), None)
    ('net', Linear(in_features=1, out_features=1, bias=True))
    """
    if path is not None:
        try:
            return path, module.get_submodule(path)
        except AttributeError as error:
            raise TrainingError(
                f"The {type(module).__name__} has no submodule {path!r}. It has {_listed(module.named_children())}."
            ) from error
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if len(children) != 1 or own:
        raise TrainingError(
            f"Which module of the {type(module).__name__} is the network? It has {_listed(children) or 'none'} with "
            "parameters. Name one: network='model'."
        )
    return children[0]


def _listed(children: Iterable[tuple[str, nn.Module]]) -> str:
    return ", ".join(f"{name} ({type(child).__name__})" for name, child in children)


def under(path: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The entries below a path, by their names from there.

    >>> under("net", {"net.weight": 1, "loss.weight": 2})
    {'weight': 1}
    """
    prefix = f"{path}." if path else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
