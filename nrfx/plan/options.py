"""The options of a rewrite: names, defaults, and the values that each takes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import torch

from nrfx.analysis.criteria import criterion_of
from nrfx.analysis.criterion import Criterion
from nrfx.analysis.liveness import check_residual
from nrfx.choices import Reinitialize, Residual, Scheme
from nrfx.errors import AnalysisError


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
        if self.gamma0 is not None and not (isinstance(self.gamma0, int | float) and 0 < self.gamma0 < float("inf")):
            raise AnalysisError(f"gamma0 is {self.gamma0!r}; expected a positive number, or None.")

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
