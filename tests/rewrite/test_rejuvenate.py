"""rejuvenate and compact: what is refused, that the function and the budget are kept, and what each option does."""

import copy
import pickle

import pytest
import torch
from torch import nn

import nrfx
from nrfx.errors import AnalysisError, BudgetError
from tests.rewrite.rewriting import SCHEMES, counted_flops, difference, images, prepared, rewritten
from tests.zoo import SMALL, calibrated, norms, vgg_bn, with_dead


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
    assert not result.changed and "no norm with a gamma" in result.notes[0]
    assert not nrfx.compact(gm).changed
    with pytest.raises(BudgetError, match=r"costs 26 params and 320 flops; the budget is 25 params\. .* no norm"):
        nrfx.rejuvenate(gm, nrfx.Budget(params=25))


def test_a_network_whose_gammas_cannot_die_is_never_over_its_budget() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    gm = nrfx.trace(encoder.eval(), torch.zeros(2, 5, 8))
    assert not nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0)).changed
    with pytest.raises(BudgetError, match=r"the budget is 2,930 flops\. None of the network's 16 gammas can die"):
        nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, flops=0.99))


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
    """test_rejuvenate_generations has the law on networks whose streams may die."""
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


class FrozenNorm(nn.Module):
    """A batch norm by a function, with buffers in the places of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        for name, value in (("weight", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)):
            self.register_buffer(name, torch.full((8,), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.batch_norm(self.first(x), self.mean, self.var, self.weight, self.bias)
        return self.last(y.relu())


def test_gammas_that_are_buffers_are_compared_too() -> None:
    torch.manual_seed(0)
    model, x = FrozenNorm().eval(), torch.randn(2, 3, 9, 9)
    model.weight[:3] = 0
    result = nrfx.compact(nrfx.trace(model, x))
    assert result.changed
    torch.testing.assert_close(result.module(x), model(x))
