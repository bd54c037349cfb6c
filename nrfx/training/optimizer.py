"""Optimizers, carried across a rejuvenation: their groups, and the state of each parameter (see carried_state.py).

Adam's `step` and its like belong to a whole parameter and are not restarted: the first steps of new channels are up to
6 times longer than usual. Hooks of the optimizer stay, for it is the same object; hooks of parameters are lost.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from nrfx.errors import TrainingError
from nrfx.nests import flat
from nrfx.optimizers.kinds import Kind
from nrfx.optimizers.packages import kind_of, with_wrapped
from nrfx.optimizers.wrappers import optimizers_of
from nrfx.rewrite.result import Rejuvenation
from nrfx.training.carried_state import Change, State, carried_state

Old = nn.Module | Mapping[str, nn.Parameter]
"""The network before, or its parameters by all of their names."""


@dataclass(frozen=True)
class _Slot:
    """The new parameters that take the place of an old one in its group, and how each comes from an old one."""

    names: tuple[str, ...]
    changes: tuple[Change, ...]

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        return tuple(change.new for change in self.changes)

    @property
    def changed(self) -> bool:
        return len(self.changes) != 1 or not self.changes[0].same


def migrate(
    optimizers: Optimizer | Iterable[Optimizer], old: Old, result: Rejuvenation, *, hooks_stay: bool = False
) -> tuple[str, ...]:
    """Makes optimizers train `result.module` where they trained `old`, with their state carried along.

    The optimizers, their param_groups and options stay the same objects, so that a scheduler that holds them goes on.
    Each parameter of `old` is replaced, at its place in its group, by the new parameters that come from it (several
    where a weight was split into blocks). A new parameter without an ancestor joins the group of its nearest relative:
    by module path, then by the number of dims. Parameters of other modules are left alone; those that were in no
    optimizer are not added.

    Args:
        optimizers: one, a wrapper of one, or several.
        old: the module that holds the old parameters, or these by name, tied ones by each of their names.
        result: what `nrfx.rejuvenate` or `nrfx.compact` made of it.
        hooks_stay: hooks of parameters go on, since the old objects take over the new data.

    Returns:
        Sentences on what could not be carried exactly, or started anew.

    Raises:
        TrainingError: an optimizer keeps state that cannot be transformed. Nothing was changed.

    >>> import nrfx, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> gm = nrfx.trace(net, torch.zeros(1, 3, 4, 4))
    >>> optimizer = torch.optim.RMSprop(gm.parameters())
    >>> gm(torch.ones(1, 3, 4, 4)).sum().backward(); optimizer.step()
    >>> with torch.no_grad():
    ...     _ = gm.get_parameter("1.weight")[:4].zero_()
    >>> result = nrfx.compact(gm)
    >>> migrate(optimizer, gm, result)
    ()
    >>> optimizer.state[result.module.get_parameter("1.weight")]["square_avg"].shape
    torch.Size([4])
    """
    parameters = _named(old)
    every = optimizers_of(optimizers)
    for optimizer in every:
        _check_state(optimizer, parameters)
    slots = _slots(parameters, result)
    moves = [_move(optimizer, slots) for optimizer in every]  # what can raise comes before the first change
    order = {parameter: place for place, parameter in enumerate(result.module.parameters())}
    for move in moves:
        move.carry_out(slots, order)
    return tuple(note for move in moves for note in move.notes) + (
        () if hooks_stay else tuple(_hook_notes(slots, every))
    )


def check_optimizer(optimizers: Any) -> None:
    """Raises TrainingError for an optimizer of which it is not known how its state follows a rejuvenation.

    Known are all of torch.optim, many of timm, transformers, schedulefree and pytorch-optimizer, and what
    `nrfx.register_optimizer` was told; and optimizers that have made steps and keep nothing but single numbers.

    >>> from torch import optim
    >>> check_optimizer([optim.Muon([nn.Parameter(Tensor(2, 2))]), optim.AdamW([nn.Parameter(Tensor(2))])])
    """
    for optimizer in optimizers_of(optimizers):
        if kind_of(optimizer) is None and not _keeps_numbers_alone(optimizer):
            raise TrainingError(
                f"{type(optimizer).__module__}.{type(optimizer).__qualname__} is no optimizer of which nrfx knows how "
                f"its state changes when channels come and go. {_how_to_register(optimizer)}"
            )


def check_state(optimizers: Optimizer | Iterable[Optimizer], module: Old) -> None:
    """Raises TrainingError where the present state for the parameters of `module` cannot be transformed.

    >>> from torch.optim import SGD
    >>> model = nn.Linear(2, 2)
    >>> check_state(SGD(model.parameters(), lr=0.1, momentum=0.9), model)
    """
    for optimizer in optimizers_of(optimizers):
        _check_state(optimizer, _named(module))


def _check_state(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    kind = _kind(optimizer)
    if kind.joint:
        return
    first: dict[nn.Parameter, str] = {}
    for name, parameter in parameters.items():
        first.setdefault(parameter, name)
    for parameter, name in first.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            for _, tensor in flat(value):
                if _is_number(tensor, parameter) or (key in kind.known and _fits(key, tensor, parameter, kind)):
                    continue
                raise TrainingError(
                    f"{type(optimizer).__name__} keeps {key!r} of shape {list(tensor.shape)} for {name}, and how that "
                    f"changes when channels come and go is not known. {_how_to_register(optimizer, key)} Or clear "
                    "optimizer.state before the rejuvenation, so that it starts anew."
                )


def _how_to_register(optimizer: Optimizer, key: str = "exp_avg") -> str:
    return (
        f"Say it before: nrfx.register_optimizer({type(optimizer).__name__}, {{{key!r}: 1}}) for state tensors of the "
        "parameter's shape that are means of gradients, 2 for squared ones, -1 for a copy of the parameter; {} where "
        "it keeps none."
    )


def _kind(optimizer: Optimizer) -> Kind:
    return with_wrapped(kind_of(optimizer) or Kind({}))


def _is_number(value: Any, parameter: Tensor) -> bool:
    """Whether it is no tensor, or one of a single number that is not the parameter's size."""
    return not isinstance(value, Tensor) or not value.dim() or (value.numel() == 1 and value.shape != parameter.shape)


