"""Small models whose graphs are known, and what it means that a traced one behaves like its model."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

MODES = ("train", "eval")


def added(y: Tensor, x: object) -> Tensor:
    """y + x if x is a tensor, else y."""
    return y + x if isinstance(x, Tensor) else y


class FunctionalDropout(nn.Module):
    """Train and eval differ in a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.fc(x), 0.5, self.training)


class AuxHead(nn.Module):
    """Train and eval differ in structure; `unread` and the buffer of `spare` are read by no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.aux, self.fc, self.spare = nn.Linear(4, 2), nn.Linear(4, 2), nn.BatchNorm1d(5)
        self.unread = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = F.relu(self.bn(self.conv(x))).mean((2, 3))
        return (self.fc(y), self.aux(y)) if self.training else self.fc(y)


class Tied(nn.Module):
    """One weight under two names, one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.b.weight, self.again = self.a.weight, self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.b(self.norm(self.a(x))))


class Function(nn.Module):
    """A module around one function of (module, x)."""

    def __init__(self, function: object, **children: nn.Module) -> None:
        super().__init__()
        self.function = [function]
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> object:
        return self.function[0](self, x)  # type: ignore[operator]


SMALL = {
    "dropout": (FunctionalDropout, (3, 4)),
    "aux": (AuxHead, (4, 3, 8, 8)),
    "tied": (Tied, (3, 4)),
    "sequential": (lambda: nn.Sequential(FunctionalDropout(), nn.Dropout(), FunctionalDropout()), (3, 4)),
}


def output(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The flat outputs of a copy under a fixed seed: running statistics stay."""
    torch.manual_seed(7)
    result = copy.deepcopy(module)(x)
    return [result] if isinstance(result, Tensor) else [item for item in result if item is not None]


def assert_behaves_like(traced: nn.Module, model: nn.Module, x: Tensor) -> None:
    for mode in (True, False, True):
        actual, expected = output(traced.train(mode), x), output(model.train(mode), x)
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b)


def vals(graph: fx.Graph) -> list[Tensor]:
    return [node.meta["val"] for node in graph.nodes if isinstance(node.meta["val"], Tensor)]
