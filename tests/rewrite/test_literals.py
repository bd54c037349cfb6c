"""Widths that a graph states as numbers, rewritten in place."""

import copy

import pytest
import torch

import nrfx
from nrfx.rewrite.literals import put_literals, write_literals
from tests.tracing.models import Function


def viewed() -> nrfx.TracedModule:
    """A graph with a view of [2, 12] as [2, 3, 4], its sizes one argument each, and as [2, 4, 3], its sizes a list."""
    gm = nrfx.trace(Function(lambda m, x: x.view(x.size(0), 3, 4).reshape([x.size(0), 4, 3])), torch.zeros(2, 12))
    gm.eval()
    return gm


def test_a_node_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="view_9"):
        put_literals(viewed(), {"eval": {"view_9": {"1": 3}}})


def test_numbers_are_written_where_they_stand_and_nodes_between_them_stay() -> None:
    gm = viewed()
    node = next(node for node in gm.graph.nodes if node.target == "reshape")
    write_literals(gm, {("eval", "view"): {2: 2, 3: 6}, ("eval", node.name): {1: [node.args[1][0], 6, 2]}})
    assert gm(torch.zeros(5, 12)).shape == (5, 6, 2)
    assert gm.facts.literals == {"eval": {"view": {"2": 2, "3": 6}, node.name: {"1": [None, 6, 2]}}}


def test_a_fresh_trace_takes_the_numbers_that_were_written() -> None:
    gm, fresh = viewed(), viewed()
    write_literals(gm, {("eval", "view"): {2: 2, 3: 6}})
    write_literals(gm, {("eval", "reshape"): {1: [None, 12, 1]}})
    put_literals(fresh, copy.deepcopy(gm.facts.literals))
    assert fresh(torch.zeros(2, 12)).shape == gm(torch.zeros(2, 12)).shape == (2, 12, 1)
