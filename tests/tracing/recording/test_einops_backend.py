"""What einops does is recorded as the operations of torch that it stands for, at any size."""

import operator
import subprocess
import sys
from typing import Any

import einops.einops
import pytest
import torch
from einops import _backends, einsum, pack, rearrange, reduce, repeat, unpack
from einops.layers.torch import EinMix, Rearrange, Reduce
from torch import Tensor, nn

import nrfx
from tests import zoo
from tests.tracing.models import Joined, assert_kept


def tokens(m: Any, x: Tensor) -> Tensor:
    y = rearrange(m.b(x), "b c h w -> b (h w) c")
    return rearrange(y, "b (h w) c -> b c h w", h=x.shape[-2])


def windows(m: Any, x: Tensor) -> Tensor:
    y = m.b(rearrange(x, "b c (h p) (w q) -> (b h w) c p q", p=2, q=2))
    return rearrange(y, "(b h w) c p q -> b c (h p) (w q)", h=x.shape[2] // 2, w=x.shape[3] // 2)


def pooled(m: Any, x: Tensor) -> Tensor:
    return m.b(reduce(x, "b c (h 2) (w 2) -> b c h w", "max"))  # type: ignore[no-any-return]


def gated(m: Any, x: Tensor) -> Tensor:
    gate = reduce(m.b(x), "b c h w -> b c", "mean")
    return x * repeat(gate, "b c -> b c h w", h=x.shape[2], w=x.shape[3])


def enlarged(m: Any, x: Tensor) -> Tensor:
    return m.b(repeat(x, "b c h w -> b c (h r) (w s)", r=2, s=2))  # type: ignore[no-any-return]


def stacked(m: Any, x: Tensor) -> Tensor:
    return m.b(rearrange([x, x.relu()], "n b c h w -> (n b) c h w"))  # type: ignore[no-any-return]


def weighed(m: Any, x: Tensor) -> Tensor:
    gate = m.b(x).mean((2, 3)).sigmoid()
    return einsum(gate, x, "b c, b c h w -> b c h w")  # type: ignore[no-any-return]


def packed(m: Any, x: Tensor) -> Tensor:
    everything, shapes = pack([x, m.b(x).mean((2, 3))], "b c *")
    maps, means = unpack(everything * 2, shapes, "b c *")
    return maps + means[..., None, None]


FUNCTIONS = (tokens, windows, pooled, gated, enlarged, stacked, weighed, packed)


def by_layers() -> nn.Module:
    """Space to depth, tokens and back, a mean, and a mix, as layers; the images have 8 rows."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(zoo.cbr(3, 8), Rearrange("b c (h p) (w q) -> b (c p q) h w", p=2, q=2), zoo.cbr(32, 8)),
        *(Rearrange("b c h w -> b (h w) c"), nn.Linear(8, 8), Rearrange("b (h w) c -> b c h w", h=4), zoo.cbr(8, 8)),
        *(EinMix("b c h w -> b o h w", weight_shape="c o", bias_shape="o", c=8, o=8), zoo.cbr(8, 8)),
        *(Reduce("b c h w -> b c", "mean"), nn.Linear(8, 4)),
    )


MODELS = {
    **{function.__name__: lambda function=function: Joined(function) for function in FUNCTIONS},
    "layers": by_layers,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_function_is_kept_at_any_size_also_when_channels_go(name: str) -> None:
    result = assert_kept(MODELS[name]())
    assert result.changed and [pin.reason for pin in result.before.pins] == ["the network's output"]


def test_the_graph_holds_operations_of_torch_on_traced_sizes() -> None:
    gm = nrfx.trace(nn.Sequential(zoo.cbr(3, 8), Rearrange("b c h w -> b (h w) c")), torch.zeros(2, 3, 8, 8))
    last = next(node for node in gm.graph.nodes if node.target == "reshape")
    assert [size.target for size in last.args[1]] == [operator.getitem, operator.mul, operator.getitem]


def test_other_tensors_are_refused_as_by_einops() -> None:
    with pytest.raises(nrfx.TraceError, match="can't divide axis of length 8 in chunks of 3"):
        nrfx.trace(Joined(lambda m, x: rearrange(x, "b (c n) h w -> b n c h w", c=3)), torch.zeros(2, 3, 8, 8))


def test_einops_is_as_it_was_after_a_trace() -> None:
    def state() -> list[Any]:
        return [dict(_backends._type2backend), einops.einops._product, Rearrange.forward, Reduce.forward]

    rearrange(torch.zeros(2, 3), "a b -> b a")
    before = state()
    nrfx.trace(Joined(tokens), torch.zeros(2, 3, 8, 8))
    with pytest.raises(nrfx.TraceError):
        nrfx.trace(Joined(lambda m, x: rearrange(x, "b (c n) h w -> b n c h w", c=3)), torch.zeros(2, 3, 8, 8))
    assert state() == before


LATE = """
import sys, torch, nrfx
from torch import nn
class Late(nn.Module):
    def forward(self, x):
        from einops import rearrange
        return rearrange(x, "b (c n) h w -> b n c (h w)", n=x.shape[0])
model, assured = Late(), "einops" not in sys.modules
gm = nrfx.trace(model, torch.zeros(2, 4, 3, 3))
from einops import _backends, einops
assert assured and not _backends._type2backend and not einops._reconstruct_from_shape.cache_info().currsize
x = torch.randn(4, 8, 5, 5)
assert torch.equal(gm(x), model(x))
"""


def test_a_forward_may_import_einops_itself() -> None:
    """In a process of its own: here it is imported already."""
    subprocess.run([sys.executable, "-c", LATE], check=True, timeout=120)
