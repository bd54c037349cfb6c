"""Graphs interpreted on other kinds of values."""

from typing import Any

import torch
from torch import fx

import nrfx
from nrfx.analysis.channels import Step
from nrfx.analysis.reinterpret import arguments, flow, like
from nrfx.analysis.spaces import channels_of
from tests.tracing.models import Function
from tests.zoo import IMAGE, SMALL


def test_each_step_gets_what_was_given_for_the_nodes_that_it_reads() -> None:
    channels = channels_of(nrfx.trace(SMALL["aux_net"](), torch.zeros(IMAGE)))
    seen = []

    def value(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        names = [f"{step.mode} {node.name}" for node in step.node.all_input_nodes]
        assert [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if str(leaf) in names] == names
        seen.append(step)
        return f"{step.mode} {step.node.name}"

    flow(channels, value)
    assert seen == list(channels.steps) and {step.mode for step in seen} == {"train", "eval"}


def test_a_size_keeps_its_own_value_on_every_kind_of_values() -> None:
    model = Function(lambda m, x: x.view(x.size(0), -1))
    channels = channels_of(nrfx.trace(model, torch.zeros(IMAGE)))
    seen = {}

    def value(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        seen[step.node.name] = args
        return step.node.name

    flow(channels, value)
    assert "size" not in seen
    assert seen["view"] == ("x", IMAGE[0], -1)


def test_operands_that_were_passed_by_name_stand_in_their_places() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    named = graph.call_function(torch.add, (), {"other": y, "alpha": 2, "input": x})
    joined = graph.call_function(torch.cat, (), {"dim": 1, "tensors": [x, y]})
    alone = graph.call_function(torch.add, (), {"other": y})
    assert arguments(named) == ((x, y), {"alpha": 2})
    assert arguments(joined) == (([x, y],), {"dim": 1})
    assert arguments(alone) == ((), {"other": y})


def test_names_of_a_function_of_the_user_s_own_are_its_own() -> None:
    def mixed(x: torch.Tensor, k: float = 1.0, *, other: torch.Tensor) -> torch.Tensor:
        return k * x + other

    graph = fx.Graph()
    x = graph.placeholder("x")
    assert arguments(graph.call_function(mixed, (x,), {"other": x})) == ((x,), {"other": x})


def test_like_replaces_the_tensors_of_a_nest_and_keeps_the_rest() -> None:
    nest = (torch.tensor(1), [torch.tensor(2), "text"], {"key": (torch.tensor(3), None)})
    assert like(nest, lambda labels: 10 * labels) == (10, [20, "text"], {"key": (30, None)})
