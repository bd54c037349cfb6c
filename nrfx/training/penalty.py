"""The penalty on the scales that can die: added to their gradients, or as a proximal step after the optimizer's.

Source: Neural Rejuvenation, Eq. 3, in gradient form. The proximal form (soft thresholding), the weights and the spared
gammas are ours; what is spared follows the slope of the minimax concave penalty (Zhang, 2010), with a knee that moves
with the mean.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from nrfx.analysis.liveness import prunable_gammas, shrinkable_betas
from nrfx.choices import Measure, PenaltyName, Spare, Weighted
from nrfx.optimizers.packages import kind_of, with_wrapped
from nrfx.plan.budget import Budget
from nrfx.plan.options import Options
from nrfx.tracing import TracedModule
from nrfx.training.gamma_weights import gamma_weights
from nrfx.training.sharded import local, local_like

Masks = dict[str, Tensor]
"""Parameter name -> bool of its shape, on its device: which of its elements are pulled towards 0."""

SMALL, FALL = 2.0, 1.5
"""Where large gammas are spared: how hard one near 0 is pulled, in lambda, and by how much less one of mean size."""

COPY = -1
"""The power of a state tensor that is a copy of its parameter, see nrfx.optimizers.kinds."""


@dataclass(frozen=True)
class Pull:
    """How gammas are pulled to 0.

    Args:
        penalty: "sign" adds lambda * sign(gamma) to the gradients; "proximal" leaves them, and after the optimizer's
            step moves each gamma by `rate_of` its group * lambda towards 0, where it stops.
        weighted: a gamma is pulled in proportion to what its channel costs in this measure, with a mean of 1; None:
            all alike.
        spare: "large": lambda is taken times max(0, 2 - 1.5 abs(gamma) / mean), with the mean over all gammas that can
            die at the last measurement; "none": as it is. Before the first measurement lambda is 0.
        shrink_beta: the pull on betas that hold gamma-dead channels, relative to that on gammas.
    """

    penalty: PenaltyName = "proximal"
    weighted: Measure | None = None
    shrink_beta: float = 0.0
    spare: Spare = "large"


def measure_of(weighted: Weighted, budget: Budget, sharded: bool) -> Measure | None:
    """The measure by which gammas are weighted; None: they are pulled alike.

    "budget" is what the budget bounds, and params where it bounds both. Under fully_shard it has no weights, for each
    process has a part of the gammas that decide what a channel costs.

    >>> measure_of("budget", Budget(flops=100), sharded=False), measure_of("alike", Budget(flops=100), sharded=False)
    ('flops', None)
    """
    if weighted == "budget" and not sharded:
        return "params" if budget.params is not None else "flops"
    return weighted if weighted in ("params", "flops") else None


class Penalty:
    """Pulls the gammas of a network that can die towards 0, and betas that hold gamma-dead channels.

    Attributes:
        gammas: the gammas that can die.
        betas: the betas that hold gamma-dead channels; empty without `shrink_beta`.
        mean: of the abs(gamma) that can die, at the last measurement; None before, and where none are spared.
    """

    def __init__(self, module: TracedModule, options: Options, how: Pull) -> None:
        self._module, self._options, self._how = module, options, how
        # a criterion does not look at gammas
        masks = prunable_gammas(module, options.residual) if options.criterion is None else {}
        self.gammas = _on_devices(module, masks)
        self._count = sum(int(mask.sum()) for mask in masks.values())
        self.betas: Masks = {}
        self.mean: float | None = None
        self._weights: Mapping[str, Tensor] = self.gammas
        self._signs: Masks = {}
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}
        self._seen: object = None
        self._learning: set[str] = set()
        self.look(None)

    def look(self, measured: object) -> bool:
        """Finds the betas and the mean anew, and, where something else was measured than before, what channels cost.

        Returns whether the weights may be others now.
        """
        options, changed = self._options, measured is None or measured != self._seen
        self._seen = measured
        if self._how.shrink_beta and options.criterion is None:
            betas = shrinkable_betas(self._module, options.threshold, options.residual)
            self.betas = _on_devices(self._module, betas)
        if self._how.spare == "large" and self._count and measured is not None:
            self.mean = _mean_size(self._module, self.gammas, self._count)
        weighs = self._how.weighted is not None and bool(self.gammas) and changed
        if self._how.weighted is not None and weighs:
            self._weights = _on_devices(self._module, _mean_one(self._module, self._how.weighted, options))
        return weighs

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """By which gammas are pulled harder or less; {} where all are alike."""
        return self._weights if self._how.weighted is not None else {}

    def restore(self, betas: Masks, weights: Mapping[str, Tensor], mean: float | None) -> None:
        """Takes the betas of a saved state, its mean, and its weights if it has some."""
        self.betas, self._signs = betas, {}
        self.mean = mean if self._how.spare == "large" else None
        if weights.keys() == self.gammas.keys() and self._how.weighted is not None:
            self._weights = weights

    def parameters(self) -> Iterator[nn.Parameter]:
        """The gammas that can die, as the parameters that the network has now."""
        return (self._module.get_parameter(name) for name in self.gammas)

    def pull(self, lam: float, scales: Mapping[torch.device, Tensor], held: Container[Tensor] | None = None) -> None:
        """Adds lam * sign to the gradients, times the scale of a device where gradients are scaled.

        Gammas without a gradient are passed over. `held`: of these parameters alone.
        """
        self._learning |= {name for name in self.gammas if self._module.get_parameter(name).grad is not None}
        if self._how.penalty == "sign":
            for name, weight in self._weights.items():
                self._pull(name, weight, lam, scales, held, spares=True)
        for name, mask in self.betas.items():
            signs = self._pull(name, mask, lam * self._how.shrink_beta, scales, held)
            if signs is not None:
                self._signs[name] = signs

    def shrink(self, lam: float, optimizers: Sequence[Optimizer]) -> None:
        """The proximal step of penalty "proximal", of the gammas that these optimizers hold, after their own step.

        gamma' = sign(gamma) * max(abs(gamma) - rate * lam, 0), without a device sync; so do the copies of a gamma that
        an optimizer keeps. Gammas that had no gradient, now or at the last `pull`, are passed over, as optimizers do:
        a loop may have set gradients to None by now.
        """
        if self._how.penalty != "proximal":
            return
        held = {
            parameter: (optimizer, group)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for name, weight in self._weights.items():
            parameter = self._module.get_parameter(name)
            if parameter in held and (parameter.grad is not None or name in self._learning):
                self._learning.discard(name)
                optimizer, group = held[parameter]
                reach = self._mask(name, weight, parameter) * (rate_of(optimizer, group) * lam)
                reach = self._spared(reach, local(parameter))
                for part in (local(parameter), *_copies(optimizer, parameter)):
                    part.copy_(part.sign() * (part.abs() - reach).clamp_(min=0))

    def _pull(
        self,
        name: str,
        weight: Tensor,
        strength: float,
        scales: Mapping[torch.device, Tensor],
        held: Any,
        spares: bool = False,
    ) -> Tensor | None:
        """Adds strength * weight * sign to the gradient, and returns weight * sign."""
        parameter = self._module.get_parameter(name)
        if held is not None and parameter not in held:
            return None
        part = local(parameter)
        signs = part.sign() * self._mask(name, weight, parameter)
        if spares:
            signs = self._spared(signs, part)
        if parameter.grad is not None:
            scale = scales.get(part.device)
            local(parameter.grad).add_(signs if scale is None else signs * scale, alpha=strength)
        return signs

    def _spared(self, pulls: Tensor, gammas: Tensor) -> Tensor:
        """The pulls, less where gammas are large; as they are where none are spared."""
        if not self.mean:
            return pulls
        return pulls * (SMALL - gammas.abs() * (FALL / self.mean)).clamp_(min=0)

    def _mask(self, name: str, mask: Tensor, parameter: Tensor) -> Tensor:
        """The mask for the part of the parameter that lies in this process."""
        if local(parameter) is parameter:
            return mask.to(parameter.device, non_blocking=True)
        known = self._parts.get(name)
        if known is None or known[0] is not mask:
            known = self._parts[name] = mask, local_like(mask, parameter)
        return known[1]

    def stop_betas_at_zero(self) -> None:
        """Sets betas to 0 that the optimizer's step took across 0, or away from 0: the proximal step of the pull.

        A subgradient alone would let them swing around 0 by lr * lambda.
        """
        for name, signs in self._signs.items():
            beta = self._module.get_parameter(name)
            part = local(beta)
            part.masked_fill_(self._mask(name, self.betas[name], beta) & (part.sign() != signs), 0.0)
        self._signs = {}


def rate_of(optimizer: Optimizer, group: Mapping[str, Any]) -> Any:
    """How far a step of "proximal" moves a gamma of this group per unit of lambda: a number, or a tensor if lr is one.

        SGD             lr (1 - dampening) / (1 - momentum), as a constant gradient of lambda would in the long run
        all others      lr

    So lambda means the same for SGD under both penalties. Adam and its like divide a gradient by its size; here they
    do not, and a gamma falls by lr * lambda a step.
    """
    if isinstance(optimizer, SGD):
        return group["lr"] * ((1 - group["dampening"]) / (1 - group["momentum"]))
    return group["lr"]


def gradient_scales(optimizer: Optimizer) -> dict[torch.device, Tensor]:
    """Device -> the factor of the gradients that a fused optimizer divides by in its step; {} for all others.

    A GradScaler leaves the division to such an optimizer, so that a penalty that is added before must be scaled too.
    """
    scale = getattr(optimizer, "grad_scale", None)
    if not isinstance(scale, Tensor):
        return {}
    devices = {parameter.device for group in optimizer.param_groups for parameter in group["params"]}
    return {device: scale.to(device, non_blocking=True) for device in devices}


def _copies(optimizer: Optimizer, parameter: Tensor) -> list[Tensor]:
    """The copies of a parameter in an optimizer's state: averages, slow weights."""
    kind, state = kind_of(optimizer), optimizer.state.get(parameter, {})
    powers = with_wrapped(kind).powers if kind is not None else {}
    return [local(state[key]) for key, power in powers.items() if power == COPY and key in state]


