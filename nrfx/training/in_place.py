"""An event in place: the network becomes the new one, and so does the model that was traced."""

import warnings
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from nrfx.errors import TrainingWarning
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.original import differing, follow, join, original_of


def join_original(module: TracedModule) -> None:
    """Makes the model that was traced one with the traced module; a warning where it has other tensors by now."""
    model = original_of(module)
    if model is None:
        return
    name = differing(model, module)
    if name is None:
        join(model, module)
        return
    warnings.warn(
        f"The {type(model).__name__} that was traced and its traced module no longer share {name}: an event will "
        "not change the model. Compute the loss with the traced module, or trace the model as it is now.",
        TrainingWarning,
        stacklevel=4,
    )


def joined_with(module: TracedModule) -> list[nn.Module]:
    """The model that was traced, if it still shares all tensors with its traced module."""
    model = original_of(module)
    return [] if model is None or differing(model, module) else [model]


def become(
    module: TracedModule, other: TracedModule, models: Iterable[nn.Module], optimizers: Iterable[Optimizer]
) -> None:
    """Makes the module the other one, which is used up, and the models run its graphs.

    Args:
        models: those that are one with the module.
        optimizers: they hold parameters of the other module, and then those that took their places.
    """
    exchanged = module.become(other)
    for optimizer in optimizers:
        hold_instead(optimizer, exchanged)
    for model in models:
        follow(model, module)


def hold_instead(optimizer: Optimizer, exchanged: Mapping[Tensor, Tensor]) -> None:
    """Makes an optimizer hold other objects in the places of parameters: {held now: to be held}."""
    for group in optimizer.param_groups:
        group["params"][:] = [exchanged.get(parameter, parameter) for parameter in group["params"]]
    for parameter in [parameter for parameter in optimizer.state if parameter in exchanged]:
        optimizer.state[exchanged[parameter]] = optimizer.state.pop(parameter)
