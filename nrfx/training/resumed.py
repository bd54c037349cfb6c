"""The state of a Rejuvenator as plain values, and back."""

import reprlib
from collections.abc import Mapping
from math import inf
from typing import Any, NotRequired

import torch
from torch import Tensor
from typing_extensions import TypedDict

from nrfx.errors import TrainingError
from nrfx.files import parsed
from nrfx.tracing import TracedModule


class State(TypedDict):
    steps: int
    events: int
    lam: float
    previous_r: float | None
    falls: NotRequired[list[float]]  # not in files of before
    note: str
    betas: dict[str, list[int]]
    weights: NotRequired[dict[str, list[float]]]  # where gammas are weighted; not in files of before
    mean: NotRequired[float | None]  # of the gammas, where large ones are spared; not in files of before


"""What a resumed Rejuvenator needs."""


def saved_state(state: Mapping[str, Any]) -> State:
    """A state that was read from somewhere.

    Raises:
        TrainingError: a value is missing, unknown or of another type.
    """
    return parsed(State, state, "The state of a Rejuvenator (what state_dict returned)", TrainingError)


def positions(masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Name -> the positions at which a mask is True."""
    return {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()}


def saved_masks(module: TracedModule, betas: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """The masks of these positions, for the parameters of a module.

    Raises:
        TrainingError: the module has no such parameter or position.
    """
    try:
        return {name: _mask(module.get_parameter(name), listed) for name, listed in betas.items()}
    except (AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"The state of a Rejuvenator holds betas that its module has not: {reprlib.repr(betas)}. "
            "Load what Rejuvenator.state_dict returned."
        ) from error


def saved_mean(state: State) -> float | None:
    """The mean of the gammas in a state, None where there is none.

    Raises:
        TrainingError: it is negative or not finite.
    """
    mean = state.get("mean")
    if mean is not None and not 0 <= mean < inf:
        raise TrainingError(
            f"The state of a Rejuvenator holds a mean of gammas of {mean}; expected 0 or a positive number, or None. "
            "Load what Rejuvenator.state_dict returned."
        )
    return mean


def saved_weights(module: TracedModule, weights: Mapping[str, list[float]]) -> dict[str, Tensor]:
    """The weights of gammas as tensors, for the parameters of a module.

    Raises:
        TrainingError: the module has no such parameter, or one of another shape; a weight is negative or not finite.
    """
    found = {}
    for name, listed in weights.items():
        gamma = dict(module.named_parameters()).get(name)
        if gamma is None or gamma.shape != (len(listed),):
            raise TrainingError(
                f"The state of a Rejuvenator holds {len(listed)} weights of {name}, and its module "
                f"{'has no such parameter' if gamma is None else f'has {gamma.numel()}'}. Load what "
                "Rejuvenator.state_dict returned."
            )
        if not all(0 <= each < inf for each in listed):
            raise TrainingError(
                f"The state of a Rejuvenator holds weights of {name} that are no numbers of 0 or more. Load what "
                "Rejuvenator.state_dict returned."
            )
        found[name] = torch.tensor(listed, dtype=torch.float32, device=gamma.device)
    return found


def _mask(parameter: Tensor, positions: list[int]) -> Tensor:
    """bool of the parameter's shape: whether the position is listed; positions rise, the first is 0 or above."""
    if positions != sorted({*positions}) or any(position < 0 for position in positions[:1]):
        raise ValueError("the positions do not rise from 0 or above")
    mask = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
    mask[torch.tensor(positions, dtype=torch.int64, device=parameter.device)] = True
    return mask
