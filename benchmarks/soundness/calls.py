"""Random calls of the cross layers by their compiled kernels: right ones against float64, wrong ones that must raise.

`python -m benchmarks.soundness.calls --calls 300 --seed 0` makes them with the kernels of this machine, or with those
in the file that --library names; `sanitizers` does that with kernels that watch each read and write. One line of JSON
says what was called. Each call is described on stderr before it is made; one that returns wrong numbers, or that should
have raised, ends the process.
"""

import argparse
import copy
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nrfx.nn import Cross, CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear, implementation, implementations, native
from nrfx.nn.attention import Form
from nrfx.nn.library import library, load

LAYERS = (CrossLinear, CrossConv1d, CrossConv2d, CrossConv3d)  # by the number of spatial dims
WAYS = ("auto", "attend", "direct", "direct", "direct")
WIDTHS = (0, 1, 3, 5, 16, 17, 34, 64, 70)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the largest number of a tensor


@dataclass(frozen=True)
class Call:
    """A layer, an input and the gradient of its output, to be computed in one way on some threads."""

    layer: Cross
    x: Tensor
    grad: Tensor
    way: str
    threads: int

    def __str__(self) -> str:
        parameters = {name: p.stride() for name, p in self.layer.named_parameters()}
        return (
            f"{self.layer} by {self.way} on {self.threads} threads: x {list(self.x.shape)} {self.x.stride()} "
            f"{self.x.dtype}, gradient {self.grad.stride()}, parameters {parameters}"
        )


# Right calls


