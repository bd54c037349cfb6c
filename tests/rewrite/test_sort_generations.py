"""nrfx.rewrite.sort_generations: concatenations whose parts come in the order of generations."""

import pytest
import torch
from torch import Tensor, nn

import nrfx
from nrfx.errors import CheckpointError
from nrfx.nn import Cross, CrossConv2d
from nrfx.plan.origins import gather
from nrfx.rewrite.sort_generations import sort_generations
from nrfx.tracing.graph.stated import KEY
from tests.zoo import with_dead


def unit(in_: int, out: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_, out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Branches(nn.Module):
    """Two branches, joined; `nested` joins once more."""

    def __init__(self, nested: bool = False) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.three = unit(3, 10), unit(10, 8), unit(10, 6, 1), unit(14, 10)
        self.norm, self.nested, self.join = nn.BatchNorm2d(14), nested, unit(24 if nested else 10, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norm(torch.cat([self.one(x), self.two(x)], 1)).relu()
        y = self.three(x)
        y = torch.cat((x, y), dim=1) if self.nested else y
        return self.head(self.join(y).mean((2, 3)))


def rejuvenated(model: nn.Module, scheme: str) -> nrfx.Rejuvenation:
    torch.manual_seed(0)
    model = with_dead(model.double(), 0.4, "zero").eval()
    gm = nrfx.trace(model, torch.zeros(2, 3, 9, 9, dtype=torch.float64))
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme=scheme)
    with torch.no_grad():  # so that new channels matter
        for parameter in result.module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return result


def runs(module: nn.Module) -> int:
    return max(len(layer.in_runs) for layer in module.modules() if isinstance(layer, Cross))


def test_without_cross_layers_nothing_moves() -> None:
    gm = nrfx.trace(Branches(), torch.zeros(2, 3, 9, 9))
    result = sort_generations(gm)
    assert result.module.code == gm.code
    assert all(part is None for places in result.origins.values() for part in places)


@pytest.mark.parametrize("scheme", ["attention", "removed"])
@pytest.mark.parametrize("nested", [False, True])
def test_generations_are_one_run_each_and_the_function_is_the_same(nested: bool, scheme: str) -> None:
    before = rejuvenated(Branches(nested), scheme).module
    assert runs(before) > 2
    code, state = before.code, before.state_dict()
    result = sort_generations(before)
    assert runs(result.module) == 2
    assert before.code == code
    now = result.module.state_dict()
    state.pop(KEY), now.pop(KEY)
    assert state.keys() == now.keys() == result.origins.keys()
    for name, tensor in now.items():
        assert torch.equal(tensor, gather(state[name], result.origins[name])), name
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    for mode in (False, True):
        torch.testing.assert_close(result.module.train(mode)(x), before.train(mode)(x), rtol=1e-9, atol=1e-12)


class Halves(nn.Module):
    """A concatenation of two generations each, whose halves are read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.left, self.right = CrossConv2d((2, 2), (3, 2), 1), CrossConv2d((2, 2), (3, 2), 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.cat([self.one(x), self.two(x)], 1).chunk(2, 1)
        return self.left(left) + self.right(right)


def test_an_order_that_means_more_is_left() -> None:
    before = nrfx.trace(Halves(), torch.zeros(2, 3, 5, 5))
    result = sort_generations(before)
    assert result.module.code == before.code
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(result.module(x), before(x))


def test_what_was_reordered_is_not_saved_for_a_model_in_another_order(tmp_path) -> None:
    before = rejuvenated(Branches(), "attention").module
    nrfx.save(tmp_path / "before.safetensors", before)
    with pytest.raises(
        CheckpointError, match=r"sort_generations.*save the network before it, and call it again after load"
    ):
        nrfx.save(tmp_path / "after.safetensors", sort_generations(before).module)
    fresh = sort_generations(nrfx.load(tmp_path / "before.safetensors", Branches().double())).module
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fresh.eval()(x), before.eval()(x), rtol=1e-9, atol=1e-12)
