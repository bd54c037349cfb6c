"""The model that was traced, which follows its traced module: one tree of modules, reached from both roots.

A traced module shares the parameters of its model and has modules of its own. Where the traced module changes in place,
a loop that calls the model would go on with the old layers around new numbers. So both are joined: the modules of the
trace become those of the model, and both roots hold the same dictionaries. The model runs its own forward until
`follow`, and the graphs from then on.
"""

import copy
import inspect
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nrfx.errors import TrainingError
from nrfx.tracing.graph.exchange import exchange
from nrfx.tracing.graph.hosted import HostedModule
from nrfx.tracing.graph.module import TracedModule
from nrfx.tracing.graph.registered import ORIGINAL
from nrfx.tracing.graph.stated import carry

_SHARED = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def original_of(traced: TracedModule) -> nn.Module | None:
    """The model that was traced, if it is there; None for copies and loaded ones."""
    reference: _Weak | None = vars(traced).get(ORIGINAL)
    return None if reference is None else reference.model()


def remember(traced: TracedModule, model: nn.Module) -> None:
    """Notes which model was traced."""
    traced.__dict__[ORIGINAL] = _Weak(model)


def traced_of(model: nn.Module) -> TracedModule | None:
    """The traced module whose graphs a model runs, after `follow`."""
    forward = vars(model).get("forward")
    return forward.traced if isinstance(forward, Following) else None


def differing(model: nn.Module, traced: TracedModule) -> str | None:
    """The name of a tensor that the model and its traced module do not share (any more); None where they share all."""
    ours, theirs = _tensors(traced), _tensors(model)
    return next((name for name in {**theirs, **ours} if ours.get(name) is not theirs.get(name)), None)


def join(model: nn.Module, traced: TracedModule) -> None:
    """Makes the modules of the model those of the trace, around the tensors of the trace, and both one tree."""
    carry(model, traced, held=False)
    if all(vars(model)[name] is vars(traced)[name] for name in _SHARED):
        return
    exchange(model, traced)
    for name in _SHARED:
        traced.__dict__[name] = vars(model)[name]
    if isinstance(traced, HostedModule):
        traced.share_with_host()


def follow(model: nn.Module, traced: TracedModule) -> None:
    """Lets the model run the graphs, where these are a whole: around parts its own forward runs them.

    Its state dict has the entry of the traced module's from now on, in copies too.

    Raises:
        TrainingError: somebody has wrapped the model's forward since the trace. Nothing was changed.
    """
    if ORIGINAL not in vars(traced):  # of a twin, whose traced module was carried and not traced
        remember(traced, model)
    note: _Weak = vars(traced)[ORIGINAL]
    forward = vars(model).get("forward")
    wrapped = forward is not None and not isinstance(forward, Following) and id(forward) != note.forward
    if wrapped and not note.follows and not traced.facts.parts:
        raise TrainingError(
            f"The forward of {type(model).__name__} was replaced by {_called(forward)} after the trace, as accelerate "
            "does for mixed precision: an event would lose it. Compute the loss with the traced module, or under "
            "accelerator.autocast() with a model that accelerate does not prepare, or trace a submodule instead."
        )
    carry(model, traced, held=True)
    if traced.facts.parts or wrapped:  # what was wrapped runs the graphs, which have changed in place
        return
    model.__dict__["forward"] = Following(traced, model)
    note.follows = True


def _called(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__name__)}"


class Following:
    """The forward of a model that runs the graphs of its traced module, in the mode of the model."""

    def __init__(self, traced: TracedModule, model: nn.Module) -> None:
        self.traced, self.model = traced, model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.traced.training is not self.model.training:
            self.traced.turn(self.model.training)
        return self.traced(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the model's own forward: trainers look there for what they may pass."""
        return inspect.signature(type(self.model).forward.__get__(self.model))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Following":
        """The copy runs graphs over the modules of the copied model."""
        model = memo.get(id(self.model))
        twin = copy.deepcopy(self.traced, memo)
        return Following(twin, self.model if model is None else model)


class _Weak:
    """A weak reference to a model, of which a copy or a pickle refers to nothing.

    forward: the id of the forward that the model itself had at the trace, where it was not that of its class.
    follows: whether the model has run the graphs, also if a failed event was put back since.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model: Callable[[], nn.Module | None] = _nothing if model is None else weakref.ref(model)
        self.forward = None if model is None else id(vars(model).get("forward"))
        self.follows = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _Weak, ()


def _nothing() -> None:
    return None


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
