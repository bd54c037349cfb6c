"""Layers, parameters, buffers and tensors of a model that are named like attributes of graph modules."""

import copy
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.errors import SizeError
from nrfx.tracing.graph.registered import own_names

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_all_names_that_users_may_think_of_are_known() -> None:
    assert {
        "graph",
        "graphs",
        "code",
        "meta",
        "inputs",
        "facts",
        "gamma0",
        "recompile",
        "_host",
        "_graph",
    } <= own_names()
    assert not {"training", "forward", "weight", "_modules", "train", "parameters"} & own_names()


@pytest.mark.parametrize("name", sorted(name for name in own_names() if not name.startswith("__")))
def test_a_layer_of_any_such_name_works_in_everything(name: str, tmp_path: Path) -> None:
    def made() -> nn.Sequential:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        return nn.Sequential(OrderedDict({"a": nn.Conv2d(3, 8, 1), name: layers, "b": nn.Conv2d(8, 4, 1)})).eval()

    model = made()
    with torch.no_grad():
        model.get_submodule(name)[1].weight[:3] = 0
    gm = nrfx.trace(model, X)
    torch.testing.assert_close(gm(X), model(X))
    torch.testing.assert_close(gm.train()(X), model.train()(X))
    gm.eval(), model.eval()
    assert gm.state_dict().keys() == model.state_dict().keys()
    assert any(row.name == f"{name}.1" for row in nrfx.utilization(gm).rows)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    assert int(result.removed[f"{name}.1.weight"].sum()) == 3
    assert nrfx.verify(gm, result, X, model=model) < 1e-4
    nrfx.save(tmp_path / "net", result.module)
    others = (
        nrfx.load(tmp_path / "net", made()), copy.deepcopy(result.module), pickle.loads(pickle.dumps(result.module)),
        nrfx.trace(result.module, X),
    )  # fmt: skip
    for other in others:
        torch.testing.assert_close(other(X), result.module(X))
    assert isinstance(gm.graph, torch.fx.Graph) and gm.inputs == (((2, 3, 8, 8), torch.float32),)


class Bare(nn.Module):
    """A parameter, a buffer and a tensor, each of the name of an attribute of traced modules."""

    def __init__(self, parameter: str, buffer: str, tensor: str) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.names = parameter, buffer, tensor
        self.register_parameter(parameter, nn.Parameter(torch.full((1, 8, 1, 1), 2.0)))
        self.register_buffer(buffer, torch.full((1, 8, 1, 1), 3.0))
        setattr(self, tensor, torch.full((1,), 5.0))
        with torch.no_grad():
            self.n.weight[:3] = 0

    def forward(self, x: Tensor) -> Tensor:
        p, b, t = self.names
        return self.b(self.n(self.a(x)) * getattr(self, p) + getattr(self, b)) * getattr(self, t)


@pytest.mark.parametrize(
    "names", [("inputs", "graph", "facts"), ("gamma0", "meta", "inputs"), ("facts", "code", "meta")]
)
def test_a_parameter_a_buffer_and_a_tensor_of_such_names(names: tuple[str, str, str], tmp_path: Path) -> None:
    model = Bare(*names).eval()
    gm = nrfx.trace(model, X)
    torch.testing.assert_close(gm(X), model(X))
    assert gm.state_dict().keys() == model.state_dict().keys()
    result = nrfx.compact(gm)
    assert nrfx.verify(gm, result, X, model=model) < 1e-4
    nrfx.save(tmp_path / "net", result.module)
    for other in (nrfx.load(tmp_path / "net", Bare(*names)).eval(), copy.deepcopy(result.module)):
        torch.testing.assert_close(other(X), result.module(X))
        with torch.no_grad():
            other.get_parameter(names[0]).zero_(), other.get_buffer(names[1]).zero_()
        assert not torch.equal(other(X), result.module(X))


class Named(nn.Module):
    """Traced in parts, or with a box: it looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
        self.answers = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x)
        return self.answers(x) if float(x.detach().sum()) > 1e9 else self.answers(-x)


def test_so_do_parts_of_a_model_that_cannot_be_traced_whole() -> None:
    model = Named().eval()
    with torch.no_grad():
        model.inputs[1].weight[:3] = model.answers[1].weight[:2] = 0
    gm = nrfx.trace(model, X, partial=True)
    torch.testing.assert_close(gm(X), model(X))
    result = nrfx.compact(gm)
    assert {name: int(dead.sum()) for name, dead in result.removed.items()} == {
        "inputs.1.weight": 3, "answers.1.weight": 2,
    }  # fmt: skip
    assert nrfx.verify(gm, result, X) < 1e-4


def test_a_text_that_quotes_the_model_is_left_as_it_is() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = "a"

        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if self.inputs == 'a' and x.shape[0] > 2 else x  # fmt: skip

    gm = nrfx.trace(Asks(), torch.zeros(3, 2))
    with pytest.raises(SizeError, match=r"self\.inputs == 'a' and x"):
        gm(torch.zeros(2, 2))


def test_a_submodule_is_found_by_its_path_or_refused_as_in_any_module() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    gm = nrfx.trace(net, torch.zeros(1, 2))
    assert gm.get_submodule("") is gm and gm.get_submodule("0.1") is gm.get_submodule("0")[1]  # type: ignore[index]
    for path in ("1", "0.2", "0.0.weight", "0..1"):
        with pytest.raises(AttributeError):
            net.get_submodule(path)
        with pytest.raises(AttributeError):
            gm.get_submodule(path)
