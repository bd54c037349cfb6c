"""Rewrites of graphs with something unusual in them: the function is kept, or the widths concerned are."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nrfx
from tests import zoo
from tests.rewrite.rewriting import SCHEMES, Weird, counted_flops, difference, images, unit
from tests.zoo import SMALL, calibrated, with_dead


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("beta", [0.0, -0.3, 0.3])
def test_groups_come_and_go_as_a_whole(beta: float, scheme: str) -> None:
    model = calibrated(SMALL["grouped"]())
    body = model[1].body
    with torch.no_grad():
        for norm in (body[0][1], body[2]):  # before and after the convolution of 4 groups of 4
            norm.weight[4:8], norm.bias[4:8] = 0.0, beta
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.6), scheme=scheme)
    assert difference(model, result.module) < 1e-12
    conv = result.module.get_submodule("1.body.1")
    assert conv.groups > 4 and conv.in_channels == conv.out_channels == 4 * conv.groups
    (places, *_) = result.origins["1.body.1.weight"]
    old_groups = [list(range(start, start + 4)) for start in (0, 4, 8, 12)]
    assert all(group in [*old_groups, [-1] * 4] for group in places.view(-1, 4).tolist())


def test_a_slice_with_a_constant_width_takes_its_own_channels_at_the_new_width() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Conv2d(5, 4, 1)
            self.tail, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.tail(self.head(torch.relu(self.norm(self.stem(x)))[:, :5])))

    model = with_dead(calibrated(Sliced()), 0.4)
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5), scheme="dense")
    assert difference(model, result.module) < 1e-12
    assert result.module.get_submodule("head").in_channels > 5


def test_a_view_that_states_a_width_as_a_number_gets_the_new_number() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Linear(12 * 4, 4)
            self.first, self.before = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.before(self.first(x)))
            x = torch.nn.functional.adaptive_avg_pool2d(torch.relu(self.norm(self.stem(x))), 2)
            return self.head(x.view(-1, 48))

    model = with_dead(calibrated(Viewed()), 0.4)
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5))
    assert difference(model, result.module) < 1e-12
    width = result.module.get_submodule("stem").out_channels
    (view,) = result.module.graph.find_nodes(op="call_method", target="view")
    assert width > 12 and view.args[2] == 4 * width
    assert gm.graph.find_nodes(op="call_method", target="view")[0].args[2] == 48


@pytest.mark.parametrize("twist", [
    lambda self, x: x * x.shape[1] ** -0.5, lambda self, x: x * torch.arange(x.shape[1]).to(x).mean(),
    lambda self, x: x * torch.full((1,), x.shape[1]).to(x), lambda self, x: x + torch.ones(x.size(1) // 2).sum().to(x),
    lambda self, x: x * torch.std(x, (2, 3), correction=x.shape[1], keepdim=True),
    lambda self, x: x * torch.linspace(0, x.shape[1], 3)[1].to(x),
])  # fmt: skip
def test_an_op_that_computes_with_a_width_fixes_it(twist: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
    model = with_dead(calibrated(Weird(twist)), 0.4)
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5))
    assert difference(model, result.module) < 1e-12
    assert result.module.get_submodule("first.0").out_channels == 8
    assert any("computes with a width" in note for note in result.notes)


class Functional(nn.Module):
    """Convolutions, norms and a linear layer called as functions, in a class that keeps their tensors itself."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.head = nn.Parameter(torch.randn(12, 3, 3, 3)), nn.Parameter(torch.randn(5, 12))
        self.norm, self.body, self.last = nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.normed(torch.nn.functional.conv2d(x, self.kernel, None, 1, 1), self.norm))
        x = torch.relu(self.normed(self.body(x), self.last))
        return torch.nn.functional.linear(x.mean([2, 3]), self.head)

    def normed(self, x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
        statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return torch.nn.functional.batch_norm(x, *statistics, self.training)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_layers_called_as_functions_are_rewritten_like_modules(scheme: str) -> None:
    model = calibrated(Functional())
    for norm in (model.norm, model.last):  # the modules are never called, so nothing has calibrated them
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2.0)
    model = with_dead(model, 0.4)
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme=scheme)
    assert difference(model, result.module) < 1e-12
    assert result.alpha > 1 and counted_flops(result.module) == result.after.flops.total
    assert result.module.get_parameter("kernel").shape[0] > 7


