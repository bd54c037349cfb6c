"""A traced module: its copies, its parameters, its modes, its shapes after an edit of the graph."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from nrfx.tracing import TracedModule, propagate, trace
from tests.tracing.models import MODES, SMALL, AuxHead, Tied, assert_behaves_like, output, vals


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda gm: pickle.loads(pickle.dumps(gm))])
def test_copies_behave_like_the_model_and_keep_names_and_shapes(name: str, copied: object) -> None:
    build, shape = SMALL[name]
    model = build()
    gm = trace(model, torch.zeros(shape))
    twin = copied(gm)  # type: ignore[operator]
    assert isinstance(twin, TracedModule)
    assert list(twin.state_dict()) == list(model.state_dict())
    assert twin.inputs == gm.inputs
    assert twin.gamma0 == gm.gamma0
    for mode in MODES:
        names = [(node.name, node.op) for node in gm.graphs[mode].nodes]
        assert [(node.name, node.op) for node in twin.graphs[mode].nodes] == names
        assert all("val" in node.meta for node in twin.graphs[mode].nodes)
    assert_behaves_like(twin, model, torch.randn(shape))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_exported_and_compiled_modules_behave_like_the_model(name: str, training: bool) -> None:
    build, shape = SMALL[name]
    model, x = build().train(training), torch.randn(shape)
    gm = trace(model, torch.zeros(shape))
    expected = output(model, x)
    exported = torch.export.export(copy.deepcopy(gm), (x,)).module()
    compiled = torch.compile(copy.deepcopy(gm), backend="eager", fullgraph=True)
    for module in (exported, compiled):
        torch.manual_seed(7)
        outputs = module(x)
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


def test_a_compiled_module_follows_the_mode() -> None:
    gm = trace(AuxHead(), torch.zeros(4, 3, 8, 8))
    compiled = torch.compile(gm, backend="eager", fullgraph=True)
    assert isinstance(compiled(torch.zeros(4, 3, 8, 8)), tuple)
    gm.eval()
    assert isinstance(compiled(torch.zeros(4, 3, 8, 8)), Tensor)


@pytest.mark.parametrize("name", SMALL)
def test_all_parameters_and_buffers_keep_their_names_and_are_the_model_s_own(name: str) -> None:
    build, shape = SMALL[name]
    model = build()
    gm = trace(model, torch.zeros(shape))
    assert list(gm.state_dict()) == list(model.state_dict())
    ours, theirs = dict(gm.named_parameters()), dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[key] is theirs[key] for key in theirs)
    assert [id(b) for b in gm.buffers()] == [id(b) for b in model.buffers()]


def test_an_optimizer_of_the_model_trains_the_traced_module() -> None:
    model = AuxHead()
    gm, optimizer = trace(model, torch.zeros(4, 3, 8, 8)), torch.optim.SGD(model.parameters(), 0.1)
    before = gm.conv.weight.clone()
    sum(y.square().sum() for y in gm(torch.randn(4, 3, 8, 8))).backward()
    optimizer.step()
    assert not torch.equal(gm.conv.weight, before)


class FrozenNorm(nn.Sequential):
    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(mode)
        self[1].eval()
        return self


def test_a_train_method_of_the_model_s_own_is_followed() -> None:
    model = FrozenNorm(nn.Linear(4, 4), nn.BatchNorm1d(4))
    gm = trace(model, torch.zeros(3, 4)).train()
    assert not gm.get_submodule("1").training
    assert_behaves_like(gm, model, torch.randn(3, 4))
    nested = nn.Sequential(model, nn.ReLU())
    assert_behaves_like(trace(nested, torch.zeros(3, 4)), nested, torch.randn(3, 4))


def test_tied_parameters_stay_tied_in_every_copy() -> None:
    gm = trace(Tied(), torch.zeros(3, 4))
    for module in (gm, copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        assert module.a.weight is module.b.weight
        assert module.again is module.norm


def test_gamma0_holds_the_norms_that_are_constant_and_not_zero() -> None:
    model = nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(3)), nn.LayerNorm(4, elementwise_affine=False))
    nn.init.constant_(model[1].weight, 0.5)
    nn.init.zeros_(model[2].weight)
    assert trace(model, torch.zeros(2, 4)).gamma0 == {"0.weight": 1.0, "1.weight": 0.5}
    nn.init.normal_(model[0].weight)
    assert trace(model, torch.zeros(2, 4)).gamma0 == {"1.weight": 0.5}


def test_propagate_follows_an_edited_graph() -> None:
    gm = trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(2, 4))
    gm.add_module("0", nn.Linear(4, 7))
    propagate(gm)
    assert vals(gm.graph)[-1].shape == (2, 7)
