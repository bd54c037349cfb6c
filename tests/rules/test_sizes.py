"""What an entry says an op gives on meta tensors is what the op gives."""

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.nn import CrossConv2d, CrossLinear
from nrfx.rules import op_of
from nrfx.tracing.graph.clone import on_meta, shell


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def with_bias(layer: Any, bias: Tensor) -> nn.Module:
    layer.bias = nn.Parameter(bias)
    return layer


def named(value: Any) -> str:
    return getattr(value, "__name__", str(value))  # the text of a builtin has its address


def told(target: Any, *args: Any, **kwargs: Any) -> Any:
    op = op_of(target)
    assert op is not None and op.gives is not None
    return op.gives(target if isinstance(target, nn.Module) else None, args, kwargs)


def assert_alike(said: Any, done: Any) -> None:
    if isinstance(said, tuple):
        assert [each is None for each in said] == [each is None for each in done]
        for one, other in zip(said, done, strict=True):
            if one is not None:
                assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        return
    assert (said.shape, said.dtype, said.stride()) == (done.shape, done.dtype, done.stride())


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(4, 6), (2, 4)),
        (nn.Linear(4, 6), (4,)),
        (nn.Linear(4, 6), (2, 3, 4)),
        (nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, bias=False), (2, 4, 9, 8)),
        (nn.Conv2d(4, 6, (3, 1), padding=(2, 0), dilation=(3, 2)), (4, 9, 8)),
        (nn.Conv2d(6, 6, 5, padding=2, groups=6, stride=(3, 2)), (1, 6, 9, 8)),
        (nn.Conv3d(4, 6, 2, stride=2), (2, 4, 6, 7, 8)),
        (CrossConv2d((2, 2), (3, 3), 3, stride=2, padding=1), (2, 4, 9, 8)),
        (CrossConv2d((2, 2), (3, 3), 1, scheme="removed"), (2, 4, 9, 8)),
        (CrossLinear((2, 2), (3, 1)), (2, 5, 4)),
        (nn.MaxPool1d(3, padding=1), (2, 4, 9)),
        (nn.MaxPool2d(3, stride=2, padding=1), (2, 4, 9, 8)),
        (nn.MaxPool2d((2, 3), stride=(1, 2), dilation=2, padding=(1, 0)), (4, 9, 8)),
        (nn.MaxPool2d(3, stride=2, ceil_mode=True), (2, 4, 10, 8)),
        (nn.MaxPool2d(2, stride=3, padding=1, ceil_mode=True), (2, 4, 6, 5)),  # a window that would begin in padding
        (nn.MaxPool3d(2), (1, 4, 6, 7, 8)),
        (nn.AvgPool1d(2), (2, 4, 9)),
        (nn.AvgPool2d(2, stride=2, ceil_mode=True), (1, 1, 9, 8)),
        (nn.AvgPool2d(3, stride=2, padding=1), (4, 9, 8)),
        (nn.AvgPool3d(2, stride=1), (2, 4, 6, 7, 8)),
        (nn.AdaptiveAvgPool1d(3), (2, 4, 9)),
        (nn.AdaptiveAvgPool2d(1), (2, 4, 9, 8)),
        (nn.AdaptiveAvgPool2d((7, None)), (2, 4, 5, 8)),
        (nn.AdaptiveAvgPool2d(1), (4, 9, 8)),
        (nn.AdaptiveAvgPool3d((1, 2, 3)), (2, 4, 6, 7, 8)),
    ],
    ids=str,
)
def test_a_layer_gives_what_it_says(layer: nn.Module, x: tuple[int, ...]) -> None:
    layer = shell(layer, on_meta)
    assert_alike(told(layer, meta(*x)), layer(meta(*x)))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"need_weights": False}, {"need_weights": True}], ids=str)
def test_attention_gives_what_it_says(batch_first: bool, options: dict[str, Any]) -> None:
    layer = shell(nn.MultiheadAttention(8, 2, batch_first=batch_first), on_meta)
    query, key = (meta(3, 5, 8), meta(3, 7, 8)) if batch_first else (meta(5, 3, 8), meta(7, 3, 8))
    assert_alike(told(layer, query, key, key, **options), layer(query, key, key, **options))


