"""Notes on labels say what looking at every label would find, in networks with attention."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

from nrfx.analysis import interpret
from nrfx.analysis.spaces import channels_of
from nrfx.labels import ascends, collapse, noted
from nrfx.rules import Family, movement, tensors
from nrfx.tracing import trace


def swin() -> nn.Module:
    """Windows that are shifted, and padded ones: a map of 6 x 6 and one of 3 x 3."""
    return SwinTransformer([4, 4], 8, [2, 2], [2, 4], [2, 2], num_classes=5)


def swin_v2() -> nn.Module:
    return SwinTransformer(
        *([4, 4], 8, [2, 2], [2, 4], [4, 4]),
        num_classes=5,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )


def vit() -> nn.Module:
    return VisionTransformer(24, 8, 2, 2, 8, 16, num_classes=5)


def maxvit() -> nn.Module:
    return MaxVit((24, 24), 8, 3, [8, 8], [1, 1], 4, 0.1, num_classes=5)


class Heads(nn.Module):
    """Attention written out, with a mask and with the examples beside the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.proj = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 5)
        self.bias = nn.Parameter(torch.zeros(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
        scores = torch.bmm(q * 0.5, k.transpose(1, 2)).view(n, 2, tokens, tokens) + self.bias
        scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1) > 0, -1e9).softmax(-1).view(-1, tokens, tokens)
        y = torch.bmm(scores, v).view(n, 2, tokens, -1).transpose(1, 2).reshape(n, tokens, width)
        return self.proj((x + y).mean(1))


def found(net: nn.Module) -> list[object]:
    """The labels of all nodes with the dims along which they are in memory once, ties, pins, work and spaces."""
    channels = channels_of(trace(net, torch.zeros(2, 3, 24, 24)))
    effects = [step.effect for step in channels.steps if step.effect.family is not Family.VALUE]
    outs = [(collapse(t).tolist(), t.shape) for effect in effects for t in tensors(effect.out)]
    pins = [(pin.labels.flatten().unique().tolist(), pin.node, pin.reason) for pin in channels.pins]
    ties = [(left.tolist(), right.tolist()) for _, left, right in channels.ties]
    work = [
        (each.times, *(None if axis is None else axis.tolist() for axis in (each.rows, each.cols)))
        for effect in effects
        for each in effect.work
    ]
    sites = [(site.parameter, site.dim, site.layout.tolist()) for effect in effects for site in effect.sites]
    return [outs, pins, ties, work, sites, channels.spaces, channels.axes, channels.channel_of.tolist()]


@pytest.mark.parametrize("make", [swin, swin_v2, vit, maxvit, Heads])
def test_labels_ties_and_pins_are_those_of_labels_without_notes(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make()
    known = found(net)
    monkeypatch.setattr(interpret, "born", lambda first, width: noted(torch.arange(first, first + width)))
    monkeypatch.setattr(movement, "moves_alone", lambda *_: False)
    plain = found(net)
    for one, other in zip(known, plain, strict=True):
        assert one == other


def test_what_attention_gives_lies_in_the_memory_of_a_birth() -> None:
    """The labels of the values, which products and sums with others hand on."""
    steps = channels_of(trace(swin(), torch.zeros(1, 3, 24, 24))).steps
    outs = [step.effect.out for step in steps if step.node.target is torch.matmul]
    named = [step.effect.out for step in steps if step.node.name.startswith(("matmul", "softmax"))]
    assert named and all(map(ascends, [*outs, *named]))


@pytest.mark.parametrize("shape", [(6, 9), (1, 6, 9)])
def test_a_bare_parameter_holds_its_channels_along_the_axis_on_which_it_meets_them(shape: tuple[int, ...]) -> None:
    """The last axis is tried first, which is that of the positions here."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.shift = nn.Conv2d(3, 6, 1), nn.Parameter(torch.zeros(shape))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).flatten(2) + self.shift

    channels = channels_of(trace(Net(), torch.zeros(2, 3, 3, 3)))
    assert channels.axes == {"shift": len(shape) - 2}
    assert [dict(space.births) for space in channels.spaces] == [{"conv": 1, "shift": 1}]
