"""The two checks of a rewrite: the new graph's channels are those that were planned, and the outputs agree.

A rule that is wrong in the same way before and after shows in numbers alone; a wrong order of channels shows in labels
too. Labels are checked on every rewrite, numbers on request.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import Channels, readers
from nrfx.analysis.spaces import channels_of
from nrfx.errors import AnalysisError, TraceError, VerificationError
from nrfx.nests import tensors_of, with_tensors
from nrfx.plan.resize import Resized
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import PartialModule, TracedModule, as_traced
from nrfx.tracing.arguments import shown
from nrfx.tracing.capture import positional

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest difference relative to the largest output, by dtype. Two float32 runs of one network differ by up to 3e-5."""


def check_labels(after: Channels, planned: Resized) -> None:
    """Raises VerificationError unless the channels of the rewritten graph are exactly the planned ones."""
    # the new graph numbers its labels anew: label of the new graph -> planned label, birth by birth
    same = torch.full((after.channel_of.numel(),), -1)
    for key, labels in planned.births.items():
        if key not in after.births or after.births[key].numel() != labels.numel():
            born = after.births[key].numel() if key in after.births else 0
            raise VerificationError(f"{key} brings {born} channels into being; {labels.numel()} were planned.")
        same[after.births[key]] = labels
    for key, step in readers(after.steps).items():
        reading = step.effect.reading
        assert reading is not None
        place = f"{reading.path}.weight dim 1"
        _check_axis(place, step.node.name, reading.cols, planned.readings[key].cols, same)
    for name, dims in planned.layouts.items():
        for dim, layout in enumerate(dims):
            now = after.layouts.get(name, (None,) * len(dims))[dim]
            if layout is not None and now is not None:
                _check_axis(f"{name} dim {dim}", name, now, layout, same)


def _channels_of_new(module: TracedModule, planned: Resized) -> Channels:
    try:
        return channels_of(module, axes=planned.axes)
    except AnalysisError as error:
        raise VerificationError(f"The new network is no longer as it was built. {error}") from error


def _check_axis(place: str, node: str, now: Tensor, planned: Tensor, same: Tensor) -> None:
    mapped = torch.where(now >= 0, same[now.clamp(min=0)], now)
    if now.numel() != planned.numel():
        raise VerificationError(f"{place} wants {planned.numel()} channels, but node {node} delivers {now.numel()}.")
    wrong = (mapped != planned) & ((mapped >= 0) | (planned >= 0))
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        raise VerificationError(
            f"{place}, index {index}: node {node} delivers channel {int(mapped[index])}, not {int(planned[index])}."
        )


def verify(before_gm: Any, result: Rejuvenation, inputs: Any = (), kwargs: Mapping[str, Any] | None = None) -> float:
    """The largest difference of eval outputs, relative to the largest output, between the network before and after.

    Before is a copy of `before_gm` in which the gammas of the channels that went are 0; both run on `inputs` without
    gradients. Nothing is changed. Of a model that was traced in parts, the outputs of the parts on equal inputs are
    compared, for the order of detections with equal scores is a matter of rounding. After constants=False or
    reinitialize="all" the function differs on purpose: then only the labels are compared and 0.0 is returned.

    Args:
        before_gm: the network that was given to `nrfx.rejuvenate`.
        inputs, kwargs: the arguments of a call, as for `nrfx.trace`.

    Raises:
        VerificationError: the outputs differ by more than rounding (names the first output that does), or the inputs do
            not fit.

    >>> import nrfx
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).double().eval()
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    >>> gm = nrfx.trace(net, x)
    >>> result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    >>> nrfx.verify(gm, result, x) < 1e-12
    True
    """
    if not hasattr(result, "planned"):
        raise VerificationError(
            f"verify compares with what nrfx.rejuvenate returned; it got a {type(result).__name__}."
        )
    call = positional(inputs), dict(kwargs or {})
    traced = as_traced(before_gm, *call)
    _check_same_network(traced, result)
    if result.planned is not None:
        check_labels(_channels_of_new(result.module, result.planned), result.planned)
    if not result.keeps_function:
        return 0.0
    before, after = reference(traced, result), copy.deepcopy(result.module)
    if isinstance(before, PartialModule):
        expected, actual = _answers(before, after, call)
    else:
        expected, actual = _flat(_outputs(before, call)), _flat(_outputs(after, call))
    if expected.keys() != actual.keys():
        raise VerificationError(f"The outputs are {sorted(actual)}; before they were {sorted(expected)}.")
    if not any(leaf.numel() for leaf in expected.values()):
        shapes = {name: tuple(leaf.shape) for name, leaf in expected.items()}
        raise VerificationError(f"The outputs have shapes {shapes}: there is nothing to compare. Pass examples.")
    return max(_difference(name, expected[name], actual[name]) for name in expected)


