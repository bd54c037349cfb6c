"""Rewrites by criteria: the truth is the eager model, in which constants stand for the channels that were given up."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import nrfx
from nrfx import liveness
from nrfx.analysis.criterion import Criterion
from nrfx.analysis.ranking import Bound

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGES = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.GELU(), nn.Linear(10, 3)).double()


def vgg() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 4)).double()


class Block(nn.Module):
    """A transformer block with an MLP, on tokens of 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attend = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return self.head((x + self.mlp(x)).mean(1))


def resnet() -> nn.Module:
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=4).double().eval()
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
        nn.init.uniform_(norm.weight, 0.2, 1.0)
    return net


def criteria(x: Tensor, gm: nn.Module) -> tuple[Criterion, ...]:
    budget: Bound = nrfx.Budget.relative(gm, params=0.8)
    return (
        liveness.Activation([x], tau=0.7),
        liveness.Utility([x], tau=0.7),
        liveness.Weight(0.95, batches=[x]),
        liveness.Weight(0.95),
        liveness.Activation([x], budget=budget),
        liveness.Scores(lambda _, module: torch.arange(module.weight.shape[0]) % 3 > 0, batches=[x]),  # type: ignore[operator, arg-type]
    )


def half(width: int) -> Tensor:
    return torch.arange(width) % 2 == 0


