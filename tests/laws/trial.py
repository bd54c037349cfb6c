"""A network, a way to rewrite it, and how far the outputs of two networks differ."""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import nrfx
from nrfx.errors import BudgetError
from tests.networks import Piece, Plan, one_of

TOLERANCE = 1e-9  # float64; the networks are small, and their rounding stays below 1e-12


@dataclass(frozen=True, repr=False)
class Options(Piece):
    """How a network is rewritten. `of` is the budgeted measure, `times` the budget relative to the cost."""

    scheme: str = "dense"
    residual: str = "live"
    of: str = "params"
    times: float = 1.0
    rescale: bool = True
    reallocate: bool = True
    round_to: int = 1
    gamma0: float | None = None
    gamma_new: float | None = None
    rescale_limit: float | None = None
    cross: str = "zero"

    def budget(self, gm: nn.Module) -> nrfx.Budget:
        return nrfx.Budget.relative(gm, **{self.of: self.times})

    def rewrite(self, gm: nn.Module) -> nrfx.Rejuvenation:
        return nrfx.rejuvenate(
            gm,
            self.budget(gm),
            scheme=self.scheme,
            residual=self.residual,
            rescale=self.rescale,
            reallocate=self.reallocate,
            round_to=self.round_to,
            gamma0=self.gamma0,
            gamma_new=self.gamma_new,
            rescale_limit=self.rescale_limit,
            cross="zero" if self.scheme == "removed" else self.cross,
            generator=torch.Generator().manual_seed(0),
        )


def options() -> st.SearchStrategy[Options]:
    return st.builds(
        Options,
        one_of(("dense", "attention", "removed")),
        one_of(("live", "coupled", "fixed", "coupled")),
        one_of(("params", "flops")),
        one_of((1.0, 1.5, 2.5, 1.2)),
        one_of((True, True, False)),
        one_of((True, True, True, False)),
        one_of((1, 1, 1, 4)),
        one_of((None, 2.0)),
        one_of((None, None, 0.25)),
        one_of((None, None, 1.5)),
        one_of(("zero", "zero", "drawn")),
    )


class Trial:
    """One network and one way to rewrite it; what several laws need is made once, and no law may change it."""

    def __init__(self, plan: Plan, how: Options) -> None:
        self.plan, self.how = plan, how

    @cached_property
    def alive(self) -> nn.Module:
        """The network with no gamma dead."""
        return self.plan.alive().train(self.plan.training)

    @cached_property
    def model(self) -> nn.Module:
        return self.plan.killed(copy.deepcopy(self.alive))

    @cached_property
    def gm(self) -> nn.Module:
        return nrfx.trace(self.model, self.images())

    @cached_property
    def result(self) -> nrfx.Rejuvenation | None:
        return tried(self.gm, self.how)

    @cached_property
    def expected(self) -> list[Tensor]:
        return self.outputs(self.model)

    def images(self, count: int | None = None) -> Tensor:
        """So many images, as many as in the trace by default."""
        return images(self.plan.image[0] if count is None else count, *self.plan.image[1:])

    def outputs(self, module: nn.Module) -> list[Tensor]:
        return outputs(module, self.images())


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def outputs(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors of a network's eval output; its mode is left as it was."""
    training = module.training
    with torch.no_grad():
        leaves = tree_leaves(module.eval()(x))
    module.train(training)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def difference(expected: list[Tensor], actual: list[Tensor]) -> float:
    """Largest difference of the outputs, relative to the largest value of each."""
    assert [tensor.shape for tensor in expected] == [tensor.shape for tensor in actual]
    pairs = zip(expected, actual, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs)


def tried(gm: nn.Module, how: Options) -> nrfx.Rejuvenation | None:
    """The rewrite, or None where its budget is too small for a good reason: everything is back at its old width, and
    carriers stand beside it.
    """
    try:
        return how.rewrite(gm)
    except BudgetError as error:
        assert not how.reallocate and "Use reallocate=True" in str(error)
        return None