def _check_same_network(traced: TracedModule, result: Rejuvenation) -> None:
    parameters = dict(traced.named_parameters())
    for name, dead in result.removed.items():
        if name not in parameters or parameters[name].shape != dead.shape:
            actual = f"is {list(parameters[name].shape)}" if name in parameters else "does not exist"
            raise VerificationError(
                f"The result is not of this network: its {name} was {list(dead.shape)}, and here it {actual}. Pass the "
                "module that was given to nrfx.rejuvenate."
            )


def reference(traced: TracedModule, result: Rejuvenation) -> TracedModule:
    """A copy of the network before, with gamma = 0 where the rewrite removed a dead channel."""
    twin = copy.deepcopy(traced)
    with torch.no_grad():
        for name, dead in result.removed.items():
            gamma = twin.get_parameter(name)
            gamma.masked_fill_(dead.to(gamma.device), 0.0)
    return twin


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


def _outputs(module: nn.Module, call: Call) -> Any:
    """The outputs in eval mode; the module is a copy, so that its mode may change."""
    args, kwargs = copied(call)
    try:
        with torch.no_grad():
            return module.eval()(*args, **kwargs)
    except (RuntimeError, TypeError, TraceError) as error:
        given = ", ".join(
            shown(x) + (f" on {x.device}" if isinstance(x, Tensor) else "") for x in (*args, *kwargs.values())
        )
        of_trace: Any = getattr(module, "inputs", ())
        traced = ", ".join(f"{list(shape)} {str(dtype).removeprefix('torch.')}" for shape, dtype in of_trace)
        raise VerificationError(
            f"The network cannot run on {given or 'no input'}; it was traced on {traced}. Pass inputs like those, on "
            f"the network's device ({str(error).splitlines()[0]})."
        ) from error


def _described(value: Any) -> str:
    return f"{shown(value)} on {value.device}" if isinstance(value, Tensor) else shown(value)


def copied(nest: Any) -> Any:
    """The nest with copies of its tensors, for a network may write into what it is given and what it gave."""
    return with_tensors(nest, Tensor.clone)


def _answers(
    before: PartialModule, after: TracedModule, call: Call
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Each part's output in the old network, and in the new one on the same inputs."""
    after.eval()
    args, kwargs = copied(call)
    with torch.no_grad():
        calls = before.eval().answers(*args, **kwargs)
        given = [after.get_submodule(call.path).forward(*call.args, **call.kwargs) for call in calls]
    names = [f"call {index}, {call.path}" for index, call in enumerate(calls)]
    expected = {name: call.output for name, call in zip(names, calls, strict=True)}
    return _flat(expected), _flat(dict(zip(names, given, strict=True)))


def _floor(dtype: torch.dtype) -> float:
    """The least size of an output that differences are relative to."""
    return float(torch.finfo(dtype).eps ** 0.5) if dtype.is_floating_point else 1.0


def _flat(nest: Any) -> Mapping[str, Tensor]:
    return {path: tensor.detach() for path, tensor in tensors_of(nest).items()}


def _difference(name: str, expected: Tensor, actual: Tensor) -> float:
    """The largest difference relative to the largest output; raises VerificationError beyond the tolerance."""
    if expected.shape != actual.shape:
        raise VerificationError(f"{name} has shape {tuple(actual.shape)}; before it was {tuple(expected.shape)}.")
    if not expected.numel():
        return 0.0
    if not bool(expected.isfinite().all()):
        raise VerificationError(
            f"{name} of the network before is not finite on these inputs, so that nothing can be compared: weights, "
            "statistics or inputs hold NaN or inf."
        )
    # an output that is 0 but for rounding (a mean of what a norm has centred) has no scale of its own
    scale = max(float(expected.double().abs().max()), _floor(expected.dtype))
    difference = float((expected.double() - actual.double()).abs().max()) / scale
    tolerance = TOLERANCE.get(expected.dtype, 1e-3)
    if not difference <= tolerance:  # so that NaN fails
        raise VerificationError(
            f"{name} differs by {difference:.2e} relative to its largest value {scale:.3g}; rounding explains "
            f"{tolerance:.0e}."
        )
    return difference
