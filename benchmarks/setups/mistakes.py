"""What a loop leaves out or does in another order."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

import nrfx
from benchmarks.setups.setup import setup
from benchmarks.setups.training import Training, X, agree, expect, kill, network, rejuvenator, sgd, step_of

GROUP = "mistakes"


@setup(GROUP, "inplace=False, and the loss by the module of before")
def _old_module() -> str:
    one = Training(run=lambda model, gm: gm, inplace=False)
    return one.train().checked()


@setup(GROUP, "the loss by a copy of the model")
def _copy() -> str:
    return Training(run=lambda model, gm: copy.deepcopy(gm)).train().checked()


@setup(GROUP, "penalize forgotten")
def _no_penalty() -> str:
    one = Training(attach=False)

    def step() -> Tensor:
        loss = one.step()
        one.nr.step()
        return loss

    return one.train(step).checked()


@setup(GROUP, "nr.step forgotten")
def _no_step() -> str:
    one = Training(attach=False)

    return one.train(lambda: one.step(between=one.nr.penalize), steps=70).checked(trained=False)


@setup(GROUP, "penalize, step and attach all forgotten")
def _nothing() -> str:
    return Training(attach=False).train(steps=70).checked(trained=False)


@setup(GROUP, "penalize ahead of zero_grad and backward")
def _early() -> str:
    one = Training(attach=False)
    gammas = [one.gm.get_parameter(name) for name in ("1.weight", "4.weight")]

    def step() -> Tensor:
        loss = one.loss()
        one.nr.penalize()
        one.optimizer.zero_grad()
        loss.backward()
        one.optimizer.step()
        one.nr.step()
        return loss

    said = one.train(step).checked()
    expect(all(gamma.grad is None for gamma in gammas), "the penalty was wiped out by zero_grad")
    return said


@setup(GROUP, "attach twice")
def _twice() -> str:
    one = Training()
    one.nr.attach()
    return one.train().checked()


@setup(GROUP, "attach, and penalize in the loop too")
def _both() -> str:
    one = Training()

    def step() -> Tensor:
        loss = one.loss()
        loss.backward()
        one.nr.penalize()
        one.optimizer.step()
        return loss

    return one.train(step).checked()


@setup(GROUP, "an optimizer over a part of the parameters")
def _part() -> str:
    one = Training(optimizer=lambda gm: SGD([p for n, p in gm.named_parameters() if not n.startswith("8")], lr=0.1))
    return one.train().checked()


@setup(GROUP, "an optimizer without the gammas")
def _no_gammas() -> str:
    one = Training(optimizer=lambda gm: SGD([p for p in gm.parameters() if p.dim() > 1], lr=0.1))
    return one.train().checked()


@setup(GROUP, "one of two optimizers given")
def _one_of_two() -> str:
    one = Training(attach=False)
    wide, rest = ([p for p in one.gm.parameters() if (p.dim() > 1) is wide] for wide in (True, False))
    one.optimizers = [SGD(wide, lr=0.1), SGD(rest, lr=0.1)]
    one.optimizer = one.optimizers[1]
    one.nr = rejuvenator(one.gm, one.optimizer).attach()
    return one.train().checked()


@setup(GROUP, "an optimizer of another network")
def _other_network() -> str:
    return Training(optimizer=lambda gm: sgd(network())).train().checked()


@setup(GROUP, "the optimizer built anew behind the event, the search over")
def _rebuilt() -> str:
    one = Training().train()
    one.optimizer = one.optimizers[0] = sgd(one.model)
    return one.train(event=99).checked()


@setup(GROUP, "the optimizer built anew ahead of the event")
def _rebuilt_ahead() -> str:
    one = Training()
    one.train(steps=3, event=99)
    one.optimizer = one.optimizers[0] = sgd(one.model)
    return one.train(steps=70).checked(trained=False)


@setup(GROUP, "a model that was changed between trace and Rejuvenator")
def _stale() -> str:
    model = network()
    gm = nrfx.trace(model, X)
    model[8] = nn.Linear(16, 5)
    optimizer = sgd(model)
    rejuvenator(gm, optimizer).attach()
    return "it was taken as it is"


@setup(GROUP, "a budget below what is alive at the trigger")
def _small_budget() -> str:
    gm = nrfx.trace(network(), X)
    rejuvenator(gm, sgd(gm), budget=nrfx.Budget.relative(gm, params=0.1)).attach()
    return "it was taken as it is"


@setup(GROUP, "a network without norms")
def _no_norms() -> str:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    nr = rejuvenator(gm := nrfx.trace(model, X), sgd(gm)).attach()
    expect(bool(nr.note), "nothing was said")
    return f"nr.note: {nr.note}"


@setup(GROUP, "gammas that become NaN")
def _nan() -> str:
    one = Training()

    def step() -> Tensor:
        if one.nr.steps == 3:
            with torch.no_grad():
                one.gm.get_parameter("1.weight").fill_(float("nan"))
        return one.step()

    return one.train(step).checked(trained=False)


@setup(GROUP, "on_event that raises")
def _raises() -> str:
    def fail(event: nrfx.Event) -> None:
        raise nrfx.TrainingError("raised by on_event")

    one, caught = Training(on_event=fail), []

    def step() -> Any:
        try:
            return one.step()
        except nrfx.TrainingError as error:
            caught.append(error)
            return one.loss()

    said = one.train(step).checked()
    expect(len(caught) == 1, "the error of on_event was lost")
    return f"{said}; the error comes out of optimizer.step, the event is done"


@setup(GROUP, "an event interrupted (KeyboardInterrupt), and the loop goes on")
def _interrupted() -> str:
    class Impatient(nrfx.Rejuvenator):
        asked = 0

        def _watch(self, module: Any) -> None:
            self.asked += 1
            if self.asked == 2:
                raise KeyboardInterrupt
            super()._watch(module)

    model = network()
    gm = nrfx.trace(model, X)
    optimizer = sgd(gm)
    budget = nrfx.Budget.relative(gm, params=1.0)
    nr = Impatient(gm, optimizer, budget, interval=1, trigger=0.8, threshold=0.2).attach()
    losses = []
    for number in range(16):
        if number == 4:
            kill(gm)
        try:
            losses.append(step_of(model, optimizer))
        except KeyboardInterrupt:
            losses.append(-1.0)
    expect(-1.0 in losses and nr.events == 1, "no event was interrupted, or none came behind it")
    expect(losses[-1] < losses[0], f"the loss does not fall: {losses}")
    count = agree(gm, [model], X)
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}; the event came one step later, {count} holders agree"


@setup(GROUP, "two Rejuvenators, for the two networks of a GAN")
def _gan() -> str:
    torch.manual_seed(0)
    maker = nn.Sequential(
        nn.ConvTranspose2d(4, 16, 4, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 1, 5)
    )
    judge = network(1)
    noise = torch.randn(16, 4, 1, 1)
    made, judged = nrfx.trace(maker, noise), nrfx.trace(judge, X)
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.005, betas=(0.5, 0.99)) for net in (made, judged)]
    nrs = [
        rejuvenator(net, optimizer, budget=nrfx.Budget.relative(net, params=1.0), trigger=0.9).attach()
        for net, optimizer in zip((made, judged), optimizers, strict=True)
    ]
    ones, zeros = torch.ones(16, 1), torch.zeros(16, 1)
    for number in range(14):
        if number == 4:
            kill(maker)
        if number == 7:
            kill(judge)
        optimizers[1].zero_grad()
        fake = maker(noise)
        loss = F.binary_cross_entropy_with_logits(judge(X), ones)
        (loss + F.binary_cross_entropy_with_logits(judge(fake.detach()), zeros)).backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        F.binary_cross_entropy_with_logits(judge(fake), ones).backward()
        optimizers[0].step()
    expect([nr.events for nr in nrs] == [1, 1], f"events {[nr.events for nr in nrs]}")
    agree(made, [maker], noise)
    agree(judged, [judge], X)
    return "each network had its event, its model and its traced module agree"


@setup(GROUP, "two Rejuvenators on one network")
def _two_on_one() -> str:
    one = Training()
    other = rejuvenator(one.gm, one.optimizer).attach()
    one.train()
    expect(other.module is one.gm, "they train different networks")
    return one.checked()


@setup(GROUP, "a Rejuvenator thrown away, and another one on the same network")
def _again() -> str:
    one = Training(attach=False)
    one.nr.attach()
    one.train()
    one.nr.detach()
    one.nr = rejuvenator(one.gm, one.optimizer).attach()
    return one.train().checked()


@setup(GROUP, "gradients set to None by the loop ahead of the step")
def _no_gradients() -> str:
    one = Training()

    return one.train(lambda: one.step(between=one.optimizer.zero_grad)).checked()
