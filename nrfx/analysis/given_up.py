"""What stands for channels that a criterion gives up: a constant for each column that reads one of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GivenUp:
    """The constants of channels that are given up, at each weight that reads them.

    Attributes:
        constants: key of a weight -> float64 [columns], what the column reads from now on; 0 where its channel stays.
        exact: key -> bool [columns], whether the column reads that constant on all inputs already.
        measured: whether the other constants are means over batches; they are 0 if not.
    """

    constants: Mapping[str, Tensor]
    exact: Mapping[str, Tensor]
    measured: bool
