"""The two checks of a rewrite: the new graph's channels are those that were planned, and the outputs agree.

A rule that is wrong in the same way before and after shows in numbers alone; a wrong order of channels shows in labels
too. Labels are checked on every rewrite, numbers where it is cheap (drawn.py) and on request.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.analysis.channels import readers
from nrfx.analysis.spaces import Labels, labels_of
from nrfx.errors import AnalysisError, TraceError, VerificationError
from nrfx.labels import memory_of
from nrfx.plan.resize import Resized
from nrfx.rewrite.compare import (
    Call,
    is_comparable,
    largest_difference,
    outputs,
    outputs_of_parts,
    outputs_or_refusal,
    reference,
)
from nrfx.rewrite.other_sizes import other_sizes
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import PartialModule, TracedModule, as_traced
from nrfx.tracing.capture import positional
from nrfx.tracing.graph.clone import shell


@dataclass(frozen=True)
class Verification:
    """What was compared, and how it agreed.

    Attributes:
        difference: the largest, relative to the largest output.
        compared: a line for each comparison that was made.
        refused: a line for each size on which the model runs, and the traced network says that it cannot.
    """

    difference: float
    compared: tuple[str, ...]
    refused: tuple[str, ...]


def check_labels(after: Labels, planned: Resized) -> None:
    """Raises VerificationError unless the labels of the rewritten graph are exactly the planned ones."""
    # the new graph numbers its labels anew: label of the new graph -> planned label, birth by birth
    same = torch.full((after.count,), -1)
    for key, labels in planned.births.items():
        if key not in after.births or after.births[key].numel() != labels.numel():
            born = after.births[key].numel() if key in after.births else 0
            raise VerificationError(f"{key} brings {born} channels into being; {labels.numel()} were planned.")
        same[after.births[key]] = labels
    # a layout that is a birth agrees with that birth by the way in which `same` is made
    births = {(memory_of(after.births[key]), memory_of(labels)) for key, labels in planned.births.items()}
    axes = _Axes(same, births)
    for key, step in readers(after.steps).items():
        reading = step.effect.reading
        assert reading is not None
        axes.check(f"{reading.path}.weight dim 1", step.node.name, reading.cols, planned.readings[key].cols)
    for name, dims in planned.layouts.items():
        for dim, layout in enumerate(dims):
            now = after.layouts.get(name, (None,) * len(dims))[dim]
            if layout is not None and now is not None:
                axes.check(f"{name} dim {dim}", name, now, layout)


def _labels_of_new(module: TracedModule, planned: Resized) -> Labels:
    try:
        return labels_of(module, planned.axes)
    except AnalysisError as error:
        raise VerificationError(f"The new network is no longer as it was built. {error}") from error


class _Axes:
    """Compares the labels along axes.

    Args:
        same: label of the new graph -> planned label.
        known: pairs of layouts that agree, by their memory; the caller holds all layouts.
    """

    def __init__(self, same: Tensor, known: set[tuple[Any, ...]]) -> None:
        self.same = same
        self.checked = known
        self.seen: set[tuple[int, int]] = set()  # ids of pairs that agree, which the caller holds

    def check(self, place: str, node: str, now: Tensor, planned: Tensor) -> None:
        """Raises VerificationError unless the labels are those that were planned."""
        if (ids := (id(now), id(planned))) in self.seen:
            return
        self.seen.add(ids)
        pair = memory_of(now), memory_of(planned)
        if pair in self.checked:
            return
        if now.numel() != planned.numel():
            raise VerificationError(
                f"{place} wants {planned.numel()} channels, but node {node} delivers {now.numel()}."
            )
        mapped = torch.where(now >= 0, self.same[now.clamp(min=0)], now)
        wrong = (mapped != planned) & ((mapped >= 0) | (planned >= 0))
        if bool(wrong.any()):
            index = int(wrong.nonzero()[0])
            raise VerificationError(
                f"{place}, index {index}: node {node} delivers channel {int(mapped[index])}, not {int(planned[index])}."
            )
        self.checked.add(pair)


def verify(
    before_gm: Any,
    result: Rejuvenation,
    inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    model: nn.Module | None = None,
) -> float:
    """The largest difference of eval outputs, relative to the largest output, between the network before and after.

    Before is a copy of `before_gm` in which the gammas of the channels that went are 0 or, after a rewrite by a
    criterion, one in which constants stand for these channels; both run on `inputs` without
    gradients. Nothing is changed. Of a model that was traced in parts, the outputs of the parts on equal inputs are
    compared, for the order of detections with equal scores is a matter of rounding. After constants=False or
    reinitialize="all" the function differs on purpose: then only the labels are compared and 0.0 is returned.

    Args:
        before_gm: the network that was given to `nrfx.rejuvenate`.
        inputs, kwargs: the arguments of a call, as for `nrfx.trace`.
        model: the model that `before_gm` was traced from, with the same weights. A copy of it runs too, on the inputs
            and on others made of them, of another batch size and of other heights, widths and lengths, where it takes
            them. The traced network must give what it gives, or say that it cannot (TraceError); and so must the new
            one give what the network before gives. `nrfx.rewrite.verify.verified` says what was compared.

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
    return verified(before_gm, result, inputs, kwargs, model=model).difference


