"""Ops that act on each element alone: they tie their operands element by element.

Rescaling a channel by s > 0 passes through the homogeneous ones (op(s x) = s op(x)); constants pass through all. An
operand that is broadcast over all channels (a spatial gate) is not tied to them: its own single channel is pinned
instead.
"""

import operator
from collections.abc import Callable
from functools import partial
from math import isnan, nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.labels import OPAQUE, alike, ascends, coalesce, collapse, layout, repeat_alike
from nrfx.rules.effect import Call, Effect, Family, Pin, Site, attempt, tensors, unknown, without_nan
from nrfx.rules.registry import asks_for_sizes, named, register, rule
from nrfx.rules.sizes import of_arithmetic, of_update
from nrfx.rules.ties import ties_along, ties_in_units

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, F.relu, F.leaky_relu, F.leaky_relu_, torch.relu, torch.relu_, "relu", "relu_")
SATURATING = (
    *(nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.ELU, nn.SELU, nn.CELU, nn.Mish),
    *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink),
    *(nn.Threshold, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.silu, F.gelu, F.elu, F.selu, F.celu, F.mish),
    *(F.sigmoid, F.tanh, F.softplus, F.softsign, F.logsigmoid, torch.sigmoid, torch.tanh),
    *("sigmoid", "tanh", "sigmoid_", "tanh_"),
)
FUNCTIONS = (
    *(torch.exp, torch.abs, torch.clamp, torch.square, torch.neg, operator.neg),
    *("exp", "abs", "clamp", "clamp_", "square", "neg"),
    *(F.elu_, F.selu_, F.celu_, F.hardtanh_, torch.threshold_, F.threshold, F.tanhshrink, F.hardshrink),
    *(torch.tanh_, torch.sigmoid_, torch.exp_, torch.abs_, torch.neg_, "exp_", "abs_", "neg_"),
    *named("cos sin atan erf erfc expm1 sinh cosh sinc sgn exp2 clip clamp_min clamp_max hypot logaddexp"),
)
UNDEFINED = (
    *(torch.log, torch.sqrt, torch.rsqrt, torch.pow, operator.pow, "log", "sqrt", "rsqrt", "pow"),
    *named("tan asin acos reciprocal log1p log2 log10 logit lgamma erfinv fmod remainder float_power xlogy"),
)
"""They have no value at some numbers."""
SUM = (operator.add, torch.add, "add", operator.sub, torch.sub, "sub")
TERNARY = (torch.addcmul, "addcmul", torch.lerp, "lerp")
COMPARISON = (
    *(torch.gt, torch.ge, torch.lt, torch.le, torch.eq, torch.ne, "gt", "ge", "lt", "le", "eq", "ne"),
    *(operator.gt, operator.ge, operator.lt, operator.le, operator.eq, operator.ne),
    *(torch.isnan, "isnan", torch.isfinite, "isfinite", torch.logical_not, "logical_not", operator.invert),
    *(torch.logical_and, torch.logical_or, "logical_and", "logical_or", operator.and_, operator.or_),
)
"""Their results are true or false: constants are not followed through them."""
PRODUCT = (operator.mul, torch.mul, torch.multiply, "mul", "multiply")
QUOTIENT = (operator.truediv, torch.div, torch.true_divide, "div", "true_divide")
EXTREMUM = (torch.maximum, torch.minimum, "maximum", "minimum")
DROPOUT = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
)
CASTS = ("float", "double", "half", "bfloat16", "to", "type", "type_as")
"""Like `contiguous`, of what already is as they make it they give the tensor itself, no copy."""
COPIES = ("clone", torch.clone)
DROP_PATH = ("torchvision.ops.stochastic_depth:stochastic_depth", "torchvision.ops.stochastic_depth:StochasticDepth")

CROSSED = "it multiplies channels with other channels"


def identity(call: Call) -> Effect:
    return Effect(Family.IDENTITY, out=call.args[0] if call.args else next(iter(call.kwargs.values())))


register(identity, *DROPOUT, *DROP_PATH, keeps_shape=True, workless=True)
register(identity, torch.dropout, "contiguous", workless=True)
register(identity, *COPIES, copies=True, workless=True)