def in_place_before_a_later_reader(self: Weird, x: torch.Tensor) -> torch.Tensor:
    y = self.extra[1](self.extra[0](x))
    return torch.relu_(y) + 0.5 * self.extra[2](y)


def view_of_what_is_changed_later(self: Weird, x: torch.Tensor) -> torch.Tensor:
    y = self.extra[1](self.extra[0](x))
    view = y.view(y.size(0), 8, -1)
    torch.relu_(y)
    return y * view.mean(2).view(-1, 8, 1, 1)


TWISTS: dict[str, tuple[Callable[[Weird, torch.Tensor], torch.Tensor], tuple[Callable[[], nn.Module], ...]]] = {
    "weight read twice": (lambda self, x: x * self.second[0].weight.mean(), ()),
    "gamma read twice": (lambda self, x: x + self.second[1].weight.abs().sum(), ()),
    "norm without beta": (lambda self, x: self.extra[0](x), (lambda: nn.BatchNorm2d(8, affine=False),)),
    "in place": (
        in_place_before_a_later_reader,
        (lambda: nn.Conv2d(8, 8, 3, padding=1), lambda: nn.BatchNorm2d(8), lambda: nn.Conv2d(8, 8, 3, padding=1)),
    ),
    "in place under a view": (
        view_of_what_is_changed_later,
        (lambda: nn.Conv2d(8, 8, 3, padding=1), lambda: nn.BatchNorm2d(8)),
    ),
    "divisor": (lambda self, x: self.extra[0](x), (lambda: nn.AvgPool2d(2, divisor_override=3),)),
    "rrelu": (lambda self, x: self.extra[0](x - 0.2), (lambda: nn.RReLU(0.1, 0.3),)),
    "keywords": (lambda self, x: torch.add(input=x, other=torch.mul(input=x, other=2.0)), ()),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", TWISTS)
def test_unusual_ops_keep_the_function_or_stay_as_they_are(name: str, scheme: str) -> None:
    twist, extra = TWISTS[name]
    model = with_dead(calibrated(Weird(twist, *(make() for make in extra))), 0.4, "random")
    gm = nrfx.trace(model, images()).train()  # what is asked of the training network holds in eval mode
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.1), scheme=scheme, gamma0=1.2)
    assert difference(model, result.module.eval()) < 1e-12
    assert result.changed or name == "weight read twice"  # which pins both sides of its layer


