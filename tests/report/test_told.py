"""What cannot be mistaken: what is not understood or deaf stands on the total line, with its reason; `why` agrees."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import nrfx
from nrfx.report import render, utilization_report
from nrfx.report.told import blind_spots, sections, verdict
from tests import zoo
from tests.report.networks import measured
from tests.report.test_utilization import hooked


def noted(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out


HINDERED: dict[str, tuple[Callable[[nn.Sequential], object], str]] = {
    "forward hook": (lambda model: model[4].register_forward_hook(noted), "it has forward hooks (noted)"),
    "pre-hook": (lambda model: model[4].register_forward_pre_hook(lambda *_: None), "it has forward hooks"),
    "prune mask": (
        lambda model: prune.l1_unstructured(model[4], "weight", 0.5),
        "torch.nn.utils.prune masks its weight in a hook",
    ),
    "spectral norm": (lambda model: parametrizations.spectral_norm(model[4]), "SpectralNorm computes a weight"),
    "weight norm": (lambda model: parametrizations.weight_norm(model[4]), "WeightNorm computes a weight"),
}


@pytest.mark.parametrize("name", HINDERED)
@pytest.mark.parametrize("dead", [0.0, 0.4])
def test_a_layer_that_is_hindered_is_named_on_the_total_line_and_by_why(name: str, dead: float) -> None:
    model = zoo.with_dead(zoo.vgg_bn(), dead)
    hinder, reason = HINDERED[name]
    hinder(model)
    gm = nrfx.trace(model, torch.zeros(zoo.IMAGE))
    u = nrfx.utilization(gm)
    (told,) = [each for each in blind_spots(u) if each.startswith("not understood")]
    assert reason in told and "1 of 4 layers" in told
    text = " ".join(render(utilization_report(u), 80).split())
    assert told in text and "all of it is alive" not in text
    entry = next(entry for entry in u.not_understood if reason in entry.reason)
    layer = next(node for node in entry.nodes if node.startswith("4"))
    answer = nrfx.why(gm, "4")
    parts = [part for each in (answer, *answer.layers) for part in each.parts]
    assert layer and any(entry.reason in text for part in parts for text in (part.reason, *part.also))


def test_a_reason_on_the_total_line_ends_before_what_to_do_about_it() -> None:
    (told,) = blind_spots(hooked(slice(None)))
    assert "which may do anything" not in told and told.endswith("and 6 more)")


def test_several_reasons_are_told_and_the_rest_is_counted() -> None:
    model = zoo.vgg_bn()
    model[0].register_forward_hook(noted)
    prune.l1_unstructured(model[4], "weight", 0.5)
    parametrizations.weight_norm(model[8])
    u = nrfx.utilization(nrfx.trace(model, torch.zeros(zoo.IMAGE)))
    (told,) = blind_spots(u)
    assert len(u.not_understood) == 4
    assert told.endswith("; and 2 reasons more below)") and "3 of 5 layers" in told


def test_nothing_is_said_where_all_is_seen() -> None:
    u = measured("resnet", 0.0)
    assert list(blind_spots(u)) == [] and verdict(u) == ("all of it is alive: there is nothing to give back", True)


def test_deaf_layers_are_named_and_the_network_is_not_called_alive() -> None:
    model = zoo.vgg_bn()
    with torch.no_grad():
        model[8].weight.zero_()
    u = nrfx.utilization(nrfx.trace(model, torch.zeros(zoo.IMAGE)))
    assert list(blind_spots(u)) == [
        "8, 13 do not depend on the input any more, nor does the network's output: see Deaf"
    ]
    assert verdict(u) == ("no gamma is dead, but not all of it depends on the input", False)
    text = " ".join(render(utilization_report(u), 80).split())
    assert "Deaf: what no longer depends on the input 8: all its weights are 0" in text
    assert dict(sections(u))["Deaf: what no longer depends on the input"][0] == ("8: all its weights are 0", "")
