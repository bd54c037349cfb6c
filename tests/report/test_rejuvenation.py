"""The report of a rejuvenation: widths kept and new, and why nothing was done."""

import re

import pytest
import torch
from torch import nn

import nrfx
from nrfx.report import rejuvenation_report, render, widths
from nrfx.report.html.bars import UNKNOWN
from nrfx.report.html.entries import of_rejuvenation
from tests.report.networks import traced
from tests.zoo import vgg_bn, with_dead


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_of_a_rejuvenation_exceeds_its_width(width: int) -> None:
    gm = traced("resnet")
    budget = nrfx.Budget.relative(gm, params=1.0)
    text = render(rejuvenation_report(nrfx.rejuvenate(gm, budget), "resnet", budget), width)
    assert max(map(len, text.splitlines())) <= width
    assert "alpha = " in text


def test_widths_of_a_rejuvenation_are_its_kept_and_new_channels() -> None:
    gm = traced("vgg_bn")
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    after = {row.name: row.out for row in result.after.rows}
    for name, of in widths(result).items():
        assert of.kept + of.fresh == of.new == after[name]
        assert of.live <= of.kept
    first = widths(result)["0"]
    origin = result.origins["0.weight"][0]
    assert origin is not None
    assert first.fresh == int((origin < 0).sum()) > 0


def test_an_unchanged_network_says_why() -> None:
    gm = traced("resnet", 0.0)
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    text = render(rejuvenation_report(result, "resnet"), 80)
    assert "resnet is unchanged" in text
    assert "Nothing is dead" in text


def test_a_compaction_grows_nothing() -> None:
    text = render(rejuvenation_report(nrfx.compact(traced("vgg_bn")), "vgg_bn"), 80)
    assert "dead channels are dropped" in text
    assert "▒" not in text.partition("R new")[2]
    assert "·" in text.partition("gone")[2]


@pytest.mark.parametrize("width", [60, 160])
def test_a_layer_of_which_nothing_is_known_has_question_marks_and_nothing_that_is_gone(width: int) -> None:
    model = nn.Sequential(*vgg_bn()[:3], nn.Conv2d(8, 12, 3), nn.Conv2d(12, 12, 1), nn.Flatten(2), nn.Linear(900, 4))
    model[4].register_forward_hook(lambda module, inputs, output: None)
    gm = nrfx.trace(with_dead(model), torch.zeros(1, 3, 32, 32))
    result = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0))
    text = render(rejuvenation_report(result), width)
    (line,) = [line for line in text.splitlines() if line.startswith("4 ")]
    assert re.search(r"\?\s+\?\s+\?", line) and "·" not in line
    (entry,) = [entry for entry in of_rejuvenation(result) if entry.label == "4"]
    assert entry.bar == UNKNOWN and ("Output channels", "not known") in entry.facts
