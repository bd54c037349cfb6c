"""Two modes in one graph where they differ in constants, and in two graphs where they differ in structure."""

import copy
import pickle

import torch
from torch import nn

from nrfx.tracing import ByMode, trace
from tests.tracing.models import AuxHead, FunctionalDropout, output


def test_a_constant_that_depends_on_the_mode_is_a_module_without_state() -> None:
    gm = trace(FunctionalDropout(), torch.zeros(3, 4))
    assert gm.graphs["train"] is gm.graphs["eval"]
    assert isinstance(gm.by_mode, ByMode)
    assert [node.args for node in gm.graph.nodes if node.target == "by_mode"] == [(True, False)]


def test_a_submodule_that_is_switched_alone_keeps_its_own_constant() -> None:
    model, x = nn.Sequential(FunctionalDropout(), FunctionalDropout()).train(), torch.randn(3, 4)
    gm = trace(model, x)
    model[0].eval()
    gm.get_submodule("0").eval()
    assert torch.equal(output(gm, x)[0], output(model, x)[0])
    model[1].eval()
    assert torch.equal(output(trace(model, x), x)[0], output(model, x)[0])


def test_mixed_modes_are_kept_and_graphs_of_different_structure_are_two() -> None:
    model = AuxHead().train()
    model.bn.eval()
    gm = trace(model, torch.zeros(4, 3, 8, 8))
    for module in (gm, copy.deepcopy(gm), pickle.loads(pickle.dumps(gm))):
        assert module.training
        assert not module.bn.training
        assert module.graph is module.graphs["train"]
        assert module.graphs["train"] is not module.graphs["eval"]
