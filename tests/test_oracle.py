"""Live widths and costs on five networks with gammas set by a rule, against numbers counted elsewhere (tests/data)."""

import json
from math import sqrt
from pathlib import Path

import pytest
import torch

import nrfx
from nrfx.models import create
from tests.zoo import ORACLE, with_rule

DATA = json.loads((Path(__file__).parent / "data" / "oracle_examples.json").read_text())
CASES = [(name, rule) for name, model in DATA["models"].items() for rule in model["rules"]]


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_live_widths_and_costs_of_every_convolution_agree(name: str, rule: str) -> None:
    expected = DATA["models"][name]["rules"][rule]
    gm = nrfx.trace(with_rule(ORACLE[name](), rule), torch.zeros(DATA["models"][name]["input"]))
    u = nrfx.utilization(gm)
    convolutions = [row for row in u.rows if row.op == "Conv2d"]
    keys = ("in_live", "in", "out_live", "out", "params_live", "params", "flops_live", "flops")
    expected_layers = {layer["name"]: tuple(layer[key] for key in keys) for layer in expected["layers"]}
    counted = {
        row.name: (row.in_live, row.in_, row.out_live, row.out, row.params_live, row.params, row.flops_live, row.flops)
        for row in convolutions
    }
    assert counted == expected_layers
    assert sum(row.params_live for row in convolutions) == expected["params_live"]
    assert sum(row.flops for row in convolutions) == expected["flops"]
    assert u.params.total == DATA["models"][name]["params"]
    classifier = u.rows[-1]
    assert classifier.in_live == expected["classifier_in_live"]
    for measure, alpha in expected["alpha"].items():
        total = sum(getattr(row, measure) for row in convolutions)
        live = sum(getattr(row, f"{measure}_live") for row in convolutions)
        assert sqrt(total / live) == pytest.approx(alpha, rel=1e-14)


def test_the_paper_s_network_of_the_same_layers_has_the_same_live_widths() -> None:
    expected = DATA["models"]["vgg19_cifar10"]["rules"]["A"]["layers"]
    u = nrfx.utilization(nrfx.trace(with_rule(create("vgg19_cifar"), "A"), torch.zeros(1, 3, 32, 32)))
    assert [(row.in_live, row.out_live, row.flops_live) for row in u.rows if row.op == "Conv2d"] == [
        (layer["in_live"], layer["out_live"], layer["flops_live"]) for layer in expected
    ]


@pytest.mark.parametrize(("name", "rule"), [case for case in CASES if "imagenet" not in case[0]])
def test_our_alpha_is_near_theirs_and_meets_the_budget_of_all_layers(name: str, rule: str) -> None:
    gm = nrfx.trace(with_rule(ORACLE[name](), rule), torch.zeros(DATA["models"][name]["input"]))
    budget = nrfx.Budget.relative(gm, params=1.0)
    result = nrfx.rejuvenate(gm, budget, scheme="dense", constants=False)
    theirs = DATA["models"][name]["rules"][rule]["alpha"]["params"]
    assert 0.995 * budget.params < result.after.params.total <= budget.params
    assert result.alpha == pytest.approx(theirs, rel=0.03)
