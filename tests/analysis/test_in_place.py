"""Who reads what an op has written into."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from nrfx.analysis.in_place import Memory
from nrfx.rules import Family
from nrfx.tracing.values.writers import works_in_place


def graph_of(function: Callable[[Tensor], Tensor]) -> fx.Graph:
    return fx.symbolic_trace(function).graph


def memory_of(graph: fx.Graph) -> Memory:
    kind = {"view": Family.MOVEMENT, "clone": Family.IDENTITY, "contiguous": Family.IDENTITY}
    families = {node: kind.get(str(node.target), Family.POINTWISE) for node in graph.nodes}
    return Memory({node: index for index, node in enumerate(graph.nodes)}, families, {})


@torch.library.custom_op("nrfx_tests::shift", mutates_args=("by",))
def shift(x: Tensor, by: Tensor) -> Tensor:
    by += x
    return x.clone()


def test_the_schema_of_a_custom_op_says_so_of_any_argument() -> None:
    """It changes its second argument, which a later node reads."""

    def function(x: Tensor) -> Tensor:
        total = x.exp()
        torch.ops.nrfx_tests.shift(x, total)
        return total.sum()

    graph = graph_of(function)
    writer = next(node for node in graph.nodes if node.target is torch.ops.nrfx_tests.shift)
    assert works_in_place(writer, None) and memory_of(graph).later_reader(writer) == "sum_1"


def nobody(x: Tensor) -> Tensor:
    return x.exp().add_(1)


def the_value(x: Tensor) -> Tensor:
    y = x.exp()
    return y.add_(1) + y


def another_value(x: Tensor) -> Tensor:
    y, other = x.exp(), x.exp()
    y.add_(1)
    return other.sum()


def the_value_of_a_view(x: Tensor) -> Tensor:
    y = x.exp()
    y.view(-1).add_(1)
    return y.sum()


def the_value_of_a_copy(x: Tensor) -> Tensor:
    y = x.exp()
    y.clone().add_(1)
    return y.sum()


def the_value_itself(x: Tensor) -> Tensor:
    y = x.exp()
    y.contiguous().add_(1)
    return y.sum()


@pytest.mark.parametrize(("function", "reader"), [
    (the_value_itself, "sum_1"), (nobody, None), (the_value, "add"), (another_value, None),
    (the_value_of_a_view, "sum_1"), (the_value_of_a_copy, None),
])  # fmt: skip
def test_the_value_or_a_view_of_it_may_be_read_later_and_a_copy_is_not_it(
    function: Callable[[Tensor], Tensor], reader: str | None
) -> None:
    graph = graph_of(function)
    (writer,) = (node for node in graph.nodes if node.target == "add_")
    assert memory_of(graph).later_reader(writer) == reader


def test_a_function_is_asked_at_each_call_whether_it_works_in_place() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.exp().exp()
        return F.relu(y) + F.relu(y, inplace=True) + y

    graph = graph_of(function)
    memory = memory_of(graph)
    assert [memory.later_reader(node) for node in graph.nodes if node.target is F.relu] == [None, "add_1"]
    assert [memory.later_reader(node) for node in graph.nodes if node.target == "exp"] == [None, None]
    assert memory.quiet == {"exp"}
