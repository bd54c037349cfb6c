import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.errors import AnalysisError, BudgetError, VerificationError
from tests.zoo import IMAGE, SMALL, calibrated, norms, vgg_bn, with_dead

SCHEMES = ("dense", "attention", "removed")


def images(seed: int = 1) -> torch.Tensor:
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prepared(name: str, beta: str = "random") -> tuple[nn.Module, nrfx.TracedModule]:
    model = with_dead(calibrated(SMALL[name]()), 0.4, beta)
    return model, nrfx.trace(model, images())


def rewritten(name: str, scheme: str, beta: str = "random", **options) -> tuple[nn.Module, nrfx.Rejuvenation]:
    model, gm = prepared(name, beta)
    budget = nrfx.Budget.relative(gm, params=1.0)
    seeded = torch.Generator().manual_seed(0)
    return model, nrfx.rejuvenate(gm, budget, scheme=scheme, generator=seeded, **options)


def difference(before: nn.Module, after: nn.Module) -> float:
    """Largest difference of the outputs, relative to the largest output."""
    with torch.no_grad():
        expected, found = before(images()), after(images())
    return float((expected - found).abs().max() / expected.abs().max())


def counted_flops(module: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(images()[:1])
    return counter.get_total_flops() // 2


def test_analyses_and_rewrites_leave_the_network_as_it_was() -> None:
    model, gm = prepared("resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    with torch.no_grad():
        for parameter in result.module.parameters():
            parameter.add_(1.0)
    result.module.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training and not gm.training


def test_a_budget_below_the_live_part_is_refused_with_both_numbers_and_nothing_changes() -> None:
    _, gm = prepared("vgg_bn")
    live = nrfx.compact(gm).after.params.total
    with pytest.raises(BudgetError, match=rf"{live:,} params.*budget is {live - 1:,} params"):
        nrfx.rejuvenate(gm, nrfx.Budget(params=live - 1), scheme="dense")


def test_a_network_without_gammas_comes_back_unchanged_with_a_note() -> None:
    gm = nrfx.trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 4, 4))
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    assert not result.changed and "No batch norm with a gamma" in result.notes[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheme": "crossed"}, "scheme is 'crossed'; expected one of 'attention', 'dense', 'removed'"),
        ({"residual": "dead"}, "residual is 'dead'"),
        ({"reinitialize": "none"}, "reinitialize is 'none'"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"round_to": 0}, "round_to is 0"),
        ({"gamma0": 0.0}, "gamma0 is 0.0"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict, said: str) -> None:
    _, gm = prepared("vgg_bn")
    with pytest.raises(AnalysisError) as caught:
        nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), **options)
    assert said in str(caught.value)


def test_rewriting_with_nothing_dead_and_the_same_budget_changes_nothing() -> None:
    model = calibrated(vgg_bn())
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    assert not result.changed and "Nothing is dead" in result.notes[0]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in result.module.state_dict().items())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("beta", ["zero", "random"])
@pytest.mark.parametrize("name", SMALL)
def test_a_rewrite_keeps_the_function_and_meets_the_budget(name: str, beta: str, scheme: str) -> None:
    model, result = rewritten(name, scheme, beta)
    assert difference(model, result.module.eval()) < 1e-12
    params = sum(parameter.numel() for parameter in result.module.parameters())
    assert params == result.after.params.total <= result.before.params.total
    assert counted_flops(result.module) == result.after.flops.total
    assert result.alpha > 1 or name == "grouped"  # whole groups have to die there, as in the next test


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


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", SMALL)
def test_little_of_the_budget_is_left(name: str, scheme: str) -> None:
    """These networks have a few thousand params, so one channel is up to 2 % of them; test_reallocate has the law."""
    _, result = rewritten(name, scheme)
    assert result.after.params.total >= 0.97 * result.before.params.total


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("residual", ["live", "fixed", "coupled"])
def test_every_treatment_of_residual_streams_keeps_the_function(residual: str, scheme: str) -> None:
    model, result = rewritten("resnet", scheme, residual=residual)
    assert difference(model, result.module) < 1e-12


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_can_learn(name: str, scheme: str) -> None:
    """Finite gradients everywhere, and after two steps no new parameter is still without one."""
    _, result = rewritten(name, scheme)
    module = result.module.float().train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    x = torch.cat([images(seed) for seed in range(4)]).float()
    moved = {parameter_name: False for parameter_name, _ in module.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        out = module(x)
        loss = sum(y.square().mean() for y in torch.utils._pytree.tree_leaves(out) if isinstance(y, torch.Tensor))
        loss.backward()
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), parameter_name
            moved[parameter_name] |= bool(parameter.grad.abs().sum() > 0)
        optimizer.step()
    assert all(moved.values()), [parameter_name for parameter_name, has in moved.items() if not has]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_streams_that_stay_keep_the_function_over_five_rejuvenations_in_a_row(scheme: str) -> None:
    """test_rewrite_generations has the law on networks whose streams may die."""
    _, gm = prepared("resnet")
    budget = nrfx.Budget.relative(gm, params=1.0)
    for event in range(5):
        _kill(gm, event)
        result = nrfx.rejuvenate(gm, budget, scheme=scheme, generator=torch.Generator().manual_seed(event))
        # streams never die, so they take ever more of a ResNet, until its branches are a few channels wide
        assert (result.changed and result.alpha > 1) or event > 1, result.notes
        assert nrfx.verify(gm, result, images()) < 1e-10
        assert budget.admits(nrfx.analysis.cost.Cost(result.after.params.total, result.after.flops.total))
        gm = _trained(result.module)


