"""Small op patterns that real networks use, each between two batch norms: a table that reads like a list.

A pattern is an op on the output [N, 8, 8, 8] of a convolution, batch norm and relu (`before`); what it gives goes
through the same again (`after`; a linear layer where it is no map) and to three logits. `run(m, x)` is the op, `m` the
module `op` that holds its `parts`. `free` names what must be able to change its width, by module path; `pinned` what
must not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import cbr

WIDE = 8
IMAGE = (2, 3, 8, 8)
MAPS = (2, WIDE, 8, 8)


class Op(nn.Module):
    """run(self, x, ...), with the parts as attributes: modules, parameters, and buffers."""

    def __init__(self, run: Callable[..., Any], parts: dict[str, Any]) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


class Between(nn.Module):
    """before, op, after, head."""

    def __init__(self, run: Callable[..., Any], parts: dict[str, Any]) -> None:
        super().__init__()
        self.before, self.op = cbr(3, WIDE), Op(run, parts)
        with torch.no_grad():
            given = self.op.eval()(torch.rand(MAPS))
        self.after = cbr(given.shape[1], 6) if given.dim() == 4 else nn.Linear(given.shape[-1], 6)
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.op(self.before(x)))
        if x.dim() == 4:
            x = x.mean((2, 3))
        if x.dim() == 3:
            x = x.mean(1)
        return self.head(torch.relu(self.norm(x)))


class Last(nn.Module):
    """before, op; the output of the op is the output of the network."""

    def __init__(self, run: Callable[..., Any], parts: dict[str, Any]) -> None:
        super().__init__()
        self.before, self.op = cbr(3, WIDE), Op(run, parts)

    def forward(self, x: Tensor) -> Any:
        return self.op(self.before(x))


class Two(nn.Module):
    """Two images, one through before and one through beside; op on both, after, head."""

    def __init__(self, run: Callable[..., Any], parts: dict[str, Any]) -> None:
        super().__init__()
        self.before, self.beside, self.op = cbr(3, WIDE), cbr(3, WIDE), Op(run, parts)
        with torch.no_grad():
            wide = self.op.eval()(torch.rand(MAPS), torch.rand(MAPS)).shape[1]
        self.after, self.head = cbr(wide, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.after(self.op(self.before(x), self.beside(y))).mean((2, 3)))


def untouched(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class Pattern:
    """`finish` changes the prepared model (dtype, memory format, frozen parameters, hooks). `refused`: what the error
    says where the model cannot be traced. `uncounted`: whether its multiply-adds have no rule yet.
    """

    run: Callable[..., Any]
    parts: Callable[[], dict[str, Any]] = dict
    free: str = ""
    pinned: str = ""
    net: Callable[[Callable[..., Any], dict[str, Any]], nn.Module] = Between
    finish: Callable[[nn.Module], nn.Module] = untouched
    refused: str | None = None
    uncounted: bool = False
    trains: bool = True

    @property
    def inputs(self) -> int:
        return 2 if self.net is Two else 1

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.net(self.run, self.parts())


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[0] ** 0.5)
