"""Ops of torch on values of one shape are run once; what may depend on more is run each time."""

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from nrfx.tracing.graph.equal_calls import EqualCalls


def runs(kind: str, target: Any, *calls: tuple[Any, ...], calls_of: EqualCalls | None = None) -> int:
    """How often the op is run for calls with these arguments; each gives what it gives alone."""
    equal_calls, node, times = calls_of or EqualCalls(), fx.Graph().create_node(kind, target, (), {}), []
    equal_calls.begin()
    function = (lambda x, *rest: getattr(x, target)(*rest)) if isinstance(target, str) else target

    def run(args: Any, kwargs: Any) -> Any:
        times.append(args)
        return function(*args, **kwargs)

    for args in calls:
        alone, found = function(*args), equal_calls.value(node, run, args, {})
        parts = zip(*((each,) if isinstance(each, Tensor) else each for each in (alone, found)), strict=True)
        assert all((a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype) for a, b in parts)
    return len(times)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


class Plain(Tensor):
    pass


@pytest.mark.parametrize(
    ("kind", "target", "calls"),
    [
        ("call_function", torch.clamp, [(meta(2, 3), 0), (meta(2, 3), 0.0)]),
        ("call_function", operator.getitem, [(meta(2, 3), 1), (meta(2, 3), True)]),
        ("call_function", torch.exp, [(meta(2, 3),), (meta(3, 2),)]),
        ("call_function", torch.exp, [(meta(2, 3),), (meta(3, 2).t(),)]),
        ("call_function", torch.exp, [(meta(2, 3),), (meta(2, 3, dtype=torch.float64),)]),
        ("call_function", torch.exp, [(meta(2, 3),), (meta(2, 3).as_subclass(Plain),)]),
        ("call_function", torch.cat, [([meta(2, 3)] * 2,), ([meta(2, 3)] * 3,)]),
        ("call_method", "reshape", [(meta(2, 3), 6), (meta(2, 3), (6,))]),
        ("call_method", "unsqueeze_", [(meta(2, 3), 0), (meta(2, 3), 0)]),
        ("call_function", lambda x: x + 1, [(meta(2, 3),), (meta(2, 3),)]),
        ("call_function", getattr, [(meta(2, 3), "mT"), (meta(2, 3), "mT")]),
        ("call_function", operator.iadd, [(meta(2, 3), 1), (meta(2, 3), 1)]),
    ],
)
def test_other_calls_are_run(kind: str, target: Any, calls: list[tuple[Any, ...]]) -> None:
    assert runs(kind, target, *calls) == len(calls)


@pytest.mark.parametrize(
    ("kind", "target", "args"),
    [
        ("call_function", torch.clamp, (meta(2, 3), 0)),
        ("call_function", F.normalize, (meta(2, 3),)),
        ("call_function", operator.getitem, (meta(2, 3), (slice(0, 1), ..., None))),
        ("call_method", "split", (meta(2, 3), [1, 1])),
        ("call_method", "transpose", (meta(2, 3), 0, 1)),
    ],
)
def test_equal_calls_are_run_once(kind: str, target: Any, args: tuple[Any, ...]) -> None:
    assert runs(kind, target, args, args, args) == 1


def test_in_a_mode_of_torch_and_with_another_default_dtype_all_are_run() -> None:
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    call = meta(2, 3, dtype=torch.int64), 2
    with Mode():
        assert runs("call_function", torch.true_divide, call, call) == 2
    calls = EqualCalls()
    assert runs("call_function", torch.true_divide, call, calls_of=calls) == 1
    torch.set_default_dtype(torch.float64)
    try:
        assert runs("call_function", torch.true_divide, call, calls_of=calls) == 1
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_shape_that_is_changed_in_place_is_that_of_one_value_alone() -> None:
    equal_calls, node = EqualCalls(), fx.Graph().create_node("call_function", torch.exp, (), {})
    equal_calls.begin()
    one, other = (equal_calls.value(node, lambda args, kwargs: torch.exp(*args), (meta(2, 3),), {}) for _ in range(2))
    one.unsqueeze_(0)
    third = equal_calls.value(node, lambda args, kwargs: torch.exp(*args), (meta(2, 3),), {})
    assert one.shape == (1, 2, 3) and other.shape == third.shape == (2, 3)
