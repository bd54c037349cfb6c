"""The state and the options of an optimizer, checked before a step would fail on them.

SGD, Adam and AdamW keep tensors of their parameter's shape; what other optimizers keep, subclasses of these three
included, is not known here and not checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer


@dataclass(frozen=True)
class Kept:
    """What an optimizer keeps of a parameter once it has made a step.

    needed, optional: tensors of the parameter's shape; `counts` says whether there is a tensor "step" of one number.
    any_float: whether a floating-point dtype other than the parameter's works.
    """

    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    counts: bool = False
    any_float: bool = False


_AVERAGES = Kept(("exp_avg", "exp_avg_sq"), ("max_exp_avg_sq",), counts=True)
KEPT: Mapping[type[Optimizer], Kept] = {
    SGD: Kept(optional=("momentum_buffer",), any_float=True),
    Adam: _AVERAGES,
    AdamW: _AVERAGES,
}


def state_fault(kind: type[Optimizer], options: Mapping[str, Any], state: Any, parameter: Tensor) -> str | None:
    """What is wrong with the state of a parameter, as "KEY is FOUND; expected WHAT"; None where the next step works."""
    kept = KEPT.get(kind)
    if kept is None or not state:
        return None
    counters = ("step",) if kept.counts else ()
    needed = (*counters, *kept.needed, *(kept.optional if options.get("amsgrad") else ()))
    known = (*counters, *kept.needed, *kept.optional)
    if unknown := sorted(state.keys() - set(known)):
        return f"{unknown[0]!r} is unknown; expected {', '.join(known)}"
    if missing := [key for key in needed if key not in state]:
        return f"{missing[0]!r} is missing; expected {', '.join(needed)}"
    return next(filter(None, (_fault_of(key, state[key], kept, parameter) for key in state)), None)


def _fault_of(key: str, value: Any, kept: Kept, parameter: Tensor) -> str | None:
    if key == "step":
        counts = isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
        return None if counts else f"step is {_described(value)}; expected one floating-point number as a tensor"
    if value is None and key in kept.optional:
        return None
    if isinstance(value, Tensor) and _fits(value, parameter, kept):
        return None
    return f"{key} is {_described(value)}; expected {_described(parameter)}, as its parameter is"


def _fits(value: Tensor, parameter: Tensor, kept: Kept) -> bool:
    floats = kept.any_float and value.is_floating_point() and parameter.is_floating_point()
    return value.shape == parameter.shape and (value.dtype == parameter.dtype or floats)


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"{value!r:.60}"
    return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def option_fault(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
    """The first option that is not of the kind of the optimizer's own, as "KEY is FOUND; expected WHAT".

    Options that the optimizer does not know are left alone: schedulers keep theirs there (`initial_lr`).
    """
    for key, own in defaults.items():
        if key in options and _kind(options[key]) != _kind(own):
            return f"{key} is {_described(options[key])}; expected {_kind(own)}, such as {own!r}"
        if key in options and not _in_range(key, options[key]):
            return f"{key} is {_described(options[key])}; expected {'betas in [0, 1)' if key == 'betas' else '64 bits'}"
    return None


def _in_range(key: str, value: Any) -> bool:
    """Whether a step can compute with a number, or with each number of a tuple."""
    if isinstance(value, tuple | list):
        return all(_in_range(key, item) for item in value)
    if key == "betas":
        return bool(0 <= value < 1)
    return not isinstance(value, int) or abs(value) < 2**63


def _kind(value: Any) -> str:
    """ "a number", "true, false or none", "a text", "N numbers" and the like."""
    if value is None or isinstance(value, bool):
        return "true, false or none"
    if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()):
        return "a number"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_kind, value))})"
    return "a text" if isinstance(value, str) else f"a {type(value).__name__}"
