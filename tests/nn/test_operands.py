"""Wrong calls of the cross layers: what nn's layers raise is raised before a kernel reads memory, in every way.

The wrong calls run in a process of their own, so that a crash is a failed test and not the end of all tests.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nrfx.nn import Cross, CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear, implementation, native
from nrfx.nn import implementations as chosen
from nrfx.nn.attention import Form

WAYS = ("auto", "reference", "attend", "direct")
FAST = ("attend", "direct")

# name: (the cross layer, the nn layer of the same parameters, an input). Large enough for "auto" to take kernels.
CASES: dict[str, tuple[Callable[[], Cross], Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: CrossLinear((64, 64), (64, 65)), lambda: nn.Linear(128, 129), (512, 128)),
    "1d": (
        lambda: CrossConv1d((32, 32), (32, 33), 3, padding=1),
        lambda: nn.Conv1d(64, 65, 3, padding=1),
        (8, 64, 256),
    ),
    "2d": (
        lambda: CrossConv2d((32, 32), (32, 33), 3, padding=1),
        lambda: nn.Conv2d(64, 65, 3, padding=1),
        (4, 64, 24, 24),
    ),
    "2d of one": (lambda: CrossConv2d((64, 64), (64, 65), 1), lambda: nn.Conv2d(128, 129, 1), (4, 128, 16, 16)),
    "3d of one": (lambda: CrossConv3d((64, 64), (64, 65), 1), lambda: nn.Conv3d(128, 129, 1), (2, 128, 4, 8, 16)),
}


def with_channels(change: Callable[[int], int], layer: nn.Module, x: Tensor) -> Tensor:
    dim = channel_dim(x)
    shape = [change(size) if at == dim else size for at, size in enumerate(x.shape)]
    return layer(torch.randn(shape))


def channel_dim(x: Tensor) -> int:
    return 1  # of a linear layer's [positions, channels] as well


def with_parameter(name: str, change: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor) -> Tensor:
    setattr(layer, name, nn.Parameter(change(layer.get_parameter(name).detach())))
    return layer(x)


def longer(x: Tensor, dim: int = 0) -> Tensor:
    return torch.cat([x, x.narrow(dim, 0, 1)], dim)


def shorter(x: Tensor, dim: int = 0) -> Tensor:
    return x.narrow(dim, 0, x.shape[dim] - 1)


def larger_kernel(x: Tensor) -> Tensor:
    return nn.functional.pad(x, (1, 1) * (x.dim() - 2)) if x.dim() > 2 else x[None]


# name: (the call, words of the message). What nn's layer takes, a cross layer refuses for its generations' sake.
MISTAKES: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "one channel more": (partial(with_channels, lambda n: n + 1), r"expected an input of (64|128) channels.*(65|129)"),
    "one channel less": (partial(with_channels, lambda n: n - 1), r"expected an input of (64|128) channels.*(63|127)"),
    "twice the channels": (partial(with_channels, lambda n: 2 * n), r"expected an input of (64|128).*(128|256)"),
    "one channel": (partial(with_channels, lambda n: 1), "but got 1 channels"),
    "no channel": (partial(with_channels, lambda n: 0), "but got 0 channels"),
    "a number": (lambda layer, x: layer(torch.tensor(1.0)), r"but got one of shape \[\]"),
    "float64": (lambda layer, x: layer(x.double()), r"input of torch\.float64.*is of torch\.float32"),
    "bfloat16": (lambda layer, x: layer(x.bfloat16()), r"input of torch\.bfloat16.*is of torch\.float32"),
    "integers": (lambda layer, x: layer(x.long()), r"input of torch\.int64.*is of torch\.float32"),
    "another device": (lambda layer, x: layer(x.to("meta")), "input on meta, but its weight is on cpu"),
    "a longer bias": (partial(with_parameter, "bias", longer), r"bias of a Cross\w+ has the shape \[(66|130)\]"),
    "a shorter bias": (partial(with_parameter, "bias", shorter), r"bias of a Cross\w+ has the shape \[(64|128)\]"),
    "a bias of one": (partial(with_parameter, "bias", lambda b: b[:1]), r"bias of a Cross\w+ has the shape \[1\]"),
    "a bias of two dims": (partial(with_parameter, "bias", lambda b: b[None]), r"bias of .* has the shape \[1, "),
    "a float64 bias": (partial(with_parameter, "bias", Tensor.double), r"bias is of torch\.float64"),
    "more rows": (partial(with_parameter, "weight", longer), r"weight of a Cross\w+ has the shape \[(66|130), "),
    "fewer rows": (partial(with_parameter, "weight", shorter), r"weight of a Cross\w+ has the shape \[(64|128), "),
    "fewer columns": (
        partial(with_parameter, "weight", partial(shorter, dim=1)),
        r"weight of a Cross\w+ has the shape \[(65|129), (63|127)",
    ),
    "a larger kernel": (partial(with_parameter, "weight", larger_kernel), r"weight of a Cross\w+ has the shape \["),
    "a float64 weight": (partial(with_parameter, "weight", Tensor.double), r"weight is of torch\.float64"),
    "a list": (lambda layer, x: layer(x.tolist()), "takes a tensor, but got a list"),
}
CONVOLUTIONS_ONLY = {
    "no image": (lambda layer, x: layer(x[0, 0]), r"expected an input \[N, .*but got one of shape"),
    "one dim more": (lambda layer, x: layer(x[None]), r"expected an input \[N, .*but got one of shape"),
    "an image below the kernel": (lambda layer, x: layer(x[..., :0]), ""),
}
TAKEN_BY_NN = {  # or by nn.Linear, which broadcasts
    *("a bias of one", "a bias of two dims", "more rows", "fewer rows", "a larger kernel", "a float64 weight"),
    *("an image below the kernel", "another device"),
}


def mistakes(case: str) -> dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]]:
    return MISTAKES if case == "linear" else MISTAKES | CONVOLUTIONS_ONLY


def inputs(shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Contiguous, and with the channels fastest."""
    yield torch.randn(shape)
    if len(shape) > 2:
        yield torch.randn(shape).movedim(1, -1).contiguous().movedim(-1, 1)


