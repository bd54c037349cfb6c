"""Models with something wrong about them, and what users do with models: the tables beside this file name them."""

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import SGD

import nrfx
from tests import zoo

X = torch.zeros(zoo.IMAGE)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return zoo.with_dead(zoo.vgg_bn())


def traced(model: nn.Module | None = None) -> nrfx.TracedModule:
    return nrfx.trace(model or plain(), X)


def full(gm: nn.Module) -> nrfx.Budget:
    return nrfx.Budget.relative(gm, params=1.0)


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape or zoo.IMAGE, generator=torch.Generator().manual_seed(0))


# Models with something wrong about them


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = zoo.cbr(3, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.body(x) + self.body(y)


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Untaught(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = zoo.cbr(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.body(x)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(1)


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [zoo.cbr(3, 8)]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


def without_channels() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten())
    model[0].weight = nn.Parameter(torch.zeros(0, 3, 1, 1))
    return model


@torch.no_grad()
def with_number(attribute: str, value: float) -> nn.Module:
    """The traced model, with `value` at index 2 of that attribute of its second norm."""
    model = plain()
    getattr(model[5], attribute)[2] = value  # type: ignore[index]
    return traced(model)


@torch.no_grad()
def with_nan_weight() -> nn.Module:
    model = plain()
    model[4].weight[0, 0, 0, 0] = math.nan  # type: ignore[index, operator, union-attr]
    return traced(model)


@torch.no_grad()
def all_dead(*norms: int) -> nn.Module:
    model = plain()
    for index in norms:
        model[index].weight.zero_()  # type: ignore[index, operator, union-attr]
    return traced(model)


def without_module() -> nn.Module:
    gm = traced()
    del gm._modules["4"]
    return gm


def without_weight() -> nn.Module:
    gm = traced()
    del gm.get_submodule("4").weight
    return gm


def with_module(name: str, module: nn.Module) -> nn.Module:
    gm = traced()
    gm._modules[name] = module
    return gm


def on_meta(*layers: int) -> nn.Module:
    model = plain()
    for index in layers:
        model[index].to("meta")  # type: ignore[index]
    return traced(model)


def with_half_layer() -> nn.Module:
    model = plain()
    model[8].half()  # type: ignore[index]
    return model


def with_computed_weight(compute: Callable[[nn.Module], nn.Module]) -> nn.Module:
    model = nn.Sequential(zoo.cbr(3, 8, 1), compute(nn.Conv2d(8, 8, 1)), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        model[0][1].weight[:4] = 0  # type: ignore[index]
    return traced(model)


def with_weight_on_a_tape() -> nn.Module:
    model = plain()
    weight = model[4].weight * 1  # type: ignore[index, operator, union-attr]
    del model[4].weight  # type: ignore[index, union-attr]
    model[4].weight = weight  # type: ignore[index, union-attr]
    return model


def hooked() -> nn.Module:
    model = plain()
    model[4].register_forward_hook(lambda *_: None)  # type: ignore[index]
    return model


def quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(plain())


def weight_normed(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


# What is done with them


def rejuvenated(gm: nn.Module, **options: Any) -> str:
    """The notes of a rejuvenation that keeps the function."""
    result = nrfx.rejuvenate(gm, full(gm), **options)
    nrfx.verify(gm, result, random_images())
    return " ".join(("changed" if result.changed else "unchanged", *result.notes))


def pins(gm: nn.Module) -> str:
    return " ".join(f"{pin.space}: {pin.reason}" for pin in nrfx.utilization(gm, example_inputs=X).pins)


def not_understood(gm: nn.Module) -> str:
    return " ".join(entry.reason for entry in nrfx.utilization(gm, example_inputs=X).not_understood)


def sgd(module: nn.Module) -> SGD:
    return SGD(module.parameters(), lr=0.1, momentum=0.9)


def rejuvenator(gm: nn.Module, **options: Any) -> nrfx.Rejuvenator:
    optimizer, budget = options.pop("optimizer", None), options.pop("budget", None)
    return nrfx.Rejuvenator(gm, sgd(gm) if optimizer is None else optimizer, budget or full(gm), **options)


def stepped(gm: nn.Module, kind: type[torch.optim.Optimizer]) -> object:
    """A step of an optimizer, and the measurement after it. The steps train the copy, not the model of the row."""
    gm = copy.deepcopy(gm)
    nr = nrfx.Rejuvenator(gm, kind(gm.parameters(), lr=1e-6), full(gm), interval=1)  # type: ignore[call-arg]
    nr.module(random_images()).sum().backward()
    nr.optimizer.step()
    return nr.step()


def verified(gm: nn.Module, inputs: Any, other: nn.Module | None = None) -> float:
    return nrfx.verify(other or gm, nrfx.rejuvenate(gm, full(gm)), inputs)


def loaded(model: nn.Module, folder: Path, write: Callable[[Path], None]) -> nn.Module:
    path = folder / "file.safetensors"
    write(path)
    return nrfx.load(path, model)


def save_result(path: Path) -> None:
    gm = traced()
    nrfx.save(path, nrfx.rejuvenate(gm, full(gm)).module)


def save_half_of_it(path: Path) -> None:
    save_result(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save_weights(path: Path) -> None:
    safetensors.torch.save_file({name: value.clone() for name, value in plain().state_dict().items()}, path)