def _kill(gm: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in norms(gm):
            dead = torch.rand(norm.num_features, generator=generator) < 0.3
            dead[0] = False
            norm.weight[dead] = 0.0
            norm.bias[dead] = 0.1


def _trained(module: nn.Module) -> nn.Module:
    """A few steps, so that cross weights are no longer zero, with statistics that fit them."""
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.01)
    for seed in range(5):
        optimizer.zero_grad()
        module(images(seed)).square().mean().backward()
        optimizer.step()
    return module.eval()


@pytest.mark.parametrize("name", ["vgg_bn", "resnet", "densenet_preact", "densenet_postact"])
def test_dropping_constants_moves_the_output_and_keeping_them_does_not(name: str) -> None:
    model, kept = rewritten(name, "dense")
    _, dropped = rewritten(name, "dense", constants=False)
    assert difference(model, kept.module) < 1e-12
    assert difference(model, dropped.module) > 1e-3


def test_every_gamma_of_a_relu_network_that_is_rescaled_reaches_gamma0_with_its_sign() -> None:
    model, result = rewritten("vgg_bn", "dense", gamma0=2.0)
    assert difference(model, result.module) < 1e-12
    for name, norm in result.module.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            old = model.get_submodule(name).weight
            (places,) = result.origins[f"{name}.weight"]
            survivors = places >= 0
            alive = norm.weight[survivors] != 0  # carriers keep gamma 0
            assert bool((norm.weight[survivors][alive].abs() >= 2.0 - 1e-12).all())
            assert torch.equal(norm.weight[survivors][alive].sign(), old[places[survivors]][alive].sign())


def test_gammas_before_an_activation_that_is_not_homogeneous_are_left_and_named() -> None:
    model, result = rewritten("mobilenet", "dense", gamma0=3.0)
    assert difference(model, result.module) < 1e-12
    assert any("not rescaled" in note and "follows" in note for note in result.notes)


def test_reallocate_false_gives_every_layer_its_old_width_back() -> None:
    model, result = rewritten("vgg_bn", "dense", reallocate=False)
    assert {n: p.shape for n, p in result.module.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert difference(model, result.module) < 1e-12


def test_reinitialize_all_keeps_the_found_widths_and_none_of_the_weights() -> None:
    _, kept = rewritten("vgg_bn", "dense")
    _, scratch = rewritten("vgg_bn", "dense", reinitialize="all", constants=False)
    new = dict(scratch.module.named_parameters())
    for name, parameter in kept.module.named_parameters():
        if name.endswith("weight") and parameter.dim() > 1:
            assert not torch.equal(new[name][:4, :2], parameter[:4, :2])
    gammas = torch.cat([norm.weight for norm in norms(scratch.module)])
    assert torch.equal(gammas, torch.ones_like(gammas))


def test_new_widths_are_multiples_of_round_to_or_the_live_width() -> None:
    _, gm = prepared("vgg_bn")
    live = {row.name: row.out_live for row in nrfx.utilization(gm).rows}
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.3), scheme="dense", round_to=4)
    for row in result.after.rows[:-1]:
        assert row.out % 4 == 0 or row.out - live[row.name] <= len(result.carriers)


def test_compact_drops_what_is_dead_and_widens_nothing() -> None:
    model, gm = prepared("vgg_bn", "zero")
    result = nrfx.compact(gm)
    assert result.after.params.total == result.before.params.live
    assert difference(model, result.module) < 1e-12


def test_a_frozen_layer_may_shrink_but_does_not_grow() -> None:
    model, _ = prepared("vgg_bn", "zero")
    model[4].weight.requires_grad_(False)
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense")
    rows = {row.name: row for row in result.before.rows}
    assert result.module.get_submodule("4").out_channels == rows["4"].out_live < rows["4"].out
    assert not result.module.get_submodule("4").weight.requires_grad
    assert any("frozen" in note for note in result.notes)


