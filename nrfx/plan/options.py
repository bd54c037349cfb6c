"""The options of a rewrite: names, defaults, and the values that each takes."""

from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any, get_args

import torch

from nrfx.analysis.criteria import criterion_of
from nrfx.analysis.criterion import Criterion
from nrfx.analysis.liveness import check_residual
from nrfx.choices import CrossWeights, Reinitialize, Residual, Scheme
from nrfx.errors import AnalysisError

GAMMA_NEW = 1.0
"""Where the gammas of new channels start by default: as in any new norm."""

RESCALE_LIMIT = 4.0
"""The largest factor of rescaling by default."""


@dataclass(frozen=True)
class Options:
    """The options of `nrfx.rejuvenate`, which documents them."""

    scheme: Scheme = "attention"
    rescale: bool = True
    reallocate: bool = True
    reinitialize: Reinitialize = "rejuvenated"
    residual: Residual = "live"
    threshold: float = 0.01
    gamma0: float | None = None
    gamma_new: float | None = GAMMA_NEW
    rescale_limit: float | None = RESCALE_LIMIT
    cross: CrossWeights = "zero"
    round_to: int = 1
    constants: bool = True
    merge: bool = False
    generator: torch.Generator | None = None
    check: bool = True
    liveness: Any = "gamma"
    cramped: bool = False  # scheme became "dense": the budget has no room for the carriers of "attention"

    def validate(self) -> None:
        """Raises AnalysisError for the first option with a value that it does not take."""
        check_residual(self.threshold, self.residual)
        criterion_of(self.liveness)
        for name, value, allowed in (
            ("scheme", self.scheme, get_args(Scheme)),
            ("reinitialize", self.reinitialize, get_args(Reinitialize)),
            ("cross", self.cross, get_args(CrossWeights)),
        ):
            if value not in allowed:
                raise AnalysisError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}.")
        if isinstance(self.round_to, bool) or not isinstance(self.round_to, int) or self.round_to < 1:
            raise AnalysisError(f"round_to is {self.round_to!r}; expected an integer >= 1, such as 8 for tensor cores.")
        for name in ("rescale", "reallocate", "constants", "merge", "check"):
            if not isinstance(getattr(self, name), bool):
                raise AnalysisError(f"{name} is {getattr(self, name)!r}; expected True or False.")
        if self.generator is not None and not isinstance(self.generator, torch.Generator):
            raise AnalysisError(
                f"generator is {self.generator!r}; expected torch.Generator().manual_seed(0) or its like."
            )
        if self.cross == "drawn" and self.scheme == "removed":
            raise AnalysisError(
                'cross is \'drawn\', and scheme "removed" has no cross weights; expected scheme "attention" or "dense".'
            )
        for name, least, expected in (
            ("gamma0", 0, "a positive number"),
            ("gamma_new", 0, "a positive number"),
            ("rescale_limit", 1, "a factor above 1"),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and least < value < inf):
                raise AnalysisError(f"{name} is {value!r}; expected {expected}, or None.")

    @cached_property
    def criterion(self) -> Criterion | None:
        """What says which channels are dead; None where gammas do."""
        return criterion_of(self.liveness)

    @property
    def recycles(self) -> bool:
        """Whether what a criterion gives up starts anew in its place, as a layer starts."""
        return self.criterion is not None and not self.reallocate and self.scheme == "dense"

    @property
    def scratch(self) -> bool:
        """Whether every parameter gets a new initial value."""
        return self.reinitialize == "all"

    @property
    def keeps_function(self) -> bool:
        """Whether the constants of dead channels are kept, and the function with them."""
        return self.constants and not self.scratch
