"""What trains the network: an optimizer's groups and state by names of parameters, and the Rejuvenator beside it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from typing_extensions import TypedDict

from nrfx.checkpoint.encoding import decoded
from nrfx.checkpoint.file import Stored
from nrfx.checkpoint.state import COUNTS, option_fault, state_fault
from nrfx.checkpoint.tensors import listed
from nrfx.errors import CheckpointError
from nrfx.files import parsed
from nrfx.nests import with_tensors
from nrfx.optimizers.wrappers import optimizers_of
from nrfx.tracing import TracedModule


class Resumable(Protocol):
    """What save and load ask of a Rejuvenator."""

    optimizer: Any

    @property
    def module(self) -> nn.Module: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], module: TracedModule) -> None: ...

    def settle(self) -> TracedModule: ...


class Group(TypedDict):
    names: list[str]
    options: dict[str, Any]


State = TypedDict("State", {"class": str, "groups": list[Group], "state": dict[str, dict[str, Any]]})
"""What a file holds of an optimizer; parameters by their names."""


def check_company(traced: TracedModule, optimizer: Any, rejuvenator: Resumable | None) -> None:
    """Refuses to save what does not belong together."""
    if rejuvenator is not None:
        if {id(p) for p in rejuvenator.module.parameters()} != {id(p) for p in traced.parameters()}:
            raise CheckpointError(
                "The rejuvenator trains another module by now: save rejuvenator.module, which an event replaces."
            )
        if not _are_same(optimizer, rejuvenator.optimizer):
            raise CheckpointError("A rejuvenator is saved with its optimizer: pass optimizer=rejuvenator.optimizer.")
    for each in () if optimizer is None else optimizers_of(optimizer):
        _check_trains(each, traced)


def _are_same(optimizer: Any, other: Any) -> bool:
    """Whether both are the same optimizers, wrapped or not."""
    if optimizer is None:
        return False
    pairs = zip_longest(optimizers_of(optimizer), optimizers_of(other))
    return all(one is another for one, another in pairs)


def _check_trains(optimizer: Optimizer, module: nn.Module) -> None:
    own = {id(parameter) for parameter in module.parameters()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = [list(parameter.shape) for parameter in trained if id(parameter) not in own]
    if foreign:
        raise CheckpointError(
            f"The optimizer trains {len(foreign)} parameters that the module does not have, the first of shape "
            f"{foreign[0]}. Parameters are kept by name: pass the module that the optimizer trains."
        )


def optimizer_state(optimizer: Any, traced: TracedModule) -> State | list[State]:
    """Class, groups and state, with names for parameters; of several optimizers a list of these."""
    states = [_state_of(each, traced) for each in optimizers_of(optimizer)]
    return states[0] if len(states) == 1 else states


def _state_of(optimizer: Optimizer, traced: TracedModule) -> State:
    names = {id(parameter): name for name, parameter in traced.named_parameters()}
    groups: list[Group] = [
        {
            "names": [names[id(parameter)] for parameter in group["params"]],
            "options": {key: value for key, value in group.items() if key not in ("params", "param_names")},
        }
        for group in optimizer.param_groups
    ]
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    state = {
        names[id(parameter)]: dict(state)
        for parameter, state in optimizer.state.items()
        if id(parameter) in trained and state
    }
    return {"class": type(optimizer).__qualname__, "groups": groups, "state": state}


def check_asked(stored: Stored, optimizer: Any, rejuvenator: Resumable | None) -> None:
    """Refuses to load what the file does not hold."""
    if optimizer is not None and stored.optimizer is None:
        raise stored.misfit("it holds no optimizer. Load the module alone and build a new optimizer for it.")
    if rejuvenator is None:
        return
    if stored.rejuvenator is None:
        raise stored.misfit("it holds no rejuvenator. Load module and optimizer, and make a new Rejuvenator of them.")
    if not _are_same(optimizer, rejuvenator.optimizer):
        raise CheckpointError("A rejuvenator is loaded with its optimizer: pass optimizer=rejuvenator.optimizer.")


def refills(stored: Stored, optimizer: Any, model: nn.Module, module: TracedModule) -> list[tuple[Optimizer, "Refill"]]:
    """Each optimizer, and what the file holds for it."""
    content = decoded(stored.optimizer, stored.tensors, "optimizer", f"{stored.path}: its ")
    contents, several = content if isinstance(content, list) else [content], optimizers_of(optimizer)
    if len(contents) != len(several):
        raise stored.misfit(
            f"it holds {len(contents)} optimizers, and {len(several)} are given: give them as they were saved."
        )
    pairs = zip(contents, several, strict=True)
    return [(each, Refill.of(stored, own, each, model, module)) for own, each in pairs]


@dataclass(frozen=True)
class Refill:
    """What an optimizer gets: per group its options, names and parameters, and the state of each parameter."""

    groups: tuple[tuple[dict[str, Any], list[str], list[nn.Parameter]], ...]
    state: Mapping[Tensor, dict[str, Any]]

    @classmethod
    def of(cls, stored: Stored, content: Any, optimizer: Optimizer, model: nn.Module, module: TracedModule) -> Self:
        """From one optimizer's content of the file, for one over the fresh model's parameters: what makes it train the
        module.
        """
        _check_trains(optimizer, model)
        about = f"{stored.path}: its "
        saved = parsed(State, content, f"{about}optimizer", CheckpointError)
        _check_kind(stored, optimizer, saved)
        parameters = dict(module.named_parameters())
        named = [name for group in saved["groups"] for name in group["names"]]
        if unknown := {*named, *saved["state"]} - parameters.keys():
            raise stored.misfit(f"its optimizer trains what the network does not have: {listed(unknown)}.")
        if twice := {name for name, count in Counter(named).items() if count > 1}:
            raise stored.misfit(f"its optimizer trains {listed(twice)} more than once.")
        if idle := saved["state"].keys() - set(named):
            raise stored.misfit(f"its optimizer has state of what it does not train: {listed(idle)}.")
        groups = []
        state: dict[Tensor, dict[str, Any]] = {}
        for group in saved["groups"]:
            options, names = dict(group["options"]), list(group["names"])
            if fault := option_fault(optimizer.defaults, options):
                raise stored.misfit(f"its optimizer's option {fault}.")
            on_device = bool(options.get("capturable") or options.get("fused"))
            groups.append((options, names, [parameters[name] for name in names]))
            for name in names:
                if name in saved["state"]:
                    if fault := state_fault(type(optimizer), options, saved["state"][name], parameters[name]):
                        raise stored.misfit(f"its optimizer's state of {name}: {fault}.")
                    state[parameters[name]] = _placed(saved["state"][name], parameters[name], on_device)
        return cls(tuple(groups), state)

    def carry_out(self, optimizer: Optimizer) -> None:
        """Gives the optimizer the groups and the state, in the place of its own."""
        groups, named = optimizer.param_groups, "param_names" in optimizer.param_groups[0]
        groups.extend({} for _ in self.groups[len(groups) :])
        for group, (options, names, parameters) in zip(groups, self.groups, strict=True):
            group.update(options, **({"param_names": names} if named else {}))
            group.setdefault("params", [])[:] = parameters  # the same list, which LBFGS holds too
        if isinstance(optimizer, LBFGS):
            optimizer._numel_cache = None
        optimizer.state.clear()
        optimizer.state.update(self.state)


def _check_kind(stored: Stored, optimizer: Optimizer, saved: State) -> None:
    kind, count, here = type(optimizer).__qualname__, len(saved["groups"]), len(optimizer.param_groups)
    if saved["class"] != kind:
        raise stored.misfit(f"it holds the state of a {saved['class']}, and the optimizer is a {kind}.")
    if here not in (1, count):
        raise stored.misfit(
            f"its optimizer has {count} groups of parameters, and the one given has {here}. "
            f"Build it with {count} groups, or with one."
        )


def _placed(state: Mapping[str, Any], parameter: nn.Parameter, on_device: bool) -> dict[str, Any]:
    """Copies of the state's tensors where torch keeps them: with the parameter, but for counts of steps on the CPU."""

    def placed(key: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return with_tensors(value, lambda tensor: tensor.to(parameter.device, copy=True))
        if key in COUNTS and not on_device:
            return value.clone()
        if value.shape != parameter.shape:
            return value.to(parameter.device, copy=True)
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)

    return {key: placed(key, value) for key, value in state.items()}
