"""Which parameters a network learns: those that require gradients and are read where gradients are recorded."""

from torch import fx, nn

from nrfx.tracing import TracedModule
from nrfx.tracing.graph.regions import without_gradients


def taught(traced: TracedModule) -> frozenset[str]:
    """The parameters that require gradients, but for those that only nodes without gradients read."""
    graph = traced.graphs["train"]
    apart = without_gradients(graph)
    read: dict[bool, set[int]] = {True: set(), False: set()}
    for node in graph.nodes if apart else ():
        readers = node.users if node.op == "get_attr" else (node,)
        for reader in readers:
            read[reader in apart] |= _read(traced, node)
    only_apart = read[True] - read[False]
    return frozenset(name for name, p in traced.named_parameters() if p.requires_grad and id(p) not in only_apart)


def _read(traced: TracedModule, node: fx.Node) -> set[int]:
    """The ids of the parameters that belong to what the node calls or gives."""
    if node.op == "call_module":
        return {id(parameter) for parameter in traced.get_submodule(str(node.target)).parameters()}
    if node.op != "get_attr":
        return set()
    owner, _, name = str(node.target).rpartition(".")
    tensor = getattr(traced.get_submodule(owner), name)
    return {id(tensor)} if isinstance(tensor, nn.Parameter) else set()
