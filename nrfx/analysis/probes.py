"""A twin of a network with modules of one's own in front of the weights that read, or behind them.

A weight that sums over channels is the one place where a channel acts on other channels. So what stands there sees all
that a channel does, and what is put there in its place is all that the rest of the network gets.
"""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from nrfx.analysis.channels import Channels, Step
from nrfx.analysis.cost import eval_steps
from nrfx.analysis.reinterpret import arguments
from nrfx.nn import Cross
from nrfx.rules import Family, Reading, tensors
from nrfx.tracing import TracedModule
from nrfx.tracing.graph.clone import shell
from nrfx.tracing.graph.copies import copied
from nrfx.tracing.graph.registered import registered

Probe = Callable[[Reading], nn.Module | None]
"""The module that takes what a weight reads, or gives, and gives what takes its place; None for none."""


def reading_steps(channels: Channels) -> list[tuple[Step, Reading]]:
    """The steps of the eval graph at which weights sum over channels, one for each visit and weight."""
    steps = [step for step in eval_steps(channels) if step.effect.family is Family.CONTRACTION]
    return [(step, step.effect.reading) for step in steps if step.effect.reading is not None]


def probed(traced: TracedModule, channels: Channels, ahead: Probe, behind: Probe = lambda _: None) -> TracedModule:
    """The network in eval mode with probes in front of its reading weights and behind them.

    Parameters are shared, buffers are copies, modules are twins: to run it changes nothing in `traced`.

    The model is not one that was traced in parts, whose own code runs and not the graph.
    """
    twin = evaluated(traced)
    graph = twin.graph
    nodes = {node.name: node for node in graph.nodes}
    values = {step.node.name: step.effect.out for step in eval_steps(channels)}
    for step, reading in reading_steps(channels):
        node = nodes[step.node.name]
        if (probe := ahead(reading)) is not None:
            source = _operand(node, step, reading, values)
            with graph.inserting_before(node):
                call = graph.call_module(_registered(twin, probe), (source,))
            node.replace_input_with(source, call)
            values[call.name] = values[source.name]
        if (probe := behind(reading)) is not None:
            with graph.inserting_after(node):
                call = graph.call_module(_registered(twin, probe), (node,))
            node.replace_all_uses_with(call, delete_user_cb=lambda user, own=call: user is not own)
            values[call.name] = values[node.name]
    twin.recompile()
    return twin


def evaluated(traced: TracedModule) -> TracedModule:
    """The network in eval mode, around the same parameters, with copies of the buffers: to run it changes nothing."""
    graph = copied(traced.graphs["eval"])
    contents = shell(traced._contents(), lambda x: x if isinstance(x, nn.Parameter) else x.clone())
    return TracedModule(contents, {"eval": graph, "train": graph}, traced.facts, "Evaluated").eval()


def dense_weight(traced: TracedModule, reading: Reading) -> Tensor:
    """The weight that reads, as [rows, columns of a group, *kernel], with zeros where a cross layer has no block."""
    if reading.weight is not None:
        return reading.by_rows(registered(traced, reading.weight).detach())
    module = traced.get_submodule(reading.path)
    assert isinstance(module, Cross)
    return module.dense_weight().detach()


def shaped(values: Tensor, axis: int, x: Tensor) -> Tensor:
    """A vector along one axis of x; each of its elements several times where a column fills several places."""
    places = values.repeat_interleave(x.shape[axis] // values.numel())
    return places.to(x.device if values.dtype == torch.bool else x).view(
        [-1 if dim == axis else 1 for dim in range(x.dim())]
    )


def _registered(twin: TracedModule, probe: nn.Module) -> str:
    name = next(name for count in range(10**6) if not hasattr(twin, name := f"probe_{count}"))
    twin.add_module(name, probe)
    return name


def _operand(node: fx.Node, step: Step, reading: Reading, values: dict[str, object]) -> fx.Node:
    """The node whose value the weight reads: the `reading.operand`-th tensor among the arguments."""
    given: list[fx.Node] = []
    fx.map_arg(arguments(node), given.append)
    each = [source for source in given for _ in tensors(values[source.name])]
    return each[reading.operand]
