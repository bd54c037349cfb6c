"""What must hold of every effect. A rule that breaks one of these would give wrong counts, or a wrong network.

Checked at the widths of the trace, on every node whose rule is a user's own, and in the tests on every node. A slip in
a rule (a bias without its site, a weight read as if it were an ordinary tensor) is an error that names it.
"""

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from nrfx.errors import AnalysisError
from nrfx.ids import joined
from nrfx.labels import NONE
from nrfx.rules.effect import Call, Effect, Family, Norm, Reading, Unfit, tensors
from nrfx.rules.registry import name_of, reads_as_weight, rule_of

NEEDED: Mapping[Family, str] = {
    Family.CONTRACTION: "reading",
    Family.GROUPED: "reading",
    Family.NORM: "norm",
    Family.POINTWISE: "apply",
    Family.MOVEMENT: "apply",
}
"""What the effects of a family have, for that is how they are followed."""


every_rule = False
"""Whether the effects of nrfx's own rules are checked too, which takes a quarter of an analysis: the tests do so."""


def check_effect(call: Call, effect: Effect) -> None:
    """Raises AnalysisError, with the node and the rule, for an effect that contradicts the op that it describes."""
    trusted = call.resized or (call.shipped and not every_rule)
    if isinstance(effect, Effect) and (trusted or effect.family is Family.UNKNOWN):
        return
    slip = next(_slips(call, effect), None)
    if slip is not None:
        rule = name_of(rule_of(call.node, call.module))
        raise AnalysisError(f"Node {call.node.name}: the effect of its rule ({rule}) does not fit: {slip}.")


def _slips(call: Call, effect: Effect) -> Iterator[str]:
    if not isinstance(effect, Effect):
        yield f"it is {effect!r}, and an Effect is expected"
        return
    yield from _unsaid_weights(call, effect)
    yield from _label_slips(call, effect)
    yield from _family_slips(effect)
    yield from _site_slips(call, effect)
    for reading in (effect.reading, *effect.also):
        if reading is not None:
            yield from _reading_slips(call, effect, reading)
            yield from _axis_slips(call, reading.operand, reading.axis, reading.cols, _kernel_places(call, reading))
    yield from _unread(call, effect)
    if effect.norm is not None:
        yield from _norm_slips(effect, effect.norm)
        yield from _axis_slips(call, 0, effect.norm.axis, effect.norm.layout)
    yield from _forgotten(call, effect)
    if effect.apply is not None and effect.family in _APPLIED:
        yield from _apply_slips(call, effect, effect.apply)


_APPLIED = (Family.MOVEMENT, Family.POINTWISE, Family.MIXED)


def _apply_slips(call: Call, effect: Effect, apply: Callable[..., Any]) -> Iterator[str]:
    """`apply` on what analyses give it: float64 with NaN for what varies, and of a movement int64 ids, -1 for none."""
    moves, whole = effect.family is Family.MOVEMENT, effect.family is not Family.POINTWISE
    for kind, fill in (("float64 with NaN", float("nan")), ("int64 with -1", NONE)) if moves else _FLOATS:
        try:
            results = tensors(apply(*filled(call.args, fill, whole), **filled(call.kwargs, fill, whole)))
        except Unfit:
            return
        except Exception as error:  # whatever a function of a user's own raises
            yield f"its apply fails on {kind} ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
            return
        expected = tensors(effect.out)
        if len(results) != len(expected):
            yield f"its apply gives {len(results)} tensors on {kind}, and its labels are {len(expected)}"
        for result, labels in zip(results, expected, strict=False):
            if whole and result.shape != labels.shape:
                yield f"its apply gives {list(result.shape)} on {kind}, and its labels have shape {list(labels.shape)}"
            if not moves and 0 not in effect.numbers and _loses(result, zero_too=not whole):
                yield "its apply loses NaN, which stands for what varies: torch.where(x.isnan(), x, result)"


_FLOATS = (("float64 with NaN", float("nan")),)


def _loses(result: Tensor, zero_too: bool) -> bool:
    """Whether a number has come out of NaN; a mask may put elements to 0, and an op on each element alone may not."""
    known = result.is_floating_point() & ~result.isnan()
    return bool((known if zero_too else known & (result != 0)).any())


def filled(nest: Any, value: float, whole: bool) -> Any:
    """The nest with a tensor full of one value in the place of each label tensor: of its shape, or of size 1 alone."""
    dtype = torch.int64 if isinstance(value, int) else torch.float64

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        one = torch.full((1,) * leaf.dim(), value, dtype=dtype)
        return one.expand(leaf.shape) if whole else one

    return torch.utils._pytree.tree_map(of, nest)


def _label_slips(call: Call, effect: Effect) -> Iterator[str]:
    labels, values = tensors(effect.out), tensors(call.val)
    if len(labels) != len(values) or isinstance(effect.out, Tensor) is not isinstance(call.val, Tensor):
        yield f"its labels are {_told(effect.out)}, and its result is {_told(call.val)}"
    for own, value in zip(labels, values, strict=False):
        if own.shape != value.shape:
            yield f"its labels have shape {list(own.shape)}, and its result {list(value.shape)}"
        if own.dtype != torch.int64:
            yield f"its labels are {own.dtype}, and int64 is expected"


def _told(nest: Any) -> str:
    return "a tensor" if isinstance(nest, Tensor) else f"a {type(nest).__name__} of {len(tensors(nest))} tensors"


