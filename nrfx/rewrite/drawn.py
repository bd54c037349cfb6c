"""The check of outputs that every rewrite gets where it is cheap: on inputs that are drawn, not given."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from math import prod
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.errors import TraceError, VerificationError
from nrfx.nests import tensors_of
from nrfx.rewrite.compare import evaluating, is_comparable, largest_difference, reference, run
from nrfx.rewrite.node_by_node import has_no_code, run_nodes
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import PartialModule, TracedModule
from nrfx.tracing.graph.registered import registered
from nrfx.tracing.graph.shapes import InputSpec
from nrfx.tracing.graph.walk import named_modules
from nrfx.tracing.recording.draws import drawing_from

Specs = tuple[InputSpec, ...]

FLOPS = 2e9
"""Multiply-adds, those of both networks on one batch, beyond which outputs are not compared."""

FULL_SIZE = 5e8
"""Multiply-adds up to which images are drawn as large as those of the trace."""

CHEAP = 1e8
"""Multiply-adds up to which they are drawn so at once; beyond, where the network takes none that are SMALL by SMALL."""

SMALL = 64
"""A height and width that networks with a stride of 32 take."""

NUMBERS = 1e8
"""Parameters and numbers in inputs up to which outputs are compared."""


def check_outputs(traced: TracedModule, result: Rejuvenation, flops: int) -> str:
    """Compares the outputs of the networks before and after on drawn inputs: of the traced shapes, or small images.

    Floats are normal; whole numbers and truths alternate between 1 and 0, which are valid as ids, labels and masks.
    Where they differ, it is looked into: a network that draws in eval mode proves nothing, and in float64 no rounding
    decides which maximum, box or expert is taken.

    Args:
        flops: multiply-adds of one example, those of both networks.

    Returns: why nothing could be compared, "" where all is well.

    Raises:
        VerificationError: the outputs differ by more than rounding, or the new network does not run.
    """
    if result.decided is not None and result.decided.absorption.given:
        before, zeroed = reference(traced, result), {}
    else:
        before, zeroed = traced, _zeroed(traced, result)
    why = "the network is large"
    for inputs in _inputs(traced, flops, result.before.params.total):
        if _agree_in_nhwc(before, result, zeroed, inputs):
            return ""
        try:
            with _code_of(result, before):
                expected = _outputs(before, zeroed, inputs)
        except _FAILURES as error:
            why = f"the network does not run on drawn inputs ({_told(error)})"
            continue
        if is_comparable(expected):
            return _compared(before, traced, result, zeroed, inputs, expected)
        why = "on drawn inputs there is no finite output"
    return why


def _agree_in_nhwc(before: TracedModule, result: Rejuvenation, zeroed: Mapping[int, Tensor], inputs: Specs) -> bool:
    """Whether the outputs agree on images in channels_last, in which convolutions of few positions take three quarters
    of the time. What differs or fails so (a view, an op of the user's own) is looked at as it was traced.
    """
    if not any(len(shape) == 4 for shape, _ in inputs):
        return False
    try:
        with _code_of(result, before):
            expected = _outputs(before, zeroed, inputs, layout=torch.channels_last)
        if not is_comparable(expected):
            return False
        largest_difference(expected, _outputs(result.module, {}, inputs, layout=torch.channels_last))
    except (*_FAILURES, VerificationError):
        return False
    return True


def _compared(
    before: TracedModule,
    traced: TracedModule,
    result: Rejuvenation,
    zeroed: Mapping[int, Tensor],
    inputs: Specs,
    expected: Mapping[str, Tensor],
) -> str:
    """As `check_outputs`, on inputs for which the network before gives `expected`."""
    try:
        actual = _outputs(result.module, {}, inputs)
    except _FAILURES as error:
        raise VerificationError(
            f"The new network does not run where the one before does ({_told(error)}). {_REPORT}"
        ) from error
    try:
        largest_difference(expected, actual)
    except VerificationError as error:
        if _is_random(before, zeroed, inputs, expected):
            return "the network draws random numbers in eval mode"
        if not _agree_in_float64(traced, result, inputs):
            raise VerificationError(f"{error} {_REPORT}") from error
    return ""


@contextmanager
def _code_of(result: Rejuvenation, traced: TracedModule) -> Iterator[None]:
    """Lets the network before run the code of the new one, where both graphs have the same: to write and compile it
    takes as long as to run a small network."""
    new, planned = result.module, result.planned
    graphs = {id(graph): len(graph.nodes) for graph in (*traced.graphs.values(), *new.graphs.values())}
    one = len(graphs) == 2 and len(set(graphs.values())) == 1 and planned is not None and not planned.literals
    known = not {"_code", "forward"}.isdisjoint(vars(traced)) or has_no_code(traced)
    if not one or isinstance(traced, PartialModule) or known:
        yield
        return
    vars(traced)["forward"] = MethodType(type(new).forward, traced)
    try:
        yield
    finally:
        del vars(traced)["forward"]


def _zeroed(traced: TracedModule, result: Rejuvenation) -> dict[int, Tensor]:
    """The gammas of which some channels were removed, 0 there, by the ids of those in the network."""
    gammas = {name: registered(traced, name) for name in result.removed}  # a gamma may be a buffer
    return {
        id(gamma): gamma.detach().masked_fill(dead.to(gamma.device), 0.0)
        for gamma, dead in zip(gammas.values(), result.removed.values(), strict=True)
    }


def _outputs(
    module: TracedModule,
    instead: Mapping[int, Tensor],
    inputs: Specs,
    seed: int = 0,
    layout: torch.memory_format = torch.contiguous_format,
) -> Mapping[str, Tensor]:
    """The outputs that are no whole numbers; of a model in parts, those of each part.

    A network of a few hundred layers takes longer to copy than to run: it runs itself, with some tensors in the places
    of others, which are known by their ids, and copies of its buffers.
    """
    modules = named_modules(module)
    parameters = [each for _, part in modules for each in part._parameters.values() if each is not None]
    buffers = (each for _, part in modules for each in part._buffers.values() if each is not None)
    device = next((tensor.device for tensor in chain(parameters, buffers)), torch.device("cpu"))
    dtype = _dtype(parameters)
    still = evaluating(module, [part for _, part in modules])
    with torch.no_grad(), drawing_from(seed), still, _exchanged(modules, instead):
        if isinstance(module, PartialModule):
            first = {part.path: part for part in reversed(module.facts.parts)}
            given = {path: drawn(part.arguments.inputs, device, dtype, layout) for path, part in first.items()}
            found = tensors_of({path: module.run_part(path, given[path]) for path in first})
        elif has_no_code(module):
            found = tensors_of(run_nodes(module, drawn(inputs, device, dtype, layout)))
        else:
            args, kwargs = module.facts.call(drawn(inputs, device, dtype, layout))
            found = tensors_of(run(module, args, kwargs))
    return {name: x for name, x in found.items() if x.numel() and (x.is_floating_point() or x.is_complex())}


@contextmanager
def _exchanged(modules: Iterable[tuple[str, nn.Module]], instead: Mapping[int, Tensor]) -> Iterator[None]:
    """Puts tensors in the places of parameters and copies in those of buffers, under all of their names; then back."""
    other = dict(instead)
    before: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for _, part in modules:
        registries: tuple[dict[str, Any], dict[str, Any]] = (part._parameters, part._buffers)
        for registry in registries:
            if not registry:
                continue
            own = dict(registry)
            before.append((registry, own))
            for name, tensor in own.items():
                if tensor is None:
                    continue
                exchanged = other.get(id(tensor))
                if exchanged is None and registry is part._buffers:
                    exchanged = other[id(tensor)] = tensor.clone()
                if exchanged is not None:
                    registry[name] = exchanged
    try:
        yield
    finally:
        for registry, tensors in before:
            registry.clear()
            registry.update(tensors)


def _is_random(
    traced: TracedModule, instead: Mapping[int, Tensor], inputs: Specs, expected: Mapping[str, Tensor]
) -> bool:
    again = _outputs(traced, instead, inputs, seed=1)
    return any(not torch.equal(again[name], expected[name]) for name in expected)


def _agree_in_float64(traced: TracedModule, result: Rejuvenation, inputs: Specs) -> bool:
    """Whether the outputs agree where rounding is small; a network that does not run so proves nothing."""
    try:
        expected = _outputs(copy.deepcopy(reference(traced, result)).double(), {}, inputs)
        largest_difference(expected, _outputs(copy.deepcopy(result.module).double(), {}, inputs))
    except (*_FAILURES, VerificationError):
        return False
    return True


def _dtype(parameters: Iterable[Tensor]) -> torch.dtype | None:
    """The dtype of all parameters that are floats, which may have changed since the trace; None where it is not one."""
    dtypes = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


_FAILURES = (
    *(RuntimeError, TypeError, ValueError, LookupError, AssertionError, AttributeError, ArithmeticError),
    TraceError,
)
_REPORT = (
    "Nothing was changed. A rule of your own says something wrong of its op, or one of nrfx does: then please report "
    "this. check=False leaves this comparison out."
)


def drawn(
    inputs: tuple[InputSpec, ...],
    device: torch.device,
    dtype: torch.dtype | None = None,
    layout: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """Inputs of these shapes and dtypes, floats in another one if it is given; the same numbers each time.

    Args:
        layout: how images (4 dims) lie in memory.
    """
    generator = torch.Generator().manual_seed(0)
    given = [
        _drawn(shape, dtype if own.is_floating_point and dtype else own, generator).to(device) for shape, own in inputs
    ]
    return [x.contiguous(memory_format=layout) if x.dim() == 4 else x for x in given]


def _drawn(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator).to(dtype)
    return (torch.arange(prod(shape)) + 1).remainder(2).reshape(shape).to(dtype)


def _inputs(traced: TracedModule, each: int, params: int) -> Iterator[Specs]:
    """What is drawn: small images or inputs of the traced shapes, whichever come first; none where that takes long."""
    examples = max((shape[0] for shape, _ in traced.inputs if shape), default=1)
    flops = each * examples
    if params + sum(prod(shape) for shape, _ in traced.inputs) > NUMBERS:
        return
    small = tuple((_small(shape), dtype) for shape, dtype in traced.inputs)
    share = sum(prod(shape) for shape, _ in small) / max(sum(prod(shape) for shape, _ in traced.inputs), 1)
    if flops > CHEAP and flops * share <= FLOPS:
        yield small
    if flops <= FULL_SIZE and not (flops > CHEAP and small == traced.inputs):
        yield traced.inputs


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    images = len(shape) >= 4 and min(shape[-2:]) > SMALL
    return (*shape[:-2], SMALL, SMALL) if images else shape
