"""How much of a network a graph leaves free: what tells which of two ways to cut a model is the better one."""

from collections.abc import Iterable

from torch import Tensor, fx, nn


def open_params(graphs: Iterable[fx.Graph], root: nn.Module) -> int:
    """The parameters of layers whose channels go on to another layer before they reach an output or a box.

    Only a guess of what analysis will find free, for it looks at neither ties nor rules.
    """
    counted: dict[int, int] = {}
    modules = dict(root.named_modules(remove_duplicate=False))
    for graph in graphs:
        shut: set[fx.Node] = set()
        for node in reversed(graph.nodes):
            if any(_ends(user) or (user in shut and not _is_layer(user, modules)) for user in node.users):
                shut.add(node)
            elif _is_layer(node, modules):
                counted |= {id(p): p.numel() for p in modules[str(node.target)].parameters()}
    return sum(counted.values())


def hidden_params(graphs: Iterable[fx.Graph], root: nn.Module) -> int:
    """The parameters that boxes of the graphs may read: with none, no other cut of the model leaves more free."""
    names = {name for graph in graphs for node in graph.nodes if (box := node.meta.get("opaque")) for name in box.reads}
    return sum(p.numel() for name, p in root.named_parameters(remove_duplicate=False) if name in names)


def _ends(node: fx.Node) -> bool:
    return node.op == "output" or "opaque" in node.meta


def _is_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node calls a module that has weights: its output has channels of its own."""
    if node.op != "call_module" or "opaque" in node.meta or str(node.target) not in modules:
        return False
    return any(isinstance(p, Tensor) and p.dim() > 1 for p in modules[str(node.target)].parameters())
