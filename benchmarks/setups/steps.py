"""How the loop makes a step: scalers, closures, clipping, accumulation."""

import copy
import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.setups.setup import setup
from benchmarks.setups.training import Training, X, Y, expect, sgd

GROUP = "how a step is made"


@setup(GROUP, "penalize and step as lines of the loop")
def _lines() -> str:
    one = Training(attach=False)

    def step() -> Tensor:
        loss = one.step(between=one.nr.penalize)
        one.nr.step()
        return loss

    return one.train(step).checked()


@setup(GROUP, "GradScaler on the CPU, unscale_ left to it")
def _scaler() -> str:
    return _scaled(unscale=False)


@setup(GROUP, "GradScaler on the CPU, unscale_ and clipping in the loop")
def _scaler_clipped() -> str:
    return _scaled(unscale=True)


def _scaled(unscale: bool) -> str:
    one, scaler = Training(), torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step() -> Tensor:
        loss = one.mixed_loss()
        one.optimizer.zero_grad()
        scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(one.optimizer)
            nn.utils.clip_grad_norm_(one.model.parameters(), 1.0)
        scaler.step(one.optimizer)
        scaler.update()
        return loss

    said = one.train(step).checked()
    expect(scaler.get_scale() == 1024.0 and one.nr.steps == len(one.losses), "a step was left out")
    return said


