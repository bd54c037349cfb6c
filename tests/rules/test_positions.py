"""Notes on padded labels say what looking at every label would find."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.analysis.spaces import channels_of
from nrfx.labels import NONE, collapse, repeated
from nrfx.rules import movement, positions, tensors
from nrfx.tracing import trace

Step = Callable[[Tensor], Tensor]


def padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, 2, 0, 1))


def beside(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1))


def nothing(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, 0))


def rolled(x: Tensor) -> Tensor:
    return torch.roll(x, (1, 2), (1, 2))


def rolled_channels(x: Tensor) -> Tensor:
    return torch.roll(x, 1, x.dim() - 1)


def rolled_flat(x: Tensor) -> Tensor:
    return torch.roll(x, 3)


def windows(x: Tensor) -> Tensor:
    n, h, w, c = x.shape[0], x.shape[1], x.shape[2], x.shape[-1]
    return x.reshape(n, h // 2, 2, w // 2, 2, -1)[..., :c] if x.dim() == 4 and not (h % 2 or w % 2) else x


def swapped(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def turned(x: Tensor) -> Tensor:
    return x.permute(0, x.dim() - 1, *range(1, x.dim() - 1))


def back(x: Tensor) -> Tensor:
    return x.permute(0, *range(2, x.dim()), 1)


def flattened(x: Tensor) -> Tensor:
    return x.flatten(1, x.dim() - 2)


def split(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-1], 2, 3) if x.shape[-1] == 6 else x


def cut(x: Tensor) -> Tensor:
    return x[:, 1:]


def cut_off(x: Tensor) -> Tensor:
    return x[:, :2]


STEPS: tuple[Step, ...] = (
    *(padded, beside, nothing, rolled, rolled_channels, rolled_flat, windows, swapped, turned, back),
    *(flattened, split, cut, cut_off),
)


class Net(nn.Module):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.first, self.last, self.steps = nn.Linear(3, 6), nn.LazyLinear(4), steps

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for step in self.steps:
            x = step(x)
        return self.last(x)


def found(net: nn.Module, x: Tensor) -> list[object]:
    """The labels of all nodes with the dims along which they are in memory once, the ties and the pins."""
    channels = channels_of(trace(net, x))
    outs = [(t.tolist(), collapse(t).shape) for step in channels.steps for t in tensors(step.effect.out)]
    pins = [(pin.labels.flatten().unique().tolist(), pin.node, pin.reason) for pin in channels.pins]
    ties = [(left.tolist(), right.tolist()) for _, left, right in channels.ties]
    return [outs, pins, ties, [(space.births, space.width, space.pinned) for space in channels.spaces]]


@pytest.mark.parametrize("seed", range(60))
def test_labels_and_pins_are_those_of_labels_without_notes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, x = random.Random(seed), torch.zeros(1, 3, 4, 3)
    steps: list[Step] = [padded] if seed % 4 else []
    while len(steps) < 5:
        try:
            if Net([*steps, step := draw.choice(STEPS)])(x).numel():
                steps.append(step)
        except (IndexError, RuntimeError):  # a step that does not take what is before it
            continue
    net = Net(steps)
    net(x)
    noted = found(net, x)
    for place in (movement, positions):
        monkeypatch.setattr(place, "with_holes", lambda labels, dim, layout: repeated(labels))
    monkeypatch.setattr(movement, "noted_as", lambda labels, taken: taken)
    monkeypatch.setattr(movement, "_beside", lambda call, dims: None)
    assert noted == found(net, x)


def test_windows_of_a_padded_map_keep_their_note() -> None:
    net = Net([padded, rolled, windows])
    net(torch.zeros(1, 3, 4, 3))
    steps = channels_of(trace(net, torch.zeros(1, 3, 4, 3))).steps
    labels = next(step.effect.out for step in steps if step.node.name.startswith("reshape"))
    assert bool((labels == NONE).any()) and movement.holes_of(labels) is not None
