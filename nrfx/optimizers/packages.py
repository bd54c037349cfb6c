"""The kinds of optimizers of other packages, by the name of the package and of the class; none of them is imported.

Read from timm 1.0, transformers 5, schedulefree 1.4, pytorch-optimizer 4 and the documents of apex. A class that keeps
what is not written here is refused when it comes to an event, by the name of the state.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from torch.optim import Optimizer

from nrfx.optimizers.kinds import ADAFACTOR_NOTE, ADAM, AS_A_WHOLE, MEAN, PARAMETER, TORCH, Kind, registered

_MOMENTUM = Kind({"momentum_buffer": 1})
_BELIEF = Kind({"exp_avg": 1, "exp_avg_var": 2, "max_exp_avg_var": 2})
_TRUSTING = Kind(ADAM.powers, note=f"{AS_A_WHOLE} (the ratio of the norms of parameter and step)")
_SCHEDULE_FREE = Kind(
    {"z": -1, "x": -1, "y": -1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}, dict.fromkeys(("z", "x", "y"), PARAMETER)
)
_MUON = Kind(
    {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2},
    note="its step of a matrix is orthogonal, so that each entry depends on all",
)

NAMED: Mapping[str, Kind] = MappingProxyType(
    {
        "apex.FusedAdam": ADAM,
        "apex.FusedLAMB": _TRUSTING,
        "apex.FusedSGD": _MOMENTUM,
        "pytorch_optimizer.AdEMAMix": Kind({**ADAM.powers, "exp_avg_slow": 1}),
        "pytorch_optimizer.AdaBelief": _BELIEF,
        "pytorch_optimizer.AdamP": _TRUSTING,
        "pytorch_optimizer.Adan": Kind({"exp_avg": 1, "exp_avg_sq": 2, "exp_avg_diff": 1, "previous_grad": 1}),
        "pytorch_optimizer.DiffGrad": Kind({**ADAM.powers, "previous_grad": 1}),
        "pytorch_optimizer.Lamb": _TRUSTING,
        "pytorch_optimizer.Lion": Kind({"exp_avg": 1}),
        "pytorch_optimizer.Lookahead": Kind(
            {"slow_params": -1, "backup_params": -1, "slow_momentum": 1},
            {"slow_params": PARAMETER, "backup_params": PARAMETER},
        ),
        "pytorch_optimizer.RAdam": ADAM,
        "pytorch_optimizer.Ranger": Kind(
            {**ADAM.powers, "slow_buffer": -1},
            {"slow_buffer": PARAMETER},
            note=f"{AS_A_WHOLE} (the mean that it takes from gradients)",
        ),
        "pytorch_optimizer.SGDP": Kind({"momentum": 1}, note=_TRUSTING.note),
        "pytorch_optimizer.ScheduleFreeAdamW": _SCHEDULE_FREE,
        "pytorch_optimizer.ScheduleFreeRAdam": _SCHEDULE_FREE,
        "pytorch_optimizer.ScheduleFreeSGD": _SCHEDULE_FREE,
        "schedulefree.AdamWScheduleFree": _SCHEDULE_FREE,
        "schedulefree.AdamWScheduleFreeClosure": _SCHEDULE_FREE,
        "schedulefree.AdamWScheduleFreePaper": _SCHEDULE_FREE,
        "schedulefree.AdamWScheduleFreeReference": _SCHEDULE_FREE,
        "schedulefree.RAdamScheduleFree": _SCHEDULE_FREE,
        "schedulefree.RAdamScheduleFreeClosure": _SCHEDULE_FREE,
        "schedulefree.SGDScheduleFree": _SCHEDULE_FREE,
        "schedulefree.SGDScheduleFreeClosure": _SCHEDULE_FREE,
        "schedulefree.SGDScheduleFreeReference": _SCHEDULE_FREE,
        "timm.AdaBelief": _BELIEF,
        "timm.Adafactor": Kind(
            {"exp_avg": 0, "exp_avg_sq": 2},
            {"exp_avg_sq": MEAN},
            restarts=frozenset({"exp_avg_sq_row", "exp_avg_sq_col"}),
            note=ADAFACTOR_NOTE,
        ),
        "timm.AdafactorBigVision": Kind(
            {"exp_avg": 0, "exp_avg_sq": 2},
            {"exp_avg_sq": MEAN},
            restarts=frozenset({"exp_avg_sq_r", "exp_avg_sq_c"}),
            note=ADAFACTOR_NOTE,
        ),
        # a Hessian's diagonal is scaled by 1 / f ** 2, and its square by the square of that
        "timm.Adahessian": Kind({"exp_avg": 1, "exp_hessian_diag_sq": 4}),
        "timm.AdamP": _TRUSTING,
        "timm.AdamWLegacy": ADAM,
        "timm.Adan": Kind({"exp_avg": 1, "exp_avg_sq": 2, "exp_avg_diff": 1, "neg_pre_grad": 1}),
        # it divides by what it knew before the step: zeros would be divided by
        "timm.Adopt": Kind({"exp_avg": 0, "exp_avg_sq": 2}, {"exp_avg_sq": MEAN}),
        "timm.Kron": Kind({"momentum_buffer": 1}, restarts=frozenset({"Q"})),
        "timm.LaProp": Kind({"exp_avg": 0, "exp_avg_sq": 2}),
        "timm.Lamb": _TRUSTING,
        "timm.Lars": Kind(_MOMENTUM.powers, note=_TRUSTING.note),
        "timm.Lion": Kind({"exp_avg": 1}),
        "timm.MADGRAD": Kind({"grad_sum_sq": 2, "s": 1, "x0": -1}, {"x0": PARAMETER}),
        "timm.Mars": Kind(
            {"exp_avg": 1, "exp_avg_sq": 2, "last_grad": 1}, note=f"{AS_A_WHOLE} (the clipping of its gradient)"
        ),
        "timm.Muon": _MUON,
        "timm.NAdamLegacy": ADAM,
        "timm.NAdamW": ADAM,
        "timm.RAdamLegacy": ADAM,
        "timm.RMSpropTF": Kind(
            {"square_avg": 2, "grad_avg": 1, "momentum_buffer": 0},
            {"square_avg": 1.0},
            note="what is left of the ones that its square_avg began with is scaled like gradients",
        ),
        "timm.SGDP": Kind({"momentum": 1}, note=_TRUSTING.note),
        "timm.SGDW": _MOMENTUM,
        "transformers.Adafactor": Kind(
            {"exp_avg": 0, "exp_avg_sq": 2},
            {"exp_avg_sq": MEAN},
            factored={"exp_avg_sq_row": "exp_avg_sq_col"},
            note=ADAFACTOR_NOTE,
        ),
    }
)
""" "package.Class" -> its kind."""

IN_WRAPPED: Mapping[str, float] = MappingProxyType({"lookahead_slow_buff": -1, "z": -1})
"""Copies of the parameter that wrappers put into the state of what they wrap: timm's Lookahead, ScheduleFreeWrapper."""


def kind_of(optimizer: Optimizer) -> Kind | None:
    """The kind of the nearest ancestor of the optimizer's class that is known, None where none is.

    >>> import torch
    >>> kind_of(torch.optim.SGD([torch.zeros(1)], lr=0.1)).powers
    {'momentum_buffer': 1}
    """
    told = registered()
    for each in type(optimizer).__mro__:
        name = f"{each.__module__.partition('.')[0]}.{each.__qualname__}"
        found = told.get(each) or told.get(name) or TORCH.get(each) or NAMED.get(name)
        if found is not None:
            return found
    return None


def with_wrapped(kind: Kind) -> Kind:
    """The kind, which knows what wrappers put into its state too."""
    added = {key: power for key, power in IN_WRAPPED.items() if key not in kind.known}
    return replace(kind, powers={**kind.powers, **added}, fill={**kind.fill, **dict.fromkeys(added, PARAMETER)})
