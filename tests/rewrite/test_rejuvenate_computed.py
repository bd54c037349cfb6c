"""Layers whose weight is computed before each call, by a hook or a parametrization, in the middle of training."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import nrfx
from tests.rewrite.rewriting import unit

COMPUTED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm in a hook": nn.utils.weight_norm,
    "spectral_norm in a hook": nn.utils.spectral_norm,
    "a prune mask": lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
}


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network(computed: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Three units; the weight of the first is computed, and half of the second's channels are dead."""
    torch.manual_seed(0)
    model = nn.Sequential(unit(3, 8), unit(8, 8), unit(8, 8), nn.Conv2d(8, 4, 3)).double()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)
        computed(model[0][0])
        model[1][1].weight[:4] = 0
    return model


@pytest.fixture(params=COMPUTED.values(), ids=COMPUTED.keys())
def computed(request: pytest.FixtureRequest) -> Callable[[nn.Module], nn.Module]:
    return request.param


@pytest.mark.parametrize("training", [False, True])
def test_a_step_of_training_before_each_move_hinders_none(
    computed: Callable[[nn.Module], nn.Module], training: bool, tmp_path: Path
) -> None:
    model = network(computed).train(training)
    model(images()).sum().backward()
    gm = nrfx.trace(model, images())
    gm(images()).sum().backward()
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    assert result.changed and nrfx.compact(gm).changed and nrfx.verify(gm, result, images()) < 1e-12
    new = result.module
    new(images()).sum().backward()
    nrfx.save(tmp_path / "net", new)
    loaded, copied = nrfx.load(tmp_path / "net", network(computed)), copy.deepcopy(new)
    expected = new.eval()(images())
    for twin in (loaded, copied):
        torch.testing.assert_close(twin.eval()(images()), expected, rtol=0, atol=0)


def test_tracing_and_asking_compute_no_weight(computed: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    """In train mode spectral_norm takes a step of its power iteration each time that its weight is computed."""
    model = network(computed).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gm = nrfx.trace(model, images())
    nrfx.utilization(gm), nrfx.why(gm), nrfx.compact(gm), nrfx.save(tmp_path / "net", gm)
    loaded = nrfx.load(tmp_path / "net", network(computed))
    for state in (model.state_dict(), loaded.state_dict()):
        assert [name for name, value in state.items() if not torch.equal(before[name], value)] == []
