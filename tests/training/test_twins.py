"""Twins of a network across a rewrite: they compute what they computed before."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import nrfx
from nrfx.errors import TrainingError
from nrfx.tracing.graph.stated import KEY
from nrfx.training.followers import carry_into
from nrfx.training.twins import carry
from tests.zoo import IMAGE, SMALL, norms, vgg_bn, vgg_conv_bias

SCHEMES = ("attention", "dense", "removed", "compact")


def images() -> Tensor:
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@torch.no_grad()
def dying(name: str = "vgg_bn") -> nrfx.TracedModule:
    """A network of the zoo in which the first half of all gammas is 0 and of each sign of beta there is one."""
    torch.manual_seed(0)
    net = SMALL[name]().double().eval()
    for norm in norms(net):
        for tensor, (low, high) in (
            (norm.weight, (0.2, 1.5)),
            (norm.bias, (-1.0, 1.0)),
            (norm.running_var, (0.5, 2.0)),
        ):
            tensor.uniform_(low, high)
        norm.running_mean.normal_()
        half = norm.num_features // 2
        norm.weight[:half] = 0
        norm.bias[:half] = torch.linspace(0.5, -0.5, half)
    return nrfx.trace(net, images())


@torch.no_grad()
def twin_of(gm: nrfx.TracedModule) -> nrfx.TracedModule:
    """Other numbers everywhere, with the same gammas at 0."""
    twin = copy.deepcopy(gm)
    generator = torch.Generator().manual_seed(1)
    for tensor in [*twin.parameters(), *twin.buffers()]:
        if tensor.is_floating_point():
            tensor.mul_(1 + 0.3 * torch.rand(tensor.shape, generator=generator).to(tensor))
    return twin


def rewritten(gm: nrfx.TracedModule, scheme: str, residual: str = "coupled") -> nrfx.Rejuvenation:
    if scheme == "compact":
        return nrfx.compact(gm, residual=residual)  # type: ignore[arg-type]
    budget = nrfx.Budget.relative(gm, params=1.0)
    generator = torch.Generator().manual_seed(0)
    return nrfx.rejuvenate(gm, budget, scheme=scheme, residual=residual, generator=generator)  # type: ignore[arg-type]


def differ(expected: nn.Module, actual: nn.Module) -> float:
    """The largest difference of outputs in eval mode, relative to the largest."""
    with torch.no_grad():
        before, after = expected.eval()(images()), actual.eval()(images())
    return float((before - after).abs().max() / before.abs().max())


# What it refuses


def test_a_twin_of_another_network_is_refused_by_the_name_of_a_tensor() -> None:
    gm = dying()
    result = nrfx.compact(gm)
    with pytest.raises(
        TrainingError, match=r"The twin has module\.0\.weight, which .*wrapper\.module, not the wrapper"
    ):
        carry(AveragedModel(gm), result)
    with pytest.raises(TrainingError, match=r"0\.weight of the twin has shape \[4, 3, 3, 3\]; .*it has \[8, 3, 3, 3\]"):
        carry(vgg_bn((4, 12, 16)), result)
    with pytest.raises(TrainingError, match=r"The twin has no 0\.weight"):
        carry({}, result)
    with pytest.raises(TrainingError, match="The twin is of class int"):
        carry(3, result)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="Linear holds no network as `module` or `ema`"):
        carry_into(nn.Linear(1, 1), result)


def test_without_a_graph_the_network_before_is_needed() -> None:
    gm = dying()
    model, result, old = vgg_bn().double(), nrfx.compact(gm), copy.deepcopy(gm)
    assert carry(model, result).module is not None
    result = pickle.loads(pickle.dumps(result))  # a file holds no network but the new one
    with pytest.raises(TrainingError, match="pass that network as old="):
        carry(model, result)
    assert carry(model, result, old=old).module is not None
    assert carry(twin_of(gm), result).module is not None


# The function stays


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "name", ["vgg_conv_bias", "resnet_bottleneck", "inception", "densenet_preact", "mobilenet_se", "grouped"]
)
def test_a_twin_with_the_same_dead_channels_computes_what_it_computed(name: str, scheme: str) -> None:
    gm = dying(name)
    twin = twin_of(gm)
    before, result = copy.deepcopy(twin.state_dict()), rewritten(gm, scheme)
    carried = carry(twin, result, images())
    assert result.changed and carried.module is not None and carried.difference is not None
    assert differ(gm, twin) > 1e-3
    assert differ(twin, carried.module) < 1e-10 and carried.difference < 1e-10
    assert (carried.keeps_function, carried.lag, carried.notes) == (True, 0.0, ())
    assert all(torch.equal(before[key], value) for key, value in twin.state_dict().items())
    shapes = {key: value.shape for key, value in result.module.state_dict().items()}
    assert shapes == {key: value.shape for key, value in carried.module.state_dict().items()}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_network_as_its_own_twin_becomes_the_result_bit_by_bit(scheme: str) -> None:
    gm = dying("resnet_bottleneck")
    result = rewritten(gm, scheme)
    carried = carry(gm, result)
    state = result.module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in carried.tensors.items())
    assert carried.tensors.keys() == state.keys() - {KEY}
    again = carry(state, nrfx.compact(result.module))  # a state dict with a plan
    assert KEY not in again.tensors


@pytest.mark.parametrize("scheme", ["attention", "removed", "dense"])
def test_a_twin_follows_several_rejuvenations(scheme: str) -> None:
    gm = dying("vgg_conv_bias")
    twin: nn.Module = twin_of(gm)
    for _ in range(3):
        result = rewritten(gm, scheme)
        carried = carry(twin, result, images())
        assert carried.difference is not None and carried.difference < 1e-10
        gm, twin = result.module, twin_of(carried.module)  # type: ignore[arg-type]
        with torch.no_grad():
            for norm, other in zip(norms(gm), norms(twin), strict=True):
                dead = torch.arange(norm.num_features) % 3 == 1
                for each in (norm, other):
                    each.weight[dead] = 0
                    each.bias[dead] = each.bias[dead].abs() + 0.1


def test_new_channels_of_the_twin_are_the_network_s() -> None:
    gm = dying()
    result = rewritten(gm, "dense")
    carried = carry(twin_of(gm), result)
    places = result.origins["0.weight"][0]
    assert places is not None
    new = places < 0
    assert bool(new.any())
    assert torch.equal(carried.tensors["0.weight"][new], result.module.get_parameter("0.weight")[new])
    assert not torch.equal(carried.tensors["0.weight"][~new], result.module.get_parameter("0.weight")[~new])


# Forms of a twin


def test_an_average_goes_on_in_its_wrapper() -> None:
    gm = dying()
    average = AveragedModel(gm, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        with torch.no_grad():
            for parameter in gm.parameters():
                parameter.mul_(1.05)
        average.update_parameters(gm)
    before, result = copy.deepcopy(average.module), rewritten(gm, "attention")
    carried = carry_into(average, result)
    assert average.module is carried.module and int(average.n_averaged) == 3
    assert differ(before, average.module) < 1e-10
    average.update_parameters(result.module)
    assert int(average.n_averaged) == 4


def test_the_plain_model_and_a_state_without_buffers_are_twins_too() -> None:
    gm = dying()
    twin = twin_of(gm)
    model = vgg_bn().double()
    model.load_state_dict(twin.state_dict())
    result = rewritten(gm, "removed")
    carried = carry(model, result)
    assert carried.module is not None and differ(twin, carried.module) < 1e-10
    parameters = carry(dict(model.named_parameters()), result)
    assert parameters.module is None
    assert parameters.tensors.keys() == dict(result.module.named_parameters()).keys()
    assert all(torch.equal(value, carried.tensors[key]) for key, value in parameters.tensors.items() if "weight" in key)


def test_dtype_mode_and_frozen_parameters_are_the_twin_s() -> None:
    gm = dying()
    twin = twin_of(gm).to(torch.bfloat16).requires_grad_(False).eval()
    gm.train()
    carried = carry(twin, nrfx.compact(gm)).module
    assert carried is not None and not carried.training
    assert {parameter.dtype for parameter in carried.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in carried.parameters())


def test_where_nothing_changed_the_twin_is_copied() -> None:
    gm = dying()
    with torch.no_grad():
        for norm in norms(gm):
            norm.weight.fill_(1.0)
    result = nrfx.compact(gm)
    twin = twin_of(gm)
    carried = carry(twin, result)
    assert not result.changed and carried.keeps_function
    assert all(torch.equal(value, carried.tensors[key]) for key, value in twin.state_dict().items())


# What is not exact is said


def test_a_twin_whose_gammas_lag_behind_says_by_how_much_its_outputs_changed() -> None:
    gm = dying()
    twin = twin_of(gm)
    with torch.no_grad():
        norms(twin)[0].weight[:2] = 0.2 * norms(twin)[0].weight.abs().max()
    carried = carry(twin, nrfx.compact(gm), images())
    assert carried.module is not None and carried.difference is not None
    assert not carried.keeps_function and carried.lag == pytest.approx(0.2)
    assert carried.difference == pytest.approx(differ(twin, carried.module)) and carried.difference > 1e-4
    assert carried.notes[0].startswith(
        "2 dropped channels are not dead in the twin: the largest of their gammas is 0.2"
    )
    with torch.no_grad():
        norms(twin)[0].weight[:2] = 0.0
    assert differ(twin, carried.module) < 1e-10


def test_a_constant_that_is_0_in_the_network_alone_has_no_place_behind_a_padding_and_that_is_said() -> None:
    """With betas below 0 behind a relu the network needs no carrier; the twin would."""
    gm = dying()
    with torch.no_grad():
        for norm in norms(gm):
            norm.bias[norm.weight == 0] = -1.0
    twin = twin_of(gm)
    with torch.no_grad():
        norms(twin)[0].bias[norms(twin)[0].weight == 0] = 0.5
    carried = carry(twin, nrfx.compact(gm), images())
    assert not carried.keeps_function and carried.lag == 0
    assert carried.notes == ("The constants of 4 dropped channels have no place in the twin, and were dropped.",)


def test_after_a_start_from_scratch_the_twin_is_the_new_network() -> None:
    gm = dying()
    budget = nrfx.Budget.relative(gm, params=1.0)
    result = nrfx.rejuvenate(gm, budget, reinitialize="all", generator=torch.Generator().manual_seed(0))
    carried = carry(twin_of(gm), result)
    assert not carried.keeps_function and "initialised anew" in carried.notes[0]
    state = result.module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in carried.tensors.items())


def test_constants_that_the_network_dropped_are_dropped_in_the_twin() -> None:
    gm = nrfx.trace(vgg_conv_bias().double(), images())
    with torch.no_grad():
        for norm in norms(gm):
            norm.weight[:4] = 0
    carried = carry(gm, result := nrfx.compact(gm, constants=False))
    state = result.module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in carried.tensors.items())
    assert not carried.keeps_function