@pytest.mark.parametrize("op", [operator.add, torch.sub, operator.mul, torch.div, operator.iadd, "mul_"], ids=named)
@pytest.mark.parametrize("other", [2, 0.5, "x"])
def test_arithmetic_gives_what_it_says(op: Any, other: Any) -> None:
    x = meta(2, 3, dtype=torch.float64)
    args = (x, meta(2, 3, dtype=torch.float64) if other == "x" else other)
    assert_alike(told(op, *args), getattr(x, op)(*args[1:]) if isinstance(op, str) else op(*args))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3, 4, 5), (2, 3, 1, 1)),
        ((1, 3, 1, 5), (3, 1, 1)),
        ((2, 1, 4), (4,)),
        ((2, 3), ()),
        ((1, 1, 1, 1), (1,)),
        ((2, 3, 4), (1, 1, 1, 1)),
        ((1, 2), (3, 1)),
    ],
)
def test_arithmetic_repeats_one_of_two_tensors_or_does_not_know(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    for one, other in ((left, right), (right, left)):
        said = told(operator.mul, meta(*one), meta(*other))
        whole = torch.broadcast_shapes(one, other)
        assert (said is None) is (whole not in (one, other))
        if said is not None:
            assert_alike(said, meta(*one) * meta(*other))
        assert (told("add_", meta(*one), meta(*other)) is None) is (whole != one)


@pytest.mark.parametrize(
    ("shapes", "dim"),
    [
        ([(2, 3, 4, 4), (2, 5, 4, 4)], 1),
        ([(2, 3), (4, 3), (1, 3)], 0),
        ([(2, 1, 1, 1), (2, 3, 1, 1)], -3),
        ([(3, 5)], -1),
        ([(2, 0), (2, 3)], 1),
    ],
)
def test_a_concatenation_gives_what_it_says(shapes: list[tuple[int, ...]], dim: int) -> None:
    parts = [meta(*shape) for shape in shapes]
    assert_alike(told(torch.cat, parts, dim), torch.cat(parts, dim))
    assert_alike(told(torch.cat, tuple(parts), dim=dim), torch.cat(parts, dim))


def test_an_adaptive_average_as_a_function_gives_what_it_says() -> None:
    for size in (1, (1, 1), (None, 3)):
        args: Any = (meta(2, 4, 9, 8), size)
        assert_alike(told(F.adaptive_avg_pool2d, *args), F.adaptive_avg_pool2d(*args))


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    [
        (F.linear, (meta(2, 3, 4), meta(6, 4)), {}),
        (F.linear, (meta(4), meta(6, 4), meta(6)), {}),
        (F.linear, (meta(5, 4), meta(6, 4)), {"bias": meta(6)}),
        (F.linear, (meta(2, 3, 5, 4), meta(6, 4), None), {}),
        (F.pad, (meta(2, 9, 8, 4), (0, 0, 0, 3, 1, 2)), {}),
        (F.pad, (meta(2, 9, 8, 4), [0, 0]), {"value": 1.0}),
        (F.pad, (meta(2, 1, 8), (1, 2, 3, 4, 5, 6), "constant"), {}),
        (F.pad, (meta(2, 1, 8, 1), (1, 1, 1, 1)), {"mode": "constant"}),
        (torch.roll, (meta(2, 9, 8, 4),), {"shifts": (-3, 3), "dims": (1, -2)}),
        (torch.roll, (meta(2, 9), 3, 0), {}),
        (torch.softmax, (meta(2, 3, 4), -1), {}),
        (F.softmax, (meta(2, 3, 4),), {"dim": 0}),
        (F.softmax, (meta(2, 3, 4),), {"dim": 0, "_stacklevel": 3, "dtype": None}),
        (torch.cumsum, (meta(2, 3, 4), 1), {}),
        (F.normalize, (meta(2, 3, 4),), {}),
        (F.normalize, (meta(2, 3, 4).transpose(1, 2),), {"dim": -1}),
        (F.normalize, (meta(6, 3, 4)[::2].permute(2, 0, 1),), {"p": 1, "dim": 0, "eps": 1e-3, "out": None}),
    ],
    ids=named,
)
def test_a_function_gives_what_it_says(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert_alike(told(target, *args, **kwargs), target(*args, **kwargs))


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (F.linear, (meta(2, 5), meta(6, 4))),
        (F.linear, (meta(2, 4), meta(4))),
        (F.linear, (meta(2, 4), meta(6, 4), meta(5))),
        (F.linear, (meta(2, 4), meta(6, 4), meta(6, dtype=torch.float64))),
        (F.linear, (meta(4, 2).t(), meta(6, 4))),
        (F.pad, (meta(2, 9), (0, -1))),
        (F.pad, (meta(2, 9), (0, 1), "reflect")),
        (F.pad, (meta(2, 9), (0, 1, 2))),
        (F.pad, (meta(9), (0, 1, 2, 3))),
        (F.pad, (meta(9, 2).t(), (0, 1))),
        (torch.roll, (meta(2, 9), 3)),
        (torch.roll, (meta(2, 9), (3, 1), 1)),
        (torch.roll, (meta(2, 9), 3, 2)),
        (torch.softmax, (meta(2, 9), 2)),
        (torch.softmax, (meta(2, 9), 1, torch.float64)),
        (F.softmax, (meta(2, 9),)),
        (torch.cumsum, (meta(2, 9, dtype=torch.int64), 1)),
        (F.normalize, (meta(2, 1, 4),)),
        (F.normalize, (meta(9),)),
        (nn.MaxPool2d(2, return_indices=True), (meta(2, 4, 9, 9),)),
        (nn.MaxPool2d(2), (meta(9, 9),)),
        (nn.MaxPool2d(2, padding=2), (meta(2, 4, 9, 9),)),
        (nn.MaxPool2d(4), (meta(2, 4, 3, 9),)),
        (nn.AvgPool2d(2), (meta(2, 4, 9, 9, dtype=torch.int64),)),
        (nn.AvgPool3d(3, padding=1), (meta(2, 4, 3, 3, 2),)),
        (nn.AvgPool2d(2), (meta(2, 4, 9, 9).to(memory_format=torch.channels_last),)),
        (nn.AdaptiveAvgPool2d(1), (meta(2, 0, 9, 9),)),
        (nn.AdaptiveAvgPool2d(None), (meta(2, 4, 9, 9),)),  # type: ignore[arg-type]
        (F.adaptive_avg_pool2d, (meta(2, 4, 9, 9),)),
        (F.adaptive_avg_pool2d, (meta(2, 4, 9, 9), (1, 2, 3))),
        (torch.cat, ([meta(2, 3), meta(2, 3, dtype=torch.float64)],)),
        (torch.cat, ([meta(2, 3), meta(3, 3)], 1)),
        (torch.cat, ([meta(0), meta(3, 3)], 0)),
        (torch.cat, ([meta(2, 3)], 2)),
        (torch.cat, ([], 0)),
        (nn.Linear(4, 6), (meta(2, 5),)),
        (nn.Linear(4, 6), (meta(2, 4, dtype=torch.float64),)),
        (nn.Conv2d(4, 6, 3), (meta(2, 5, 9, 9),)),
        (nn.Conv2d(4, 6, 3), (meta(2, 4, 2, 9),)),
        (nn.Conv2d(4, 6, 3), (meta(9, 9),)),
        (nn.Conv2d(4, 6, 3, padding="same"), (meta(2, 4, 9, 9),)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (meta(2, 4, 9, 9),)),
        (nn.Conv2d(4, 6, 3), (meta(2, 4, 9, 9).to(memory_format=torch.channels_last),)),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), (meta(2, 4, 9, 9),)),
        (CrossConv2d((2, 2), (3, 3), 3), (meta(2, 5, 9, 9),)),
        (nn.MultiheadAttention(8, 2), (meta(5, 8), meta(5, 8), meta(5, 8))),
        (nn.MultiheadAttention(8, 2, add_zero_attn=True), (meta(5, 2, 8),) * 3),
        (nn.MultiheadAttention(8, 2, add_bias_kv=True), (meta(5, 2, 8),) * 3),
        (with_bias(nn.Linear(4, 4), torch.zeros(3)), (meta(2, 4),)),
        (with_bias(nn.Conv2d(4, 4, 1), torch.zeros(4).double()), (meta(2, 4, 3, 3),)),
        (operator.add, (meta(2, 3), meta(2))),
        (operator.add, (meta(2, 3).t(), meta(3, 2))),
        (operator.add, (meta(2, 3), meta(2, 3, dtype=torch.float64))),
        (operator.mul, (meta(2, 3, dtype=torch.int64), 0.5)),
        (operator.mul, (meta(2, 3), 1j)),
        (operator.add, (2, 3)),
    ],
    ids=named,
)
def test_what_it_does_not_know_is_left_to_the_op(target: Any, args: tuple[Any, ...]) -> None:
    assert told(target, *args) is None


@pytest.mark.parametrize("op", [F.softmax, torch.softmax], ids=named)
def test_a_softmax_of_another_dtype_is_left_to_the_op(op: Any) -> None:
    assert told(op, meta(2, 9), dim=1, dtype=torch.float64) is None
