"""What must hold of every effect. A rule that breaks one of these would give wrong counts, or a wrong network.

Checked at the widths of the trace, on every node, so that a slip in a rule (a bias without its site, a weight read as
if it were an ordinary tensor) is an error that names it, and never a silent mistake.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from nrfx.errors import AnalysisError
from nrfx.labels import joined
from nrfx.rules.effect import Call, Effect, Family, Norm, Reading
from nrfx.rules.registry import op_of, reads_as_weight


def check_effect(call: Call, effect: Effect) -> None:
    """Raises AnalysisError, with the node and the rule, for an effect that contradicts the op that it describes."""
    if effect.family is Family.UNKNOWN or call.resized:
        return
    slip = next(_slips(call, effect), None)
    if slip is not None:
        op = op_of(call.node.target if call.module is None else call.module)
        name = getattr(op.rule, "__name__", "rule") if op is not None else "rule"
        raise AnalysisError(f"Node {call.node.name}: the effect of its rule ({name}) does not fit: {slip}.")


def _slips(call: Call, effect: Effect) -> Iterator[str]:
    yield from _unsaid_weights(call, effect)
    if isinstance(call.val, Tensor) and isinstance(effect.out, Tensor) and effect.out.shape != call.val.shape:
        yield f"its labels have shape {list(effect.out.shape)}, and its result {list(call.val.shape)}"
    for site in effect.sites:
        shape = call.parameter(site.parameter).shape
        if not site.dim < len(shape):
            yield f"dim {site.dim} of {site.parameter} has a site, and its shape is {list(shape)}"
        elif shape[site.dim] != site.layout.numel():
            yield (
                f"dim {site.dim} of {site.parameter} has {shape[site.dim]} positions, and the layout of its site "
                f"{site.layout.numel()}"
            )
    if effect.reading is None and effect.family in (Family.CONTRACTION, Family.GROUPED):
        yield f"an effect of Family.{effect.family.name} has a reading (`weighted` makes one)"
    for reading in (effect.reading, *effect.also):
        if reading is not None:
            yield from _reading_slips(call, effect, reading)
    yield from _unread(call, effect)
    if effect.norm is not None:
        yield from _norm_slips(effect, effect.norm)
    yield from _forgotten(call, effect)


def _reading_slips(call: Call, effect: Effect, reading: Reading) -> Iterator[str]:
    sites = {(site.parameter, site.dim) for site in effect.sites}
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
    """Parameters of the module without a site, beside others that have one."""
    named = {site.parameter for site in effect.sites} | {call.name(f"{call.path}.{name}") for name in effect.fixed}
    if call.module is None or not effect.sites:
        return
    for name, parameter in call.module.named_parameters():
        full = call.name(f"{call.path}.{name}" if call.path else name)
        if parameter.dim() and full not in named:
            yield f"{full} has no site; if it keeps its shape at any width, name it in the effect: fixed=({name!r},)"
