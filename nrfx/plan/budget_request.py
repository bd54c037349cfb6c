"""A budget as the command line and recipe files write it: params=11.7M, flops=0.5x, or both with a comma."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from nrfx.errors import BudgetError

if TYPE_CHECKING:
    from nrfx.plan.budget import Budget
    from nrfx.tracing import TracedModule

SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class BudgetRequest:
    """A budget as it is written: fractions of what the network costs now, and absolute bounds."""

    fractions: Mapping[str, float]
    bounds: Mapping[str, int]

    def of(self, traced: "TracedModule") -> "Budget":
        """The budget for a network."""
        from nrfx.plan.budget import Budget  # noqa: PLC0415 (needs torch, and the command line reads texts without)

        relative = Budget.relative(traced, **self.fractions) if self.fractions else None
        amounts = {} if relative is None else {name: getattr(relative, name) for name in self.fractions}
        return Budget(**amounts, **self.bounds)


def parse_budget(text: str | None) -> BudgetRequest:
    """The budget that the text asks for.

    Raises:
        BudgetError: there is none, or an amount is not a positive number.

    >>> parse_budget("params=11.7M,flops=0.5x")
    BudgetRequest(fractions={'flops': 0.5}, bounds={'params': 11700000})
    """
    if not text:
        raise BudgetError(
            "There is no budget: give --budget params=11.7M, or flops=1.0x of what it costs now, or both."
        )
    fractions: dict[str, float] = {}
    bounds: dict[str, int] = {}
    for part in text.split(","):
        name, _, amount = (piece.strip() for piece in part.partition("="))
        if name not in {"params", "flops"} or name in fractions or name in bounds:
            raise BudgetError(f"Budget {text!r} is not understood at {part!r}; expected params=..., flops=... or both.")
        if amount.endswith("x"):
            fractions[name] = float(_amount(amount[:-1], 1, part))
        else:
            suffix = amount[-1:].upper() if amount[-1:].isalpha() else ""
            bounds[name] = int(_amount(amount[: len(amount) - len(suffix)], SUFFIXES.get(suffix, 0), part))
    return BudgetRequest(fractions, bounds)


def _amount(digits: str, size: int, part: str) -> Decimal:
    try:
        amount = Decimal(digits) * size
    except InvalidOperation:
        amount = Decimal(0)
    if not (amount.is_finite() and amount > 0):
        raise BudgetError(f"Budget {part!r} is not a positive amount; expected a number such as 11.7M, 250000 or 1.0x.")
    return amount
