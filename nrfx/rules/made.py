"""The objects that a network returns: a call of Maker puts one together around its tensors."""

from nrfx.nests import Maker
from nrfx.rules.effect import Call, Effect, Family, attempt, tensors
from nrfx.rules.registry import rule


@rule(Maker, workless=True)
def object_made(call: Call) -> Effect:
    """Everything in it keeps its width, as the output of a network does: code outside the graph reads it."""
    pins = tuple(call.pin(labels, "the network's output") for labels in tensors(call.args))
    return Effect(Family.SINK, out=attempt(call.function, *call.args), pins=pins)
