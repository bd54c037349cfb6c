"""One rule an op: what it does to channels, what it costs, what it reads. One family a file; registry.py has the table.

Public and stable: `rule` teaches nrfx an op of your own, from your own code; `channelwise` and `opaque` do it in one
line. So is what a rule is written with: `Call`, `Effect` and its parts, `elementwise`, `moved`, `weighted` and `Layer`,
`unknown`, `attempt`, `tensors`, `layout`, `along` and `ties_along`; docs/extending.md has worked examples. The table
(`OPS`, `op_of` and the like) and the files of the families are for the rest of nrfx.
"""

from nrfx.labels import along, layout
from nrfx.rules import (
    by_value,
    contraction,
    einsum,
    joining,
    made,
    movement,
    norm,
    parts,
    pointwise,
    pooling,
    product,
    recurrent,
    reduction,
    registry,
    views,
)
from nrfx.rules.boxes import channelwise, opaque
from nrfx.rules.check import check_effect
from nrfx.rules.contraction import Layer, weighted
from nrfx.rules.effect import (
    Before,
    Call,
    Effect,
    Family,
    Norm,
    Pin,
    Reading,
    Site,
    Unfit,
    Work,
    attempt,
    counted,
    tensors,
    unknown,
)
from nrfx.rules.movement import moved
from nrfx.rules.pointwise import elementwise
from nrfx.rules.registry import OPS, Op, has_rule, op_of, reads_as_weight, register, rule, rule_of
from nrfx.rules.ties import ties_along

registry.shipping = False  # a rule of ours that a user registers for an op of their own is theirs

__all__ = [
    "OPS", "Before", "Call", "Effect", "Family", "Layer", "Norm", "Op", "Pin", "Reading", "Site", "Unfit", "Work",
    "along", "attempt", "by_value", "channelwise", "check_effect", "contraction", "counted", "einsum", "elementwise",
    "has_rule", "joining", "layout", "made", "moved", "movement", "norm", "op_of", "opaque", "parts", "pointwise",
    "pooling", "product", "reads_as_weight", "recurrent", "reduction", "register", "rule", "rule_of", "tensors",
    "ties_along", "unknown", "views", "weighted",
]  # fmt: skip