def _fits(key: str, value: Tensor, parameter: Tensor, kind: Kind) -> bool:
    return key not in kind.powers or value.shape == parameter.shape


def _keeps_numbers_alone(optimizer: Optimizer) -> bool:
    """Whether the optimizer has state, and none of it depends on the width of a parameter."""
    states = [(parameter, value) for parameter, state in optimizer.state.items() for _, value in flat(state)]
    return bool(states) and all(isinstance(p, Tensor) and _is_number(value, p) for p, value in states)


def _named(old: Old) -> dict[str, nn.Parameter]:
    """Every parameter by each of its names: an origin may point into any of them."""
    return dict(old.named_parameters(remove_duplicate=False)) if isinstance(old, nn.Module) else dict(old)


def _slots(old: Mapping[str, nn.Parameter], result: Rejuvenation) -> dict[nn.Parameter, _Slot]:
    """Old parameter -> the new parameters that take its place in its group."""
    new = dict(result.module.named_parameters())
    parents = {name: parent for name in new if (parent := result.parents.get(name)) is not None}
    successors: dict[nn.Parameter, list[str]] = {parameter: [] for parameter in old.values()}
    for name, parameter in new.items():
        relative = name if name in parents else _nearest(name, parameter, {each: new[each] for each in parents})
        successors[old[parents[relative]]].append(name)
    return {
        parameter: _Slot(
            tuple(names),
            tuple(Change.of(name, new[name], parameter if name in parents else None, result) for name in names),
        )
        for parameter, names in successors.items()
    }