def verified(
    before_gm: Any,
    result: Rejuvenation,
    inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    model: nn.Module | None = None,
) -> Verification:
    """`verify`, with all that was compared.

    >>> import nrfx
    >>> gm = nrfx.trace(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 5, 5))
    >>> x = torch.randn(2, 3, 5, 5)
    >>> verified(gm, nrfx.compact(gm), x, model=gm).difference
    0.0
    """
    if not hasattr(result, "planned"):
        raise VerificationError(
            f"verify compares with what nrfx.rejuvenate returned; it got a {type(result).__name__}."
        )
    if model is not None and not isinstance(model, nn.Module):
        raise VerificationError(f"model is a {type(model).__name__}; expected the module that was traced.")
    call = positional(inputs), dict(kwargs or {})
    traced = as_traced(before_gm, *call)
    _check_same_network(traced, result)
    if result.planned is not None:
        check_labels(_labels_of_new(result.module, result.planned), result.planned)
    return _Comparison(traced, result, model).found(call)


def agreement(
    traced: TracedModule, model: nn.Module, inputs: Any = (), kwargs: Mapping[str, Any] | None = None
) -> Verification:
    """How a traced network agrees with the model that it was traced from, on the inputs and at other sizes and batches.

    Raises:
        VerificationError: the outputs differ by more than rounding; names the size and the first output that does.
    """
    call = positional(inputs), dict(kwargs or {})
    return _Comparison(traced, None, model).found(call)


class _Comparison:
    """Copies of the networks, and what was found. Without a result, the model and the traced network are compared."""

    def __init__(self, traced: TracedModule, result: Rejuvenation | None, model: nn.Module | None) -> None:
        self.model = None if model is None else shell(model, _cloned)
        self.traced = traced if model is None else copy.deepcopy(traced)
        self.before = reference(traced, result) if result is not None and _is_comparable(result) else None
        self.after = traced if result is None else copy.deepcopy(result.module)
        self.differences: list[float] = []
        self.compared: list[str] = []
        self.refused: list[str] = []

    def found(self, call: Call) -> Verification:
        """Compares on the inputs and, where there is a model, at other sizes."""
        self.on_inputs(call)
        if self.model is not None:
            for size, other in other_sizes(call):
                self.at(size, other)
        return Verification(max(self.differences, default=0.0), tuple(self.compared), tuple(self.refused))

    def on_inputs(self, call: Call) -> None:
        """Compares on the inputs that were given; no network may refuse them."""
        if self.model is not None:
            expected, actual = _of_model(self.model, call), outputs_or_refusal(self.traced, call)
            self._note(expected, actual, "in the model", "the model and the traced network")
        if isinstance(self.before, PartialModule):
            self._note(
                *outputs_of_parts(self.before, self.after, call), "before", "the networks before and after, in parts"
            )
        elif self.before is not None:
            expected, actual = outputs_or_refusal(self.before, call), outputs_or_refusal(self.after, call)
            self._note(expected, actual, "before", "the networks before and after")

    def at(self, size: str, call: Call) -> None:
        """Compares on inputs of another size, where the model runs on them."""
        if self.model is None or isinstance(self.traced, PartialModule):
            return
        try:
            expected = outputs(self.model, call)
        except _REFUSALS:
            return
        if not is_comparable(expected):
            return
        self._compare_at(size, expected, self.traced, call, "in the model", "the model and the traced network")
        if self.before is not None:
            try:
                expected = outputs(self.before, call)
            except TraceError:
                return
            self._compare_at(size, expected, self.after, call, "before", "the networks before and after")

    def _compare_at(
        self, size: str, expected: Mapping[str, Tensor], module: TracedModule, call: Call, told: str, what: str
    ) -> None:
        try:
            actual = outputs(module, call)
        except TraceError as error:
            self.refused.append(f"{size}: {error}")
            return
        except _REFUSALS as error:
            first = (str(error).splitlines() or [""])[0]
            raise VerificationError(
                f"On {size} {what} do not agree: one runs, and the other fails ({type(error).__name__}: {first})."
            ) from error
        self._note(expected, actual, told, f"{what} on {size}", size)

    def _note(
        self, expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], told: str, what: str, size: str = ""
    ) -> None:
        try:
            difference = largest_difference(expected, actual, told)
        except VerificationError as error:
            raise VerificationError(f"On {size}: {error}" if size else str(error)) from error
        self.differences.append(difference)
        self.compared.append(f"{what}: {difference:.1e}")


def _is_comparable(result: Rejuvenation) -> bool:
    """Whether there is a network before whose outputs those of the new one must be."""
    by_criterion = result.decided is not None and result.decided.absorption.given and not result.decided.scratch
    return result.keeps_function or by_criterion


_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AssertionError, AttributeError, ArithmeticError)
"""What a model raises for inputs that it does not take."""


def _of_model(model: nn.Module, call: Call) -> Mapping[str, Tensor]:
    try:
        return outputs(model, call)
    except _REFUSALS as error:
        first = (str(error).splitlines() or [""])[0]
        raise VerificationError(
            f"The model ({type(model).__name__}) does not run on the inputs ({type(error).__name__}: {first})."
        ) from error


def _cloned(tensor: Tensor) -> Tensor:
    twin = tensor.detach().clone()
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _check_same_network(traced: TracedModule, result: Rejuvenation) -> None:
    parameters = dict(traced.named_parameters())
    for name, dead in result.removed.items():
        if name not in parameters or parameters[name].shape != dead.shape:
            actual = f"is {list(parameters[name].shape)}" if name in parameters else "does not exist"
            raise VerificationError(
                f"The result is not of this network: its {name} was {list(dead.shape)}, and here it {actual}. Pass the "
                "module that was given to nrfx.rejuvenate."
            )
