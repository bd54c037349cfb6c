"""One rule an op: what it does to channels, what it costs, what it reads. Start with effect.py; one family a file."""

from nrfx.rules import contraction, movement, norm, pointwise, pooling, product, reduction
from nrfx.rules.effect import Before, Call, Effect, Family, Norm, Pin, Reading, Site, Work, counted, tensors, unknown
from nrfx.rules.registry import RULES, register, rule, rule_of

__all__ = [
    "RULES", "Before", "Call", "Effect", "Family", "Norm", "Pin", "Reading", "Site", "Work", "contraction", "counted",
    "movement", "norm", "pointwise", "pooling", "product", "reduction", "register", "rule", "rule_of", "tensors",
    "unknown",
]  # fmt: skip
