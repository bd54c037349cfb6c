"""Ops that write into their first argument."""

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from nrfx.analysis.in_place import works_in_place


def node_of(kind: str, target: Any, *more: Any, **named: Any) -> fx.Node:
    graph = fx.Graph()
    return getattr(graph, kind)(target, (graph.placeholder("x"), *more), named)


@pytest.mark.parametrize(("node", "writes"), [
    (node_of("call_method", "relu_"), True), (node_of("call_method", "relu"), False),
    (node_of("call_method", "__add__", 1), False), (node_of("call_function", operator.setitem, 0, 1), True),
    (node_of("call_function", torch.relu_), True), (node_of("call_function", torch.relu), False),
    (node_of("call_function", F.relu, inplace=True), True), (node_of("call_function", F.relu, True), True),
    (node_of("call_function", F.relu, inplace=False), False), (node_of("call_function", F.relu), False),
], ids=str)  # fmt: skip
def test_a_node_writes_by_its_name_or_where_it_is_asked_to(node: fx.Node, writes: bool) -> None:
    assert works_in_place(node, None) == writes


@pytest.mark.parametrize("inplace", [True, False])
def test_a_module_writes_where_it_says_so(inplace: bool) -> None:
    assert works_in_place(node_of("call_module", "0"), nn.ReLU(inplace)) == inplace
