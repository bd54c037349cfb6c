"""Copies, pickles and states in the middle of a training."""

import copy
import io
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import nrfx
from benchmarks.setups.setup import setup
from benchmarks.setups.training import STEPS, Training, X, agree, expect, network, rejuvenator, sgd, step_of

GROUP = "copies and states"


def _behind() -> Training:
    return Training(max_events=None).train()


@setup(GROUP, "copy.deepcopy of the model behind an event")
def _copied() -> str:
    one = _behind()
    twin = copy.deepcopy(one.model)
    said = one.checked([twin])
    before = twin(X)
    one.step()
    expect(torch.equal(before, twin(X)), "the copy shares something with the model")
    return said


@setup(GROUP, "copy.deepcopy of (model, optimizer) behind an event, trained on")
def _copied_both() -> str:
    one = _behind()
    model, optimizer = copy.deepcopy((one.model, one.optimizer))
    held = {p for group in optimizer.param_groups for p in group["params"]}
    expect(held == {*model.parameters()}, "the copied optimizer holds other parameters")
    losses = [step_of(model, optimizer) for _ in range(6)]
    expect(losses[-1] < losses[0], "the loss of the copy does not fall")
    return f"loss of the copy {losses[0]:.2f} to {losses[-1]:.2f}; {one.checked()}"


@setup(GROUP, "copy.deepcopy of the model ahead of an event, used behind it")
def _copied_ahead() -> str:
    one = Training()
    twin = copy.deepcopy(one.model).eval()
    before = twin(X)
    said = one.train().checked()
    expect(torch.equal(before, twin(X)), "the copy has changed with the model")
    return said


@setup(GROUP, "torch.save(model) behind an event, and torch.load")
def _pickled() -> str:
    one, file = _behind(), io.BytesIO()
    torch.save(one.model, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    return one.checked([loaded])


@setup(GROUP, "pickling the Rejuvenator itself")
def _pickled_rejuvenator() -> str:
    one, file = _behind(), io.BytesIO()
    torch.save(one.nr, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    expect(loaded.events == one.nr.events, "it has other counts")
    return one.checked()


@setup(GROUP, "state_dict of before the event, loaded behind it", stops=True)
def _old_state() -> str:
    one = Training()
    old = copy.deepcopy(one.model.state_dict())
    one.train()
    one.model.load_state_dict(old)
    return one.checked()


@setup(GROUP, "state_dict of behind the event, loaded into the same network")
def _same_state() -> str:
    one = _behind()
    one.model.load_state_dict(copy.deepcopy(one.model.state_dict()))
    one.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    one.step()
    return one.checked()


@setup(GROUP, "state_dict of behind the event, loaded into a fresh model", stops=True)
def _fresh_state() -> str:
    one = _behind()
    fresh = network()
    fresh.load_state_dict(one.model.state_dict())
    return one.checked([fresh])


@setup(GROUP, "state_dict of the optimizer of behind the event, loaded into a fresh one", stops=True)
def _fresh_optimizer() -> str:
    one = _behind()
    fresh = network()
    optimizer = sgd(fresh)
    optimizer.load_state_dict(one.optimizer.state_dict())
    step_of(fresh, optimizer)
    return one.checked()


@setup(GROUP, "nrfx.save behind the event, nrfx.load into a fresh model, optimizer and Rejuvenator")
def _saved() -> str:
    one = _behind()
    loaded, nr, optimizer = _resumed(one, network())
    count = agree(one.gm, [one.model, loaded, nr.module], X)
    losses = [(step_of(one.model, one.optimizer), step_of(nr.module, optimizer)) for _ in range(4)]
    expect(all(abs(a - b) < 1e-4 for a, b in losses), f"the resumed run has other losses: {losses}")
    return f"{count} holders agree, the next four losses are the same"


@setup(GROUP, "nrfx.load, and the loss by the fresh model that was given to it")
def _saved_stale() -> str:
    one = _behind()
    fresh = network()
    _, nr, optimizer = _resumed(one, fresh)
    for _ in range(STEPS):
        step_of(fresh, optimizer)
    agree(nr.module, [fresh], X)
    return one.checked()


def _resumed(one: Training, fresh: nn.Module) -> tuple[nn.Module, nrfx.Rejuvenator, Optimizer]:
    """The training, saved, and loaded into a fresh model: what load returns, an attached Rejuvenator, its optimizer."""
    gm = nrfx.trace(fresh, X)
    optimizer = sgd(gm)
    nr = rejuvenator(gm, optimizer, max_events=None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        nrfx.save(path, one.gm, optimizer=one.optimizer, rejuvenator=one.nr)
        loaded = nrfx.load(path, gm, optimizer=optimizer, rejuvenator=nr)
    return loaded, nr.attach(), optimizer


@setup(GROUP, "a step rolled back by the loop: states kept, loaded again")
def _rolled_back() -> str:
    one = Training()

    def step() -> Tensor:
        kept = copy.deepcopy(one.model.state_dict())
        loss = one.step()
        if one.nr.steps == 8:
            one.model.load_state_dict(kept)
        return loss

    return one.train(step).checked()
