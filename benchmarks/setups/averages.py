"""What follows the network beside the loop: averages of its weights, teachers, statistics."""

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import nrfx
from benchmarks.setups.setup import setup
from benchmarks.setups.training import EVENT, Training, X, Y, expect, norms

GROUP = "averages and teachers"


def _followed(make: Callable[[nn.Module], Any], update: Callable[[Any, nn.Module], Any], carried: bool) -> str:
    """A training with an average of the model, carried at the event or left alone, which must end as its shape."""
    held: dict[str, Any] = {}

    def carry(event: nrfx.Event) -> None:
        if carried:
            nrfx.carry_into(held["average"], event.result)

    one = Training(on_event=carry)
    held["average"] = average = make(one.gm)

    def step() -> Tensor:
        loss = one.step()
        update(average, one.gm)
        return loss

    said = one.train(step, steps=30).checked()
    for (name, ours), theirs in zip(one.gm.named_parameters(), average.module.parameters(), strict=True):
        expect(ours.shape == theirs.shape, f"{name} of the average has shape {list(theirs.shape)}")
    average.eval()
    with torch.no_grad():
        loss = float(F.cross_entropy(average.module(X), Y))
    expect(loss < one.losses[0], f"the loss of the average is {loss:.2f}")
    return f"{said}; the average has its shapes and a loss of {loss:.2f}"


def _averaged(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)


def _timm(model: nn.Module) -> Any:
    return import_module("timm.utils").ModelEmaV3(model, decay=0.5)


def _update(average: Any, model: nn.Module) -> None:
    if isinstance(average, AveragedModel):
        average.update_parameters(model)
    else:
        average.update(model)


@setup(GROUP, "AveragedModel (EMA), nrfx.carry_into in on_event")
def _ema() -> str:
    return _followed(_averaged, _update, carried=True)


@setup(GROUP, "AveragedModel (EMA), left alone", stops=True)
def _ema_alone() -> str:
    return _followed(_averaged, _update, carried=False)


@setup(GROUP, "timm ModelEmaV3, nrfx.carry_into in on_event", "timm")
def _ema_timm() -> str:
    return _followed(_timm, _update, carried=True)


@setup(GROUP, "timm ModelEmaV3, left alone", "timm", stops=True)
def _ema_timm_alone() -> str:
    return _followed(_timm, _update, carried=False)


@setup(GROUP, "an average built behind the event")
def _ema_behind() -> str:
    one = Training().train()
    average = _averaged(one.model)

    def step() -> Tensor:
        loss = one.step()
        average.update_parameters(one.model)
        return loss

    one.train(step, steps=6, event=99)
    expect(average.module is not one.model, "the average is the model itself")
    for ours, theirs in zip(one.model.parameters(), average.module.parameters(), strict=True):
        expect(ours.shape == theirs.shape and ours is not theirs, "the average does not have the shapes of the model")
    return f"{one.checked()}; the average follows"


@setup(GROUP, "swa_utils.update_bn behind the event")
def _update_bn() -> str:
    one = Training().train()
    update_bn([X], one.model)
    mean = one.model.get_submodule("1").running_mean
    expect(bool(torch.isfinite(mean).all()) and len(mean) == len(one.gm.get_parameter("0.weight")), "other shapes")
    return one.checked()


@setup(GROUP, "a frozen teacher, copied before the event")
def _teacher() -> str:
    one = Training()
    teacher = copy.deepcopy(one.model).eval().requires_grad_(False)
    before = teacher(X)

    def loss() -> Tensor:
        outputs = one.run(X)
        return F.cross_entropy(outputs, Y) + 0.01 * F.mse_loss(outputs, teacher(X))

    said = one.train(lambda: one.step(loss)).checked()
    expect(torch.equal(teacher(X), before), "the teacher has changed")
    return f"{said}; the teacher is as it was"


@setup(GROUP, "AveragedModel (EMA), left alone, all widths back to what they were")
def _ema_same() -> str:
    """Channels of an average that is left alone meet others behind an event, though the shapes are the same."""
    one = Training()
    average, apart = _averaged(one.gm), []
    rows: Tensor | None = torch.arange(8)
    for number in range(8):
        if number == EVENT:
            with torch.no_grad():
                for norm in norms(one.gm):
                    norm.weight[: int(0.4 * norm.num_features)] = 0
        one.step()
        if isinstance(one.nr.last, nrfx.Event) and number == EVENT:
            rows = one.nr.last.result.origins["0.weight"][0]
        average.update_parameters(one.gm)
        ours, theirs = one.gm.get_parameter("0.weight"), average.module.get_parameter("0.weight")
        live = torch.ones(len(ours), dtype=torch.bool) if rows is None else rows >= 0
        apart.append(float((ours - theirs)[live].norm() / ours[live].norm()))
    expect(apart[EVENT] < 2 * max(apart[:EVENT]) + 0.01, f"an average of other channels: it is apart by {apart}")
    return one.checked(trained=False)


@setup(GROUP, "a teacher that follows by lerp_ over zip(parameters), left alone", stops=True)
def _teacher_lerp() -> str:
    one = Training()
    teacher = copy.deepcopy(one.model).requires_grad_(False)

    def step() -> Tensor:
        loss = one.step()
        with torch.no_grad():
            for theirs, ours in zip(teacher.parameters(), one.model.parameters(), strict=True):
                theirs.lerp_(ours, 0.5)
        return loss

    return one.train(step).checked([])


@setup(GROUP, "a contrastive twin: two views through the same model")
def _siamese() -> str:
    one = Training()

    def loss() -> Tensor:
        a: Tensor = one.run(X)
        apart: Tensor = (a - one.run(X + 0.01)).square().mean()
        return F.cross_entropy(a, Y) + 0.1 * apart

    return one.train(lambda: one.step(loss)).checked()
