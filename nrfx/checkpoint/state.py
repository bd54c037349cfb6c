"""The state and the options of an optimizer, checked before a step would fail on them.

Most optimizers of torch keep tensors of their parameter's shape, and single numbers; what other optimizers keep,
subclasses of these included, is not known here and not checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, optim
from torch.optim import Optimizer


@dataclass(frozen=True)
class Kept:
    """What an optimizer keeps of a parameter once it has made a step.

    needed: tensors of the parameter's shape.
    optional: such tensors, and the option with which a step needs each of them; "" for none.
    numbers: tensors of one floating-point number.
    any_float: whether a floating-point dtype other than the parameter's works.
    """

    needed: tuple[str, ...] = ()
    optional: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[str, ...] = ("step",)
    any_float: bool = False


_AVERAGES = Kept(("exp_avg", "exp_avg_sq"), {"max_exp_avg_sq": "amsgrad"})
KEPT: Mapping[type[Optimizer], Kept] = {
    optim.SGD: Kept(optional={"momentum_buffer": ""}, numbers=(), any_float=True),
    optim.Adam: _AVERAGES,
    optim.AdamW: _AVERAGES,
    optim.RAdam: Kept(("exp_avg", "exp_avg_sq")),
    optim.NAdam: Kept(("exp_avg", "exp_avg_sq"), numbers=("step", "mu_product")),
    optim.Adamax: Kept(("exp_avg", "exp_inf")),
    optim.Adagrad: Kept(("sum",)),
    optim.Adadelta: Kept(("square_avg", "acc_delta")),
    optim.RMSprop: Kept(("square_avg",), {"grad_avg": "centered", "momentum_buffer": "momentum"}),
    optim.Rprop: Kept(("prev", "step_size")),
    optim.ASGD: Kept(("ax",), numbers=("step", "eta", "mu")),
    optim.Muon: Kept(optional={"momentum_buffer": ""}, numbers=(), any_float=True),
}
COUNTS = ("step", "mu_product")
"""Numbers that torch keeps on the CPU, unless an optimizer is capturable or fused."""


def state_fault(kind: type[Optimizer], options: Mapping[str, Any], state: Any, parameter: Tensor) -> str | None:
    """What is wrong with the state of a parameter, as "KEY is FOUND; expected WHAT"; None where the next step works."""
    kept = KEPT.get(kind)
    if kept is None or not state:
        return None
    needed = (*kept.numbers, *kept.needed, *(key for key, option in kept.optional.items() if options.get(option)))
    known = (*kept.numbers, *kept.needed, *kept.optional)
    if unknown := sorted(state.keys() - set(known)):
        return f"{unknown[0]!r} is unknown; expected {', '.join(known)}"
    if missing := [key for key in needed if key not in state]:
        return f"{missing[0]!r} is missing; expected {', '.join(needed)}"
    return next(filter(None, (_fault_of(key, state[key], kept, parameter) for key in state)), None)


def _fault_of(key: str, value: Any, kept: Kept, parameter: Tensor) -> str | None:
    if key in kept.numbers:
        counts = isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
        return None if counts else f"{key} is {_described(value)}; expected one floating-point number as a tensor"
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
