"""A small training across an event, and what must hold behind it."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import nrfx

EVENT, STEPS = 4, 14
X = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randint(5, (16,), generator=torch.Generator().manual_seed(2))


class Silent(AssertionError):
    """What should hold behind an event does not, and nothing was said."""


def network(classes: int = 5) -> nn.Sequential:
    """Two convolutions with norms whose gammas start at 0.5, and a linear layer: images [N, 1, 8, 8] -> logits."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )
    for norm in norms(layers):
        nn.init.constant_(norm.weight, 0.5)
    return layers


def norms(module: nn.Module) -> list[nn.BatchNorm2d | nn.SyncBatchNorm]:
    """The batch norms of a module."""
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm2d | nn.SyncBatchNorm)]


@torch.no_grad()
def kill(module: nn.Module) -> None:
    """Sets a quarter of the gammas of the first batch norm to 0, and half of those of the others."""
    for index, norm in enumerate(norms(module)):
        norm.weight[: norm.num_features // (2 if index else 4)] = 0


def sgd(module: nn.Module) -> Optimizer:
    """SGD with momentum over all parameters."""
    return SGD(module.parameters(), lr=0.1, momentum=0.9)


def rejuvenator(gm: nn.Module, optimizer: Any, **options: Any) -> nrfx.Rejuvenator:
    """A Rejuvenator that measures in every step; an optimizer may move a dead gamma up to a fifth of the largest."""
    fixed: dict[str, Any] = {
        "interval": 1,
        "trigger": 0.8,
        "delta_lambda": 1e-4,
        "threshold": 0.2,
        "generator": torch.Generator().manual_seed(0),
        "example_inputs": X,
    }
    if "budget" not in options:
        fixed["budget"] = nrfx.Budget.relative(gm, params=1.0, example_inputs=X)
    return nrfx.Rejuvenator(gm, optimizer, **{**fixed, **options})


class Training:
    """The network, its trace, an optimizer and an attached Rejuvenator; `step` is a step of a usual loop.

    Args:
        optimizer: makes one or several optimizers of the traced module.
        run: makes what the loss calls of (model, gm); the model itself by default.
        wrap: makes of the model what the loss calls and the Rejuvenator is given; gm is given by default.
    """

    def __init__(
        self,
        optimizer: Callable[[nn.Module], Any] = sgd,
        run: Callable[[nn.Module, nn.Module], Any] = lambda model, gm: model,
        wrap: Callable[[nn.Module], Any] | None = None,
        model: nn.Module | None = None,
        attach: bool = True,
        x: Tensor | None = None,
        **options: Any,
    ) -> None:
        self.model: Any = network() if model is None else model
        self.x, self.y = X.to(next(self.model.parameters()).dtype) if x is None else x, Y
        self.gm = nrfx.trace(self.model, self.x)
        made = optimizer(self.gm)
        self.optimizers: list[Any] = list(made) if isinstance(made, list | tuple) else [made]
        self.optimizer = self.optimizers[0]
        self.run = run(self.model, self.gm) if wrap is None else wrap(self.model)
        budget = nrfx.Budget.relative(self.gm, params=1.0)
        self.nr = rejuvenator(self.gm if wrap is None else self.run, made, **{"budget": budget, **options})
        if attach:
            self.nr.attach()
        self.losses: list[float] = []
        self._shapes = [each.shape for each in self.gm.parameters()]

    def loss(self) -> Tensor:
        """The loss of the fixed batch."""
        return F.cross_entropy(self.run(self.x), self.y)

    def mixed_loss(self) -> Tensor:
        """The loss of the fixed batch, computed in bfloat16 where autocast does so."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.loss()

    def step(
        self,
        loss: Callable[[], Tensor] | None = None,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        between: Callable[[], Any] = lambda: None,
    ) -> Tensor:
        """A step as most loops have it, and its loss.

        Args:
            loss: computes it; `self.loss` by default.
            between: what the loop does between backward and the step of the optimizer.
        """
        value = (self.loss if loss is None else loss)()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        backward(value)
        between()
        for optimizer in self.optimizers:
            optimizer.step()
        return value

    def train(self, step: Callable[[], Any] | None = None, steps: int = STEPS, event: int = EVENT) -> "Training":
        """Trains, and lets channels die ahead of step `event`; `step` returns its loss."""
        for number in range(steps):
            if number == event:
                kill(self.nr.module)
            loss = (step or self.step)()
            self.losses.append(loss.item() if isinstance(loss, Tensor) else float(loss))
        return self

    def checked(
        self,
        holders: Iterable[Callable[..., Any]] = (),
        event: int = EVENT,
        held: Iterable[Tensor] | None = None,
        trained: bool = True,
        widths: bool = True,
    ) -> str:
        """What was seen to hold behind the event, in words.

        Args:
            holders: what must give the outputs of the traced module, beside the model and what the loss calls.
            event: the step ahead of which the channels died.
            held: the parameters that the optimizers should hold; all that require a gradient by default.
            trained: whether the loss must fall.
            widths: whether some must have changed; not where one layer alone is free, which gets its own back.

        Raises:
            Silent: something does not.
        """
        gm = self.nr.module
        expect(self.nr.events >= 1, f"no event in {self.nr.steps} steps. {self.nr.note}")
        changed = [each.shape for each in gm.parameters()] != self._shapes
        expect(changed or not widths, "all widths are what they were")
        expected = [each for each in gm.parameters() if each.requires_grad] if held is None else list(held)
        check_held(self.optimizers, expected)
        if trained:
            behind = self.losses[event + 1]
            expect(self.losses[-1] < min(behind, self.losses[0]), f"the loss does not fall: {self.losses}")
        count = agree(gm, [self.model, self.run, *holders], self.x)
        fell = f"loss {self.losses[0]:.2f} to {self.losses[-1]:.2f}, " if trained else ""
        return f"{fell}{len(expected)} parameters held, {count} holders agree"


def step_of(network: Callable[[Tensor], Any], optimizer: Any) -> float:
    """A step of a loop that has a network and an optimizer, and its loss."""
    loss = F.cross_entropy(network(X), Y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss)


def in_a_group(wrap: Callable[[nn.Module], Any]) -> str:
    """A training in a group of one process of gloo; `wrap` makes of the model what the loss calls."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            return Training(wrap=wrap).train().checked()
        finally:
            with suppress(RuntimeError):  # some wrappers have ended it already
                dist.destroy_process_group()


def of_all(losses: Sequence[float]) -> list[float]:
    """The losses of a training; in several processes, the means over all of them."""
    means = torch.tensor(losses)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(means)
        means /= dist.get_world_size()
    return means.tolist()


def check_same_everywhere(model: nn.Module) -> None:
    """In several processes: their weights are the same, bit by bit."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        weights = [parameter.detach() for parameter in model.parameters()]
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, weights)
        for other in found:
            same = all(torch.equal(a, b) for a, b in zip(weights, other, strict=True))
            expect(same, "the weights of two processes differ")


def check_held(optimizers: Sequence[Any], expected: Sequence[Tensor]) -> None:
    """Raises Silent unless the optimizers hold these parameters, each once, and no others."""
    held = [each for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]]
    expect(len(held) == len({*held}), "an optimizer holds a parameter twice")
    expect({*held} == {*expected}, f"of {len(expected)} parameters {len({*held} & {*expected})} are held")


@torch.no_grad()
def agree(gm: nn.Module, holders: Iterable[Callable[..., Any]], x: Tensor) -> int:
    """How many different objects give the outputs of gm in eval mode; raises Silent if one does not."""
    training = gm.training
    gm.eval()
    different = {id(holder): holder for holder in holders if holder is not gm}
    for holder in different.values():
        if isinstance(holder, nn.Module):
            holder.eval()
    right = gm(x)
    for holder in different.values():
        difference = float((holder(x) - right).abs().max()) / float(right.abs().max())
        expect(difference < 1e-3, f"a {type(holder).__name__} gives other outputs, by {difference:.2g}")
    for module in (gm, *different.values()):
        if isinstance(module, nn.Module):
            module.train(training)
    return 1 + len(different)


def expect(holds: bool, otherwise: str) -> None:
    """Raises Silent, with a description, if something does not hold."""
    if not holds:
        raise Silent(otherwise)
