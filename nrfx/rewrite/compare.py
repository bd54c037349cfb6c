"""The outputs of two networks, compared on the same inputs in eval mode. Neither network is changed."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.errors import TraceError, VerificationError
from nrfx.nests import tensors_of, with_tensors
from nrfx.rewrite.replacement import replaced_network
from nrfx.rewrite.result import Rejuvenation
from nrfx.tracing import PartialModule, TracedModule
from nrfx.tracing.graph.arguments import shown
from nrfx.tracing.recording.draws import drawing_from

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest difference relative to the largest output, by dtype. Two float32 runs of one network differ by up to 3e-5."""

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments."""


def reference(traced: TracedModule, result: Rejuvenation) -> TracedModule:
    """A copy of the network before, with gamma = 0 where the rewrite removed a dead channel.

    After a rewrite by a criterion it is a twin around the same parameters, with constants where channels were given up.
    """
    if result.decided is not None and result.decided.absorption.given:
        return replaced_network(traced, result.decided.live, result.decided.absorption)
    twin = copy.deepcopy(traced)
    with torch.no_grad():
        for name, dead in result.removed.items():
            gamma = twin.get_parameter(name)
            gamma.masked_fill_(dead.to(gamma.device), 0.0)
    return twin


def outputs(module: nn.Module, call: Call, seed: int = 0) -> Mapping[str, Tensor]:
    """The tensors that a network gives in eval mode, by path. It is a copy, so that its mode and buffers may change.

    Draws start from one state each time, and the generators are set back.
    """
    args, kwargs = with_tensors(call, Tensor.clone)
    with torch.no_grad(), drawing_from(seed):
        return _detached(run(module.eval(), args, kwargs))


def run(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Calls a module, without compiling it for these inputs where it is under `module.compile()`."""
    call: Any = module if module._compiled_call_impl is None else module._call_impl
    return call(*args, **kwargs)


def outputs_or_refusal(module: TracedModule, call: Call) -> Mapping[str, Tensor]:
    """As `outputs`; a VerificationError where the network cannot run on these inputs."""
    try:
        return outputs(module, call)
    except (RuntimeError, TypeError, TraceError) as error:
        args, kwargs = call
        given = ", ".join(_described(x) for x in (*args, *kwargs.values()))
        traced = ", ".join(f"{list(shape)} {str(dtype).removeprefix('torch.')}" for shape, dtype in module.inputs)
        raise VerificationError(
            f"The network cannot run on {given or 'no input'}; it was traced on {traced}. Pass inputs like those, on "
            f"the network's device ({str(error).splitlines()[0]})."
        ) from error


def outputs_of_parts(
    before: PartialModule, after: TracedModule, call: Call
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Each part's output in the old network, and in the new one on the same inputs."""
    after.eval()
    args, kwargs = with_tensors(call, Tensor.clone)
    with torch.no_grad():
        calls = before.eval().answers(*args, **kwargs)
        given = [after.get_submodule(call.path).forward(*call.args, **call.kwargs) for call in calls]
    names = [f"call {index}, {call.path}" for index, call in enumerate(calls)]
    expected = {name: call.output for name, call in zip(names, calls, strict=True)}
    return _detached(expected), _detached(dict(zip(names, given, strict=True)))


def is_comparable(expected: Mapping[str, Tensor]) -> bool:
    """Whether there is something to compare with: some numbers, and all of them finite."""
    return any(x.numel() for x in expected.values()) and all(bool(x.isfinite().all()) for x in expected.values())


@contextmanager
def evaluating(module: nn.Module, modules: Iterable[nn.Module] | None = None) -> Iterator[None]:
    """Eval mode, and then every module in the mode that it had.

    modules: those in it, where they are known.
    """
    modes = {part: part.training for part in (module.modules() if modules is None else modules)}
    training = module.training
    # these are in train mode in eval mode; and of two graphs a mode that was set one by one chooses none
    left = isinstance(module, TracedModule) and (module.facts.unmoved["eval"] or module._by_mode)
    if not any(modes.values()) and not left:  # to set a mode takes as long as a small layer
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train(training)  # a traced module chooses its graph there
        for part, mode in modes.items():
            if part.training != mode:
                part.training = mode


def largest_difference(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], told: str = "before") -> float:
    """The largest difference relative to the largest output.

    Args:
        told: whose outputs the expected ones are, for the message.

    Raises:
        VerificationError: it is more than rounding, or there is nothing to compare; names the first such output.
    """
    if expected.keys() != actual.keys():
        raise VerificationError(f"The outputs are {sorted(actual)}; {told} they were {sorted(expected)}.")
    if not any(leaf.numel() for leaf in expected.values()):
        shapes = {name: tuple(leaf.shape) for name, leaf in expected.items()}
        raise VerificationError(f"The outputs have shapes {shapes}: there is nothing to compare. Pass examples.")
    return max(_difference(name, expected[name], actual[name], told) for name in expected)


def _described(value: Any) -> str:
    return f"{shown(value)} on {value.device}" if isinstance(value, Tensor) else shown(value)


def _detached(nest: Any) -> Mapping[str, Tensor]:
    return {path: tensor.detach() for path, tensor in tensors_of(nest).items()}


def _floor(dtype: torch.dtype) -> float:
    """The least size of an output that differences are relative to."""
    return float(torch.finfo(dtype).eps ** 0.5) if dtype.is_floating_point else 1.0


def _difference(name: str, expected: Tensor, actual: Tensor, told: str) -> float:
    if expected.shape != actual.shape:
        raise VerificationError(f"{name} has shape {tuple(actual.shape)}; {told} it was {tuple(expected.shape)}.")
    expected, actual = expected.detach(), actual.detach()  # a parameter may be an output
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
