"""Output layers with one head a generation: NR-CR, in which survivors and rejuvenated are trained side by side.

Without cross connections S and R meet in the layer that gives the network's output, and nowhere else. That layer
becomes a cross layer whose one output generation reads all others. The network still returns the sum; `heads` makes of
it a module that returns the share of each generation, so that each can have a loss of its own. The head of a new
generation starts at 0. There is one bias, and it belongs to the first head.

Source: Neural Rejuvenation, Sec. 3.3, and its authors' code, which counts the bias once a head.
"""

import copy
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, fx, nn

from nrfx.channels import Channels, Step
from nrfx.errors import RewriteError
from nrfx.nn import Cross
from nrfx.rewrite.resize import Resized
from nrfx.rules import Family, Reading
from nrfx.trace import PartialModule, TracedModule


def headed(
    traced: TracedModule, found: Channels, forms: Mapping[str, Reading], resized: Resized, scheme: str
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Keys of the output layers that gain a head, all of them or none; and notes on why not, and on who meets earlier.

    Layers that have heads already gain one under every scheme, others under "removed". None does where no output layer
    has a new column.
    """
    layers, obstacles = _output_layers(traced, found, forms)
    old = {key for key in layers if _is_head(traced, forms, key)}
    if scheme != "removed" and not old:
        return frozenset(), ()
    fresh = {key for key, reading in resized.readings.items() if _has_new(found, reading.cols)}
    meet = [key for key in resized.readings if key in fresh and not _has_new(found, resized.readings[key].rows)]
    hidden = [key for key in meet if key not in layers] if scheme == "removed" else []
    notes = (f"Survivors and rejuvenated meet before the output, in {', '.join(hidden)}.",) if hidden else ()
    if obstacles and not old:
        return frozenset(), (*notes, f"One head for all generations: {obstacles[0]}.") if fresh else ()
    if not layers & fresh:
        return frozenset(), notes
    return frozenset(layers if scheme == "removed" else old), notes


def _has_new(found: Channels, layout: Tensor) -> bool:
    return bool((layout >= found.channel_of.numel()).any())


def _is_head(traced: TracedModule, forms: Mapping[str, Reading], key: str) -> bool:
    layer = traced.get_submodule(forms[key].path)
    return isinstance(layer, Cross) and layer.is_head


def _output_layers(
    traced: TracedModule, found: Channels, forms: Mapping[str, Reading]
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Keys of the layers whose channels are outputs, in both modes; and why some output cannot be told apart."""
    if isinstance(traced, PartialModule):
        return frozenset(), ("the network's outputs lie outside of its parts",)
    effects = {(step.mode, step.node): step for step in found.steps}
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
    """The nodes at which the ways back from the output end: what has parameters, and what has no inputs."""
    yield from _Tail.of(graph, module).ends


@dataclass(frozen=True)
class _Tail:
    """What lies between the last nodes with parameters and the output, in order. `ends`: those nodes and the inputs."""

    between: tuple[fx.Node, ...]
    ends: tuple[fx.Node, ...]

    @classmethod
    def of(cls, graph: fx.Graph, module: nn.Module) -> "_Tail":
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


class Heads(fx.GraphModule):
    """What `heads` makes: the same network, sharing everything that is registered, with a tuple of outputs."""

    def __init__(self, module: TracedModule, graph: fx.Graph) -> None:
        """Takes a graph over the contents of `module`."""
        super().__init__(nn.Module(), fx.Graph(), "Heads")
        self.__dict__.update({field: vars(module)[field] for field in vars(nn.Module())})
        self.__dict__.update({key: value for key, value in vars(module).items() if isinstance(value, Tensor)})
        self.graph = graph


class _Whole(nn.Module):
    """A network without heads of its own, as one head."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> tuple[Any]:
        return (self.module(*inputs),)


def heads(gm: nn.Module) -> nn.Module:
    """A module that returns one output for each head of `gm`, as a tuple; it shares all parameters and submodules.

    Each output has the structure of what `gm` returns, with the share of one generation in place of the sum: survivors
    first, and the bias is theirs. A network without heads has one, and the tuple one entry. The result is for the mode
    (train, eval) in which `gm` is, and for its present architecture: take it anew after an event. That is cheap, for it
    is made once for each. `nrfx.HeadLoss` does it for you.

    Raises:
        RewriteError: a network with heads is wrapped in another module, so that they cannot be told apart.

    >>> import nrfx, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> with torch.no_grad():
    ...     _ = net[1].weight[:4].zero_()
    >>> gm = nrfx.trace(net, torch.zeros(1, 3, 4, 4))
    >>> gm = nrfx.rejuvenate(gm, nrfx.Budget.relative(gm, params=1.0), scheme="removed").module
    >>> survivors, rejuvenated = nrfx.heads(gm)(torch.ones(1, 3, 4, 4))
    >>> torch.allclose(survivors + rejuvenated, gm(torch.ones(1, 3, 4, 4))), bool(rejuvenated.any())
    (True, False)

    Source: Neural Rejuvenation, Sec. 3.3, NR-CR.
    """
    if not isinstance(gm, TracedModule) or isinstance(gm, PartialModule):
        _check_no_heads_inside(gm)
        return _Whole(gm)
    layers = _head_layers(gm)
    of = gm.code, tuple((str(node.target), layer) for node, layer in layers.items())
    known = _made.get(gm)
    if known is not None and known.of == of:
        return known.module
    generations = sorted({j for layer in layers.values() for j, width in enumerate(layer.in_generations) if width})
    if len(generations) < 2:
        return _Whole(gm)
    made = Heads(gm, _by_head(gm, layers, generations))
    _made[gm] = _Made(of, made)
    return made


def _check_no_heads_inside(module: nn.Module) -> None:
    for path, layer in module.named_modules():
        if isinstance(layer, Cross) and layer.is_head:
            raise RewriteError(
                f"The network whose output layer is {path} is inside a {type(module).__name__}, which returns the sum "
                "of its heads: take the heads first and wrap what comes out, such as "
                "torch.compile(nrfx.heads(nr.module))."
            )


@dataclass(frozen=True)
class _Made:
    """A module by heads, and the code and layers that it was made of. It must not lead back to its key: no nodes."""

    of: tuple[str, tuple[tuple[str, Cross], ...]]
    module: Heads


_made: "WeakKeyDictionary[nn.Module, _Made]" = WeakKeyDictionary()


def _head_layers(gm: TracedModule) -> dict[fx.Node, Cross]:
    """The calls of the layers whose generations reach the output side by side."""
    found = {}
    for node in _Tail.of(gm.graph, gm).ends:
        layer = gm.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Cross) and layer.is_head:
            found[node] = layer
    return found


def _by_head(gm: TracedModule, layers: Mapping[fx.Node, Cross], generations: list[int]) -> fx.Graph:
    """The graph whose output is a tuple: for each generation the output with its share of the layers alone."""
    graph = fx.Graph()
    once: dict[fx.Node, fx.Node] = {}
    shares: dict[fx.Node, fx.Node] = {}
    for node in gm.graph.nodes:
        if node.op == "output":
            continue
        once[node] = graph.node_copy(node, once.__getitem__)
        if node in layers:
            layer = graph.create_node("get_attr", str(node.target))
            args, kwargs = fx.map_arg((node.args, node.kwargs), once.__getitem__)
            shares[node] = graph.call_method("heads", (layer, *args), {**kwargs, "generations": tuple(generations)})
    (output,) = (node for node in gm.graph.nodes if node.op == "output")
    tail = _Tail.of(gm.graph, gm).between
    outputs = []
    for index in range(len(generations)):
        here = once | {node: graph.call_function(operator.getitem, (share, index)) for node, share in shares.items()}
        for node in tail:
            here[node] = graph.node_copy(node, here.__getitem__)
        outputs.append(fx.map_arg(output.args[0], here.__getitem__))
    graph.output(tuple(outputs))
    for node in reversed((*layers, *tail)):  # their sums are not wanted, unless something else reads them
        if not once[node].users:
            graph.erase_node(once[node])
    graph._codegen = copy.deepcopy(gm.graph._codegen)
    return graph
