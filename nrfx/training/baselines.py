"""The two methods closest to Neural Rejuvenation, as short compositions of the same passes.

Network Slimming    train with an equal pull on all gammas, drop the weakest of the whole network (`slim`), fine-tune
MorphNet            train with a pull in proportion to what each channel costs, widen the live layers by one factor to a
                    budget (`morph`), train the result from scratch; repeat

Both pull on the gammas in each step (`gamma_weights`, `penalize`). Neither has an adaptive lambda or keeps its new
channels apart. Not handled: MorphNet's one strength for channels that an add ties (here each of their gammas is pulled
by itself), and its penalty for networks without norms (`nrfx.insert_scales` gives them gammas).
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from sys import float_info
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import Channels
from nrfx.analysis.liveness import liveness_of, prunable_gammas
from nrfx.analysis.spaces import channels_of
from nrfx.choices import Residual
from nrfx.errors import TrainingError
from nrfx.ids import among
from nrfx.plan.budget import Budget
from nrfx.rewrite.rejuvenate import compact, rejuvenate
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import TracedModule, as_traced

ZERO_ONLY = float_info.min
"""The threshold under which gammas that were set to 0 are dead, and no others."""


@torch.no_grad()
def penalize(module: nn.Module, weights: Mapping[str, Tensor], strength: float) -> None:
    """Adds strength * weight * sign(gamma) to the gradients of the gammas, in place: the L1 penalty's.

    Once a step, between backward (after GradScaler.unscale_, if there is one) and optimizer.step. Gammas without a
    gradient are passed over.

    Raises:
        TrainingError: the strength is negative or not finite, or the weights are those of another network.

    >>> import nrfx
    >>> from nrfx.training.gamma_weights import gamma_weights
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    >>> gm = nrfx.trace(net, torch.zeros(1, 1, 3, 3))
    >>> net[1].weight.grad = torch.zeros(4)
    >>> penalize(gm, gamma_weights(gm), 0.5)
    >>> net[1].weight.grad
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength < float("inf"):
        raise TrainingError(f"strength is {strength!r}; expected 0 or a positive number such as 1e-4.")
    named = dict(module.named_parameters())
    for name, weight in weights.items():
        gamma = named.get(name)
        if gamma is None or gamma.shape != weight.shape:
            actual = "no such parameter" if gamma is None else f"{list(gamma.shape)}"
            raise TrainingError(
                f"The weights of {name} are for {list(weight.shape)} channels, and the module has {actual}: take "
                "gamma_weights of this network."
            )
        if gamma.grad is not None:
            gamma.grad.add_(gamma.sign() * weight.to(gamma), alpha=strength)