def _mean_one(module: TracedModule, measure: Measure, options: Options) -> dict[str, Tensor]:
    """`gamma_weights`, scaled so that the mean over the gammas that can die is 1."""
    weights = gamma_weights(module, measure, threshold=options.threshold, residual=options.residual)
    masks = prunable_gammas(module, options.residual)
    mean = torch.cat([weights[name][mask] for name, mask in masks.items()]).mean()
    mean = mean.clamp(min=torch.finfo(mean.dtype).tiny)  # channels that cost nothing by this measure are not pulled
    return {name: weight / mean for name, weight in weights.items()}


def _mean_size(module: TracedModule, masks: Masks, count: int) -> float | None:
    """The mean abs(gamma) of the gammas that can die, dead ones among them, in one transfer a device; None if it is
    not finite.
    """
    sums: dict[torch.device, list[Tensor]] = {}
    for name, mask in masks.items():
        gamma = module.get_parameter(name).detach()
        sums.setdefault(gamma.device, []).append((gamma.abs() * mask.to(gamma.device)).sum(dtype=torch.float32))
    mean = sum(float(torch.stack(each).sum()) for each in sums.values()) / count
    return mean if isfinite(mean) else None


def _on_devices(module: TracedModule, masks: Mapping[str, Tensor]) -> Masks:
    return {name: mask.to(module.get_parameter(name).device) for name, mask in masks.items()}