def draw_layer(draw: random.Random) -> Cross:
    """A layer of any kind: absent generations, runs in any order, odd widths."""
    spatial, count = draw.choice((0, 1, 2, 2, 2, 3)), draw.randint(1, 5)
    ins, outs = ([draw.choice(WIDTHS) for _ in range(count)] for _ in range(2))
    ins[draw.randrange(count)] += draw.randint(1, 60)
    outs[draw.randrange(count)] += draw.randint(1, 60)
    runs = [(generation, width) for generation, width in enumerate(ins) if width]
    if draw.random() < 0.5:
        runs = [(g, part) for g, width in runs for part in (width // 2, width - width // 2) if part]
        draw.shuffle(runs)
    options: dict[str, Any] = {"bias": draw.random() < 0.7, "in_runs": runs}
    if spatial:
        kernel = [draw.randint(1, 4) for _ in range(spatial)] if draw.random() < 0.6 else [1] * spatial
        dilation = draw.choice((1, 1, 2, 3))
        options |= {
            "kernel_size": kernel,
            "stride": draw.choice((1, 1, 1, 1, 2)),
            "padding": [draw.randint(0, (size - 1) * dilation + (draw.random() < 0.1)) for size in kernel],
            "dilation": dilation,
        }
    layer: Cross = LAYERS[spatial](ins, outs, **options)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def draw_input(draw: random.Random, layer: Cross) -> Tensor:
    """An input that fits the layer's channels, of any batch or none."""
    channels, spatial = layer.form.weight_shape[1], len(layer.kernel_size)
    if not spatial:
        return torch.randn(*draw.choice(((), (1,), (30,), (4, 7), (97,))), channels)
    sizes = [draw.randint(1 if draw.random() < 0.1 else 5, 20 if spatial < 3 else 7) for _ in range(spatial)]
    return torch.randn(*draw.choice(((), (0,), (1,), (2,), (3,))), channels, *sizes)


def negative(x: Tensor) -> Tensor:
    """A view that torch negates when it reads it."""
    return torch._neg_view(-x)


def strided(x: Tensor) -> Tensor:
    return torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]


def expanded(x: Tensor) -> Tensor:
    return x.flatten()[:1].expand(x.shape) if x.numel() else x


def transposed(x: Tensor) -> Tensor:
    """The dims in memory the other way round."""
    back = tuple(reversed(range(x.dim())))
    return x.permute(back).contiguous().permute(back)


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x


MEMORIES: Sequence[Callable[[Tensor], Tensor]] = (negative, strided, expanded, transposed, channels_last)


def draw_memory(draw: random.Random, x: Tensor) -> Tensor:
    """The same numbers (of an expanded tensor: one of them) as they may lie in memory."""
    return draw.choice(MEMORIES)(x) if draw.random() < 0.5 else x


def draw_call(draw: random.Random) -> Call | None:
    """A right call; None where the kernel is larger than the input, which is none."""
    layer = draw_layer(draw)
    x = draw_input(draw, layer)
    with torch.no_grad(), implementation("reference"):
        try:
            out = layer(x)
        except RuntimeError as error:
            assert "ernel size" in str(error), error
            return None
    for name, parameter in list(layer.named_parameters()):
        layer.register_parameter(name, nn.Parameter(draw_memory(draw, parameter.detach())))
    way, grad = draw.choice(WAYS), draw_memory(draw, torch.randn_like(out))
    if way == "attend" and draw.random() < 0.3:
        layer, x, grad = layer.bfloat16(), x.bfloat16(), grad.bfloat16()
    return Call(layer, draw_memory(draw, x), grad, way, draw.randint(1, 3))


def numbers(layer: Cross, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of each parameter."""
    x = x.detach().requires_grad_()
    out = layer(x)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    return dict(zip(("out", "x", *names), (out, *torch.autograd.grad(out, [x, *parameters], grad)), strict=True))


def check(call: Call) -> None:
    """Raises AssertionError where the numbers are not those of plain operations in float64."""
    with implementation("reference"):
        truth = numbers(copy.deepcopy(call.layer).double(), call.x.double(), call.grad.double())
    with implementation(call.way):
        found = numbers(call.layer, call.x, call.grad)
    for name, expected in truth.items():
        mine = found[name]
        assert mine.shape == expected.shape, f"{name} has the shape {list(mine.shape)}"
        if not expected.numel():
            continue
        limit = TOLERANCE[mine.dtype] * expected.abs().max().clamp(min=1e-2)
        error = (mine - expected).abs().max()
        assert error <= limit, f"{name} is off by {error:.3g}, at most {limit:.3g} may be"


# Wrong calls


def other_channels(draw: random.Random, call: Call) -> Any:
    dim = call.layer.channel_dim
    size = draw.choice([n for n in (0, 1, 7, call.x.shape[dim] + 1, 2 * call.x.shape[dim]) if n != call.x.shape[dim]])
    shape = list(call.x.shape)
    shape[dim] = size
    return call.layer(torch.randn(shape, dtype=call.x.dtype))


def other_rank(draw: random.Random, call: Call) -> Any:
    if len(call.layer.kernel_size) == 0:
        return call.layer(torch.tensor(1.0))
    return call.layer(draw.choice((call.x[..., 0, :].flatten(), call.x[None, None])))


def other_dtype(draw: random.Random, call: Call) -> Any:
    return call.layer(call.x.to(draw.choice((torch.float64, torch.float16, torch.int64))))


def other_device(_: random.Random, call: Call) -> Any:
    return call.layer(call.x.to("meta"))


def other_parameter(draw: random.Random, call: Call) -> Any:
    name = draw.choice([name for name, _ in call.layer.named_parameters()])
    old = call.layer.get_parameter(name)
    shape = list(old.shape)
    dim = draw.randrange(len(shape))
    shape[dim] += draw.choice((-1, 1, shape[dim]))
    setattr(call.layer, name, nn.Parameter(torch.randn(shape, dtype=old.dtype)))
    return call.layer(call.x)


def other_saved(_: random.Random, call: Call) -> Any:
    """Who packs saved tensors gives back others: half as many examples, or a smaller weight."""
    if call.x.numel() == 0:
        return other_device(_, call)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t[: len(t) // 2], lambda t: t):
        out = call.layer(call.x.detach().requires_grad_())
    out.sum().backward()
    return None


WRONG: Mapping[str, Callable[[random.Random, Call], Any]] = {
    f.__name__: f for f in (other_channels, other_rank, other_dtype, other_device, other_parameter, other_saved)
}


def check_wrong(call: Call, name: str, draw: random.Random) -> None:
    """Raises AssertionError where a wrong call returns."""
    try:
        with implementation(call.way):
            WRONG[name](draw, call)
    except RuntimeError:
        return
    raise AssertionError("it returned, and should have raised RuntimeError")


# All of them


def run(calls: int, seed: int) -> Counter[str]:
    """Makes as many right calls, and a wrong one after each; how often what was called."""
    draw, counted = random.Random(seed), Counter[str]()
    torch.manual_seed(seed)
    while counted["right"] < calls:
        call = draw_call(draw)
        if call is None:
            continue
        torch.set_num_threads(call.threads)
        wrong = draw.choice(list(WRONG))
        print(f"{call}, then {wrong}", file=sys.stderr, flush=True)
        with implementation(call.way):
            counted[implementations.choice(call.x, call.layer.get_parameter("weight"), call.layer.form)] += 1
        check(call)
        counted["right"] += 1
        check_wrong(call, wrong, draw)
        counted["wrong"] += 1
    return counted


def spoil() -> None:
    """Reads behind the end of an array on purpose: what watches must notice."""
    form = Form(((0, 8), (1, 8)), (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    native.checked = lambda tensor, *_: tensor  # type: ignore[attr-defined]
    native.Direct(torch.randn(2, 16, 9, 9), form).forward(
        torch.randn(1, 16, 9, 9), torch.randn(16, 16, 3, 3), None, False
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the calls and prints what was called."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soundness.calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=300, help="right calls, each with a wrong one behind it (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--library", type=Path, help="the compiled kernels; without it those of this machine")
    parser.add_argument("--spoil", action="store_true", help="one read behind the end of an array, and nothing else")
    options = parser.parse_args(arguments)
    if options.library:
        loaded = load(options.library)
        native.library = implementations.library = lambda: loaded  # type: ignore[attr-defined]
    elif library() is None:
        return 1
    if options.spoil:
        spoil()
        return 0
    print(json.dumps(run(options.calls, options.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