def difference(expected: Tensor, actual: Tensor) -> float:
    return float(((expected - actual).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("net, x", [(mlp, X), (vgg, IMAGES), (Block, torch.randn(4, 5, 8))])
def test_every_criterion_gives_the_network_with_constants_in_the_places_of_what_it_gave_up(
    net: type[nn.Module], x: Tensor
) -> None:
    torch.manual_seed(0)
    model, x = net().double(), x.double()
    gm = nrfx.trace(model, x)
    for criterion in criteria(x, gm):
        result = nrfx.compact(gm, liveness=criterion)
        assert result.changed and not result.keeps_function
        assert nrfx.verify(gm, result, torch.randn_like(x)) < 1e-12
        assert difference(model.eval()(x), result.module.eval()(x)) > 1e-4  # it is not the network before
        assert "the function moves" in " ".join(result.notes)


def test_a_resnet_follows_its_replaced_network() -> None:
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    gm = nrfx.trace(resnet(), x)
    result = nrfx.compact(gm, liveness=liveness.Activation([x], tau=0.6), residual="coupled")
    assert result.change is not None and 0 < result.change.mean < result.change.largest
    assert nrfx.verify(gm, result, torch.randn_like(x)) < 1e-10


def test_an_eager_mlp_with_means_in_the_places_of_units_is_what_comes_out() -> None:
    model = mlp()
    gone = ~half(12)
    result = nrfx.compact(nrfx.trace(model, X), liveness=liveness.Scores({"0": half(12)}, batches=[X]))
    hidden = model[:2](X)
    expected = model[2:](torch.where(gone, hidden.mean(0), hidden))
    assert result.module.get_submodule("0").out_features == 6
    assert difference(expected, result.module(X)) < 1e-12
    moved, largest = (model(X) - expected).detach().abs(), float(model(X).detach().abs().max())
    assert result.change is not None
    assert result.change.largest == pytest.approx(float(moved.max()) / largest)
    assert result.change.mean == pytest.approx(float(moved.mean()) / largest)


def test_without_batches_zeros_stand_in_and_the_notes_say_so() -> None:
    model = mlp()
    result = nrfx.compact(nrfx.trace(model, X), liveness={"0": half(12)})
    expected = model[2:](torch.where(half(12), model[:2](X), 0.0))
    assert difference(expected, result.module(X)) < 1e-12
    told = " ".join(result.notes)
    assert "zeros, for there are no batches" in told and "How far the outputs moved is not known" in told


def test_behind_zero_padding_the_mean_goes_on_in_the_border() -> None:
    model = vgg()
    result = nrfx.compact(nrfx.trace(model, IMAGES), liveness=liveness.Scores({"0": half(8)}, batches=[IMAGES]))
    hidden = F.pad(model[:2](IMAGES), (1, 1, 1, 1))
    means = model[:2](IMAGES).mean((0, 2, 3)).view(1, -1, 1, 1)
    filled = torch.where(half(8).view(1, -1, 1, 1), hidden, means)
    second = model[2]
    assert isinstance(second, nn.Conv2d)
    expected = model[3:](F.conv2d(filled, second.weight, second.bias))
    assert difference(expected, result.module(IMAGES)) < 1e-12


def test_filters_of_zeros_go_and_the_function_stays() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[half(12)] = 0.0
    result = nrfx.compact(nrfx.trace(model, X), liveness="weight")
    assert result.keeps_function and result.module.get_submodule("0").out_features == 6
    assert difference(model(X), result.module(X)) < 1e-12
    assert "All of them are constant: the function is kept." in result.notes


def test_a_constant_that_padding_varies_is_given_up_and_the_function_is_said_to_move() -> None:
    model = vgg()
    with torch.no_grad():
        model[0].weight[:3] = 0.0
        model[0].bias[:3] = torch.tensor([0.0, -1.0, 2.0])
    result = nrfx.compact(nrfx.trace(model, IMAGES), liveness="weight")
    assert result.module.get_submodule("0").out_channels == 5 and not result.keeps_function
    with torch.no_grad():
        model[0].bias[2] = -2.0
    kept = nrfx.compact(nrfx.trace(model, IMAGES), liveness="weight")
    assert kept.keeps_function and difference(model(IMAGES), kept.module(IMAGES)) < 1e-12


def test_units_are_recycled_at_their_old_width_and_start_as_those_of_a_new_layer() -> None:
    gm = nrfx.trace(mlp(), X)
    result = nrfx.rejuvenate(
        gm,
        nrfx.Budget.relative(gm, params=1.0),
        scheme="dense",
        reallocate=False,
        liveness=liveness.Scores({"0": half(12), "2": half(10)}, batches=[X]),
        generator=torch.Generator().manual_seed(0),
    )
    new = result.module
    assert [p.shape for p in new.parameters()] == [p.shape for p in gm.parameters()]
    rows, columns = result.origins["2.weight"]
    assert rows is not None and columns is not None
    weight = new.get_parameter("2.weight")
    assert bool((weight[rows < 0] != 0).all())  # incoming: over old and new columns
    assert not bool(weight[rows >= 0][:, columns < 0].any())  # outgoing: nothing old reads a new unit
    assert not bool(new.get_parameter("4.weight")[:, result.origins["4.weight"][1] < 0].any())  # type: ignore[operator]
    assert nrfx.verify(gm, result, X) < 1e-12


def test_what_is_recycled_starts_with_a_clean_state_of_the_optimizer() -> None:
    gm = nrfx.trace(mlp(), X)
    optimizer = torch.optim.Adam(gm.parameters())
    gm(X).square().mean().backward()
    optimizer.step()
    result = nrfx.rejuvenate(
        gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense", reallocate=False, liveness={"0": half(12)}
    )
    nrfx.migrate(optimizer, gm, result)
    state = optimizer.state[result.module.get_parameter("0.weight")]["exp_avg"]
    new = result.origins["0.weight"][0] < 0  # type: ignore[operator]
    assert not bool(state[new].any()) and bool(state[~new].any(1).all())


def test_an_average_follows_with_the_constants_of_the_network() -> None:
    gm = nrfx.trace(mlp(), X)
    twin = copy.deepcopy(gm)
    result = nrfx.compact(gm, liveness=liveness.Scores({"0": half(12)}, batches=[X]))
    carried = nrfx.carry(twin, result, X)
    assert carried.module is not None and not carried.keeps_function
    assert difference(result.module(X), carried.module(X)) < 1e-12


def test_masks_of_torch_pruning_give_the_widths_of_torch_pruning() -> None:
    tp = pytest.importorskip("torch_pruning")
    model, x = resnet(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    gm = nrfx.trace(copy.deepcopy(model), x)
    importance = tp.importance.MagnitudeImportance(p=2)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    names = {module: name for name, module in model.named_modules()}
    masks = {}
    for group in graph.get_all_groups(ignored_layers=[model.fc], root_module_types=[nn.Conv2d]):
        scores = importance(group)
        order = scores.argsort()
        mask = torch.ones(scores.numel(), dtype=torch.bool)
        mask[order[: scores.numel() - int(scores.numel() * 0.5)]] = False
        masks[names[group[0].dep.target.module]] = mask
    pruner = tp.pruner.BasePruner(model, x, importance=importance, pruning_ratio=0.5, ignored_layers=[model.fc])
    pruner.step()
    result = nrfx.compact(gm, liveness=masks, residual="coupled")
    theirs = {name: m.weight.shape for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    ours = {name: result.module.get_parameter(f"{name}.weight").shape for name in theirs}
    assert ours == theirs
    assert nrfx.verify(gm, result, x) < 1e-10
