"""Two modes in one graph where they differ in constants, and in two graphs where they differ in structure."""

import copy
import pickle

import pytest
import torch
from torch import fx, nn

from nrfx.tracing import ByMode, trace
from nrfx.tracing.graph.modes import alike, unified
from tests.tracing.models import AuxHead, Function, FunctionalDropout, output


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


def graph_of(function: object) -> fx.Graph:
    return fx.Tracer().trace(Function(function))


def test_a_number_that_may_be_an_index_makes_two_structures() -> None:
    rows, columns = graph_of(lambda m, x: x.sum(0)), graph_of(lambda m, x: x.sum(1))
    assert unified(rows, columns, nn.Module()) is None
    assert not alike(rows, columns)


@pytest.mark.parametrize("other", [lambda m, x: x.relu(), lambda m, x: (x * 0.5).exp(), lambda m, x: x * 0.5 + x])
def test_other_operations_or_operands_make_two_structures(other: object) -> None:
    one, two = graph_of(lambda m, x: (x * 0.5).relu()), graph_of(other)
    assert unified(one, two, nn.Module()) is None and not alike(one, two)


def test_other_operands_of_the_same_operations_make_two_structures() -> None:
    one, two = graph_of(lambda m, x: x.exp() + x.relu()), graph_of(lambda m, x: x.exp() + x.relu())
    added = next(node for node in two.nodes if node.op == "call_function")
    added.args = (added.args[1], added.args[0])
    assert unified(one, two, nn.Module()) is None and not alike(one, two)


def test_graphs_are_alike_with_the_same_constants_alone() -> None:
    half = graph_of(lambda m, x: x * 0.5)
    assert alike(half, graph_of(lambda m, x: x * 0.5)) and not alike(half, graph_of(lambda m, x: x * 0.25))


def test_two_fractions_become_one_call_that_follows_the_mode() -> None:
    root = nn.Module()
    graph = unified(graph_of(lambda m, x: x * 0.5), graph_of(lambda m, x: x * 0.25), root)
    assert graph is not None
    gm = fx.GraphModule(root, graph)
    assert gm.train()(torch.ones(1)) == 0.5 and gm.eval()(torch.ones(1)) == 0.25
