"""A model of which parts are graphs: its own code runs, and calls the graphs in the places of its submodules.

The parts stand one after the other in one graph, one for each call that was recorded, so that every analysis and
rewrite sees them as one network with many inputs and outputs. Values that the model's own code gives to a part are its
inputs, values that it gets back are outputs; both keep their widths. A part runs as the graph of its first call; the
graphs of its other calls are the same on other shapes.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.fx.graph_module import _forward_from_src

from nrfx.errors import TraceError
from nrfx.tracing.graph.arguments import Arguments
from nrfx.tracing.graph.codegen import TracedCode
from nrfx.tracing.graph.hosted import HostedModule
from nrfx.tracing.graph.module import Facts, TracedModule


@dataclass(frozen=True)
class PartCall:
    """One call of a submodule: its path, the arguments, and the structure of the output in eval mode."""

    path: str
    arguments: Arguments
    output: pytree.TreeSpec


@dataclass(frozen=True)
class Answer:
    """The output of a part for the arguments of one call, when the model was run."""

    path: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


class PartialModule(HostedModule):
    """A traced module whose graph holds parts of the model, and whose forward is the model's own with these parts.

    `facts.parts` says which call each stretch of the graph belongs to: that of index `node.meta["part"]`. All
    parameters of the model are registered, under their names, also those that no part reads.
    """

    _log: list[Answer] | None
    _part_codes: dict[str, Callable[..., Any]]

    def __init__(self, root: nn.Module, graphs: Mapping[str, fx.Graph], facts: Facts, name: str) -> None:
        """Takes over `root`, an instance of the model's class: its forward is what runs."""
        super().__init__(root, graphs, facts, name)
        self.__dict__["_log"] = None
        self._run_parts()

    def _run_parts(self) -> None:
        """Puts a runner into each submodule that is a part."""
        for path in dict.fromkeys(part.path for part in self.facts.parts):
            self.get_submodule(path).__dict__["forward"] = _Runner(self, path)

    def become(self, other: TracedModule) -> dict[Tensor, Tensor]:
        """Takes over another one's contents; the parts run its graphs."""
        exchanged = super().become(other)
        self._run_parts()
        return exchanged

    def recompile(self) -> Any:
        """Makes the code of the whole graph, which is there to be read, and that of each part, which is run."""
        code = self.compiled()
        if "facts" in self.__dict__:
            first = {part.path: index for index, part in reversed(list(enumerate(self.facts.parts)))}
            self.__dict__["_part_codes"] = {path: _code(self._graph, index) for path, index in first.items()}
            type(self).forward = _run_host
        return code

    def run_part(self, path: str, tensors: Sequence[Tensor]) -> Any:
        """What the graph of a part's first call gives for these inputs."""
        return self._part_codes[path](self, *tensors)

    def answers(self, *args: Any, **kwargs: Any) -> list[Answer]:
        """The arguments and output of every part, call by call, when the model is run on these arguments."""
        answers: list[Answer] = []
        self.__dict__["_log"] = answers
        try:
            self(*args, **kwargs)
        finally:
            self.__dict__["_log"] = None
        return answers


def cloned(nest: Any) -> Any:
    """The nest with copies of its tensors, for a network may write into what it is given and what it gave."""
    return pytree.tree_map_only(Tensor, Tensor.clone, nest)


def _run_host(self: PartialModule, *args: Any, **kwargs: Any) -> Any:
    host = self._host
    host.__dict__["training"] = self.training
    own = vars(host).get("forward")
    return own(*args, **kwargs) if own is not None else type(host).forward(host, *args, **kwargs)


class _Runner:
    """Runs the graph of a part, in the place of the submodule's forward.

    A copy has no module (`traced` is None): the PartialModule that takes over the copied submodules sets runners of its
    own.
    """

    def __init__(self, traced: PartialModule | None, path: str) -> None:
        self.traced = traced
        self.path = path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # pytree flattens the arguments of this call as those of the recorded one, so that the tensors are the inputs of
        # the part's graph in order, and constants can be compared: the graph has them built in
        traced = self.traced
        assert traced is not None
        part = next(part for part in traced.facts.parts if part.path == self.path)
        leaves, structure = pytree.tree_flatten((args, kwargs))
        known = part.arguments
        same = structure == known.structure and all(
            isinstance(leaf, Tensor) if constant is None else constant == (leaf,)
            for leaf, constant in zip(leaves, known.leaves, strict=True)
        )
        if not same:
            traced_with = _shown(*known.filled([_TENSOR] * len(known.inputs)))
            raise TraceError(
                f"{self.path} is called with {_shown(args, kwargs)}, and was traced with {traced_with}. "
                "Trace the model on inputs for which it is called as it is here."
            )
        given: tuple[Any, Any] | None = cloned((args, kwargs)) if traced._log is not None else None
        result = traced._part_codes[self.path](traced, *(leaf for leaf in leaves if isinstance(leaf, Tensor)))
        leaves = pytree.tree_leaves(result)
        output = pytree.tree_unflatten(leaves, part.output) if len(leaves) == part.output.num_leaves else result
        if traced._log is not None and given is not None:
            traced._log.append(Answer(self.path, *given, cloned(output)))
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Runner":
        return _Runner(None, self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Runner, (None, self.path)


_TENSOR = "tensor"


def _shown(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The arguments of a call as text."""
    leaves, structure = pytree.tree_flatten((args, kwargs))
    names = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(names, structure)
    shown = [str(arg) for arg in args] + [f"{key}={value}" for key, value in kwargs.items()]
    return f"({', '.join(shown)})"


def part_of(graph: fx.Graph) -> dict[fx.Node, int]:
    """Node -> the index of its part, for all nodes but the output. A node that a rewrite added takes a neighbour's."""
    part_of_node: dict[fx.Node, int] = {}
    unknown = []
    for node in graph.nodes:
        known = node.meta.get(
            "part", next((part_of_node[source] for source in node.all_input_nodes if source in part_of_node), None)
        )
        if node.op == "output":
            continue
        if known is None:
            unknown.append(node)
        else:
            part_of_node[node] = known
    for node in reversed(unknown):
        part_of_node[node] = next(part_of_node[user] for user in node.users if user in part_of_node)
    return part_of_node


def _code(graph: fx.Graph, index: int) -> Callable[..., Any]:
    """The function of (module, *tensors) that runs one part."""
    belongs = part_of(graph)
    sub = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if belongs.get(node) == index:
            nodes[node] = sub.node_copy(node, nodes.__getitem__)
    (outputs,) = next(node for node in reversed(graph.nodes) if node.op == "output").args
    sub.output(fx.map_arg(outputs[index], nodes.__getitem__))
    sub.set_codegen(TracedCode())
    code = sub.python_code("self")
    function: Callable[..., Any] = _forward_from_src(code.src, copy.copy(code.globals))
    return function
