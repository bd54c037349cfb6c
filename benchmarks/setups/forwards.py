"""What the loss is computed with."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import nrfx
from benchmarks.setups.setup import setup
from benchmarks.setups.training import (
    Training,
    X,
    Y,
    agree,
    expect,
    in_a_group,
    kill,
    network,
    rejuvenator,
    sgd,
    step_of,
)

GROUP = "what the loss calls"


@setup(GROUP, "the traced module")
def _traced() -> str:
    return Training(run=lambda model, gm: gm).train().checked()


@setup(GROUP, "the model that was traced")
def _model() -> str:
    return Training().train().checked()


@setup(GROUP, "nr.module, taken anew in every step")
def _module() -> str:
    one = Training(attach=False)

    def step() -> Tensor:
        loss = one.step(lambda: F.cross_entropy(one.nr.module(X), Y), between=one.nr.penalize)
        one.nr.step()
        return loss

    return one.train(step).checked()


@setup(GROUP, "nr.module with inplace=False")
def _replaced() -> str:
    one = Training(inplace=False)
    one.train(lambda: one.step(lambda: F.cross_entropy(one.nr.module(X), Y)))
    one.model = one.run = one.nr.module
    return one.checked()


@setup(GROUP, "a model given untraced, with example_inputs")
def _untraced() -> str:
    model = network()
    optimizer = sgd(model)
    nr = rejuvenator(model, optimizer).attach()
    losses = []
    for number in range(12):
        if number == 4:
            kill(model)
        losses.append(step_of(model, optimizer))
    expect(nr.events == 1 and losses[-1] < losses[5], f"no event, or the loss does not fall: {losses}")
    held = {each for group in optimizer.param_groups for each in group["params"]}
    expect(held == {*model.parameters()}, "the optimizer holds other parameters than the model")
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}, {agree(nr.module, [model], X)} holders agree"


COMPILED: dict[str, Callable[[Any, Any], Any]] = {
    "torch.compile(gm)": lambda model, gm: torch.compile(gm, backend="aot_eager"),
    "torch.compile(model)": lambda model, gm: torch.compile(model, backend="aot_eager"),
    "torch.compile(model, fullgraph=True)": lambda model, gm: torch.compile(model, backend="eager", fullgraph=True),
    "torch.compile(model, dynamic=True)": lambda model, gm: torch.compile(model, backend="eager", dynamic=True),
    "gm.compile()": lambda model, gm: gm.compile(backend="aot_eager") or gm,
    "model.compile()": lambda model, gm: model.compile(backend="aot_eager") or model,
}
for _name, _made in COMPILED.items():
    setup(GROUP, _name)(lambda made=_made: Training(run=made).train().checked())  # type: ignore[misc]


@setup(GROUP, "torch.compile(model) with inductor, the Rejuvenator given the compiled model")
def _inductor() -> str:
    return Training(wrap=torch.compile).train().checked()


@setup(GROUP, "DataParallel")
def _data_parallel() -> str:
    return Training(wrap=DataParallel).train().checked()


@setup(GROUP, "DistributedDataParallel, one process, gloo")
def _ddp() -> str:
    return in_a_group(DistributedDataParallel)


@setup(GROUP, "DistributedDataParallel with static_graph and gradients as bucket views")
def _ddp_static() -> str:
    return in_a_group(lambda model: DistributedDataParallel(model, static_graph=True, gradient_as_bucket_view=True))


@setup(GROUP, "torch.compile(DistributedDataParallel(model))")
def _ddp_compiled() -> str:
    return in_a_group(lambda model: torch.compile(DistributedDataParallel(model), backend="eager"))


@setup(GROUP, "torch.func.functional_call(model, parameters)")
def _functional() -> str:
    one = Training()
    return _called(one, lambda: dict(one.model.named_parameters()))


@setup(GROUP, "torch.func.functional_call with a dictionary made before the event")
def _functional_old() -> str:
    one = Training()
    parameters = dict(one.model.named_parameters())
    return _called(one, lambda: parameters)


def _called(one: Training, parameters: Callable[[], dict[str, Tensor]]) -> str:
    def loss() -> Tensor:
        return F.cross_entropy(torch.func.functional_call(one.model, parameters(), (X,)), Y)

    return one.train(lambda: one.step(loss)).checked()


@setup(GROUP, "torch.func.grad in eval mode, gradients written by the loop")
def _func_grad() -> str:
    one = Training()

    def step() -> Any:
        parameters = dict(one.model.named_parameters())
        buffers = {name: buffer.clone() for name, buffer in one.model.named_buffers()}

        def loss_of(values: dict[str, Any]) -> Any:
            return F.cross_entropy(torch.func.functional_call(one.model, (values, buffers), (X,)), Y)

        values = {name: parameter.detach() for name, parameter in parameters.items()}
        one.model.eval()  # a train mode of batch norms writes in place, which torch.func.grad refuses
        gradients, loss = torch.func.grad_and_value(loss_of)(values)
        one.model.train()
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        one.optimizer.step()
        return loss

    return one.train(step).checked()


@setup(GROUP, "torch.func.vmap over examples, in eval mode, between the steps")
def _vmap() -> str:
    one = Training()

    def step() -> Any:
        loss = one.step()
        one.model.eval()
        values = {k: v.detach() for k, v in one.model.state_dict().items()}
        each = torch.func.vmap(lambda x: torch.func.functional_call(one.model, values, (x[None],))[0])(X)
        expect(bool(torch.allclose(each, one.model(X), atol=1e-4)), "vmap gives other outputs")
        one.model.train()
        return loss

    return one.train(step).checked()


@setup(GROUP, "a second trace of the same model")
def _second_trace() -> str:
    model = network()
    other = nrfx.trace(model, X)
    one = Training(model=model, run=lambda model, gm: other)
    return one.train().checked([other])


@setup(GROUP, "a module of the user's own around the model")
def _around() -> str:
    class Around(nn.Module):
        def __init__(self, inside: nn.Module) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, x: Any) -> Any:
            return self.inside(x)

    return Training(run=lambda model, gm: Around(model)).train().checked()


@setup(GROUP, "a layer of the model called by itself beside the loss")
def _part() -> str:
    one = Training()
    first = one.model[:3]
    return one.train(lambda: one.step(lambda: one.loss() + 1e-4 * first(X).square().mean())).checked()
