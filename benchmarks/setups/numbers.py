"""Dtypes and memory formats."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks.setups.setup import setup
from benchmarks.setups.training import Training, expect, network

GROUP = "numbers"


@setup(GROUP, "float64")
def _double() -> str:
    return Training(model=network().double()).train().checked()


@setup(GROUP, "weights in bfloat16")
def _bfloat16() -> str:
    return _low(torch.bfloat16)


@setup(GROUP, "weights in float16")
def _float16() -> str:
    return _low(torch.float16)


def _low(dtype: torch.dtype) -> str:
    one = Training(model=network().to(dtype))
    one.train()
    expect(one.nr.events == 1 and one.losses[-1] < one.losses[0], f"the losses are {one.losses}")
    expect({p.dtype for p in one.gm.parameters()} == {dtype}, "a parameter has another dtype")
    held = {p for group in one.optimizer.param_groups for p in group["params"]}
    expect(held == {*one.gm.parameters()}, "the optimizer holds other parameters")
    return f"loss {one.losses[0]:.2f} to {one.losses[-1]:.2f}, {len(held)} parameters held, all of {dtype}"


@setup(GROUP, "channels_last")
def _channels_last() -> str:
    one = Training(model=network().to(memory_format=torch.channels_last))
    one.train()
    weight = one.gm.get_parameter("3.weight") if "3.weight" in dict(one.gm.named_parameters()) else None
    if weight is not None:
        expect(weight.is_contiguous(memory_format=torch.channels_last), "a weight is no longer channels_last")
    return one.checked()


@setup(GROUP, "model.double() in the middle")
def _to_double() -> str:
    one = Training(optimizer=lambda gm: torch.optim.SGD(gm.parameters(), lr=0.1))

    def step() -> Tensor:
        if one.nr.steps == 2:
            one.model.double()
            one.x = one.x.double()
        return one.step()

    return one.train(step).checked()


@setup(GROUP, "model.to(memory_format=channels_last) in the middle")
def _to_channels_last() -> str:
    one = Training()

    def step() -> Tensor:
        if one.nr.steps == 2:
            one.model.to(memory_format=torch.channels_last)
        return one.step()

    return one.train(step).checked()


@setup(GROUP, "master weights: an optimizer over float32 copies of bfloat16 parameters")
def _masters() -> str:
    held: dict[str, Any] = {}

    def make(gm: torch.nn.Module) -> AdamW:
        held["masters"] = [p.detach().float().requires_grad_() for p in gm.parameters()]
        return AdamW(held["masters"], lr=0.01)

    return Training(model=network().bfloat16(), optimizer=make).train().checked()


@setup(GROUP, "one flat vector of all parameters (parameters are views of it)")
def _flat() -> str:
    model = network()
    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    start = 0
    for parameter in model.parameters():
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return Training(model=model).train().checked()
