"""Output layers with one head a generation: NR-CR, in which survivors and rejuvenated are trained side by side.

Without cross connections S and R meet in the layer that gives the network's output, and nowhere else. That layer
becomes a cross layer whose one output generation reads all others. The network still returns the sum; `heads` makes of
it a module that returns the share of each generation, so that each can have a loss of its own. The head of a new
generation starts at 0. There is one bias, and it belongs to the first head.

Source: Neural Rejuvenation, Sec. 3.3, and its authors' code, which counts the bias once a head.
"""

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, fx, nn

from nrfx.errors import RewriteError
from nrfx.nn import Cross
from nrfx.plan.heads import Tail
from nrfx.tracing import PartialModule, TracedModule


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
    (train, eval) in which `gm` is, and for its present architecture; it follows an event in place, with one
    output more, and is taken anew after another one. That is cheap, for it
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
    generations = _generations(layers)
    if len(generations) < 2:
        return _Whole(gm)
    made = Heads(gm, _by_head(gm, layers, generations))
    _made[gm] = _Made(of, made)
    return made


def renew_heads(gm: TracedModule) -> None:
    """Gives what `heads` made of `gm` the heads that it has now, after a change in place."""
    known = _made.pop(gm, None)
    if known is not None:
        layers = _head_layers(gm)
        known.module.graph = _by_head(gm, layers, _generations(layers))


def _generations(layers: Mapping[fx.Node, Cross]) -> list[int]:
    """The generations of which some output layer has a share."""
    return sorted({j for layer in layers.values() for j, width in enumerate(layer.in_generations) if width})


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
    """A module by heads, and the code and the layers that it was made of.

    Holds no fx nodes: they lead to the traced module, which is the weak key in `_made` and would never be freed.
    """

    of: tuple[str, tuple[tuple[str, Cross], ...]]
    module: Heads


_made: "WeakKeyDictionary[nn.Module, _Made]" = WeakKeyDictionary()


def _head_layers(gm: TracedModule) -> dict[fx.Node, Cross]:
    """The calls of the layers whose generations reach the output side by side."""
    layers = {}
    for node in Tail.of(gm.graph, gm).ends:
        layer = gm.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Cross) and layer.is_head:
            layers[node] = layer
    return layers


def _by_head(gm: TracedModule, layers: Mapping[fx.Node, Cross], generations: list[int]) -> fx.Graph:
    """The graph whose output is a tuple: for each generation the output with its share of the output layers alone.

    All nodes are copied once; the nodes between the output layers and the output are copied once more for each head.
    """
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
    tail = Tail.of(gm.graph, gm).between
    outputs = []
    for index in range(len(generations)):
        here = once | {node: graph.call_function(operator.getitem, (share, index)) for node, share in shares.items()}
        for node in tail:
            here[node] = graph.node_copy(node, here.__getitem__)
        outputs.append(fx.map_arg(output.args[0], here.__getitem__))
    graph.output(tuple(outputs))
    for node in reversed((*layers, *tail)):  # nothing reads the sum of the heads now, unless the graph does elsewhere
        if not once[node].users:
            graph.erase_node(once[node])
    graph._codegen = copy.deepcopy(gm.graph._codegen)
    return graph
