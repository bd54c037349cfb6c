"""Laws of where each number comes from."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

import nrfx
from tests.laws.trial import Trial, tried


def every_number_comes_from_its_origin(trial: Trial) -> None:
    """A weight that no carrier was written into is the old one at its origins, times the factors."""
    if trial.result is not None:
        came_from(dict(trial.gm.named_parameters()), trial.result.module, traces(trial.result))


def two_rewrites_compose(trial: Trial) -> None:
    """The origins of two rewrites in a row, composed, lead from the last network to the first."""
    if trial.result is None:
        return
    gm = trial.plan.killed(copy.deepcopy(trial.result.module))
    again = tried(gm, trial.how)
    if again is not None:
        came_from(dict(trial.gm.named_parameters()), again.module, composed(traces(again), traces(trial.result)))


Dims = list[tuple[Tensor | None, Tensor | None]]  # per dim: old positions (-1 = new), factors; None for no change


def traces(result: nrfx.Rejuvenation) -> dict[str, tuple[str, Dims]]:
    """Weight -> where it comes from: the old name, and per dim the positions and factors."""
    return {
        name: (parent, list(zip(result.origins[name], result.factors[name], strict=True)))
        for name, parent in result.parents.items()
        if parent is not None
    }


def composed(later: dict[str, tuple[str, Dims]], earlier: dict[str, tuple[str, Dims]]) -> dict[str, tuple[str, Dims]]:
    """`later` after `earlier`; what is new in either is new."""
    both = {}
    for name, (middle, dims) in later.items():
        if middle in earlier:
            parent, before = earlier[middle]
            both[name] = parent, [follow(last, first) for last, first in zip(dims, before, strict=True)]
    return both


def follow(last: tuple[Tensor | None, Tensor | None], first: tuple[Tensor | None, Tensor | None]) -> Any:
    (places, factor), (old_places, old_factor) = last, first
    if places is None:
        return old_places, times(factor, old_factor)
    kept = places.clamp(min=0)
    carried = None if old_factor is None else torch.where(places >= 0, old_factor[kept], 1.0)
    origin = places if old_places is None else torch.where(places >= 0, old_places[kept], -1)
    return origin, times(factor, carried)


def times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b


def came_from(old: dict[str, nn.Parameter], module: nn.Module, origins: dict[str, tuple[str, Dims]]) -> None:
    """Asserts that every weight of `module` is what its origins say, where they say anything."""
    for name, parameter in module.named_parameters():
        if name not in origins or not name.endswith("weight") or parameter.dim() == 1:
            continue
        parent, dims = origins[name]
        new, expected = parameter.detach(), old[parent].detach()
        for dim, (places, factor) in enumerate(dims):
            at = torch.arange(new.shape[dim])
            kept = at[((places if places is not None else at) >= 0) & ((factor if factor is not None else at + 1) != 0)]
            expected = expected.index_select(dim, kept if places is None else places[kept])
            new = new.index_select(dim, kept)
            if factor is not None:
                expected = expected * factor[kept].view([-1 if d == dim else 1 for d in range(new.dim())])
        assert torch.allclose(new, expected, rtol=1e-12, atol=1e-15), name