def test_dtype_mode_and_trainability_are_kept(generator: torch.Generator) -> None:
    model, _ = prepared("resnet")
    gm = nrfx.trace(model.to(torch.bfloat16).train(), images().bfloat16())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), generator=generator)
    assert result.module.training
    assert {parameter.dtype for parameter in result.module.parameters()} == {torch.bfloat16}


def test_a_slice_with_a_constant_width_is_pinned_and_never_wrong() -> None:
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
    assert result.module.get_submodule("stem").out_channels == 12
    assert any("stem" in note for note in result.notes) or any(pin.space == "stem" for pin in result.after.pins)


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


def test_an_op_that_computes_with_a_width_fixes_it() -> None:
    model = with_dead(calibrated(Weird(lambda self, x: x * x.shape[1] ** -0.5)), 0.4)
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5))
    assert difference(model, result.module) < 1e-12
    assert result.module.get_submodule("first.0").out_channels == 8
    assert any("computes with a width" in note for note in result.notes)


class Tied(nn.Module):
    """Two convolutions with one weight, one of them called twice, in a chain or side by side."""

    def __init__(self, chain: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.b.weight = self.a.weight
        self.again, self.norm, self.head = self.a, nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
        self.chain = chain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.again(self.b(self.a(x))) if self.chain else self.a(x) + self.b(x)
        return self.head(torch.relu(self.norm(y)))


@pytest.mark.parametrize("residual", ["live", "coupled"])
@pytest.mark.parametrize("chain", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_tied_weights_and_repeated_calls_keep_the_function(scheme: str, chain: bool, residual: str) -> None:
    model = calibrated(Tied(chain))
    with torch.no_grad():
        for norm in norms(model):
            norm.weight[:2], norm.bias[:2] = 0.0, 0.0
    gm = nrfx.trace(model, images())
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5), scheme=scheme, residual=residual)
    assert difference(model, result.module) < 1e-12
    assert result.module.get_parameter("a.weight") is result.module.get_parameter("b.weight")


def test_a_bias_that_two_layers_share_takes_the_constants_of_neither() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
            self.b = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
            self.b[3].bias = self.a[3].bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.a(x), self.b(x)], 1)

    model = with_dead(calibrated(Shared()), 0.4)
    gm = nrfx.trace(model, images())
    assert difference(model, nrfx.compact(gm).module) < 1e-12


def test_a_wrong_rewrite_is_caught_by_numbers() -> None:
    _, gm = prepared("vgg_bn")
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="dense")
    with torch.no_grad():
        result.module.get_submodule("4").weight[0, 0] += 1.0
    with pytest.raises(VerificationError, match="output differs by"):
        nrfx.verify(gm, result, images())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_comes_out_is_a_graph_module_that_copies_pickles_and_exports(scheme: str) -> None:
    _, result = rewritten("resnet", scheme)
    module, x = result.module.float(), images().float()
    assert isinstance(module, torch.fx.GraphModule)
    twins = (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), pickle.loads(pickle.dumps(result)).module)
    exported = torch.export.export(copy.deepcopy(module), (x,)).module()
    for twin in (*twins, exported):
        assert torch.allclose(twin(x), module(x), atol=1e-5)


def test_origins_say_where_every_number_comes_from() -> None:
    """Without rescaling and constants, what is not new is the old number at its origin."""
    model, result = rewritten("vgg_bn", "dense", "zero", rescale=False)
    old = model.state_dict()
    for name, tensor in result.module.state_dict().items():
        origins = result.origins[name]
        known = tensor
        expected = old[result.parents[name]]
        for dim, places in enumerate(origins):
            if places is not None:
                kept = (places >= 0).nonzero().flatten()
                known, expected = known.index_select(dim, kept), expected.index_select(dim, places[kept])
        assert torch.equal(known, expected), name


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


def test_a_network_that_is_one_layer_is_understood() -> None:
    u = nrfx.utilization(nrfx.trace(nn.Linear(3, 5), torch.zeros(2, 3)))
    assert (u.params.total, u.flops.total, u.uncounted) == (20, 15, ())


def unit(i: int, o: int, **options: object) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, **options), nn.BatchNorm2d(o), nn.ReLU())


class Weird(nn.Module):
    """Three units, with `twist(self, x)` between the first two."""

    def __init__(self, twist: Callable[["Weird", torch.Tensor], torch.Tensor], *extra: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.head = unit(3, 8), unit(8, 8), nn.Conv2d(8, 4, 3)
        self.twist, self.extra = twist, nn.ModuleList(extra)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.twist(self, self.first(x))))


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


def test_a_norm_alone_has_nothing_to_rewrite() -> None:
    gm = nrfx.trace(nn.Sequential(nn.BatchNorm2d(3)), torch.zeros(2, 3, 4, 4))
    assert nrfx.utilization(gm).params.total == 6
    assert not nrfx.rejuvenate(gm, nrfx.Budget(params=6)).changed


