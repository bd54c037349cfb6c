"""TorchScript modules inside of a model are one call each: what they touch keeps its width, all else is free."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.tracing.graph.stated import KEY

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")  # it is deprecated

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        return torch.relu(self.norm(self.conv(x))) * 1.5


class Net(nn.Module):
    """Two convolutions with norms around an inner module; some gammas are dead in front of it and behind it."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.a, self.an = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner = wrap(Inner())
        self.b, self.bn, self.c = nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
        with torch.no_grad():
            self.an.weight[:3] = self.bn.weight[:2] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(torch.relu(self.an(self.a(x))))
        return self.c(torch.relu(self.bn(self.b(x)))).mean((2, 3))


def traced(module: nn.Module) -> nn.Module:
    return torch.jit.trace(module.eval(), torch.randn(2, 8, 8, 8), check_trace=False)


def in_a_module(module: nn.Module) -> nn.Module:
    return nn.Sequential(torch.jit.script(module), nn.Identity())


WRAPS = [torch.jit.script, traced, in_a_module, lambda module: torch.jit.script(nn.Sequential(module))]


def made(wrap: Callable[[nn.Module], nn.Module]) -> Net:
    torch.manual_seed(0)
    return Net(wrap)


@pytest.mark.parametrize("wrap", WRAPS, ids=["script", "trace", "in a module", "sequential"])
def test_what_it_touches_keeps_its_width_and_all_else_is_free(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = made(wrap).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gm = nrfx.trace(model, X)
    usage = nrfx.utilization(gm)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(nn.Identity)
        made(lambda module: module).eval()(X[:1])
    assert usage.params.total == sum(parameter.numel() for parameter in model.parameters())
    assert usage.flops.total == counter.get_total_flops() // 2
    (named,) = usage.not_understood
    assert "is a TorchScript module, whose code is not looked into" in named.reason
    assert named.params == 8 * 8 * 9 + 8 + 16 and named.flops == 8 * 8 * 9 * 64 and not usage.uncounted
    result = nrfx.compact(gm)
    assert {name: int(dead.sum()) for name, dead in result.removed.items() if dead.any()} == {"bn.weight": 2}
    torch.testing.assert_close(result.module(X), model(X), rtol=1e-4, atol=1e-5)
    assert nrfx.verify(gm, result, X, model=model) < 1e-4
    assert state.keys() == gm.state_dict().keys() == result.module.state_dict().keys() - {KEY}
    unchanged = [name for name in state if not name.endswith("seen")]  # the model has run here
    assert all(torch.equal(state[name], model.state_dict()[name]) for name in unchanged)


def test_it_shares_its_tensors_with_the_model_learns_and_counts_in_train_mode() -> None:
    model = made(torch.jit.script)
    gm = nrfx.trace(model, X).train()
    gm(X).sum().backward()
    assert model.inner.conv.weight.grad is not None and bool(model.inner.conv.weight.grad.any())
    assert int(gm.get_buffer("inner.seen")) == 1 == int(gm.get_buffer("inner.norm.num_batches_tracked"))
    assert gm.training and gm.get_submodule("inner.norm").training
    torch.testing.assert_close(gm.eval()(X), made(lambda module: module).eval()(X), rtol=1, atol=1)
    assert not torch.equal(gm.train()(X), gm.eval()(X))


def test_copies_files_and_pickles_hold_it(tmp_path: Path) -> None:
    model = made(torch.jit.script).eval()
    gm = nrfx.trace(model, X)
    result = nrfx.compact(gm).module
    with torch.no_grad():
        result.get_parameter("inner.conv.weight").mul_(2)
    expected = result(X)
    nrfx.save(tmp_path / "net.safetensors", result)
    file = io.BytesIO()
    torch.save(result, file)
    file.seek(0)
    others = (
        copy.deepcopy(result),
        pickle.loads(pickle.dumps(result)),
        torch.load(file, weights_only=False),
        nrfx.load(tmp_path / "net.safetensors", made(torch.jit.script)).eval(),
    )
    for other in others:
        torch.testing.assert_close(other(X), expected)
        with torch.no_grad():
            other.get_parameter("inner.conv.weight").zero_()
        assert not torch.equal(other(X), expected)
    torch.testing.assert_close(result(X), expected)


class Plain(nn.Module):
    """What a frozen module keeps as a constant, on the CPU, does not run on meta tensors beside others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(8, 1, 1)), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(x)) * self.weight


def test_a_frozen_one_is_one_call_of_a_partial_trace() -> None:
    model = made(lambda _: torch.jit.freeze(torch.jit.script(Plain().eval()))).eval()
    with pytest.raises(nrfx.TraceError, match=r"Node inner .*inner \(Scripted\).* RuntimeError"):
        nrfx.trace(model, X)
    gm = nrfx.trace(model, X, partial=True)
    assert int(nrfx.compact(gm).removed["bn.weight"].sum()) == 2
    torch.testing.assert_close(gm(X), model(X))


@pytest.mark.parametrize("wrap", [torch.jit.script, lambda model: torch.jit.trace(model, X, check_trace=False)])
@pytest.mark.parametrize("partial", [False, True])
def test_a_whole_model_is_refused_and_told_what_to_do(wrap: Callable[[nn.Module], nn.Module], partial: bool) -> None:
    with pytest.raises(nrfx.TraceError, match="of which no graph can be made: trace the model it was made from"):
        nrfx.trace(wrap(made(lambda module: module).eval()), X, partial=partial)