def _nearest(name: str, parameter: Tensor, others: Mapping[str, Tensor]) -> str:
    """The first of the names that share the longest module path with `name`; of these, one of as many dims."""

    def likeness(other: str) -> tuple[int, bool]:
        pairs = zip(name.split("."), other.split("."), strict=False)
        shared = next((depth for depth, (a, b) in enumerate(pairs) if a != b), 0)
        return shared, others[other].dim() == parameter.dim()

    return max(others, key=likeness)


@dataclass(frozen=True)
class _Move:
    """What an optimizer gets at an event: the states of its new parameters, and notes on them."""

    optimizer: Optimizer
    gone: tuple[nn.Parameter, ...]
    states: Mapping[nn.Parameter, State]
    notes: tuple[str, ...]

    def carry_out(self, slots: Mapping[nn.Parameter, _Slot], order: Mapping[nn.Parameter, int]) -> None:
        for group in self.optimizer.param_groups:
            _replace(group, slots, order)
        for parameter in self.gone:
            self.optimizer.state.pop(parameter, None)
        for parameter, state in self.states.items():
            self.optimizer.state[parameter] = state
        if isinstance(self.optimizer, LBFGS):
            self.optimizer._numel_cache = None


def _move(optimizer: Optimizer, slots: Mapping[nn.Parameter, _Slot]) -> _Move:
    kind = _kind(optimizer)
    pairs = [(p, group) for group in optimizer.param_groups for p in group["params"] if p in slots]
    gone = tuple(parameter for parameter, _ in pairs)
    touched = [parameter for parameter in gone if slots[parameter].changed]
    title = type(optimizer).__name__
    if kind.joint and touched:
        note = f"{title} starts anew: its state belongs to all {len(gone)} parameters, and {len(touched)} changed."
        return _Move(optimizer, gone, {}, (note,) if any(optimizer.state.get(p) for p in gone) else ())
    states: dict[nn.Parameter, State] = {}
    restarted = 0
    for parameter, group in pairs:
        before = optimizer.state.get(parameter, {})
        for change in slots[parameter].changes if before else ():
            if kind.joint:
                states[change.new] = copy.copy(before)
                continue
            state = carried_state(kind, before, change, {**getattr(optimizer, "defaults", {}), **group})
            restarted += state is None
            if state:
                states[change.new] = state
    notes = []
    if restarted:
        which = ", ".join(sorted(kind.restarts))
        notes.append(
            f"{title} starts anew for {restarted} parameters that changed, for their {which} cannot be carried."
        )
    if kind.note and touched:
        notes.append(f"{title}: {kind.note}.")
    return _Move(optimizer, gone, states, tuple(notes))


def _replace(group: dict[str, Any], slots: Mapping[nn.Parameter, _Slot], order: Mapping[nn.Parameter, int]) -> None:
    """Replaces every old parameter in the group's list of parameters, in place, and in that of names if it has one.

    Where the old ones were in the order of their network, so are the new ones: torch saves state by positions.
    """
    places = {id(parameter): place for place, parameter in enumerate(slots)}
    before = [places[id(parameter)] for parameter in group["params"] if parameter in slots]
    old_names = group.get("param_names", [""] * len(group["params"]))
    pairs = tuple(zip(group["params"], old_names, strict=True))
    new = [pair for parameter, name in pairs for pair in _following(parameter, name, slots)]
    if before == sorted(before):
        at = [index for index, (parameter, _) in enumerate(new) if parameter in order]
        ordered = sorted((new[index] for index in at), key=lambda pair: order[pair[0]])
        for index, pair in zip(at, ordered, strict=True):
            new[index] = pair
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


def _hook_notes(slots: Mapping[nn.Parameter, _Slot], every: Iterable[Optimizer]) -> Iterator[str]:
    """A note where old parameters have hooks: the new ones are other tensors."""
    trained = {p for optimizer in every for group in optimizer.param_groups for p in group["params"]}
    hooked = [
        p
        for p, slot in slots.items()
        if trained.intersection(slot.parameters) and (p._backward_hooks or p._post_accumulate_grad_hooks)
    ]
    if hooked:
        yield f"{len(hooked)} parameters had hooks, which their successors have not: register them again."