@pytest.mark.parametrize("threshold", [0.0, 0.01])
def test_gammas_that_are_exactly_zero_are_never_scaled(threshold: float) -> None:
    model = with_dead(calibrated(vgg_bn()), 0.4, "random")
    with torch.no_grad():
        model[5].weight.zero_()
    gm = nrfx.trace(model, images())
    budget = nrfx.Budget.relative(gm, params=1.2)
    result = nrfx.rejuvenate(gm, budget, threshold=threshold)
    assert nrfx.verify(gm, result, images()) < 1e-12


@pytest.mark.parametrize("batch", [1, 3])
def test_flops_are_those_of_one_example_whatever_the_batch_and_also_without_one(batch: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1))
    flops = 4 * 3 * 9 * 36 + 2 * 4 * 9
    assert nrfx.utilization(nrfx.trace(model, torch.zeros(batch, 3, 8, 8))).flops.total == flops
    assert nrfx.utilization(nrfx.trace(model, torch.zeros(3, 8, 8))).flops.total == flops


def test_a_network_that_was_cast_after_its_trace_is_rewritten_in_its_new_dtype() -> None:
    _, gm = prepared("resnet")
    result = nrfx.rejuvenate(gm.to(torch.bfloat16), nrfx.Budget.relative(gm, params=1.0))
    assert {parameter.dtype for parameter in result.module.parameters()} == {torch.bfloat16}


def test_carriers_alone_are_no_reason_for_another_rewrite() -> None:
    _, result = rewritten("vgg_bn", "dense")
    again = nrfx.rejuvenate(result.module, nrfx.Budget(params=result.after.params.total), scheme="dense")
    assert result.carriers and not again.changed


def test_notes_name_what_is_held_and_what_carries() -> None:
    _, result = rewritten("resnet", "attention")
    assert any("Held" in note and "stream" in note for note in result.notes)
    assert any(note.startswith("Carriers of constants") for note in result.notes)


def test_inputs_that_do_not_fit_are_an_error_that_names_both_shapes() -> None:
    _, gm = prepared("vgg_bn")
    result = nrfx.compact(gm)
    with pytest.raises(VerificationError, match=r"\[2, 5, 16, 16\].*\[2, 3, 16, 16\]"):
        nrfx.verify(gm, result, torch.zeros(2, 5, 16, 16, dtype=torch.float64))


def test_verify_compares_labels_where_the_function_changes_on_purpose() -> None:
    _, result = rewritten("vgg_bn", "dense", constants=False)
    _, gm = prepared("vgg_bn")
    assert nrfx.verify(gm, result, images()) == 0.0
    with torch.no_grad():
        conv = result.module.get_submodule("4")
        conv.weight = nn.Parameter(conv.weight[:-1])
    with pytest.raises(VerificationError, match="4 brings"):
        nrfx.verify(gm, result, images())


def test_a_padding_before_a_pool_varies_a_constant_at_the_border() -> None:
    model = Weird(lambda self, x: nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 2))
    model = with_dead(calibrated(model), 0.4, "random")
    gm = nrfx.trace(model, images())
    for scheme in SCHEMES:
        result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.2), scheme=scheme)
        assert difference(model, result.module) < 1e-12


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


def test_a_value_written_by_padding_before_a_pool_is_no_constant_of_the_channel() -> None:
    def padded(self, x):
        return nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1), value=2.0), 2)

    model = with_dead(calibrated(Weird(padded)), 0.5, "zero")
    gm = nrfx.trace(model, images())
    for scheme in SCHEMES:
        result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.2), scheme=scheme)
        assert difference(model, result.module) < 1e-12


class TwiceShuffled(nn.Module):
    """One convolution that finds its channels in another order at its second call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.norm = unit(3, 8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.norm(self.conv(x) + self.conv(x.roll(4, 1))))


def test_a_weight_called_again_on_channels_in_another_order_keeps_the_function() -> None:
    model = with_dead(calibrated(TwiceShuffled()), 0.5, "random")
    gm = nrfx.trace(model, images())
    for scheme in SCHEMES:
        result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.2), scheme=scheme)
        assert difference(model, result.module) < 1e-12


class ReadTwice(nn.Module):
    """A convolution whose weight a function reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.norm = unit(3, 8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.norm(self.conv(x)) + nn.functional.conv2d(x, self.conv.weight))


def test_a_weight_that_a_function_reads_too_takes_no_cross_form() -> None:
    model = with_dead(calibrated(ReadTwice()), 0.5, "random")
    gm = nrfx.trace(model, images())
    for scheme in SCHEMES:
        result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.5), scheme=scheme, residual="coupled")
        assert difference(model, result.module) < 1e-12
