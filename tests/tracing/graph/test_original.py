"""The model that was traced, and its traced module, as one tree."""

import copy
import gc

import torch
from torch import nn

import nrfx
from nrfx.tracing.graph.original import differing, follow, join, original_of, traced_of
from tests.zoo import IMAGE, aux_net, resnet


def test_a_traced_module_knows_its_model_weakly_and_copies_do_not() -> None:
    model = resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    assert original_of(gm) is model and original_of(copy.deepcopy(gm)) is None
    del model
    gc.collect()
    assert original_of(gm) is None


def test_a_graph_module_of_the_users_own_is_an_original_too() -> None:
    theirs = torch.fx.symbolic_trace(resnet())
    budget = nrfx.Budget.relative(theirs, params=1.0, example_inputs=torch.zeros(IMAGE))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    nr = nrfx.Rejuvenator(theirs, optimizer, budget, example_inputs=torch.zeros(IMAGE))
    assert original_of(nr.module) is theirs
    assert theirs.get_submodule("layer1.0.conv1") is nr.module.get_submodule("layer1.0.conv1")


def test_the_first_tensor_that_is_not_shared_is_named() -> None:
    model = resnet()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    assert differing(model, gm) is None
    model.bn1.running_mean = torch.ones(8)
    assert differing(model, gm) == "bn1.running_mean"
    model = nn.Sequential(nn.Linear(2, 2))
    gm = nrfx.trace(model, torch.zeros(1, 2))
    model.append(nn.Linear(2, 2))
    assert differing(model, gm) == "1.weight"


def test_joined_modules_are_the_models_own_and_both_roots_see_what_is_exchanged() -> None:
    model = aux_net()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    modules = dict(model.named_modules())
    join(model, gm)
    join(model, gm)
    assert {path: m for path, m in gm.named_modules() if path in modules and path} == {
        path: m for path, m in modules.items() if path
    }
    path = next(path for path, module in modules.items() if isinstance(module, nn.Linear))
    model.set_submodule(path, new := nn.Linear(1, 1))
    assert gm.get_submodule(path) is new


def test_a_model_that_follows_runs_the_graph_of_its_own_mode() -> None:
    model = aux_net()
    gm = nrfx.trace(model, torch.zeros(IMAGE))
    join(model, gm)
    x = torch.randn(IMAGE)
    expected = model.eval()(x)
    assert traced_of(model) is None
    follow(model, gm)
    assert traced_of(model) is gm
    gm.train()
    assert torch.equal(model.eval()(x), expected)
    assert isinstance(model.train()(x), tuple)
