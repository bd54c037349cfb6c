"""The report of a utilization: a line a layer, the totals, who wastes most, and what is held."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import get_model

import nrfx
from nrfx.report import pair, render, utilization_report
from nrfx.report.layer_tree import lines
from tests import zoo
from tests.report.networks import measured


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("name", zoo.SMALL)
def test_no_line_of_a_report_exceeds_its_width_and_the_totals_are_there_in_full(name: str, width: int) -> None:
    u = measured(name)
    text = render(utilization_report(u, name), width)
    assert max(map(len, text.splitlines())) <= width
    for share in (u.params, u.flops):
        assert f"{share.live:,} of {share.total:,}" in text


def test_names_are_cut_in_the_middle_before_a_column_of_numbers_is() -> None:
    u = measured("resnet")
    table = render(utilization_report(u), 60)
    assert "…" not in table.replace("downsample", "")


def test_every_layer_has_a_line_and_norms_are_folded_into_theirs() -> None:
    text = render(utilization_report(measured("resnet")), 80)
    labels = [line.split()[0] for line in text.splitlines() if "/" in line or "%" in line]
    for label in ("conv1+bn1", "layer1.0", "conv2+bn2", "downsample.0+1", "fc", "total"):
        assert label in labels


def test_widths_and_costs_of_a_line_are_live_of_all() -> None:
    u = measured("vgg_bn")
    line = next(line for line in render(utilization_report(u), 80).splitlines() if line.startswith("4+5"))
    layer = lines(u.rows)[1]
    assert f"{layer.main.out_live}/{layer.main.out}" in line
    assert f"{layer.main.in_live}/{layer.main.in_}" in line
    assert pair(layer.params) in line


def test_nothing_dead_is_said_in_a_friendly_sentence_and_nobody_wastes() -> None:
    text = render(utilization_report(measured("resnet", 0.0)), 80)
    assert "all of it is alive" in text
    assert "wasted" not in text


def test_who_wastes_most_is_ranked_by_the_measure_asked_for() -> None:
    u = measured("vgg_bn")
    for cost in ("params", "flops"):
        dead = {line.name: getattr(line, cost).total - getattr(line, cost).live for line in lines(u.rows)}
        ranking = render(utilization_report(u, cost=cost), 80).partition(f"Most wasted {cost}")[2].splitlines()[1]
        assert ranking.split()[0] == max(dead, key=lambda name: dead[name])


def test_held_channels_are_counted_by_reason_and_pins_name_who_pins() -> None:
    u = measured("resnet")
    text = render(utilization_report(u), 80)
    assert re.search(rf"{u.held[0][1]:,}  on a residual stream", text)
    assert f"{u.pins[0].space}  by {u.pins[0].node}: {u.pins[0].reason}" in text


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "mnasnet0_5"])
def test_networks_with_gates_and_depthwise_convolutions_say_how_many_dead_channels_are_held_and_why(name: str) -> None:
    torch.manual_seed(0)
    gm = nrfx.trace(zoo.with_dead(get_model(name)), torch.zeros(1, 3, 64, 64))
    u = nrfx.utilization(gm)
    text = " ".join(render(utilization_report(u), 160).split())
    kinds = {"is a padded convolution": 0, "on a residual stream": 0, "combines its constant with values that vary": 0}
    for reason, count in u.held:
        kinds[next(kind for kind in kinds if kind in reason)] += count
    assert "Held: gamma-dead channels that are kept, and count as live" in text
    for kind, count in kinds.items():
        assert bool(count) == (kind in text)
        assert not count or re.search(rf"{count:,} [^.]*?{kind}", text)
    assert kinds["combines its constant with values that vary"] or name.startswith("mnasnet")


def hooked(layers: slice) -> nrfx.Utilization:
    """Three units, of which some layers have forward hooks."""
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(3)))
    for layer in [module for module in model.modules() if not list(module.children())][layers]:
        layer.register_forward_hook(nn.Identity())
    return nrfx.utilization(nrfx.trace(nn.Sequential(model, nn.Conv2d(3, 2, 1)), torch.zeros(1, 3, 9, 9)))


def test_work_outside_of_the_parts_is_not_called_alive() -> None:
    u = measured("resnet", 0.0)
    vars(u)["_report"] = replace(u._report, uncounted=("The model (Detector): its inputs are not tensors",))
    assert "all of it is alive" not in render(utilization_report(u), 80)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_network_that_is_not_understood_does_not_look_healthy(width: int) -> None:
    text = render(utilization_report(hooked(slice(None))), width)
    assert "alive: there is nothing" not in text and "no gamma can die" in text
    shown = " ".join(text.split())
    assert "not understood are 3 of 4 layers and 3 other nodes, 97.1 % of params and 99.2 % of flops" in shown
    assert "0.0.0, 0.0.1, 0.0.2 and 6 more: it has forward hooks (Identity)" in shown
    assert "None of the network's 9 gammas can die" in shown
    assert max(map(len, text.splitlines())) <= width


def test_what_part_is_not_understood_stands_below_the_totals_and_its_layers_have_no_widths() -> None:
    u = hooked(slice(1, 2))
    text = render(utilization_report(u), 80)
    assert "what is understood is alive" in text
    assert "▒" in text.splitlines()[2]
    share = sum(entry.params for entry in u.not_understood) / u.params.total
    told = f"not understood are 1 of 5 layers, {100 * share:.1f} % of params and 0 % of flops"
    assert f"{told} (it has forward hooks (Identity): 0.0.1)" in " ".join(text.split())


def test_the_line_of_a_layer_that_is_not_understood_shows_neither_a_width_nor_a_ratio() -> None:
    text = render(utilization_report(hooked(slice(1, 2))), 80)
    line = next(line for line in text.splitlines() if line.startswith("    1 "))
    assert line.split()[1:5] == ["?", "?", "6", "?"] and "▒" in line and "█" not in line


def test_flops_that_are_not_all_counted_are_called_a_lower_bound() -> None:
    nrfx.rules.opaque(spectrum)
    text = render(utilization_report(nrfx.utilization(nrfx.trace(Spectral(), torch.zeros(1, 3, 9, 9)))), 80)
    assert "flops are at least this: 1 node may do more than is counted" in text


def spectrum(x: torch.Tensor) -> torch.Tensor:
    return torch.fft.fft2(x).abs()


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return spectrum(self.norm(self.conv(x)))
