"""Views that make the heads of an attention: with a head fewer they give fewer heads, not as many of less width."""

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.nn import ChannelScale

X = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WIDTH = 6


def divided(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, x.shape[-1] // heads).transpose(1, 2)


def unflattened(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def transposed_first(x: Tensor, heads: int) -> Tensor:
    return x.transpose(1, 2).unflatten(1, (heads, x.shape[-1] // heads)).transpose(2, 3)


def chunked(x: Tensor, heads: int) -> Tensor:
    return torch.stack(x.chunk(heads, -1), 1)


def flat_with_batch(x: Tensor, heads: int) -> Tensor:
    batch, length = x.shape[0], x.shape[1]
    x = x.view(batch, length, heads, WIDTH).transpose(1, 2).reshape(batch * heads, length, WIDTH)
    return x.view(batch, heads, length, WIDTH)


def flat_with_batch_and_open(x: Tensor, heads: int) -> Tensor:
    batch, length = x.shape[0], x.shape[1]
    x = x.view(batch, length, heads, WIDTH).transpose(1, 2).reshape([batch * heads, -1, WIDTH])
    return x.view(batch, heads, length, WIDTH)


class Attention(nn.Module):
    def __init__(self, split, heads: int) -> None:
        super().__init__()
        self.split, self.heads = split, heads
        self.q, self.k, self.v = (nn.Linear(12, heads * WIDTH, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * WIDTH, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(layer(x), self.heads) for layer in (self.q, self.k, self.v))
        return self.out(((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2))


def rewritten(split, heads: int, rewrite) -> tuple[nn.Module, nn.Module]:
    """The network whose last half of heads is dead, and the rewritten one."""
    torch.manual_seed(0)
    scaled = nrfx.insert_scales(Attention(split, heads).double().eval(), X)
    (scale,) = (module for module in scaled.modules() if isinstance(module, ChannelScale))
    with torch.no_grad():
        scale.weight.view(heads, WIDTH)[heads // 2 :] = 0.0
    return scaled, rewrite(scaled).module


def compacted(scaled: nn.Module) -> nrfx.Rejuvenation:
    return nrfx.compact(scaled, check=False)


def grown(scaled: nn.Module) -> nrfx.Rejuvenation:
    return nrfx.rejuvenate(scaled, nrfx.Budget.relative(scaled, params=1.0), scheme="dense", check=False)


@pytest.mark.parametrize("rewrite", [compacted, grown])
@pytest.mark.parametrize("heads", [2, 4, 6])
@pytest.mark.parametrize("split", [
    divided, unflattened, transposed_first, chunked, flat_with_batch, flat_with_batch_and_open,
])  # fmt: skip
def test_heads_keep_their_width_whatever_spells_them(split, heads: int, rewrite) -> None:
    before, after = rewritten(split, heads, rewrite)
    for x in (X, X[:1], X[:, :3]):
        assert float((before(x) - after.eval()(x)).detach().abs().max()) < 1e-12


def test_a_number_that_takes_the_batch_in_is_left_open() -> None:
    _, after = rewritten(flat_with_batch, 4, compacted)
    assert after.get_submodule("q").out_features == 2 * WIDTH
    assert ".reshape(-1, " in after.code
