"""Laws of what a network computes: the same before and after, in training and from a file."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import nrfx
from tests.laws.cost import costs_as_counted
from tests.laws.trial import TOLERANCE, Options, Trial, difference, tried
from tests.zoo import norms


def a_rewrite_keeps_the_function(trial: Trial) -> None:
    model, gm = trial.model, trial.gm
    before = {name: tensor.clone() for name, tensor in gm.state_dict().items()}
    mode = model.training
    result = trial.result
    assert model.training == mode
    assert all(torch.equal(tensor, before[name]) for name, tensor in gm.state_dict().items())
    if result is not None:
        assert difference(trial.expected, trial.outputs(result.module)) < TOLERANCE
        assert nrfx.verify(gm, result, trial.images()) < TOLERANCE
        frozen = dict(unlearnt(model))
        assert all(parameter.numel() <= frozen[name].numel() for name, parameter in unlearnt(result.module))


def unlearnt(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in module.named_parameters() if not parameter.requires_grad]


def nothing_dead_at_the_same_cost_changes_nothing(trial: Trial) -> None:
    how = trial.how
    gm = copy.deepcopy(trial.gm)
    gm.load_state_dict({name: tensor for name, tensor in trial.alive.state_dict().items() if name in gm.state_dict()})
    result = Options(how.scheme, how.residual, how.of, 1.0, how.rescale).rewrite(gm)
    assert not result.changed and result.notes
    assert all(torch.equal(a, b) for a, b in zip(trial.outputs(gm), trial.outputs(result.module), strict=True))


def rejuvenating_twice_keeps_the_function(trial: Trial) -> None:
    if trial.result is None:
        return
    gm = copy.deepcopy(trial.result.module)
    perturb(gm)
    trial.plan.killed(gm)
    again = tried(gm, trial.how)
    if again is not None:
        assert difference(trial.outputs(gm), trial.outputs(again.module)) < TOLERANCE
        costs_as_counted(again.module, again.after, trial)


def perturb(module: nn.Module) -> None:
    """Moves every parameter and some statistics a little, and every gamma away from zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for norm in norms(module):
            norm.weight.copy_(torch.where(norm.weight < 0, -1, 1) * norm.weight.abs().clamp(min=0.2))
            if norm.running_mean is not None:
                noise = torch.randn(norm.num_features, generator=generator, dtype=torch.float64)
                norm.running_mean.add_(0.1 * noise)


def what_comes_out_trains(trial: Trial) -> None:
    if trial.result is None:
        return
    module = copy.deepcopy(trial.result.module).train()
    leaves = [leaf for leaf in tree_leaves(module(trial.images(4))) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if leaves:
        sum(leaf.square().mean() for leaf in leaves).backward()  # type: ignore[union-attr]
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


def what_is_saved_is_loaded(trial: Trial) -> None:
    result = trial.result
    if result is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        nrfx.save(path, result.module)
        loaded = nrfx.load(path, trial.plan.build())
    state = loaded.state_dict()
    assert state.keys() == result.module.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in result.module.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(trial.outputs(loaded), trial.outputs(result.module), strict=True))
