"""Small models whose graphs are known, and what it means that a traced one behaves like its model."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import nrfx
from tests import zoo

MODES = ("train", "eval")


def added(y: Tensor, x: object) -> Tensor:
    """y + x if x is a tensor, else y."""
    return y + x if isinstance(x, Tensor) else y


class Joined(nn.Module):
    """Three layers with norms and a head; a function of (module, features) stands between the first and the last."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.between = [between]
        self.a, self.b, self.c, self.head = zoo.cbr(3, 8), zoo.cbr(8, 8), zoo.cbr(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.between[0](self, self.a(x))))  # type: ignore[no-any-return]


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """The gradient of each parameter for one example loss in training, from fresh running statistics of `model`."""
    twin = copy.deepcopy(model).train()
    twin(x.clone()).square().mean().backward()
    return {name: parameter.grad for name, parameter in twin.named_parameters()}


def assert_kept(model: nn.Module) -> nrfx.Rejuvenation:
    """Outputs and gradients are those of the model at two sizes, as traced and pickled; and outputs after a rewrite."""
    model = model.double().eval()
    images = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 8, 8), (3, 3, 8, 4))]
    gm = pickle.loads(pickle.dumps(nrfx.trace(model, torch.zeros_like(images[0]))))
    for x in images:
        assert torch.equal(gm(x.clone()), model(x.clone()))
        actual, expected = gradients(gm, x), gradients(model, x)
        for name, gradient in expected.items():
            assert (actual[name] is None) == (gradient is None), name
            assert gradient is None or torch.allclose(actual[name], gradient, rtol=1e-9, atol=1e-12), name  # type: ignore[arg-type]
    with torch.no_grad():
        for norm in (module for module in gm.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight[:3] = 0
            norm.bias.normal_()
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense", residual="coupled")
    for x in images:
        torch.testing.assert_close(result.module.eval()(x.clone()), gm.eval()(x.clone()), atol=1e-12, rtol=0)
    return result


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