def test_a_layer_whose_class_has_a_forward_of_its_own_is_not_taken_for_its_parent() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, Standardised) or super().is_leaf_module(module, name)

    model = nn.Sequential(unit(3, 8), Standardised(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    model = with_dead(calibrated(model), 0.4)
    gm = torch.fx.GraphModule(model, Tracer().trace(model)).eval()
    budget = nrfx.Budget.relative(gm, params=1.1, example_inputs=images())
    result = nrfx.rejuvenate(gm, budget, example_inputs=images())
    assert difference(model, result.module) < 1e-12
    assert result.module.get_submodule("1").weight.shape == (8, 8, 3, 3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_depthwise_convolution_keeps_two_channels(scheme: str) -> None:
    model = nn.Sequential(unit(3, 4), unit(4, 4, groups=4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model = calibrated(model)
    with torch.no_grad():
        model[0][1].weight[1:], model[0][1].bias[1:] = 0.0, 0.0
    gm = nrfx.trace(model, images())
    result = nrfx.compact(gm)
    assert difference(model, result.module) < 1e-12 and result.module.get_submodule("1.0").groups == 2
    assert any("two groups" in note for note in result.notes)
    grown = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme=scheme)
    assert difference(model, grown.module) < 1e-12


def test_a_norm_on_the_input_before_a_pool_is_not_rescaled() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.MaxPool2d(2), unit(3, 8), nn.Conv2d(8, 4, 1))
    model = with_dead(calibrated(model), 0.4)
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.2), scheme="dense", gamma0=3.0)
    assert difference(model, result.module) < 1e-12


@pytest.mark.parametrize("treat", [
    lambda x: torch.cat([x[:, ::2].tanh(), x[:, 1::2]], 1),
    lambda x: torch.cat([x.chunk(2, 1)[0].tanh(), x.chunk(2, 1)[1]], 1),
    lambda x: torch.cat([x[:, ::2].flip(2), x[:, 1::2]], 1),
    lambda x: torch.cat([F.pad(x[:, ::2], (1, 0)), F.pad(x[:, 1::2], (0, 1))], 1),
    lambda x: torch.cat([x.view(x.size(0), 2, -1, *x.shape[2:])[:, 0].sigmoid(), x[:, x.size(1) // 2 :]], 1),
])  # fmt: skip
@pytest.mark.parametrize("dead", [[0], [0, 3, 6], [0, 1]])
def test_no_channel_changes_from_one_part_of_an_axis_to_another(
    treat: Callable[[Tensor], Tensor], dead: list[int]
) -> None:
    class Treated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = zoo.cbr(3, 8), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(treat(self.before(x)))

    model = calibrated(Treated())
    with torch.no_grad():
        model.before[1].weight[dead], model.before[1].bias[dead] = 0, 0
    sample = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    gm = nrfx.trace(model, sample)
    for result in (nrfx.compact(gm), nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5))):
        assert nrfx.verify(gm, result, sample) < 1e-12


def test_a_norm_behind_a_flatten_takes_the_constant_at_every_position_of_a_channel() -> None:
    model = calibrated(
        nn.Sequential(
            *(*zoo.cbr(3, 8), nn.Conv2d(8, 4, 1, bias=False), nn.Flatten(), nn.BatchNorm1d(4 * 256)),
            *(nn.ReLU(), nn.Linear(4 * 256, 3)),
        )
    )
    with torch.no_grad():
        model[1].weight[:3], model[1].bias[:3] = 0, 0.5
    sample = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    gm = nrfx.trace(model, sample)
    result = nrfx.compact(gm)
    assert result.changed and nrfx.verify(gm, result, sample) < 1e-12


class Single(nn.Module):
    """[tokens, 6], one example without a batch dim, whose channels an instance norm reads as dim 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.instance, self.last = nn.InstanceNorm1d(8, affine=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.instance(self.norm(self.first(x)).t()).t())).mean(0)


@pytest.mark.parametrize("times", [None, 2.0])
def test_an_instance_norm_of_one_example_follows_its_channels(times: float | None) -> None:
    x = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = with_dead(Single().double().eval())
    with torch.no_grad():
        model.instance.weight[model.norm.weight == 0] = 0
    gm = nrfx.trace(model, x)
    result = nrfx.compact(gm) if times is None else nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=times))
    assert result.module.get_submodule("instance").num_features == (5 if times is None else 16)
    assert nrfx.verify(gm, result, x) < 1e-12


def test_a_group_norm_that_is_left_with_one_group_gives_the_planned_channels() -> None:
    """On a view that lays two channels on each of its rows: behind one group they are told as behind two."""

    def by_rows(weird: Weird, x: Tensor) -> Tensor:
        return weird.extra[0](x.reshape(x.shape[0], 4, -1, x.shape[3])).reshape(x.shape)

    model = calibrated(Weird(by_rows, nn.GroupNorm(2, 4)))
    with torch.no_grad():
        model.first[1].weight[[0, 2, 3, 4, 6]], model.extra[0].weight[:2] = 0, 0
    gm = nrfx.trace(model, images())
    result = nrfx.compact(gm)
    assert result.module.get_submodule("extra.0").num_groups == 1
    assert nrfx.verify(gm, result, images()) < 1e-12


def test_groups_by_the_width_of_another_value_must_divide_their_own() -> None:
    """Seven channels of x would give three groups, and eight channels are no multiple of three."""
    model = calibrated(Weird(lambda weird, x: F.group_norm(weird.extra[0](x), x.shape[1] // 2), unit(8, 8)))
    with torch.no_grad():
        model.first[1].weight[0], model.first[1].bias[0] = 0, 0
    gm = nrfx.trace(model, images())
    assert nrfx.verify(gm, nrfx.compact(gm), images()) < 1e-12


def test_a_slice_of_all_but_so_many_keeps_something() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(6, 12, bias=False), nn.BatchNorm1d(12), nn.Linear(12, 3)
            self.shift = nn.Parameter(torch.rand(3))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.norm(self.first(x)))
            return self.last(h) + (h[:, :-9] - self.shift).sum()

    model = Sliced().double().eval()
    with torch.no_grad():
        model.norm.weight[[1, 2, 4, 9, 10]] = 0
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gm = nrfx.trace(model, x)
    assert nrfx.verify(gm, nrfx.compact(gm), x) < 1e-12
