"""Cross attention in a network that was never rejuvenated: what is refused, what is split, and what stays."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nrfx
from nrfx.errors import RewriteError
from nrfx.nn import Cross
from tests.zoo import IMAGE, SMALL, cbr, head, vgg_bn, with_dead


def images(seed: int = 1) -> Tensor:
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(seed))


def crossed(gm: nn.Module) -> dict[str, Cross]:
    return {path: module for path, module in gm.named_modules() if isinstance(module, Cross)}


@pytest.mark.parametrize("parts", [1, 0, 2.0, True])
def test_fewer_than_two_parts_are_refused(parts: object) -> None:
    with pytest.raises(RewriteError, match=rf"parts is {parts}; expected an integer of 2 or more"):
        nrfx.cross_attend(vgg_bn(), parts=parts, example_inputs=images())  # type: ignore[arg-type]


def test_a_network_with_generations_is_refused_by_the_name_of_a_layer() -> None:
    gm = nrfx.cross_attend(vgg_bn(), example_inputs=images())
    with pytest.raises(RewriteError, match="4 is a cross layer already: CrossConv2d"):
        nrfx.cross_attend(gm)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), "none reads and gives 2 or more"),
        (nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 4, 1)), "none reads and gives"),
        (nn.Sequential(nn.ConvTranspose2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 1), nn.Conv2d(8, 4, 1)), "no cross form"),
    ],
)
def test_a_network_without_a_layer_to_split_is_refused_with_the_reason(model: nn.Module, why: str) -> None:
    with pytest.raises(RewriteError, match=f"No layer can be split into 2 parts: .*{re.escape(why)}"):
        nrfx.cross_attend(model, example_inputs=images())


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_params_flops_names_and_values_stay(name: str, parts: int) -> None:
    model = SMALL[name]()
    gm = nrfx.trace(model, images())
    split = nrfx.cross_attend(gm, parts)
    assert crossed(split) and not crossed(gm)
    before, after = dict(gm.named_parameters()), dict(split.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], before[key]) and after[key] is not before[key] for key in before)
    flops = []
    for module in (gm, split):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.eval()(images()[:1])
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1]
    assert nrfx.utilization(split).params.total == nrfx.utilization(gm).params.total


def test_layers_at_the_input_and_the_output_stay_as_they_are() -> None:
    gm = nrfx.cross_attend(vgg_bn((8, 12, 16)), example_inputs=images())
    assert {path: layer.in_generations + layer.out_generations for path, layer in crossed(gm).items()} == {
        "4": (4, 4, 6, 6),
        "8": (6, 6, 8, 8),
    }


def test_widths_that_are_no_multiple_of_the_parts_differ_by_one() -> None:
    gm = nrfx.cross_attend(nn.Sequential(cbr(3, 8), cbr(8, 11), *head(11)), parts=3, example_inputs=images())
    (layer,) = crossed(gm).values()
    assert layer.in_generations == (3, 3, 2) and layer.out_generations == (4, 4, 3)


def test_behind_a_concatenation_the_parts_alternate() -> None:
    gm = nrfx.cross_attend(SMALL["inception"](), example_inputs=images())
    runs = {path: layer.in_runs for path, layer in crossed(gm).items()}
    assert runs["3.branches.0.0"] == ((0, 3), (1, 3), (0, 4), (1, 4), (0, 3), (1, 2))


def test_all_layers_of_a_stream_split_it_in_the_same_way() -> None:
    gm = nrfx.cross_attend(SMALL["resnet"](), example_inputs=images())
    layers = crossed(gm)
    assert layers["layer1.0.conv1"].in_generations == layers["layer1.0.conv2"].out_generations == (4, 4)


def test_where_no_weight_crosses_the_function_is_kept_and_elsewhere_it_is_equation_9() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 2, 1))
    gm = nrfx.trace(net, images())
    with torch.no_grad():
        x = net[0](images())
        y = [
            [nn.functional.conv2d(x[:, j : j + 2], net[1].weight[i : i + 3, j : j + 2]) for j in (0, 2)] for i in (0, 3)
        ]
        rows = [y[i][i] + 2 * torch.sigmoid(y[i][i]) * y[i][1 - i] for i in (0, 1)]
        expected = net[2](torch.cat(rows, 1) + net[1].bias.view(-1, 1, 1))
        torch.testing.assert_close(nrfx.cross_attend(gm)(images()), expected)
        net[1].weight[:3, 2:] = 0
        net[1].weight[3:, :2] = 0
        torch.testing.assert_close(nrfx.cross_attend(gm)(images()), net(images()))


def test_it_trains_and_can_be_rejuvenated_later() -> None:
    torch.manual_seed(0)
    gm = nrfx.cross_attend(SMALL["resnet"](), example_inputs=images()).double()
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        gm(images().double()).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in gm.parameters())
    dying = with_dead(gm.eval(), 0.4)
    result = nrfx.rejuvenate(dying, nrfx.Budget.relative(gm, params=1.0))
    assert nrfx.verify(dying, result, images().double()) < 1e-10
    assert {len(layer.in_generations) for layer in crossed(result.module).values()} == {3}
