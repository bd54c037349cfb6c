"""The budget of a rewrite: upper bounds on params and flops."""

from dataclasses import dataclass
from math import isfinite
from numbers import Integral
from typing import Any

from nrfx.analysis.cost import Cost, total_cost
from nrfx.analysis.spaces import channels_of
from nrfx.errors import BudgetError
from nrfx.tracing import as_traced


@dataclass(frozen=True)
class Budget:
    """An upper bound on params, on flops (multiply-adds of one example), or on both.

    Args:
        params: learnable numbers, a positive integer or None.
        flops: multiply-adds of one example in eval mode, a positive integer or None.

    Raises:
        BudgetError: neither is given, or one is not a positive integer.

    >>> Budget(params=1_000, flops=20_000).admits(Cost(1_000, 19_999))
    True
    """

    params: int | None = None
    flops: int | None = None

    def __post_init__(self) -> None:
        if self.params is None and self.flops is None:
            raise BudgetError("A budget needs params=, flops= or both, for example Budget(params=11_700_000).")
        for name in ("params", "flops"):
            bound = getattr(self, name)
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, Integral) or bound <= 0):
                raise BudgetError(
                    f"Budget {name}={bound!r}; expected a positive integer. "
                    f"For a fraction of what a network costs now, use Budget.relative(gm, {name}=...)."
                )
            if bound is not None:
                object.__setattr__(self, name, int(bound))  # numpy's integers are welcome

    @classmethod
    def relative(
        cls, gm: Any, params: float | None = None, flops: float | None = None, *, example_inputs: Any = None
    ) -> "Budget":
        """The budget that is a fraction of what `gm` costs now, rounded down.

        Args:
            gm: a traced module, or a GraphModule with shapes.
            params, flops: fractions, 1.0 for the present cost.
            example_inputs: needed if the graph carries no shapes.

        Raises:
            BudgetError: a fraction is not a positive finite number.

        >>> import torch, nrfx
        >>> gm = nrfx.trace(torch.nn.Sequential(torch.nn.Linear(3, 5)), torch.zeros(1, 3))
        >>> Budget.relative(gm, params=0.5, flops=1.0)
        Budget(params=10, flops=15)
        """
        fractions = {"params": params, "flops": flops}
        for name, fraction in fractions.items():
            number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
            if fraction is not None and not (number and isfinite(fraction) and fraction > 0):
                raise BudgetError(f"Relative budget {name}={fraction!r}; expected a positive number such as 1.0.")
        traced = as_traced(gm, example_inputs)
        cost = total_cost(traced, channels_of(traced))
        if flops is not None and not cost.flops:
            raise BudgetError(
                "The network has no counted flops to take a fraction of: nrfx.utilization(gm).uncounted lists what "
                "was not counted. Use params=, or an absolute number."
            )
        bounds = {
            name: int(getattr(cost, name) * fraction) for name, fraction in fractions.items() if fraction is not None
        }
        for name, bound in bounds.items():
            if bound < 1:
                now = getattr(cost, name)
                raise BudgetError(
                    f"Relative budget {name}={fractions[name]!r} of the network's {now:,} is less than 1."
                )
        return cls(**bounds)

    def admits(self, cost: Cost) -> bool:
        """Whether `cost` is within every bound."""
        return (self.params is None or cost.params <= self.params) and (self.flops is None or cost.flops <= self.flops)

    def __str__(self) -> str:
        bounds = [f"{bound:,} {name}" for name, bound in (("params", self.params), ("flops", self.flops)) if bound]
        return " and ".join(bounds)