def outcome(call: Callable[[], Tensor]) -> list[str]:
    try:
        return ["returned", str(list(call().shape))]
    except Exception as error:  # whatever it is: the test compares it
        return [type(error).__name__, str(error)]


def report(way: str) -> None:
    """Prints what each wrong call came to; what ends the process leaves the name of the call behind on stderr."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for case, (cross, _, shape) in CASES.items():
        for at, x in enumerate(inputs(shape)):
            for name, (call, _) in mistakes(case).items():
                print(f"{case}, {name}", file=sys.stderr, flush=True)
                with implementation(way):
                    print(json.dumps([case, at, name, *outcome(partial(call, cross(), x))]))


FORKS = """
import os, sys
from tests.nn.test_operands import WAYS, report
for way in WAYS:  # a process for each, for which the imports are done
    child = os.fork()
    if not child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[1]}/{way}.{name}", os.O_CREAT | os.O_WRONLY), stream)
        report(way)
        sys.exit()
    print(way, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def ended() -> dict[str, tuple[int, str, str]]:
    """The exit status and the streams of a process for each way."""
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run([sys.executable, "-c", FORKS, name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        status = dict(line.split() for line in done.stdout.splitlines())
        return {
            way: (int(status[way]), Path(name, f"{way}.out").read_text(), Path(name, f"{way}.err").read_text())
            for way in WAYS
        }


def reported(way: str) -> list[list[str]]:
    status, out, err = ended()[way]
    assert status == 0, f"{way} ended the process with {status}: {err.splitlines()[-3:]}"
    return [json.loads(line) for line in out.splitlines()]


# What must not happen


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_call_raises_and_says_what_was_expected_and_found(way: str) -> None:
    found = reported(way)
    assert len(found) == sum(len(mistakes(case)) * len(list(inputs(CASES[case][2]))) for case in CASES)
    for case, _, name, kind, text in found:
        assert kind == ("TypeError" if name == "a list" else "RuntimeError"), f"{way}, {case}, {name}: {kind}: {text}"
        assert re.search(mistakes(case)[name][1], text), f"{way}, {case}, {name}: {text}"


@pytest.mark.parametrize("case", CASES)
def test_it_raises_what_nn_raises(case: str) -> None:
    """And where nn's layer broadcasts or takes another weight, only the generations make it an error."""
    _, dense, shape = CASES[case]
    raised = {name: kind for found, _, name, kind, _ in reported("auto") if found == case}
    for name, (call, _) in mistakes(case).items():
        kind, text = outcome(partial(call, dense(), torch.randn(shape)))
        assert kind == raised[name] or (kind == "returned" and name in TAKEN_BY_NN), f"{name}: {kind}: {text}"


@pytest.mark.parametrize("case", CASES)
def test_the_right_call_takes_the_way_that_the_wrong_ones_were_meant_for(case: str) -> None:
    cross, _, shape = CASES[case]
    layer = cross()
    for x in inputs(shape):
        for way in FAST:
            with implementation(way):
                assert chosen.choice(x, layer.weight, layer.form) == way
        assert chosen.choice(x, layer.weight, layer.form) in FAST


@pytest.mark.parametrize("scheme", ["attention", "removed"])
def test_without_cross_connections_the_same_inputs_are_refused(scheme: str) -> None:
    layer = CrossConv2d((4, 4), (3, 3), 3, scheme=scheme)
    for shape, words in [((1, 9, 5, 5), "8 channels in dim -3, but got 9"), ((8, 5), r"shape \[8, 5\]")]:
        with pytest.raises(RuntimeError, match=words):
            layer(torch.randn(shape))
    layer.bias = nn.Parameter(torch.zeros(1))
    with pytest.raises(RuntimeError, match=r"shape \[1\], expected \[6\]"):
        layer(torch.randn(1, 8, 5, 5))


def test_kernels_refuse_what_they_would_take_for_something_else() -> None:
    """The second line of defence, for mistakes of nrfx itself."""
    form = Form(((0, 8), (1, 8)), (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    x, weight = torch.randn(2, 16, 9, 9), torch.randn(16, 16, 3, 3)
    call = native.Direct(x, form)
    for wrong in (x[:1], x.double(), x.to("meta"), x[:, :8]):
        with pytest.raises(RuntimeError, match=r"needs \[2, 16, 9, 9\] of torch.float32 on cpu"):
            call.forward(wrong, weight, None, False)
    with pytest.raises(RuntimeError, match=r"needs \[16, 16, 3, 3\]"):
        call.forward(x, weight[:8], None, False)
    with pytest.raises(RuntimeError, match=r"needs \[16\]"):
        call.forward(x, weight, torch.zeros(15), False)
    with pytest.raises(RuntimeError, match=r"needs \[2, 16, 9, 9\]"):
        call.backward(x[:1], x, weight, None, (True, True))
    with pytest.raises(RuntimeError, match="do not take an input of shape"):
        native.Direct(torch.randn(2, 15, 9, 9), form)
    ys = [torch.randn(2, 16, 9, 9) for _ in range(2)]
    for wrong in (ys[:1], [ys[0], ys[1][:1]], [y[:, :8] for y in ys], [y.double() for y in ys]):
        with pytest.raises(RuntimeError, match=r"The attention got|needs \[2, 16, 9, 9\]"):
            native.attend_forward(wrong, form, torch.contiguous_format)
        with pytest.raises(RuntimeError, match=r"The attention got|needs \[2, "):
            native.attend_backward(ys[0], wrong, form, torch.contiguous_format)


@pytest.mark.parametrize("way", FAST)
def test_memory_that_is_gone_is_an_error_and_no_crash(way: str) -> None:
    layer, x = CrossLinear((64, 64), (64, 65)), torch.randn(512, 128)
    layer.weight.untyped_storage().resize_(0)
    with implementation("direct"), pytest.raises(RuntimeError, match="memory is not there"):
        layer(x)


@pytest.mark.parametrize("way", FAST)
def test_a_tensor_that_changed_between_forward_and_backward_is_an_error(way: str) -> None:
    layer, x = CrossLinear((64, 64), (64, 65)), torch.randn(512, 128, requires_grad=True)
    with implementation(way):
        out = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        out.sum().backward()
