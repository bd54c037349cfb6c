"""The Triton kernels against plain operations in float64, interpreted on the CPU: there is no GPU here."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from nrfx.nn.attention import Form, attend, attention, maps
from nrfx.nn.fused import Attend

pytest.importorskip("triton")  # comes with torch, on Linux only


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """The module, imported under TRITON_INTERPRET=1 and forgotten after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        sys.modules.pop("nrfx.nn.triton_kernels", None)
        yield importlib.import_module("nrfx.nn.triton_kernels")
        del sys.modules["nrfx.nn.triton_kernels"]


def close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for mine, truth in zip(found, expected, strict=True):
        assert mine.shape == truth.shape
        assert (mine - truth).abs().max() <= tolerance * truth.abs().max()


PRECISIONS = [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
TWO = ((0, 19), (1, 15))


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("runs", "rows"),
    [(TWO, (9, 14)), (TWO, (0, 7)), (((0, 2), (1, 3), (2, 4)), (3, 2, 5)), (((1, 2), (2, 4)), (3, 2, 5))],
)
def test_the_attention_and_its_gradient(kernels, runs, rows, last, dtype, tolerance) -> None:
    form = Form(runs, rows, (1, 1), (1, 1), (0, 0), (1, 1))
    layout = torch.channels_last if last else torch.contiguous_format
    ys = [torch.randn(3, sum(rows), 5, 7, dtype=dtype).to(memory_format=layout).requires_grad_() for _ in form.inputs]
    out = Attend.apply(kernels, form, *ys)
    grad = torch.randn_like(out)
    truth = [y.detach().double().requires_grad_() for y in ys]
    expected = attend(truth, form)
    close(
        [out, *torch.autograd.grad(out, ys, grad)],
        [expected, *torch.autograd.grad(expected, truth, grad.double())],
        tolerance,
    )


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(
    ("runs", "rows"),
    [
        (TWO, (9, 21)),
        (((1, 16), (0, 32)), (16, 33)),  # generations that end where blocks do, in the other order
        (((0, 3), (1, 40)), (20, 3)),
        (((0, 40), (1, 5)), (20, 3)),
        (TWO, (0, 21)),
    ],
)
def test_one_product_with_two_accumulators(kernels, runs, rows, dtype, tolerance) -> None:
    form = Form(runs, rows, (1, 1), (1, 1), (0, 0), (1, 1))
    x = (
        torch.randn(2, sum(w for _, w in runs), 5, 9, dtype=dtype)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )
    weight = (0.3 * torch.randn(sum(rows), x.shape[1], 1, 1)).to(dtype).requires_grad_()
    assert kernels.takes_pointwise(x, form)
    out = kernels.pointwise(x, weight, form)
    assert out.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(out)
    truth = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = attention(*truth, form)
    found = [out, *torch.autograd.grad(out, (x, weight), grad)]
    close(found, [expected, *torch.autograd.grad(expected, truth, grad.double())], tolerance)


def test_a_linear_layer_is_the_same_product_and_can_be_differentiated_twice(kernels) -> None:
    form = Form(TWO, (9, 14))
    x, weight = torch.randn(4, 5, 34, requires_grad=True), torch.randn(23, 34, requires_grad=True)
    torch.testing.assert_close(kernels.pointwise(x, weight, form), attention(x, weight, form))
    twice = []
    for run in (kernels.pointwise, attention):
        (slope,) = torch.autograd.grad(run(x, weight, form).square().sum(), x, create_graph=True)
        twice.append(torch.autograd.grad(slope.square().sum(), weight)[0])
    close(twice[:1], twice[1:], 1e-5)


def test_what_the_product_is_not_made_for_is_left_to_others(kernels) -> None:
    x = torch.randn(2, 34, 5, 9).to(memory_format=torch.channels_last)
    point = ((1, 1), (1, 1), (0, 0), (1, 1))
    assert not kernels.takes_pointwise(x.contiguous(), Form(TWO, (9, 14), *point))
    assert not kernels.takes_pointwise(x, Form(((0, 9), (1, 15), (0, 10)), (9, 14), *point))
    assert not kernels.takes_pointwise(x, Form(((1, 19), (2, 15)), (9, 7, 7), *point))
    assert not kernels.takes_pointwise(x, Form(TWO, (9, 14), (3, 3), (1, 1), (1, 1), (1, 1)))
    assert not kernels.takes_pointwise(x, Form(TWO, (9, 14), (1, 1), (2, 2), (0, 0), (1, 1)))


