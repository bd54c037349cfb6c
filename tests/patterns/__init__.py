"""The table of patterns, by name."""

from tests.patterns.attention import ATTENTION
from tests.patterns.condition import CONDITION
from tests.patterns.dies import ALL, DIES
from tests.patterns.graph import GRAPH
from tests.patterns.layer import CONVOLUTION
from tests.patterns.movement import MOVEMENT
from tests.patterns.norm import NORM
from tests.patterns.parameters import PARAMETER
from tests.patterns.parts import PARTS
from tests.patterns.pattern import Pattern
from tests.patterns.recurrent import RECURRENT
from tests.patterns.reduction import REDUCTION

__all__ = ["ALL", "DIES", "PATTERNS", "Pattern"]

PATTERNS: dict[str, Pattern] = (
    MOVEMENT | REDUCTION | NORM | CONVOLUTION | PARAMETER | ATTENTION | RECURRENT | GRAPH | CONDITION | PARTS
)