@rule(*CASTS, workless=True)
def cast(call: Call) -> Effect:
    """The values themselves; but a cast to integers or bool rounds, and no constant is followed through it."""
    if not isinstance(call.val, Tensor):
        return unknown(call, "it asks for a type")
    if call.val.is_floating_point() or call.val.is_complex():
        return identity(call)
    # `other` of x.type_as(other) has no part in the shape
    return Effect(Family.POINTWISE, out=call.args[0], apply=lambda *_, **__: torch.full((), float("nan")).double())


@rule(torch.as_tensor, torch.asarray, makes=True, workless=True)
def as_tensor(call: Call) -> Effect:
    """A tensor itself, perhaps of another dtype; of numbers a new one."""
    if isinstance(call.args[0], Tensor):
        return cast(call)
    return Effect(Family.SOURCE, out=call.opaque_like(call.val, "the tensor that as_tensor makes"))


@rule("detach", torch.detach, workless=True)
def detached(call: Call) -> Effect:
    """Also x.data. Where it is asked for sizes alone, nothing is read."""
    labels: Tensor = call.args[0]
    read = not all(asks_for_sizes(user) for user in call.node.users)
    pins = (call.pin(labels, "a detached branch reads it without teaching it"),) if read else ()
    return Effect(Family.IDENTITY, out=labels, pins=pins)


register(identity, "requires_grad_", "retain_grad", flags=True, workless=True)