WRONG = """
import torch
from nrfx.nn import triton_kernels as kernels
from nrfx.nn.attention import Form

form = Form(((0, 19), (1, 15)), (9, 14), (1, 1), (1, 1), (0, 0), (1, 1))
plain = torch.contiguous_format
x = torch.randn(2, 34, 5, 9).to(memory_format=torch.channels_last)
w = torch.randn(23, 34, 1, 1)
ys = [torch.randn(2, 23, 5, 9) for _ in range(2)]
last = [y.to(memory_format=torch.channels_last) for y in ys]
gone = w.clone()
gone.untyped_storage().resize_(0)
calls = [
    *[(kernels.pointwise, wrong, w, form) for wrong in (x[:, :33], x.double(), x[0, 0])],
    *[(kernels.pointwise, x, wrong, form) for wrong in (w[:22], w[:, :33], w.double(), w.to("meta"), gone)],
    *[(kernels.attend_forward, wrong, form, plain) for wrong in (ys[:1], last, [ys[0], ys[1][:1]])],
    (kernels.attend_forward, [y[:, :22] for y in ys], form, plain),
    *[(kernels.attend_backward, wrong, ys, form, plain) for wrong in (ys[0][:1], last[0], ys[0].double())],
]
for at, (call, *arguments) in enumerate(calls):
    try:
        call(*arguments)
    except RuntimeError as error:
        print(at, error)
print("calls", len(calls))
"""


def test_wrong_calls_raise_before_a_kernel_reads_memory() -> None:
    """In a process of its own, so that a crash is a failed test."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", WRONG], env=environment, capture_output=True, text=True, check=True)
    *errors, count = done.stdout.splitlines()
    assert count == "calls 15"
    assert [line.split()[0] for line in errors] == [str(at) for at in range(15)], done.stdout
    assert all(
        word in done.stdout for word in ("but got 33", "needs [23, 34]", "memory is not there", "The attention got")
    )


def among_nans(x: Tensor) -> Tensor:
    """x, channels last, in the middle of a memory that holds NaN: whatever is read beside it shows."""
    memory = torch.full((x.numel() + 8192,), torch.nan, dtype=x.dtype)
    last = x.movedim(1, -1)
    inside = memory[4096 : 4096 + x.numel()].view(last.shape)
    inside.copy_(last)
    return inside.movedim(-1, 1)


def negative(x: Tensor) -> Tensor:
    """x as a view that torch negates when it reads it: the memory holds -x."""
    return torch._neg_view((-x).clone())


def expanded(x: Tensor) -> Tensor:
    return x.flatten()[0].expand(x.shape)


@pytest.mark.parametrize("odd", [among_nans, negative, expanded])
def test_odd_memory_is_read_as_numbers(kernels, odd) -> None:
    form = Form(TWO, (9, 14), (1, 1), (1, 1), (0, 0), (1, 1))
    x = torch.randn(2, 34, 5, 9).to(memory_format=torch.channels_last)
    weight, grad = 0.3 * torch.randn(23, 34, 1, 1), torch.randn(2, 23, 5, 9)
    for change in range(3):
        given = [odd(t) if at == change else t for at, t in enumerate((x, weight, grad))]
        mine = [t.detach().requires_grad_() for t in given[:2]]
        truth = [t.detach().double().requires_grad_() for t in given[:2]]
        expected = attention(*truth, form)
        expected = [expected, *torch.autograd.grad(expected, truth, given[2].double())]
        ys = [y.contiguous(memory_format=torch.channels_last) for y in maps(*mine, form)]
        for out in (kernels.pointwise(*mine, form), Attend.apply(kernels, form, *ys)):
            close([out, *torch.autograd.grad(out, mine, given[2], retain_graph=True)], expected, 1e-5)


def test_batched_gradients_take_plain_operations(kernels) -> None:
    form = Form(TWO, (9, 14))
    x, weight = torch.randn(4, 5, 34, requires_grad=True), torch.randn(23, 34, requires_grad=True)
    out, grads = kernels.pointwise(x, weight, form), torch.randn(2, 4, 5, 23)
    batched = torch.autograd.grad(out, (x, weight), grads, is_grads_batched=True, retain_graph=True)
    single = [torch.autograd.grad(out, (x, weight), grad, retain_graph=True) for grad in grads]
    close(list(batched), [torch.stack(each) for each in zip(*single, strict=True)], 1e-5)
