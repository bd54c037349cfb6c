"""Under which dead gammas a weight reads a constant."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nrfx
from nrfx.analysis.conditions import ALWAYS, NEVER, Conditions, conditions_of
from nrfx.analysis.spaces import channels_of

WIDTH = 2


class Net(nn.Module):
    """Two norms over one input, joined, and read."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.left, self.right = nn.Conv2d(3, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)
        self.read, self.join = nn.Conv2d(WIDTH, 2, 1), join

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.read(self.join(self.left(x), self.right(x)))


def conditions(join: Callable[[Tensor, Tensor], Tensor]) -> Conditions:
    channels = channels_of(nrfx.trace(Net(join), torch.zeros(1, 3, 4, 4)))
    every = torch.ones_like(channels.space_of, dtype=torch.bool)
    return conditions_of(channels, {"left.weight": 0, "right.weight": WIDTH}, 2 * WIDTH, every)


def holds(found: Conditions, left: bool, right: bool) -> bool:
    """Whether the first channel that `read` reads is a constant when these gammas of it are dead."""
    dead = torch.tensor([left, False, right, False]).numpy()
    return bool(found.circuit(dead)[found.condition[0]])


BOTH, FIRST, NONE = ((False, False, False, True), (False, False, True, True), (False,) * 4)


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        (lambda a, b: a + b, BOTH),
        (torch.maximum, BOTH),
        (lambda a, b: F.relu(a), FIRST),
        (lambda a, b: F.max_pool2d(a, 2), FIRST),
        (lambda a, b: a.mean((2, 3), keepdim=True), FIRST),
        (lambda a, b: a.flip(3) * 2 + 1, FIRST),
        (lambda a, b: (a > 0).to(a.dtype), NONE),
    ],
)
def test_a_result_is_constant_where_its_operands_are(
    join: Callable[[Tensor, Tensor], Tensor], expected: tuple[bool, ...]
) -> None:
    found = conditions(join)
    given = [(False, False), (False, True), (True, False), (True, True)]
    assert tuple(holds(found, left, right) for left, right in given) == expected


def test_a_group_is_constant_where_all_its_channels_are() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
    channels = channels_of(nrfx.trace(net, torch.zeros(1, 3, 4, 4)))
    every = torch.ones_like(channels.space_of, dtype=torch.bool)
    found = conditions_of(channels, {"1.weight": 0}, 4, every)

    def constant(*dead: int) -> list[bool]:
        gammas = torch.zeros(4, dtype=torch.bool).index_fill(0, torch.tensor(dead), True).numpy()
        return found.circuit(gammas)[found.condition].tolist()

    assert not any(constant(0, 3))
    assert any(constant(0, 1)) and not all(constant(0, 1)) and all(constant(0, 1, 2, 3))


@pytest.mark.parametrize("statistics", [True, False])
def test_a_norm_makes_a_constant_and_hands_one_on_if_it_keeps_statistics(statistics: bool) -> None:
    second = nn.BatchNorm2d(2, track_running_stats=statistics)
    twice = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), second, nn.Conv2d(2, 2, 1))
    channels = channels_of(nrfx.trace(twice, torch.zeros(1, 3, 4, 4)))
    every = torch.ones_like(channels.space_of, dtype=torch.bool)
    found = conditions_of(channels, {"1.weight": 0, "2.weight": 2}, 4, every)
    assert [holds(found, *dead) for dead in ((False, False), (True, False), (False, True))] == [
        False,
        statistics,
        True,
    ]


def test_a_bias_that_is_only_added_is_a_constant() -> None:
    class Biased(Net):
        def __init__(self) -> None:
            super().__init__(torch.add)
            self.bias = nn.Parameter(torch.ones(1, WIDTH, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.left(self.conv(x)) + self.bias)

    channels = channels_of(nrfx.trace(Biased(), torch.zeros(1, 3, 4, 4)))
    every = torch.ones_like(channels.space_of, dtype=torch.bool)
    found = conditions_of(channels, {"left.weight": 0}, 2 * WIDTH, every)
    assert [holds(found, dead, False) for dead in (False, True)] == [False, True]


@pytest.mark.parametrize(
    ("join", "when"),
    [
        (lambda a, b: a * b, ((True, False), (False, True))),  # a zero among them would make it zero
        (lambda a, b: torch.log(a), ((True, False),)),
        (lambda a, b: torch.where(a > 0, a, b), ((True, True),)),
        (lambda a, b: F.avg_pool2d(a, 3, padding=1), ((True, False),)),
        (lambda a, b: torch.cat([a, b], 2), ((True, True),)),  # two constants, perhaps the same
        (lambda a, b: F.pad(a, (1, 1), value=2.0), ((True, False),)),  # perhaps it is 2 as well
        (lambda a, b: a.softmax(3), ((True, False),)),
        (lambda a, b: torch.clamp(a, min=b), ((True, True), (True, False), (False, True))),
    ],
)
def test_what_depends_on_the_value_is_unsure(
    join: Callable[[Tensor, Tensor], Tensor], when: tuple[tuple[bool, bool], ...]
) -> None:
    found = conditions(join)
    for left, right in when:
        dead = torch.tensor([left, False, right, False]).numpy()
        assert found.circuit(dead)[found.unsure].any()
    assert not found.circuit(torch.zeros(4, dtype=torch.bool).numpy())[found.unsure].any()


def test_the_first_two_conditions_are_fixed() -> None:
    assert conditions(lambda a, b: a).circuit(torch.ones(4, dtype=torch.bool).numpy())[[NEVER, ALWAYS]].tolist() == [
        False,
        True,
    ]
