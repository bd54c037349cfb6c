"""Whole small networks, drawn as plans: values whose repr is short, reads like a model and evaluates to itself.

A plan says which pieces follow each other, how the network ends and which gammas are dead. A repr leaves out what is as
by default. `Plan.build()` makes the module, `Plan.prepared()` calibrates it in float64 and kills its gammas.

A pattern such as ".x" says along the channels of a norm which gammas are dead (x); it is repeated to the norm's width,
and the patterns of a plan are repeated over its norms. So one pattern means the same channels everywhere, "xxxx...."
whole groups, and a long row of x with one dot a layer that is all dead but one.
"""

from tests.networks.blocks import (
    Again,
    Branches,
    Gate,
    Pool,
    Preact,
    Residual,
    Selected,
    Transposed,
    Twice,
    TwoNorms,
    Unit,
)
from tests.networks.draw import one_of, plans
from tests.networks.layers import Attention, Bare, Computed, Mixer, Single
from tests.networks.moves import Arithmetic, Move, Split
from tests.networks.piece import IMAGE, Piece
from tests.networks.plan import Plan
from tests.networks.wild import Wild

__all__ = [
    "IMAGE",
    "Again",
    "Arithmetic",
    "Attention",
    "Bare",
    "Branches",
    "Computed",
    "Gate",
    "Mixer",
    "Move",
    "Piece",
    "Plan",
    "Pool",
    "Preact",
    "Residual",
    "Selected",
    "Single",
    "Split",
    "Transposed",
    "Twice",
    "TwoNorms",
    "Unit",
    "Wild",
    "one_of",
    "plans",
]
