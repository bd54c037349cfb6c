"""Loops in which a search would do nothing, or train nobody, in silence: found by looking, without a device sync.

Each becomes an error where training would be lost, and a warning where it may be meant.
"""

import gc
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from nrfx.choices import PenaltyName
from nrfx.errors import TrainingError, TrainingWarning
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.original import original_of


def check_held(optimizers: Iterable[Optimizer], module: TracedModule, gammas: Iterable[str]) -> None:
    """Raises TrainingError where no optimizer holds a gamma that can die."""
    held, names = _held(optimizers), list(gammas)
    missing = [name for name in names if module.get_parameter(name) not in held]
    if names and len(missing) == len(names):
        raise TrainingError(
            f"The optimizer holds none of the {len(missing)} gammas that can die, such as {missing[0]}: no channel "
            "would ever die. Build it over gm.parameters() of the module given to the Rejuvenator."
        )


def _held(optimizers: Iterable[Optimizer]) -> set[nn.Parameter]:
    return {parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]}


class HeldGuard:
    """Sees whether parameters are in no optimizer, those that are added while the network trains too."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def look(self, optimizers: Iterable[Optimizer], module: TracedModule) -> None:
        """Warns of parameters that require a gradient and are in no optimizer, of each once."""
        held = _held(optimizers)
        left_out = [name for name, each in module.named_parameters() if each.requires_grad and each not in held]
        new = [name for name in left_out if name not in self._told]
        self._told.update(new)
        if new:
            more = f" and {len(new) - 1} more" if len(new) > 1 else ""
            warnings.warn(
                f"No optimizer holds {new[0]}{more}, which require a gradient: they stay as they are. Give the "
                "Rejuvenator all optimizers, optimizer=[one, other], or freeze them by requires_grad_(False).",
                TrainingWarning,
                stacklevel=4,
            )


class Averages:
    """The averages of a network that nobody named as followers: made before an event, asked when it is over.

    Where all widths come back to what they were, they would go on, and average numbers of different channels. They are
    known by the names of their classes: AveragedModel, and what is called EMA.
    """

    def __init__(self, module: TracedModule, followers: Iterable[nn.Module]) -> None:
        following = {id(part) for follower in followers for part in follower.modules()}
        shapes = _shapes(module)
        self._found: list[tuple[weakref.ref[nn.Module], int]] = []
        for each in _alive(_averages):
            inner = _inner(each)
            if inner is not None and id(inner) not in following and _shapes(inner) == shapes:
                self._found.append((weakref.ref(each), id(inner)))

    def tell(self) -> None:
        """Warns of those that still hold the network that they held: `nrfx.carry_into` would have put another there."""
        if self._left():
            gc.collect()  # some may only wait for it
        for kind in self._left():
            warnings.warn(
                f"A network of class {kind} averages this one, and did not follow the event: it would average numbers "
                "of different channels. Give the Rejuvenator followers=[it], carry it in on_event, or build it anew.",
                TrainingWarning,
                stacklevel=5,
            )
        self._found = []

    def _left(self) -> list[str]:
        wrappers = [(wrapper(), known) for wrapper, known in self._found]
        return [type(each).__name__ for each, known in wrappers if each is not None and id(_inner(each)) == known]


def tell_of_other_traces(module: TracedModule) -> None:
    """Warns of another trace of the same model, behind an event in place: it has the new numbers in the old layers."""
    model = original_of(module)
    if model is None:
        return
    own = {id(parameter) for parameter in module.parameters()}

    def another() -> bool:
        found = (each for each in _alive(lambda kind: issubclass(kind, TracedModule)) if each is not module)
        return any(original_of(each) is model and own & {id(one) for one in each.parameters()} for each in found)

    if another():
        gc.collect()  # some may only wait for it, such as the trace that a relative budget was made of
        if another():
            warnings.warn(
                f"Another trace of the {type(model).__name__} shares the parameters of the one that was rejuvenated, "
                "and runs its own graph, of before the event: compute the loss with the model, or with the trace that "
                "the Rejuvenator was given.",
                TrainingWarning,
                stacklevel=5,
            )


def _alive(wanted: Callable[[type[nn.Module]], bool]) -> list[Any]:
    """The modules that are alive and of a wanted class. There are millions of objects, and far fewer classes to ask."""
    classes, left = {nn.Module}, [nn.Module]
    while left:
        new = {*type.__subclasses__(left.pop())} - classes
        classes |= new
        left += new
    kinds = {kind for kind in classes if wanted(kind)}
    return [each for each in gc.get_objects() if type(each) in kinds]


def _averages(kind: type[nn.Module]) -> bool:
    return kind.__name__ == "AveragedModel" or "ema" in kind.__name__.lower()


def _inner(average: nn.Module) -> nn.Module | None:
    """The network inside of one that averages it."""
    modules = vars(average).get("_modules", {})
    inner: nn.Module | None = modules.get("module", modules.get("ema"))
    return inner


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def refuse_in_backward() -> None:
    """Raises TrainingError inside of backward, where an event would exchange parameters under its feet."""
    if torch._C._current_graph_task_id() != -1:
        raise TrainingError(
            "The optimizer makes its step inside of backward, in a hook of a parameter: an event cannot exchange "
            "parameters there. Step after backward, or do not attach: call nr.step() after backward, in each step."
        )


class GradientGuard:
    """Sees whether the loss was computed with the network: then some of its gammas have gradients."""

    def __init__(self, since: Literal["", "event", "load"] = "") -> None:
        """Of what came last: before an event or a load, gradients may be missing."""
        self._since = since
        self._seen = False

    def look(self, gammas: Iterable[nn.Parameter]) -> None:
        """Once a gradient has been seen, nothing. Call it before the optimizer's step.

        Raises:
            TrainingError: after an event or a load, no gamma that can be trained has a gradient.
        """
        if self._seen:
            return
        trained = [gamma for gamma in gammas if gamma.requires_grad]
        self._seen = not trained or any(gamma.grad is not None for gamma in trained)
        if not self._seen and self._since:
            raise TrainingError(
                f"Since the last {self._since} no gamma has a gradient: the loss was not computed with this network. "
                "With inplace=False an event replaces the module: compute the loss with nr.module, taken anew in every "
                "step. Otherwise call penalize after backward, and look for a copy of the network in the loop."
            )


class CallGuard:
    """Sees whether `penalize` is called between two measurements."""

    def __init__(self) -> None:
        self.called = False
        self._warned = False

    def measured(self, lam: float, penalty: PenaltyName) -> None:
        """Warns, once, where lambda was above 0 and nothing was penalized since the last measurement."""
        if lam > 0 and not self.called and not self._warned:
            self._warned = True
            warnings.warn(
                f"lambda is {lam:.2g}, and penalize has not been called since the last measurement: "
                f"{'no channel dies' if penalty == 'sign' else 'gammas whose gradients are gone by then stay'}. "
                "Call nr.penalize() between backward and optimizer.step(), or nr.attach() once before the loop.",
                TrainingWarning,
                stacklevel=4,
            )
        self.called = False
