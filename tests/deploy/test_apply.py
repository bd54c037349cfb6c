"""Rewritten layers in an instance of the user's class: all of them, or nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from nrfx.deploy.apply import apply, changes
from nrfx.errors import RewriteError
from nrfx.nn import CrossConv2d
from tests import zoo
from tests.deploy.test_export import SCHEMES

X = torch.randn(zoo.IMAGE, generator=torch.Generator().manual_seed(3))


def result_of(model: nn.Module, scheme: str = "compact", x: Tensor = X) -> nrfx.Rejuvenation:
    gm = nrfx.trace(model, x)
    if scheme == "compact":
        return nrfx.compact(gm)
    return nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, flops=1.0), scheme=scheme)  # type: ignore[arg-type]


def wasteful(**options: Any) -> zoo.ResNet:
    model = zoo.with_dead(zoo.resnet(**options)).train()
    assert isinstance(model, zoo.ResNet)
    return model


def state(model: nn.Module) -> dict[str, Any]:
    """All that apply may change: the modules themselves, their tensors and their attributes."""
    return {
        path: (id(part), *map(id, (*part._parameters.values(), *part._buffers.values())), part.extra_repr())
        for path, part in model.named_modules()
    }


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_users_class_computes_the_rewritten_network(scheme: str) -> None:
    model = wasteful()
    result = result_of(model, scheme)
    result.module.eval()
    told = changes(model, result)
    assert apply(model, result) is model and type(model) is zoo.ResNet
    assert all(part.training for part in model.modules() if not isinstance(part, nn.ParameterDict))
    for x in (X, X[:1], torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(4))):
        assert torch.equal(model.eval()(x), result.module.eval()(x))
    assert dict(model.named_parameters()).keys() == dict(result.module.named_parameters()).keys()
    assert all(model.get_parameter(name) is each for name, each in result.module.named_parameters())
    widths = {name: part for name, part in model.named_modules() if type(part) is nn.Conv2d}
    assert all(part.weight.shape[:2] == (part.out_channels, part.in_channels) for part in widths.values())
    crossing = [path for path, part in model.named_modules() if isinstance(part, CrossConv2d)]
    assert bool(crossing) == (scheme in ("attention", "removed"))
    assert {line.partition(":")[0] for line in told} >= {"layer2.0.conv1", *crossing}
    assert changes(model, result) == (), "nothing is left to change"


def test_the_optimizer_of_a_rejuvenator_trains_the_model_on() -> None:
    model = wasteful()
    gm = nrfx.trace(model, X)
    optimizer = torch.optim.SGD(gm.parameters(), 0.1, momentum=0.9)
    rejuvenator = nrfx.Rejuvenator(
        gm, optimizer, nrfx.Budget.relative(gm, params=1.0), interval=1, trigger=0.99, inplace=False
    )
    gm(X).sum().backward()
    optimizer.step()
    assert rejuvenator.step()
    apply(model, rejuvenator.module)
    before = model.fc.weight.clone()
    model(X).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.fc.weight, before)


def test_a_second_rejuvenation_is_applied_over_the_first() -> None:
    model = wasteful()
    apply(model, result_of(model, "attention"))
    with torch.no_grad():
        for norm in zoo.norms(model):
            norm.weight[::3] = 0
    second = result_of(model, "attention")
    assert second.changed
    apply(model, second)
    assert torch.equal(model.eval()(X), second.module.eval()(X))


def test_a_norm_without_gammas_gets_the_new_width() -> None:
    model = nn.Sequential(*zoo.conv_bn(3, 8), nn.ReLU(), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        model[1].weight[:3], model[1].bias[:3] = 0, 0
    result = result_of(model)
    apply(model, result)
    assert model[3].num_features == model[0].out_channels < 8
    assert torch.equal(model(X), result.module.eval()(X))


class States(nn.Module):
    """A network whose code states how many features a map has."""

    def __init__(self, features: Callable[[Tensor], Tensor], auxiliary: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc, self.features, self.auxiliary = nn.Linear(8 * 16 * 16, 5), features, auxiliary
        with torch.no_grad():
            self.norm.weight[:3], self.norm.bias[:3] = 0, 0

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.norm(self.conv(x)))
        out = self.fc(self.features(y) if not self.auxiliary else y.flatten(1))
        if self.auxiliary and self.training:
            return out, self.fc(self.features(y))
        return out


def stated(y: Tensor) -> Tensor:
    return y.view(-1, 8 * 16 * 16)


def asked(y: Tensor) -> Tensor:
    return y.view(-1, y.shape[1] * 16 * 16)


def decided(y: Tensor) -> Tensor:
    return y.flatten(1) if y.shape[1] == 8 else y.flatten(1) * 2


def test_a_width_that_the_code_asks_for_follows() -> None:
    model = States(asked)
    result = result_of(model)
    assert apply(model, result)(X).shape == (2, 5) and model.fc.in_features == 5 * 16 * 16


def scaled() -> tuple[nn.Module, nrfx.Rejuvenation]:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    gm = nrfx.insert_scales(nrfx.trace(model, X))
    with torch.no_grad():
        next(p for name, p in gm.named_parameters() if "scale" in name)[:3] = 0
    return model, nrfx.compact(gm)


def of(model: nn.Module, other: nn.Module | None = None) -> tuple[nn.Module, nrfx.Rejuvenation]:
    return other or model, result_of(model)


REFUSED: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "a width as a number": (lambda: of(States(stated)), r"node view \(File .*\) now has 1280"),
    "a width as a number in train mode": (lambda: of(States(stated, True)), r"node view \(File .*\) now has 1280"),
    "a decision on a width": (lambda: of(States(decided)), "The code of States on the new layers is not"),
    "inserted scales": (scaled, r"calls scales\S+ \(ChannelScale\).*nrfx\.fold_scales"),
    "another model": (lambda: of(wasteful(), zoo.resnet((1, 1))), "not of this ResNet: .* layer2.1.conv1"),
    "a model around it": (lambda: of(wasteful(), nn.DataParallel(wasteful())), "DataParallel"),
    "the traced module": (lambda: of(wasteful(), nrfx.trace(wasteful(), X)), "use result.module"),
    "no result": (lambda: (wasteful(), None), "it got a NoneType"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_code_cannot_be_is_named_and_nothing_is_changed(case: str) -> None:
    make, words = REFUSED[case]
    model, result = make()
    before = state(model)
    with pytest.raises(RewriteError, match=words):
        apply(model, result)
    assert state(model) == before


def test_fresh_instances_of_the_class_take_a_loaded_network(tmp_path: Any) -> None:
    result = result_of(wasteful(), "attention")
    nrfx.save(tmp_path / "net.safetensors", result.module)
    model = zoo.resnet()
    apply(model, nrfx.load(tmp_path / "net.safetensors", zoo.resnet()))
    assert torch.equal(model.eval()(X), result.module.eval()(X))
