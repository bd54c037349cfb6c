"""A Rejuvenator in the step hooks of optimizers does what its lines in a loop do."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer

import nrfx
from nrfx.errors import TrainingError
from nrfx.training.hooks import StepHooks
from nrfx.training.rejuvenator import Rejuvenator
from tests.training.small_loop import kill, learn, set_up
from tests.zoo import IMAGE, vgg_bn

X = torch.randn(8, *IMAGE[1:], generator=torch.Generator().manual_seed(1))
Y = torch.randint(5, (8,), generator=torch.Generator().manual_seed(2))


def weights(nr: Rejuvenator) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in nr.module.parameters()]


def searched(**options: Any) -> tuple[Rejuvenator, SGD]:
    torch.manual_seed(0)
    nr, optimizer = set_up(delta_lambda=0.05, **options)
    return nr, optimizer


def gradients(nr: Rejuvenator, part: slice = slice(None)) -> Tensor:
    loss = F.cross_entropy(nr.module(X[part]), Y[part])
    loss.backward()
    return loss


def test_the_hooks_do_what_the_lines_do_across_an_event() -> None:
    lines, by_hand = searched()
    hooks, optimizer = searched()
    hooks.attach()
    for step in range(8):
        if step == 5:
            kill(lines), kill(hooks)
        learn(lines, by_hand, 0)
        x, y = (
            torch.randn(8, *IMAGE[1:], generator=(g := torch.Generator().manual_seed(0))),
            torch.randint(5, (8,), generator=g),
        )
        optimizer.zero_grad()
        F.cross_entropy(hooks.module(x), y).backward()
        optimizer.step()
    assert lines.events == hooks.events == 1 and lines.state_dict() == hooks.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(weights(lines), weights(hooks), strict=True))


def test_a_closure_is_penalized_behind_its_backward_however_it_is_given() -> None:
    results = []
    for how in ("lines", "positional", "keyword"):
        nr, optimizer = searched()
        nr.load_state_dict({**nr.state_dict(), "lam": 0.2})

        def closure(nr: Rejuvenator = nr, optimizer: Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            return gradients(nr)

        if how == "lines":
            closure()
            nr.penalize()
            optimizer.step()
            nr.step()
        else:
            nr.attach()
            loss = optimizer.step(closure) if how == "positional" else optimizer.step(closure=closure)
            assert isinstance(loss, Tensor)
        results.append(weights(nr))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_each_call_of_a_closure_is_penalized() -> None:
    weight, calls = nn.Parameter(torch.ones(3)), []
    optimizer = LBFGS([weight], max_iter=4)
    StepHooks([optimizer], lambda _: calls.append("before"), lambda _: calls.append("after"))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        calls.append("closure")
        return loss

    optimizer.step(closure)
    assert calls.count("closure") == calls.count("before") > 1 and calls[-1] == "after" and calls.count("after") == 1
    assert all(pair == ("closure", "before") for pair in zip(calls[:-1:2], calls[1:-1:2], strict=True))


def test_accumulated_gradients_are_penalized_once() -> None:
    nr, optimizer = searched(penalty="sign", weighted="alike")
    nr.load_state_dict({**nr.state_dict(), "lam": 0.2})
    nr.attach()
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(nr.module.get_parameter("1.weight").grad.clone()))
    gradients(nr, slice(0, 4)), gradients(nr, slice(4, 8))
    plain = nr.module.get_parameter("1.weight").grad.clone()
    sign = nr.module.get_parameter("1.weight").detach().sign()
    optimizer.step()
    assert torch.allclose(seen[0], plain + 0.2 * sign) and nr.steps == 1


class Scaled(SGD):
    """Plain descent, which divides gradients by the scale in its step as fused optimizers under a GradScaler do."""

    def __init__(self, parameters: Any, scale: float) -> None:
        super().__init__(parameters, lr=0.05)
        self.grad_scale = torch.tensor(scale)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(0.05 * parameter.grad / self.grad_scale)


def test_a_fused_optimizer_under_a_gradient_scaler_is_penalized_at_its_scale() -> None:
    results = []
    for scale in (None, 256.0):
        torch.manual_seed(0)
        gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
        optimizer = SGD(gm.parameters(), lr=0.05) if scale is None else Scaled(gm.parameters(), scale)
        nr = Rejuvenator(gm, optimizer, nrfx.Budget.relative(gm, params=1.0), interval=2).attach()
        nr.load_state_dict({**nr.state_dict(), "lam": 0.2})
        (F.cross_entropy(gm(X), Y) * (scale or 1.0)).backward()
        optimizer.step()
        results.append(weights(nr))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


def test_steps_of_several_optimizers_are_counted_once_and_each_penalizes_its_own() -> None:
    torch.manual_seed(0)
    gm = nrfx.trace(vgg_bn(), torch.zeros(IMAGE))
    gammas = {name for name in dict(gm.named_parameters()) if gm.get_parameter(name).dim() == 1}
    one = SGD([gm.get_parameter(name) for name in gammas], lr=0.1)
    other = Adam([p for name, p in gm.named_parameters() if name not in gammas], lr=1e-3)
    nr = Rejuvenator(gm, [one, other], nrfx.Budget.relative(gm, params=1.0), interval=1, trigger=0.9).attach()
    kill(nr, 0.4)
    for _ in range(3):
        one.zero_grad(), other.zero_grad()
        F.cross_entropy(gm(X), Y).backward()
        one.step()
        other.step()
    assert (nr.steps, nr.events) == (3, 1)
    held = [p for optimizer in (one, other) for group in optimizer.param_groups for p in group["params"]]
    assert {*held} == {*gm.parameters()} and len(held) == len({*held})
    assert all(
        p in optimizer.state for optimizer in (other,) for group in optimizer.param_groups for p in group["params"]
    )


def test_the_lines_are_refused_after_attach_and_welcome_after_detach() -> None:
    nr, optimizer = searched()
    nr.attach()
    for line, words in (
        (nr.penalize, "penalize is called"),
        (nr.step, "step is called"),
        (nr.attach, "attached already"),
    ):
        with pytest.raises(TrainingError, match=words):
            line()
    nr.detach()
    learn(nr, optimizer)
    assert nr.steps == 1


def test_what_on_event_raises_comes_out_of_the_step_and_the_event_stands() -> None:
    def stop(event: nrfx.Event) -> None:
        raise StopIteration(event.step)

    nr, optimizer = searched(on_event=stop)
    nr.attach()
    kill(nr)
    gradients(nr)
    with pytest.raises(StopIteration):
        optimizer.step()
    assert nr.events == 1 and isinstance(nr.last, nrfx.Event)