def _family_slips(effect: Effect) -> Iterator[str]:
    family, needed = effect.family.name, NEEDED.get(effect.family)
    if needed is not None and getattr(effect, needed) is None:
        yield f"its family is {family}, and it has no {needed}"
    for field in ("reading", "norm"):
        if getattr(effect, field) is not None and field != needed:
            yield f"it has a {field}, and its family is {family}"
    if effect.reading is not None and (effect.reading.groups > 1) is not (effect.family is Family.GROUPED):
        yield f"its reading has {effect.reading.groups} groups, and its family is {family}"
    if effect.reading is not None and not effect.work:
        yield "it has a reading and no work: Work(times, rows, cols)"


def _site_slips(call: Call, effect: Effect) -> Iterator[str]:
    for site in effect.sites:
        try:
            shape = call.parameter(site.parameter).shape
        except KeyError:
            yield f"a site names {site.parameter!r}, and there is no such parameter: call.own(name) gives the full name"
            continue
        if not site.dim < len(shape):
            yield f"dim {site.dim} of {site.parameter} has a site, and its shape is {list(shape)}"
        elif shape[site.dim] != site.layout.numel():
            yield (
                f"dim {site.dim} of {site.parameter} has {shape[site.dim]} positions, and the layout of its site "
                f"{site.layout.numel()}"
            )


def _reading_slips(call: Call, effect: Effect, reading: Reading) -> Iterator[str]:
    sites = {(site.parameter, site.dim): site.layout for site in effect.sites}
    if reading.bias is not None and (reading.bias, 0) not in sites:
        yield f"the bias {reading.bias} has no site: Site({reading.bias!r}, 0, rows)"
    if reading.weight is None:
        return
    rows, columns = reading.by_rows(call.parameter(reading.weight)).shape[:2]
    if rows != reading.rows.numel() or columns * (reading.groups if reading.groups > 1 else 1) != reading.cols.numel():
        yield (
            f"{reading.weight} has {rows} rows and {columns} columns a group, and the reading {reading.rows.numel()} "
            f"rows, {reading.cols.numel()} columns and {reading.groups} groups"
        )
    own = {dim for parameter, dim in sites if parameter == reading.weight}
    if not own >= ({0} if reading.groups > 1 else {0, 1}):
        yield f"the weight {reading.weight} has sites on dims {sorted(own)} alone"
    first, second = (reading.cols, reading.rows) if reading.transposed else (reading.rows, reading.cols)
    followed = {(reading.weight, 0): first, (reading.weight, 1): second, (reading.bias, 0): reading.rows}
    for place in sites.keys() & followed.keys():
        if not torch.equal(sites[place], followed[place]):
            yield f"the site on dim {place[1]} of {place[0]} has not the layout of the reading"


def _axis_slips(call: Call, operand: int, axis: int, layout: Tensor, places: int = 1) -> Iterator[str]:
    """`places`: how many of the axis a channel may fill, where a weight with a kernel is read as a matrix."""
    shape = tensors((call.args, call.kwargs))[operand].shape
    if not (0 <= axis < len(shape) and shape[axis] in (layout.numel(), layout.numel() * places)):
        yield f"it reads {layout.numel()} channels on axis {axis}, and its operand has shape {list(shape)}"


def _kernel_places(call: Call, reading: Reading) -> int:
    return 1 if reading.weight is None else prod(call.parameter(reading.weight).shape[2:])


def _unread(call: Call, effect: Effect) -> Iterator[str]:
    """Weights that no reading names, though they sum over channels: what they read of a dead channel would be lost.

    A vector is no such weight, and neither is what meets channels that are pinned here or acts on each alone.
    """
    readings = [reading for reading in (effect.reading, *effect.also) if reading is not None]
    if effect.family not in (Family.MIXED, Family.CONTRACTION) or any(each.weight is None for each in readings):
        return
    read = {reading.weight for reading in readings}
    pinned = joined([pin.labels.flatten() for pin in effect.pins])[0]
    for site in effect.sites:
        free = (site.layout >= 0) & ~torch.isin(site.layout, pinned)
        if site.parameter not in read and call.parameter(site.parameter).dim() > 1 and bool(free.any()):
            yield (
                f"dim {site.dim} of {site.parameter} follows channels, and no reading names it: add a Reading to "
                "`reading` or `also`, or pin the channels"
            )


def _norm_slips(effect: Effect, norm: Norm) -> Iterator[str]:
    sites = {site.parameter for site in effect.sites}
    for name in (norm.gamma, norm.beta, norm.mean, norm.var):
        if name is not None and name not in sites:
            yield f"{name} of the norm has no site: Site({name!r}, 0, layout)"


def _unsaid_weights(call: Call, effect: Effect) -> Iterator[str]:
    """Parameters that are arguments of a function and have a site here, but are not among the weights of its entry."""
    named = {site.parameter for site in effect.sites}
    for source in call.node.all_input_nodes if call.module is None and named else ():
        if (
            source.op == "get_attr"
            and call.name(str(source.target)) in named
            and not reads_as_weight(source, call.node)
        ):
            yield (
                f"it reads {source.target} as a weight: say which arguments are weights, "
                f"@rule(..., weights={_places(call.node, source)})"
            )


def _places(node: fx.Node, source: fx.Node) -> str:
    places = [place for place, value in (*enumerate(node.args), *node.kwargs.items()) if value is source]
    return f"({', '.join(map(repr, places))},)"


def _forgotten(call: Call, effect: Effect) -> Iterator[str]:
    """Parameters of more than one number without a site, where others have one or channels pass freely."""
    if call.module is None or (effect.pins and not effect.sites):
        return
    named = {site.parameter for site in effect.sites} | {call.name(f"{call.path}.{name}") for name in effect.fixed}
    for name, parameter in call.module.named_parameters():
        full = call.name(f"{call.path}.{name}" if call.path else name)
        if parameter.numel() > 1 and full not in named:
            yield f"{full} has no site; if it keeps its shape at any width, name it in the effect: fixed=({name!r},)"
