"""The utilization of a new network is that of the rewrite, whenever it is asked for."""

import copy
import gc
import json
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

import nrfx
from nrfx.analysis.utilization import Utilization
from nrfx.rewrite.moment import Moment
from nrfx.rewrite.result import Rejuvenation
from tests import zoo


def rewritten(seed: int = 0) -> tuple[nrfx.TracedModule, Rejuvenation]:
    torch.manual_seed(seed)
    depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU())
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *depthwise, nn.Conv2d(8, 12, 1)),
        *(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 1)),
    )
    with torch.no_grad():
        for index in (1, 4, 7):
            model[index].weight[:3] = 0
            model[index].bias[:2] = 0.5
    gm = nrfx.trace(model.eval(), torch.zeros(1, 3, 8, 8))
    return gm, nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=0.9), scheme="dense")


def expected() -> Utilization:
    return nrfx.utilization(rewritten()[1].module)


def test_training_changes_neither_side() -> None:
    gm, result = rewritten()
    before = nrfx.utilization(gm)
    for module in (gm, result.module):
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    tensor[: tensor.shape[0] // 2] = 0
    assert nrfx.utilization(result.module) != expected()
    assert (result.before, result.after) == (before, expected())


@pytest.mark.parametrize("change", [lambda module: module.half(), lambda module: module.to("meta")])
def test_so_does_no_other_dtype_or_device(change: Callable[[nn.Module], object]) -> None:
    result = rewritten()[1]
    change(result.module)
    assert result.after == expected()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
def test_a_copy_has_it_too(copied: Callable[[Rejuvenation], Rejuvenation]) -> None:
    result = rewritten()[1]
    assert copied(result).after == expected()


def test_nothing_is_measured_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Moment] = []
    measured = Moment.utilization.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Moment, "utilization", property(lambda moment: asked.append(moment) or measured(moment)))
    result = rewritten()[1]
    assert not asked
    assert result.after.params.total <= result.before.params.total
    assert len(asked) == 1


def test_a_result_does_not_keep_the_old_network() -> None:
    gm, result = rewritten()
    wanted = nrfx.utilization(gm).to_json()
    old = weakref.ref(gm.get_parameter("0.weight"))
    del gm
    gc.collect()
    assert old() is None
    assert result.before.to_json() == wanted


@pytest.mark.parametrize("name", sorted(zoo.SMALL))
def test_before_is_told_when_the_old_network_is_another_one_or_gone(name: str) -> None:
    gm = nrfx.trace(zoo.with_dead(zoo.SMALL[name]()), torch.zeros(zoo.IMAGE))
    wanted = json.loads(nrfx.utilization(gm).to_json())
    result = nrfx.compact(gm)
    with torch.no_grad():
        for parameter in gm.parameters():
            parameter.fill_(1.0)
    for path in [path for path, _ in gm.named_children()]:
        gm.set_submodule(path, nn.Identity())
    del gm
    gc.collect()
    assert json.loads(result.before.to_json()) == wanted


@pytest.mark.parametrize("name", sorted(zoo.SMALL))
def test_it_is_what_utilization_finds_at_once(name: str) -> None:
    gm = nrfx.trace(zoo.with_dead(zoo.SMALL[name]()), torch.zeros(zoo.IMAGE))
    for result in (nrfx.compact(gm), nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))):
        assert result.after == nrfx.utilization(result.module)


def test_a_tied_parameter_counts_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    with torch.no_grad():
        model[1].weight[:4] = 0
    model[4].weight = model[1].weight
    result = nrfx.compact(nrfx.trace(model.eval(), torch.zeros(1, 3, 4, 4)))
    assert result.after.params.total == sum(parameter.numel() for parameter in result.module.parameters())


def test_a_layer_that_is_exchanged_before_the_question_changes_nothing() -> None:
    result = rewritten()[1]
    wanted = expected().to_json()
    result.module.set_submodule("1", nn.Identity())
    result.module.set_submodule("3", nn.Conv2d(8, 8, 5))
    assert result.after.to_json() == wanted