def slim(
    gm: Any, fraction: float, *, residual: Residual = "live", constants: bool = True, example_inputs: Any = None
) -> Rejuvenation:
    """Network Slimming: the network without the weakest `fraction` of all gammas that can die, whatever their layers.

    One threshold holds for the whole network: the size of the gamma at that rank; gammas of equal size stay. In each
    space the channel whose weakest gamma is largest always stays, so that no layer is ever empty. A channel that cannot
    go without changing the function keeps its gamma, and a note counts these gammas. `gm` is left as it is; the
    result's function is that of `gm` with the removed gammas at 0, and its `before` counts them as dead.

    Args:
        fraction: of the gammas that can die, in [0, 1).
        residual, constants: as for `nrfx.compact`.

    Raises:
        TrainingError: the fraction is out of range.
        AnalysisError: a gamma is not finite.

    Source: Liu et al., ICCV 2017, Sec. 3 ("Channel Pruning and Fine-tuning"). There dropped channels' constants are
    lost, the fraction is one of all gammas, and a layer may become empty.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([0.1, 0.9, -0.2, 0.7]))
    >>> slim(nrfx.trace(net, torch.zeros(1, 3, 8, 8)), 0.5).module.get_submodule("0")
    Conv2d(3, 2, kernel_size=(1, 1), stride=(1, 1))
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise TrainingError(f"fraction is {fraction!r}; expected a share of the gammas from 0 up to but not 1.")
    traced = as_traced(gm, example_inputs)
    channels = channels_of(traced)
    liveness_of(traced, channels, residual=residual)  # raises for a gamma that is not finite
    weak = _weakest(traced, channels, prunable_gammas(traced, residual), fraction)
    # Once with all weak gammas at 0, to see which of their channels can go; then with those alone, so that the others
    # keep their values.
    result = compact(_with_zeros(traced, weak), residual=residual, threshold=ZERO_ONLY, constants=constants)
    gone = {name: mask & result.removed.get(name, torch.zeros_like(mask)) for name, mask in weak.items()}
    kept = sum(int(mask.sum()) for mask in weak.values()) - sum(int(mask.sum()) for mask in gone.values())
    if not kept:
        return result
    note = f"{kept} gammas below the threshold stay as they are, for their channels cannot go without a difference."
    result = compact(_with_zeros(traced, gone), residual=residual, threshold=ZERO_ONLY, constants=constants)
    return replace(result, notes=(*result.notes, note))


def morph(
    gm: Any,
    budget: Budget,
    *,
    residual: Residual = "live",
    threshold: float = 0.01,
    round_to: int = 1,
    generator: torch.Generator | None = None,
    example_inputs: Any = None,
) -> Rejuvenation:
    """MorphNet's expansion: the live widths times one factor, as wide as the budget admits, with all weights anew.

    The result is to be trained from scratch, with an optimizer of its own. Its cost is within the budget, and no
    further channel fits.

    Args:
        budget: what the result may cost, such as Budget.relative(gm, flops=1.0).
        residual, threshold, round_to, generator: as for `nrfx.rejuvenate`.

    Raises:
        BudgetError: the live part alone exceeds the budget.
        AnalysisError: a gamma is not finite, or an option is out of range.

    Source: Gordon et al., CVPR 2018, Algorithm 1, the expansion step. There a gamma is dead below a fixed value; here
    below a share of the largest of its layer, as in Neural Rejuvenation.

    >>> import nrfx
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> gm = nrfx.trace(net, torch.zeros(1, 3, 4, 4))
    >>> result = morph(gm, nrfx.Budget.relative(gm, flops=1.0))
    >>> result.after.flops.total <= 896, result.keeps_function
    (True, False)
    """
    return rejuvenate(
        gm,
        budget,
        scheme="dense",
        rescale=False,
        reinitialize="all",
        residual=residual,
        threshold=threshold,
        round_to=round_to,
        generator=generator,
        example_inputs=example_inputs,
    )


def _weakest(
    traced: TracedModule, channels: Channels, masks: Mapping[str, Tensor], fraction: float
) -> dict[str, Tensor]:
    """Gamma parameter -> bool of its shape: smaller than the gamma at that rank, and not its space's strongest."""
    sizes = {name: traced.get_parameter(name).detach().abs().double().cpu() for name in channels.norms}
    prunable = torch.cat([torch.zeros(0).double(), *(sizes[name][mask] for name, mask in masks.items())]).sort().values
    if not prunable.numel():
        return {}
    threshold = prunable[int(round(fraction * prunable.numel(), 6))]  # 0.29 * 100 is 28.999... in floats
    strongest = _strongest(channels, sizes)
    return {
        name: mask & (sizes[name] < threshold) & ~among(channels.channels_along(channels.norms[name]), strongest)
        for name, mask in masks.items()
    }


def _strongest(channels: Channels, sizes: Mapping[str, Tensor]) -> Tensor:
    """bool [channels]: in each space, the channel whose weakest gamma is the largest."""
    weakest = torch.full((channels.space_of.numel(),), torch.inf).double()
    for name, layout in channels.norms.items():
        at = channels.channels_along(layout)
        weakest = weakest.scatter_reduce(0, at[at >= 0], sizes[name][at >= 0], "amin")
    chosen = torch.zeros_like(weakest, dtype=torch.bool)
    for space in range(len(channels.spaces)):
        members = (channels.space_of == space).nonzero().flatten()
        chosen[members[weakest[members].argmax()]] = True
    return chosen


def _with_zeros(traced: TracedModule, masks: Mapping[str, Tensor]) -> TracedModule:
    """A copy in which the gammas are 0 where the masks are True."""
    twin = copy.deepcopy(traced)
    with torch.no_grad():
        for name, mask in masks.items():
            gamma = twin.get_parameter(name)
            gamma[mask.to(gamma.device)] = 0
    return twin
