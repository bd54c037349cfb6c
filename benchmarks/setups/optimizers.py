"""Which optimizer makes the steps."""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from benchmarks.setups.setup import setup
from benchmarks.setups.training import Training, network

GROUP = "optimizers"

Make = Callable[[Iterable[nn.Parameter]], Any]
OF_TORCH: dict[str, Make] = {
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.02),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.02),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "AdamW, lr a tensor": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.05),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.002),
    "RMSprop, centered, with momentum": lambda p: torch.optim.RMSprop(p, lr=0.002, centered=True, momentum=0.5),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.001),
    "SGD, no momentum": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD, nesterov, weight decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "SGD, foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
}
for _name, _make in OF_TORCH.items():
    setup(GROUP, f"torch.optim.{_name}")(
        lambda make=_make: Training(optimizer=lambda gm: make(gm.parameters())).train().checked()  # type: ignore[misc]
    )


@setup(GROUP, "two optimizers, one for norms and biases")
def _two() -> str:
    return Training(optimizer=lambda gm: _split(gm, lambda p: SGD(p, lr=0.1, momentum=0.9))).train().checked()


@setup(GROUP, "Muon for the weight matrices, AdamW for everything else")
def _muon() -> str:
    def make(gm: nn.Module) -> list[Any]:
        matrices = [p for p in gm.parameters() if p.dim() == 2]
        others = [p for p in gm.parameters() if p.dim() != 2]
        return [torch.optim.Muon(matrices, lr=0.01), AdamW(others, lr=0.01)]

    return Training(optimizer=make).train().checked()


def _split(gm: nn.Module, make: Make) -> list[Any]:
    wide = [p for p in gm.parameters() if p.dim() > 1]
    return [make(wide), AdamW([p for p in gm.parameters() if p.dim() == 1], lr=0.01)]


@setup(GROUP, "SparseAdam for an embedding, SGD for everything else")
def _sparse() -> str:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.net = nn.Embedding(20, 1, sparse=True), network()

        def forward(self, tokens: Tensor) -> Any:
            return self.net(self.table(tokens).view(-1, 1, 8, 8))

    def make(gm: nn.Module) -> list[Any]:
        table = [gm.get_parameter("table.weight")]
        others = [p for p in gm.parameters() if p is not table[0]]
        return [torch.optim.SparseAdam(table, lr=0.01), SGD(others, lr=0.1, momentum=0.9)]

    tokens = torch.randint(20, (16, 64), generator=torch.Generator().manual_seed(3))
    return Training(optimizer=make, model=Tokens(), x=tokens).train().checked()


@setup(GROUP, "named parameters, two groups with options of their own")
def _groups() -> str:
    def make(gm: nn.Module) -> Any:
        decayed = [(name, p) for name, p in gm.named_parameters() if p.dim() > 1]
        plain = [(name, p) for name, p in gm.named_parameters() if p.dim() == 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "lr": 0.005}]
        return AdamW(groups, lr=0.01)

    return Training(optimizer=make).train().checked()


@setup(GROUP, "a compiled step: torch.compile(optimizer.step)")
def _compiled() -> str:
    one = Training(optimizer=lambda gm: AdamW(gm.parameters(), lr=torch.tensor(0.01)))
    compiled: Any = torch.compile(one.optimizer.step, backend="eager")

    def step() -> Tensor:
        loss = one.loss()
        one.optimizer.zero_grad()
        loss.backward()
        compiled()
        return loss

    return one.train(step).checked()


OF_TIMM = {
    "lamb": {"lr": 0.01},
    "lion": {"lr": 0.001},
    "adamp": {"lr": 0.01},
    "nadamw": {"lr": 0.01},
    "adopt": {"lr": 0.01},
    "lookahead_adam": {"lr": 0.01},
    "lookahead_sgd": {"lr": 0.1},
}
for _name, _options in OF_TIMM.items():

    @setup(GROUP, f"timm: {_name}", "timm")
    def _timm(name: str = _name, options: dict[str, float] = _options) -> str:
        timm: Any = import_module("timm.optim")
        return Training(optimizer=lambda gm: timm.create_optimizer_v2(gm, opt=name, **options)).train().checked()


@setup(GROUP, "schedulefree: SGD", "schedulefree")
def _free_sgd() -> str:
    import schedulefree  # noqa: PLC0415

    return _schedule_free(lambda p: schedulefree.SGDScheduleFree(p, lr=0.5))


@setup(GROUP, "schedulefree: AdamW", "schedulefree")
def _free_adamw() -> str:
    import schedulefree  # noqa: PLC0415

    return _schedule_free(lambda p: schedulefree.AdamWScheduleFree(p, lr=0.02))


def _schedule_free(make: Make) -> str:
    one = Training(optimizer=lambda gm: make(gm.parameters()))
    one.optimizer.train()
    return one.train().checked(widths=False)


@setup(GROUP, "an optimizer of the user's own that keeps a buffer of another shape")
def _own() -> str:
    class Own(torch.optim.Optimizer):
        def __init__(self, parameters: Any, lr: float) -> None:
            super().__init__(parameters, {"lr": lr})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    state = self.state[parameter]
                    rows = (
                        parameter.grad.flatten(1).square().mean(1) if parameter.dim() > 1 else parameter.grad.square()
                    )
                    state["rows"] = state.get("rows", torch.zeros(len(rows) + 1))
                    state["rows"][1:].lerp_(rows, 0.1)
                    parameter.add_(parameter.grad, alpha=-group["lr"])

    return Training(optimizer=lambda gm: Own(gm.parameters(), 0.1)).train().checked()


@setup(GROUP, "state cleared by the loop before the event")
def _cleared() -> str:
    one = Training(optimizer=lambda gm: torch.optim.Adamax(gm.parameters(), lr=0.01))

    def step() -> Tensor:
        one.optimizer.state.clear()
        return one.step()

    return one.train(step).checked()
