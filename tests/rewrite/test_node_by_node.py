"""Running a traced network without its code."""

import weakref

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.choices import Scheme
from nrfx.rewrite.node_by_node import has_no_code, run_nodes
from tests.rewrite.rewriting import SCHEMES, prepared


class Several(nn.Module):
    """A parameter of its own, a method, a list, a default and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.level = nn.Conv2d(3, 4, 1), nn.Parameter(torch.full((4, 1, 1), 2.0))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.relu(self.first(x)) * self.level
        return {"joined": torch.cat([y, x], 1), "mean": y.flatten(2).mean(-1)}


class Popping(nn.Module):
    """A leaf that changes the list that it is given."""

    def forward(self, parts: list[Tensor]) -> Tensor:
        return parts.pop() + parts[0]


class Changing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.last = Popping()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.norm(self.first(x))))
        return self.last([y, y])


class Region(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.first(x)
        return y


class Flagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor, twice: bool = False) -> Tensor:
        return self.first(x) * (2 if twice else 1)


def test_it_is_not_for_regions_flags_hooks_and_what_has_its_code() -> None:
    x = torch.zeros(1, 3, 5, 5)
    assert not has_no_code(nrfx.trace(Region(), x))
    assert not has_no_code(nrfx.trace(Flagged(), (x, True)))
    hooked, called = nrfx.trace(Several(), x), nrfx.trace(Several(), x)
    hooked.register_forward_hook(lambda *_: None)
    called(x)
    assert not has_no_code(hooked) and not has_no_code(called)


def test_it_gives_what_the_code_gives() -> None:
    x = torch.randn(2, 3, 5, 5)
    traced = nrfx.trace(Several(), x)
    assert has_no_code(traced)
    walked = run_nodes(traced, [x])
    assert "_code" not in vars(traced)
    expected = traced(x)
    assert walked.keys() == expected.keys()
    assert all(torch.equal(walked[name], expected[name]) for name in expected)


def test_a_value_is_dropped_behind_its_last_reader() -> None:
    values: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        alive.append(sum(value() is not None for value in values))
        values.append(weakref.ref(output))

    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(5)))
    traced = nrfx.trace(model, torch.zeros(1, 3))
    for layer in traced.children():
        layer.register_forward_hook(note)
    with torch.no_grad():
        run_nodes(traced, [torch.zeros(1, 3)])
    assert alive == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_rewrite_compares_outputs_without_writing_code(scheme: Scheme) -> None:
    _, traced = prepared("vgg_bn")
    result = nrfx.rejuvenate(traced, nrfx.Budget.relative(traced, params=1.0), scheme=scheme)
    assert not any("not compared" in note for note in result.notes)
    assert "_code" not in vars(traced)
    assert "_code" not in vars(result.module)


def test_an_op_may_change_the_list_that_it_is_given() -> None:
    model = Changing().eval()
    with torch.no_grad():
        model.norm.weight[:3] = 0
    x = torch.randn(2, 3, 8, 8)
    traced = nrfx.trace(model, x, leaves=[Popping]).eval()
    assert has_no_code(traced)
    torch.testing.assert_close(run_nodes(traced, [x]), model(x))
    result = nrfx.compact(traced)
    assert result.changed and not any("compared" in note for note in result.notes)