def _followed(op: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
    """What the op makes of constants, out of place. NaN, a value that varies, stays NaN, also where the op would lose
    it, as torch.where(x > 0, x, 0) does; where a number varies, all does. Raises Unfit where the op refuses float64
    values."""
    if any(isinstance(number, float) and isnan(number) for number in (*args, *kwargs.values())):
        return _varying(*args, *kwargs.values())
    given, named = without_nan((args, kwargs))
    result: Tensor = attempt(op, *given, **named).double()
    for values in tensors((args, kwargs)):
        result = torch.where(values.isnan(), _UNKNOWN, result)
    return result


_UNKNOWN = torch.full((), nan, dtype=torch.float64)  # a number in its place takes twice as long


def elementwise(
    call: Call,
    *,
    homogeneous: bool = False,
    adds: bool = False,
    times: bool = False,
    positive_only: bool = False,
    undefined: bool = False,
    apply: Callable[..., Any] | None = None,
) -> Effect:
    """The effect of any element-wise op on one or more tensors and numbers.

    >>> import nrfx, torch
    >>> class Wave(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x + x.sin() ** 2
    >>> @rule(Wave, keeps_shape=True, workless=True)
    ... def wave(call):
    ...     return elementwise(call)
    >>> nrfx.check_rule(Wave(), torch.randn(2, 4, 3, 3))
    ('channels stay apart', 'constants are what its apply gives')
    """
    operands = tensors((call.args, call.kwargs))
    if not operands:
        return Effect(Family.VALUE, out=_plain(call))
    if "out" in call.kwargs:
        return unknown(call, "it writes its result into another tensor")
    apply = apply or (_product if times else partial(_followed, call.function))
    numbers = tuple(arg for arg in (*call.args, *call.kwargs.values()) if isinstance(arg, int | float))
    # an addition scales with its operands where all of them scale alike; with a number added it does not
    plain = all(isinstance(arg, Tensor) for arg in (*call.args, *call.kwargs.values()))
    facts: dict[str, Any] = {
        "apply": apply,
        "homogeneous": homogeneous and (not adds or plain),
        "positive_only": positive_only,
        "undefined": undefined,
        "numbers": numbers,
    }
    if len(operands) == 1 and not adds:  # nothing to meet
        return Effect(Family.POINTWISE, out=operands[0], **facts)
    if repeat_alike(operands):  # nearly always: each channel of one meets a channel of the others
        tied = [collapse(labels) for labels in operands]
        ties: tuple[tuple[Tensor, Tensor], ...] = tuple((tied[0], other) for other in tied[1:])
        return Effect(Family.POINTWISE, out=operands[0], ties=ties, adds=adds and len(tied) > 1, **facts)
    shape = operands[0].shape
    if any(labels.shape != shape for labels in operands[1:]):
        shape = attempt(torch.broadcast_tensors, *operands)[0].shape
    small = [
        collapse(labels if labels.dim() == len(shape) else labels.reshape(_padded(labels, shape)))
        for labels in operands
    ]
    tied, pins = _split_broadcast(call, operands, small, shape)
    if not tied:
        return unknown(call, CROSSED)
    tied, units = _beside_opaque(tied, operands, small, shape)
    ties = (*((tied[0], other) for other in tied[1:]), *units)
    # they are tied, so any will do: the one that varies along the fewest dims keeps what follows small
    simplest = sorted(tied, key=Tensor.numel)
    merged = simplest[0]
    if not (ascends(merged) and merged.numel()):  # else the simplest carries a channel everywhere
        merged = coalesce(torch.broadcast_tensors(*simplest))
    out = alike(merged, merged.expand(shape))
    return Effect(Family.POINTWISE, out=out, ties=ties, pins=pins, adds=adds and len(tied) > 1, **facts)


def _plain(call: Call) -> Any:
    if call.node.op == "call_method":
        return getattr(call.args[0], str(call.node.target))(*call.args[1:], **call.kwargs)
    assert callable(call.node.target)
    return call.node.target(*call.args, **call.kwargs)


def _split_broadcast(
    call: Call, operands: list[Tensor], small: list[Tensor], shape: torch.Size
) -> tuple[list[Tensor], tuple[Pin, ...]]:
    """The operands to tie, and pins for those that are broadcast over a dim along which another's channels vary.

    One that also meets these channels one by one, along another dim, is tied all the same: of a mask for each of
    several sources, times one map, channel k of the map meets channel k of each mask.
    """
    if all(labels.shape == shape for labels in operands):  # none is broadcast
        return small, ()
    along = [{dim for dim, size in enumerate(cut.shape) if size > 1} for cut in small]
    tied, pins = [], []
    for index, (labels, cut, own) in enumerate(zip(operands, small, along, strict=True)):
        padded = (1,) * (len(shape) - labels.dim()) + labels.shape
        over = {dim for dim, size in enumerate(shape) if padded[dim] == 1 and size > 1}
        wide = {dim for dim, size in enumerate(padded) if size > 1}
        others = [other for other, dims in enumerate(along) if other != index and over & dims]
        met = [other for other in others if wide & along[other]]
        if not others or (met and all(own <= along[other] for other in met)):
            tied.append(cut)
        else:
            pins.append(call.pin(cut, "it is broadcast over the channels that it meets"))
            # those that it meets along some of its own dims alone must keep their order too
            pins += [call.pin(small[other], CROSSED) for other in met]
    return tied, tuple(pins)


def _beside_opaque(
    tied: list[Tensor], operands: list[Tensor], small: list[Tensor], shape: torch.Size
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """The operands to tie without those of fixed values that meet whole units (the heads of an attention, that are
    turned by one table of positions), and the ties that make the units.
    """
    fixed = [index for index, cut in enumerate(small) if cut.numel() == 1 and int(cut) <= OPAQUE]
    channels = [cut for index, cut in enumerate(small) if index not in fixed]
    kept, units = list(tied), []
    for index in fixed:
        wide = {dim for dim, size in enumerate(_padded(operands[index], shape)) if size > 1}
        found = [ties_in_units(cut, wide) for cut in channels]
        if channels and all(ties is not None for ties in found):
            kept = [cut for cut in kept if cut is not small[index]]
            units += [tie for ties in found for tie in ties or ()]
    return kept, units


def _padded(labels: Tensor, shape: torch.Size) -> tuple[int, ...]:
    return (1,) * (len(shape) - labels.dim()) + tuple(labels.shape)


def _product(left: Any, right: Any, **_: Any) -> Any:
    """left * right on constants, NaN standing for a value that varies: zero times anything is zero."""
    value = left * right
    for factor in (left, right):
        value = torch.where(torch.as_tensor(factor) == 0, torch.zeros_like(value), value)
    return value


def _quotient(op: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
    """A quotient of constants: zero by a number is zero, also by one that varies."""
    value = _followed(op, *args, **kwargs)
    if len(args) == 2 and isinstance(args[0], Tensor) and not isinstance(args[1], Tensor):
        return torch.where(args[0] == 0, args[0], value)
    return value


def _varying(*operands: Any, **_: Any) -> Tensor:
    """NaN for each element: what the op gives is not followed."""
    shapes = [operand.shape for operand in operands if isinstance(operand, Tensor)]
    return torch.full(torch.broadcast_shapes(*shapes), float("nan")).double()


def _selected(*operands: Any, **_: Any) -> Tensor:
    """One of the last two operands, by an unknown condition: known where both are the same."""
    left, right = (torch.as_tensor(operand).double() for operand in operands[-2:])
    equal = torch.where(left == right, left, float("nan"))
    return equal.expand(torch.broadcast_shapes(*(x.shape for x in operands if isinstance(x, Tensor))))


register(partial(elementwise, apply=_varying), *COMPARISON, workless=True)


@rule(torch.where, "where", workless=True)
def where(call: Call) -> Effect:
    """where(condition, a, b), also as a method of a."""
    values = call.args if call.node.op == "call_function" else (call.args[1], call.args[0], *call.args[2:])
    if len(values) != 3:
        return unknown(call, "where without values gives indices")
    swapped = call.node.op == "call_method"

    def apply(*operands: Any, **_: Any) -> Tensor:
        return _selected(*((operands[1], operands[0], operands[2]) if swapped else operands))

    return elementwise(call, apply=apply)


@rule(torch.masked_fill, "masked_fill", "masked_fill_", workless=True)
def masked_fill(call: Call) -> Effect:
    return elementwise(call, apply=lambda x, _, value: _selected(x, value))


def quotient(call: Call) -> Effect:
    """Undefined where a divisor is 0, which a number is not."""
    by_tensor = isinstance(call.argument(1, "other"), Tensor)
    return elementwise(call, undefined=by_tensor, apply=partial(_quotient, call.function))


SCALING = partial(elementwise, homogeneous=True, positive_only=True)
ADDING = partial(elementwise, homogeneous=True, adds=True)
MULTIPLYING = partial(elementwise, times=True)

register(SCALING, *HOMOGENEOUS, keeps_shape=True, workless=True)
register(SCALING, *EXTREMUM, workless=True)
register(elementwise, *SATURATING, keeps_shape=True, workless=True)
register(elementwise, *FUNCTIONS, *TERNARY, workless=True)
register(partial(elementwise, undefined=True), *UNDEFINED, torch.addcdiv, "addcdiv", workless=True)
register(quotient, *QUOTIENT, gives=of_arithmetic, workless=True)
register(quotient, operator.itruediv, "div_", gives=of_update, in_place=True, workless=True)
register(ADDING, *SUM, gives=of_arithmetic, workless=True)
register(ADDING, operator.iadd, operator.isub, "add_", "sub_", gives=of_update, in_place=True, workless=True)
register(MULTIPLYING, *PRODUCT, gives=of_arithmetic, workless=True)
register(MULTIPLYING, operator.imul, "mul_", gives=of_update, in_place=True, workless=True)


def _prelu_widths(prelu: Any, _: int | None) -> dict[str, int]:
    return {"num_parameters": prelu.weight.shape[0]}


@rule(nn.PReLU, keeps_shape=True, workless=True, widths=_prelu_widths)
def prelu(call: Call) -> Effect:
    module: Any = call.module
    return _sloped(call, call.name(f"{call.path}.weight"), module.weight)


@rule(F.prelu, torch.prelu, weights=(1, "weight"), workless=True)
def functional_prelu(call: Call) -> Effect:
    name = call.attribute(1, "weight")
    if name is None:
        return unknown(call, "a prelu with a computed slope")
    return _sloped(call, name, call.parameter(name))


def _sloped(call: Call, name: str, slope: Tensor) -> Effect:
    """A leaky relu with one learnt slope, or one a channel of dim 1."""
    labels: Tensor = call.args[0]
    if slope.numel() == 1:
        return Effect(
            Family.POINTWISE,
            out=labels,
            apply=lambda x, *_: torch.where(x >= 0, x, x * float(slope.detach())),
            homogeneous=True,
            positive_only=True,
        )
    channels = layout(labels, 1)

    def apply(x: Tensor, *_: Any) -> Tensor:
        channelwise = slope.detach().double().cpu().view(-1, *(1,) * (x.dim() - 2))  # x may repeat along its channels
        return torch.where(x >= 0, x, x * channelwise)

    return Effect(
        Family.POINTWISE,
        out=labels,
        sites=(Site(name, 0, channels),),
        ties=ties_along(labels, 1),
        apply=apply,
        homogeneous=True,
        positive_only=True,
    )


@rule(nn.RReLU, keeps_shape=True, workless=True)
def rrelu(call: Call) -> Effect:
    """In eval mode a leaky relu with the mean of its slopes."""
    assert isinstance(call.module, nn.RReLU)
    slope = (call.module.lower + call.module.upper) / 2
    return Effect(
        Family.POINTWISE,
        out=call.args[0],
        apply=lambda x: torch.where(x >= 0, x, x * slope),
        homogeneous=True,
        positive_only=True,
    )
