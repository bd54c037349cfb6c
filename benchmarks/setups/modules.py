"""What the model is made of, and what hangs on its modules."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from benchmarks.setups.setup import setup
from benchmarks.setups.training import Training, X, Y, expect, network, sgd

GROUP = "modules and hooks"


@setup(GROUP, "a forward hook on a container, registered before the trace")
def _container_hook() -> str:
    model, seen = nn.Sequential(network()[:6], network()[6:]), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    said = Training(model=model).train().checked()
    return f"{said}; the hook was called {len(seen)} times"


@setup(GROUP, "a forward hook on a layer, registered before the trace")
def _leaf_hook() -> str:
    model, seen = network(), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    return f"{_still_called(Training(model=model), seen).checked(widths=False)}; the hook is called still"


@setup(GROUP, "a forward hook on a layer, registered behind the trace")
def _late_hook() -> str:
    one, seen = Training(), []
    one.model[0].register_forward_hook(lambda *_: seen.append(1))
    return f"{_still_called(one, seen).checked(widths=False)}; the hook is called still"


def _still_called(one: Training, seen: list[Any]) -> Training:
    """The training across its event; raises Silent unless a hook that fills `seen` is called behind it, once a step."""
    one.train()
    calls = len(seen)
    one.loss().backward()
    expect(len(seen) == calls + 1, f"the hook is called {len(seen) - calls} times in a step")
    return one


@setup(GROUP, "forward hooks on all layers, registered behind the trace")
def _late_hooks() -> str:
    one = Training()
    for layer in one.model:
        layer.register_forward_hook(lambda *_: None)
    one.train()
    expect(bool(one.nr.note), "nothing was said")
    return f"nr.note: {one.nr.note}"


@setup(GROUP, "a backward hook on a layer")
def _backward_hook() -> str:
    one, seen = Training(), []
    one.model[0].register_full_backward_hook(lambda *_: seen.append(1))
    return _still_called(one, seen).checked()


@setup(GROUP, "a hook on the gradient of a parameter")
def _gradient_hook() -> str:
    one, seen = Training(), []
    one.model[0].weight.register_hook(lambda gradient: seen.append(gradient.shape))
    _still_called(one, seen)
    expect(seen[-1] == one.gm.get_parameter("0.weight").shape, "the hook sees gradients of another shape")
    return f"{one.checked()}; the hook is called still"


@setup(GROUP, "activation checkpointing inside of forward")
def _checkpointed() -> str:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = network()[:6], network()[6:]

        def forward(self, x: Tensor) -> Any:
            return self.head(checkpoint(self.body, x, use_reentrant=False))

    return Training(model=Checkpointed()).train().checked()


@setup(GROUP, "weight_norm on a layer (a parametrization)")
def _weight_norm() -> str:
    model = network()
    parametrizations.weight_norm(model[0])
    return Training(model=model).train().checked(widths=False)


@setup(GROUP, "spectral_norm on a layer (a parametrization)")
def _spectral_norm() -> str:
    model = network()
    parametrizations.spectral_norm(model[0])
    return Training(model=model).train().checked(widths=False)


@setup(GROUP, "a prune mask on a layer (torch.nn.utils.prune)")
def _pruned() -> str:
    model = network()
    prune.l1_unstructured(model[0], "weight", amount=0.3)
    return Training(model=model).train().checked(widths=False)


@setup(GROUP, "a frozen first half")
def _frozen() -> str:
    model: Any = network()
    for parameter in model[:3].parameters():
        parameter.requires_grad_(False)
    one = Training(model=model, optimizer=sgd_of)
    before = model[0].weight.clone()
    said = one.train().checked()
    rows = [tuple(row) for row in before.flatten(1).tolist()]
    kept = sum(tuple(row) in rows for row in model[0].weight.flatten(1).tolist())
    return f"{said}; {kept} of {len(model[0].weight)} frozen rows as before"


def sgd_of(gm: nn.Module) -> torch.optim.Optimizer:
    """SGD over what requires a gradient."""
    return torch.optim.SGD([p for p in gm.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


@setup(GROUP, "a layer unfrozen in the middle, added by add_param_group")
def _unfrozen() -> str:
    model = network()
    for parameter in model[8].parameters():
        parameter.requires_grad_(False)
    one = Training(model=model, optimizer=sgd_of)

    def step() -> Tensor:
        if one.nr.steps == 2:
            head = list(model[8].requires_grad_().parameters())
            one.optimizer.add_param_group({"params": head, "lr": 0.05})
        return one.step()

    return one.train(step).checked()


@setup(GROUP, "a new head in the middle, its parameters given to the optimizer")
def _surgery() -> str:
    return _new_head(given=True)


@setup(GROUP, "a new head in the middle, its parameters given to nobody")
def _surgery_forgotten() -> str:
    return _new_head(given=False)


def _new_head(given: bool) -> str:
    one = Training()

    def step() -> Tensor:
        if one.nr.steps == 2:
            head = nn.Linear(16, 5)
            old = {*one.model[8].parameters()}
            one.model[8] = head
            group = one.optimizer.param_groups[0]["params"]
            if given:
                group[:] = [p for p in group if p not in old]
                one.optimizer.add_param_group({"params": list(head.parameters())})
        return one.step()

    return one.train(step).checked()


@setup(GROUP, "a buffer and an attribute of the user's own on a layer")
def _attributes() -> str:
    one = Training()
    one.model[0].note = note = object()
    one.model.register_buffer("count", torch.zeros(()))
    said = one.train().checked()
    expect(one.model[0].note is note and "count" in dict(one.model.named_buffers()), "they are lost")
    return f"{said}; both are there"


@setup(GROUP, "an auxiliary loss on an output in the middle (the model returns two)")
def _two_outputs() -> str:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.side = network()[:6], network()[6:], nn.Conv2d(16, 2, 1)

        def forward(self, x: Tensor) -> Any:
            features = self.body(x)
            return self.head(features) + self.side(features).mean((1, 2, 3), keepdim=False)[:, None]

    return Training(model=Two()).train().checked()


@setup(GROUP, "dropout and a batch of another size")
def _dropout() -> str:
    model = network()
    one = Training(model=nn.Sequential(*model[:8], nn.Dropout(0.05), model[8]))

    def loss() -> Tensor:
        return F.cross_entropy(one.run(X.repeat(2, 1, 1, 1)), Y.repeat(2))

    return one.train(lambda: one.step(loss)).checked()


@setup(GROUP, "SyncBatchNorm, one process")
def _sync() -> str:
    return Training(model=nn.SyncBatchNorm.convert_sync_batchnorm(network())).train().checked()


@setup(GROUP, "group norms in the place of batch norms")
def _group_norm() -> str:
    model: Any = network()
    model[1], model[4] = nn.GroupNorm(2, 8), nn.GroupNorm(4, 16)
    one = Training(model=model)
    with torch.no_grad():
        model[1].weight[:4], model[4].weight[:8] = 0, 0
    return one.train(event=0).checked(event=0, widths=False)


@setup(GROUP, "a model that holds the optimizer as an attribute")
def _holds() -> str:
    one = Training(optimizer=sgd)
    one.model.optimizer = one.optimizer
    return one.train().checked()
