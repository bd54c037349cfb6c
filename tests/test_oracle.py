"""Live widths and costs on five networks with gammas set by a rule, against numbers counted elsewhere (tests/data)."""

import json
from pathlib import Path

import pytest
import torch

import nrfx
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
    found = {
        row.name: (row.in_live, row.in_, row.out_live, row.out, row.params_live, row.params, row.flops_live, row.flops)
        for row in convolutions
    }
    assert found == expected_layers
    assert sum(row.params_live for row in convolutions) == expected["params_live"]
    assert sum(row.flops for row in convolutions) == expected["flops"]
    assert u.params.total == DATA["models"][name]["params"]
    classifier = u.rows[-1]
    assert classifier.in_live == expected["classifier_in_live"]
