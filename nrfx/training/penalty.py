"""The penalty on the scales that can die, added to their gradients (Eq. 3).

Source: Neural Rejuvenation, Eq. 3, in gradient form.
"""

from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nrfx.analysis.liveness import prunable_gammas, shrinkable_betas
from nrfx.plan.options import Options
from nrfx.tracing import TracedModule
from nrfx.training.sharded import local, local_like

Masks = dict[str, Tensor]
"""Parameter name -> bool of its shape, on its device: which of its elements are pulled towards 0."""


class Penalty:
    """Pulls the gammas of a network that can die towards 0, and betas that hold gamma-dead channels.

    Attributes:
        gammas: the gammas that can die.
        betas: the betas that hold gamma-dead channels; empty without `shrink_beta`.
    """

    def __init__(self, module: TracedModule, options: Options, shrink_beta: float) -> None:
        self._module, self._options, self._shrink_beta = module, options, shrink_beta
        # a criterion does not look at gammas
        masks = prunable_gammas(module, options.residual) if options.criterion is None else {}
        self.gammas = _on_devices(module, masks)
        self.betas: Masks = {}
        self._signs: Masks = {}
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}
        self.look()

    def look(self) -> None:
        """Finds the betas anew, after gammas have died."""
        if self._shrink_beta and self._options.criterion is None:
            how = self._options
            self.betas = _on_devices(self._module, shrinkable_betas(self._module, how.threshold, how.residual))

    def restore(self, betas: Masks) -> None:
        """Takes the betas of a saved state."""
        self.betas, self._signs = betas, {}

    def parameters(self) -> Iterator[nn.Parameter]:
        """The gammas that can die, as the parameters that the network has now."""
        return (self._module.get_parameter(name) for name in self.gammas)

    def pull(self, lam: float, scales: Mapping[torch.device, Tensor], held: Container[Tensor] | None = None) -> None:
        """Adds lam * sign to the gradients, times the scale of a device where gradients are scaled.

        Gammas without a gradient are passed over. `held`: of these parameters alone.
        """
        for name, mask in self.gammas.items():
            self._pull(name, mask, lam, scales, held)
        for name, mask in self.betas.items():
            signs = self._pull(name, mask, lam * self._shrink_beta, scales, held)
            if signs is not None:
                self._signs[name] = signs

    def _pull(
        self, name: str, mask: Tensor, strength: float, scales: Mapping[torch.device, Tensor], held: Any
    ) -> Tensor | None:
        """Adds strength * sign to the gradient where the mask is True, and returns the signs."""
        parameter = self._module.get_parameter(name)
        if held is not None and parameter not in held:
            return None
        part = local(parameter)
        signs = part.sign() * self._mask(name, mask, parameter)
        if parameter.grad is not None:
            scale = scales.get(part.device)
            local(parameter.grad).add_(signs if scale is None else signs * scale, alpha=strength)
        return signs

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


def gradient_scales(optimizer: Optimizer) -> dict[torch.device, Tensor]:
    """Device -> the factor of the gradients that a fused optimizer divides by in its step; {} for all others.

    A GradScaler leaves the division to such an optimizer, so that a penalty that is added before must be scaled too.
    """
    scale = getattr(optimizer, "grad_scale", None)
    if not isinstance(scale, Tensor):
        return {}
    devices = {parameter.device for group in optimizer.param_groups for parameter in group["params"]}
    return {device: scale.to(device, non_blocking=True) for device in devices}


def _on_devices(module: TracedModule, masks: Mapping[str, Tensor]) -> Masks:
    return {name: mask.to(module.get_parameter(name).device) for name, mask in masks.items()}