@setup(GROUP, "GradScaler that leaves out a step with infinite gradients")
def _scaler_skips() -> str:
    one, scaler = Training(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    steps = 0

    def step() -> Tensor:
        nonlocal steps
        steps += 1
        loss = one.loss()
        one.optimizer.zero_grad()
        scaler.scale(loss).backward()
        if steps == 3:
            next(one.model.parameters()).grad.fill_(float("inf"))
        scaler.step(one.optimizer)
        scaler.update()
        return loss

    said = one.train(step).checked()
    expect(one.nr.steps == steps - 1, f"{one.nr.steps} steps are counted of {steps}, one of which was left out")
    return f"{said}; the step that was left out is not counted"


@setup(GROUP, "autocast to bfloat16")
def _autocast() -> str:
    one = Training()
    return one.train(lambda: one.step(one.mixed_loss)).checked()


@setup(GROUP, "gradients accumulated over two halves of a batch")
def _accumulated() -> str:
    one = Training()

    def step() -> Tensor:
        one.optimizer.zero_grad()
        losses = [F.cross_entropy(one.run(x), y) / 2 for x, y in zip(X.split(8), Y.split(8), strict=True)]
        for loss in losses:
            loss.backward()
        one.optimizer.step()
        return torch.stack(losses).sum()

    said = one.train(step).checked()
    expect(one.nr.steps == len(one.losses), "a half is counted as a step")
    return said


@setup(GROUP, "optimizer.step(closure)")
def _closure() -> str:
    return _closed(Training())


@setup(GROUP, "LBFGS with a closure")
def _lbfgs() -> str:
    return _closed(
        Training(optimizer=lambda gm: torch.optim.LBFGS(gm.parameters(), lr=0.1, max_iter=2, history_size=4))
    )


def _closed(one: Training) -> str:
    def closure() -> Tensor:
        one.optimizer.zero_grad()
        loss = one.loss()
        loss.backward()
        return loss

    return one.train(lambda: one.optimizer.step(closure)).checked()


@setup(GROUP, "sharpness-aware steps: ascent by hand, step of SGD inside")
def _sam() -> str:
    one = Training()

    def ascend() -> None:
        parameters = [p for p in one.model.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        climbs = [0.02 * p.grad / norm for p in parameters]
        _add(parameters, climbs, 1)
        one.optimizer.zero_grad()
        one.loss().backward()
        _add(parameters, climbs, -1)

    return one.train(lambda: one.step(between=ascend)).checked()


@torch.no_grad()
def _add(parameters: list[Any], moves: list[Tensor], sign: int) -> None:
    for parameter, move in zip(parameters, moves, strict=True):
        parameter.add_(move, alpha=sign)


@setup(GROUP, "clipping by a list of parameters made before the event")
def _clip_list() -> str:
    one = Training()
    parameters = list(one.model.parameters())

    def clip() -> None:
        norm = nn.utils.clip_grad_norm_(parameters, 0.1)
        now = torch.stack([p.grad.norm() for p in one.model.parameters()]).norm()
        expect(float(now) <= min(float(norm), 0.1) * 1.01, "gradients of the network are not clipped")

    return one.train(lambda: one.step(between=clip)).checked()


@setup(GROUP, "clip_grad_norm_ in a step hook of the optimizer, registered before attach")
def _clip_hook() -> str:
    return _hooked(first=True)


@setup(GROUP, "clip_grad_norm_ in a step hook of the optimizer, registered after attach")
def _clip_hook_after() -> str:
    return _hooked(first=False)


def _hooked(first: bool) -> str:
    one = Training(attach=not first)
    one.optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(one.model.parameters(), 1.0) and None)
    if first:
        one.nr.attach()
    return one.train().checked()


@setup(GROUP, "clip_grad_value_ and gradient noise")
def _clip_value() -> str:
    one = Training()

    def disturb() -> None:
        nn.utils.clip_grad_value_(one.model.parameters(), 0.5)
        for parameter in one.model.parameters():
            parameter.grad.add_(1e-5)

    return one.train(lambda: one.step(between=disturb)).checked()


@setup(GROUP, "zero_grad(set_to_none=False)")
def _zero() -> str:
    one = Training()

    def step() -> Tensor:
        loss = one.loss()
        one.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        one.optimizer.step()
        return loss

    return one.train(step).checked()


@setup(GROUP, "zero_grad behind the step instead of before it")
def _zero_behind() -> str:
    one = Training()

    def step() -> Tensor:
        loss = one.loss()
        loss.backward()
        one.optimizer.step()
        one.model.zero_grad()
        return loss

    return one.train(step).checked()


@setup(GROUP, "losses kept with their graphs (retain_graph)")
def _retained() -> str:
    one = Training()
    kept: list[Tensor] = []

    def backward(loss: Tensor) -> None:
        loss.backward(retain_graph=True)
        kept.append(loss)

    return one.train(lambda: one.step(backward=backward)).checked()


@setup(GROUP, "torch.autograd.grad, gradients written by the loop")
def _autograd_grad() -> str:
    one = Training()

    def step() -> Tensor:
        loss = one.loss()
        parameters = list(one.model.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        one.optimizer.step()
        return loss

    return one.train(step).checked()


@setup(GROUP, "a penalty on gradients (create_graph)")
def _double_backward() -> str:
    one = Training()

    def backward(loss: Tensor) -> None:
        (gradient,) = torch.autograd.grad(loss, [one.model[8].weight], create_graph=True)
        (loss + 0.01 * gradient.square().sum()).backward()

    return one.train(lambda: one.step(backward=backward)).checked()


@setup(GROUP, "an optimizer for each parameter that steps in backward (post_accumulate_grad hooks)")
def _in_backward() -> str:
    one = Training(optimizer=lambda gm: [SGD([p], lr=0.05, momentum=0.9) for p in gm.parameters()])
    of = {one_of.param_groups[0]["params"][0]: one_of for one_of in one.optimizers}

    def act(parameter: Tensor) -> None:
        of[parameter].step()
        of[parameter].zero_grad()

    for parameter in of:
        parameter.register_post_accumulate_grad_hook(act)

    def step() -> Tensor:
        loss = one.loss()
        loss.backward()
        return loss

    return one.train(step).checked()


@setup(GROUP, "evaluation under no_grad between the steps")
def _evaluated() -> str:
    return _with_evaluation(torch.no_grad)


@setup(GROUP, "evaluation under inference_mode between the steps")
def _inferred() -> str:
    return _with_evaluation(torch.inference_mode)


def _with_evaluation(mode: Any) -> str:
    one = Training()

    def step() -> Tensor:
        loss = one.step()
        one.model.eval()
        with mode():
            one.run(X)
        one.model.train()
        return loss

    return one.train(step).checked()


@setup(GROUP, "the model in eval mode at the event (frozen statistics)")
def _eval_at_event() -> str:
    one = Training()
    one.model.eval()
    return one.train().checked()


@setup(GROUP, "batches of a DataLoader with two workers")
def _workers() -> str:
    one = Training()
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, num_workers=2, persistent_workers=True)

    def step() -> Tensor:
        ((x, y),) = loader
        return one.step(lambda: F.cross_entropy(one.run(x), y))

    return one.train(step).checked()


@setup(GROUP, "another thread that evaluates a copy of the model")
def _thread_copy() -> str:
    one = Training()
    failed: list[BaseException] = []

    def evaluate() -> None:
        try:
            twin = copy.deepcopy(one.model).eval()
            for _ in range(3):
                twin(X)
        except BaseException as error:
            failed.append(error)

    def step() -> Tensor:
        thread = threading.Thread(target=evaluate)
        thread.start()
        thread.join()
        return one.step()

    said = one.train(step).checked()
    expect(not failed, f"the thread failed: {failed[:1]}")
    return said


@setup(GROUP, "the whole loop in a thread of its own")
def _thread() -> str:
    one = Training()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            one.train()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return one.checked()


@setup(GROUP, "the Rejuvenator attached in the middle of a training")
def _late() -> str:
    one = Training(attach=False, optimizer=sgd)
    for _ in range(3):
        one.step()
    one.nr.attach()
    return one.train().checked()
