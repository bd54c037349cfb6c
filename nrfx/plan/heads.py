"""Which output layers gain a head for the new generation: layers whose channels are the network's outputs.

Parameters or statistics between a layer and an output would belong to all generations: then no layer gains a head.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx, nn

from nrfx.analysis.channels import Channels, Step
from nrfx.nn import Cross
from nrfx.plan.resize import Resized
from nrfx.rules import Family, Reading
from nrfx.tracing import PartialModule, TracedModule


def headed(
    traced: TracedModule, channels: Channels, forms: Mapping[str, Reading], resized: Resized, scheme: str
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Keys of the output layers that gain a head, all of them or none; and notes.

    Layers with heads gain one under every scheme, layers without heads under "removed". None gains one where no output
    layer has a new column. The notes say why there is no head, and in which layers generations meet before the output.
    """
    layers, obstacles = _output_layers(traced, channels, forms)
    old = {key for key in layers if _is_head(traced, forms, key)}
    if scheme != "removed" and not old:
        return frozenset(), ()
    new_columns = {key for key, reading in resized.readings.items() if _has_new(channels, reading.cols)}
    # a layer with new columns and no new rows sums over all generations
    sums = [key for key in new_columns if not _has_new(channels, resized.readings[key].rows)]
    hidden = [key for key in resized.readings if key in sums and key not in layers] if scheme == "removed" else []
    notes = (f"Survivors and rejuvenated meet before the output, in {', '.join(hidden)}.",) if hidden else ()
    if obstacles and not old:
        return frozenset(), (*notes, f"One head for all generations: {obstacles[0]}.") if new_columns else ()
    if not layers & new_columns:
        return frozenset(), notes
    return frozenset(layers if scheme == "removed" else old), notes


def _has_new(channels: Channels, layout: Tensor) -> bool:
    return bool((layout >= channels.channel_of.numel()).any())


def _is_head(traced: TracedModule, forms: Mapping[str, Reading], key: str) -> bool:
    layer = traced.get_submodule(forms[key].path)
    return isinstance(layer, Cross) and layer.is_head


def _output_layers(
    traced: TracedModule, channels: Channels, forms: Mapping[str, Reading]
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Keys of the layers whose channels are outputs, in both modes; and what stands between a layer and an output."""
    if isinstance(traced, PartialModule):
        return frozenset(), ("the network's outputs lie outside of its parts",)
    effects = {(step.mode, step.node): step for step in channels.steps}
    layers: set[str] = set()
    obstacles: list[str] = []
    for mode, graph in traced.graphs.items():
        if (mode, next(iter(graph.nodes))) not in effects:  # one graph for both modes
            continue
        for node in _ends(graph, traced):
            step = effects[mode, node]
            reading = step.effect.reading
            if reading is not None and reading.key in forms:
                layers.add(reading.key)
            elif node.op != "placeholder":
                obstacles.append(_obstacle(step))
    return frozenset(layers), tuple(obstacles)


def _obstacle(step: Step) -> str:
    if step.effect.family is Family.GROUPED or step.effect.reading is not None:
        return f"{step.path} gives an output and has no cross form"
    return f"{step.path} stands before an output and has parameters or statistics of its own"


def _ends(graph: fx.Graph, module: nn.Module) -> Iterator[fx.Node]:
    """The last nodes with parameters on the ways to the output, and the inputs that reach it on ways without any."""
    yield from Tail.of(graph, module).ends


@dataclass(frozen=True)
class Tail:
    """The end of a graph: the nodes behind its last parameters.

    Attributes:
        between: the nodes without parameters on the ways back from the output, in the order of the graph.
        ends: the nodes with parameters, and the inputs, at which these ways end.
    """

    between: tuple[fx.Node, ...]
    ends: tuple[fx.Node, ...]

    @classmethod
    def of(cls, graph: fx.Graph, module: nn.Module) -> "Tail":
        (output,) = (node for node in graph.nodes if node.op == "output")
        queue, seen = list(output.all_input_nodes), set(output.all_input_nodes)
        while queue:
            node = queue.pop()
            if not _is_end(node, module):
                queue += [source for source in node.all_input_nodes if source not in seen]
                seen.update(node.all_input_nodes)
        ordered = [node for node in graph.nodes if node in seen]
        return cls(
            tuple(node for node in ordered if not _is_end(node, module)),
            tuple(node for node in ordered if _is_end(node, module) and node.op != "get_attr"),
        )


def _is_end(node: fx.Node, module: nn.Module) -> bool:
    if node.op in ("placeholder", "get_attr"):
        return True
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        return any(True for _ in (*layer.parameters(), *layer.buffers()))
    return any(source.op == "get_attr" for source in node.all_input_nodes)
