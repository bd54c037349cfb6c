"""Twins: the nodes of two graphs that are one op on the same values."""

from torch import fx

from nrfx.tracing.graph.twins import Twins


def graph(*calls: tuple[str, int, int]) -> fx.Graph:
    """Of methods: each has a name, the place of the node that it is called on, and a number."""
    made = fx.Graph()
    nodes = [made.placeholder("x")]
    for name, source, number in calls:
        nodes.append(made.call_method(name, (nodes[source], number)))
    made.output(tuple(nodes))
    return made


def names(one: fx.Graph, other: fx.Graph) -> list[str | None]:
    twins = Twins(other)
    found = [twins.find(node, node.all_input_nodes) for node in one.nodes]
    return [None if twin is None else twin.name for twin in found]


def test_equal_calls_have_twins_of_their_own() -> None:
    twice = (("add", 0, 1), ("add", 0, 1))
    assert names(graph(*twice), graph(*twice)) == ["x", "add", "add_1", "output"]
    assert names(graph(*twice), graph(*twice[:1])) == ["x", "add", None, None]


def test_a_node_of_another_number_or_source_has_none_nor_have_those_behind_it() -> None:
    assert names(graph(("add", 0, 1), ("mul", 1, 2)), graph(("add", 0, 3), ("mul", 1, 2))) == ["x", None, None, None]
    assert names(graph(("add", 0, 1), ("mul", 0, 2)), graph(("add", 0, 1), ("mul", 1, 2))) == ["x", "add", None, None]


def test_a_node_that_stands_between_others_hinders_none() -> None:
    assert names(graph(("abs", 0, 0), ("add", 0, 1)), graph(("add", 0, 1))) == ["x", None, "add", None]
    assert names(graph(("add", 0, 1)), graph(("abs", 0, 0), ("add", 0, 1))) == ["x", "add", None]
