"""The graph module that the package works on: shapes on every node, and the model's behaviour in both modes.

A model whose train and eval graphs differ only in constants (`F.dropout(training=...)`) has one graph, in
which each such constant comes from a `ByMode` module. A model whose graphs differ in structure (auxiliary
heads) has two, and `train(mode)` switches between them. Everything that the model registers stays registered,
also what no graph reads.
"""

import copy
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from nrfx.rules import op_of
from nrfx.tracing.graph.arguments import CallForm
from nrfx.tracing.graph.clone import deep_copy, shell
from nrfx.tracing.graph.copies import KeptGraph, copied
from nrfx.tracing.graph.exchange import exchange
from nrfx.tracing.graph.registered import Registered, own_names
from nrfx.tracing.graph.shapes import InputSpec, Shapes
from nrfx.tracing.graph.stated import KEY, statements, without_hooks
from nrfx.tracing.graph.switch import are_only_switched, switch
from nrfx.tracing.graph.walk import Contents, named_modules

KEPT = ("nn_module_stack", "stack_trace", "part", "opaque")
"""The keys of a node's meta that belong to it in every copy: its modules, its line of code, its part (partition.py),
what is known of a box (boxes.py)."""


class ByMode(nn.Module):
    """Gives one of two constants by the mode, as a module without parameters or state.

    >>> ByMode().eval()(0.5, 0.0)
    0.0
    """

    def forward(self, train: Any, eval: Any) -> Any:
        return train if self.training else eval


@dataclass(frozen=True)
class Facts:
    """What a trace knows about its model beside the graphs.

    inputs: shape and dtype of each example input, in order.
    form: how the model is called, where its arguments are not just these tensors.
    gamma0: norm weight name -> the value that all its elements had at trace time, where they were equal and
        not 0.
    unmoved: for each mode, the submodules ("" is the root) that `model.train(mode)` leaves in the other one.
    parts: the calls of submodules that the graph consists of, where the model could not be traced whole (partition.py).
    outside: what runs outside of the parts, "path (class): why".
    leaves: the paths of the modules that the trace was asked not to look into.
    boxes: the submodules and functions that could not be traced and are calls of the graph (boxes.py).
    literals: mode -> node -> argument, by index or name -> its value after rewrites, where the model's code states a
        width as a number; in a list of sizes, None where the size stays.
    fresh: what gives the traced module that the model builds, without data, where this one came out of a rewrite
        (stated.AsBuilt).
    """

    inputs: tuple[InputSpec, ...]
    gamma0: Mapping[str, float]
    unmoved: Mapping[str, tuple[str, ...]]
    parts: tuple[Any, ...] = ()
    outside: tuple[str, ...] = ()
    literals: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    leaves: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    form: CallForm | None = None
    fresh: Any = field(default=None, compare=False, repr=False)

    def call(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) of a call of the traced module with these tensors as its inputs."""
        return (tuple(tensors), {}) if self.form is None else self.form.filled(tensors)


class TracedModule(Registered):
    """An fx GraphModule that knows the shape of every value and keeps the model's train and eval behaviour.

    `node.meta["val"]` of every node is a meta tensor, or a python value, or a tuple, list or dict of them. It
    is made by `nrfx.trace`; copy.deepcopy and pickle keep all of it (a loaded one has its shapes inferred
    anew). Its state dict has an entry more where it came out of a rewrite: see stated.py.

    >>> import nrfx
    >>> gm = nrfx.trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU()), torch.zeros(2, 3))
    >>> gm(torch.zeros(5, 3)).shape, gm.inputs
    (torch.Size([5, 8]), (((2, 3), torch.float32),))
    >>> [(node.op, tuple(node.meta["val"].shape)) for node in gm.graph.nodes][:2]
    [('placeholder', (2, 3)), ('call_module', (2, 8))]
    """

    rewritten_by_nrfx: None = None

    def __init__(self, root: nn.Module, graphs: Mapping[str, fx.Graph], facts: Facts, name: str) -> None:
        """Takes over the registered contents of `root`, and the graphs by mode ("train", "eval")."""
        # fx would copy only what the graph reads; here everything that is registered in `root` is taken over
        super().__init__(nn.Module(), fx.Graph(), name)
        self.__dict__.update({field: vars(root)[field] for field in vars(nn.Module())})
        tensors = {key: value for key, value in vars(root).items() if isinstance(value, Tensor)}
        self.__dict__.update({key: value for key, value in tensors.items() if key not in own_names()})
        without_hooks(self)
        self.facts = facts
        self._by_mode = {} if graphs["train"] is graphs["eval"] else dict(graphs)
        self.graph = graphs[_mode(self.training)]

    @property
    def graphs(self) -> Mapping[str, fx.Graph]:
        """The graphs by mode, "eval" and "train": the same one unless the structure depends on the mode."""
        return dict(self._by_mode) if self._by_mode else {"eval": self.graph, "train": self.graph}

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Shape and dtype of each example input, in order."""
        return self.facts.inputs

    @property
    def gamma0(self) -> dict[str, float]:
        """Norm weight name -> the value that all its elements had at trace time, where equal and not 0."""
        return dict(self.facts.gamma0)

    def train(self, mode: bool = True) -> Self:
        """Switches the mode as the model's own `train` does, and the graph where it depends on the mode."""
        modules = [module for _, module in named_modules(self)]
        if isinstance(mode, bool) and are_only_switched(modules[1:]):  # a network is switched twice in each rewrite
            switch(modules, mode)
        else:
            super().train(mode)
        for path in self.facts.unmoved[_mode(mode)]:
            self.get_submodule(path).training = not mode
        self.turn(mode)
        return self

    def turn(self, mode: bool) -> None:
        """Sets the mode of this module and its graph, and of no submodule."""
        self.training = mode
        if self._by_mode and self._graph is not self._by_mode[_mode(mode)]:
            self.graph = self._by_mode[_mode(mode)]

    def become(self, other: "TracedModule") -> dict[Tensor, Tensor]:
        """Takes over graphs, modules and tensors of another traced module, which is used up.

        What has the same name stays the same object here, with other contents (exchange.py). Returns {tensor of the
        other: the one in its place}.
        """
        exchanged = exchange(self, other)
        for name in [name for name, value in vars(self).items() if isinstance(value, Tensor)]:
            del self.__dict__[name]
        self.__dict__.update({name: value for name, value in vars(other).items() if isinstance(value, Tensor)})
        self.meta.update(other.meta)
        graphs = other.graphs
        self.facts = other.facts
        self._by_mode = {} if graphs["train"] is graphs["eval"] else dict(graphs)
        self.graph = graphs[_mode(self.training)]
        return exchanged

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        entry = None if self.facts.fresh is None else statements().entry(self)
        if entry is not None:
            destination[prefix + KEY] = entry

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if self.facts.fresh is not None or any(key.endswith(KEY) for key in state_dict):
            statements().prepare(self, state_dict, prefix, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @classmethod
    def _kind(cls) -> "type[TracedModule]":
        """The class in nrfx that this one is derived from: fx makes a class of its own for each graph module."""
        return next(kind for kind in cls.__mro__ if kind.__module__.startswith("nrfx."))

    def __copy__(self) -> "TracedModule":
        return self._kind()(self._contents(), _copied(self.graphs), self.facts, type(self).__name__)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TracedModule":
        return self._twin(memo, lambda contents: deep_copy(contents, memo), lambda: _copied(self.graphs))()

    def around(self, tensor: Callable[[Tensor], Tensor]) -> "TracedModule":
        """A copy in which `tensor(t)` stands for every parameter and buffer t, as `shell` makes it of other modules."""
        return self.around_later(tensor)()

    def around_later(self, tensor: Callable[[Tensor], Tensor]) -> Callable[[], "TracedModule"]:
        """Makes what `around` would have given now, when it is called, once; it does not keep this module alive."""
        memo: dict[int, Any] = {}
        kept = {mode: KeptGraph.of(graph) for mode, graph in (self._by_mode or {"train": self.graph}).items()}

        def graphs() -> dict[str, fx.Graph]:
            made = {mode: graph.made() for mode, graph in kept.items()}
            return {"train": made["train"], "eval": made.get("eval", made["train"])}

        return self._twin(memo, lambda contents: shell(contents, tensor, memo), graphs)

    def _twin(
        self,
        memo: dict[int, Any],
        copied: Callable[[nn.Module], nn.Module],
        graphs: Callable[[], dict[str, fx.Graph]],
    ) -> Callable[[], "TracedModule"]:
        kind = self._kind()
        twin = kind.__new__(kind)
        memo[id(self)] = twin  # a hook bound to this module must find its copy
        contents, facts, name, meta = copied(self._contents()), self.facts, type(self).__name__, dict(self.meta)

        def made() -> TracedModule:
            twin.__init__(contents, graphs(), facts, name)  # type: ignore[misc]
            twin.meta = meta
            return twin

        return made

    def __reduce__(self) -> tuple[Any, ...]:
        graphs = self.graphs
        modes = ("eval",) if graphs["train"] is graphs["eval"] else ("eval", "train")
        plain = {mode: tuple(_PlainNode.of(node) for node in graphs[mode].nodes) for mode in modes}
        codegens = {mode: graphs[mode]._codegen for mode in modes}
        return _loaded, (self._kind(), self._contents(), plain, codegens, self.facts, type(self).__name__)

    def _contents(self) -> nn.Module:
        """A plain module with everything that is registered here, dictionaries copied and values shared."""
        plain = nn.Module()
        for name in vars(plain):
            plain.__dict__[name] = copy.copy(vars(self)[name])
        for key, value in vars(self).items():
            if isinstance(value, Tensor):
                plain.__dict__[key] = value
        return plain


def propagate(traced: TracedModule) -> None:
    """Sets `meta["val"]` anew on every node of every graph, from `traced.inputs`.

    Raises:
        TraceError: a node cannot be run on the shapes it gets.
    """
    fill(Contents.of(traced), traced.graphs, traced.inputs, anew=True, twins={})


def fill(
    contents: Contents,
    graphs: Mapping[str, fx.Graph],
    inputs: tuple[InputSpec, ...],
    anew: bool,
    twins: Mapping[fx.Node, fx.Node],
) -> None:
    """Sets `meta["val"]` on every node of the graphs of each mode, or where there is none. Raises as `propagate`.

    twins: node of train mode -> the node of eval mode whose value has the same shape.
    """
    for node in (node for graph in graphs.values() if anew for node in graph.nodes):
        node.meta.pop("val", None)
        node.meta.pop("work", None)
    for mode in ("eval", "train"):
        if mode == "eval" or graphs["train"] is not graphs["eval"]:
            for node, twin in twins.items() if mode == "train" else ():
                node.meta["val"] = twin.meta["val"]
            Shapes(contents, as_parameters(contents, inputs), training=mode == "train").fill(graphs[mode])


def as_parameters(contents: Contents, inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """The inputs in the dtype of the parameters, which may have changed since the trace (`gm.half()`)."""
    dtypes = {parameter.dtype for _, parameter in contents.parameters}
    dtypes = {dtype for dtype in dtypes if dtype.is_floating_point}
    if len(dtypes) != 1:
        return inputs
    (now,) = dtypes
    return tuple((shape, now if dtype.is_floating_point else dtype) for shape, dtype in inputs)


def _mode(training: bool) -> str:
    return "train" if training else "eval"


def _copied(graphs: Mapping[str, fx.Graph]) -> dict[str, fx.Graph]:
    train = copied(graphs["train"])
    return {"train": train, "eval": train if graphs["eval"] is graphs["train"] else copied(graphs["eval"])}


@dataclass(frozen=True)
class _Ref:
    """A node, as an argument of a pickled node."""

    name: str


@dataclass(frozen=True)
class _Function:
    """A function, by its qualified name: builtins of torch cannot all be pickled."""

    qualname: str


@dataclass(frozen=True)
class _PlainNode:
    """A node as plain data."""

    name: str
    op: str
    target: Any
    args: Any
    kwargs: Any
    meta: Mapping[str, Any]

    @classmethod
    def of(cls, node: fx.Node) -> "_PlainNode":
        meta: dict[str, Any] = {key: node.meta[key] for key in KEPT if key in node.meta}
        target = node.target if isinstance(node.target, str) else _named(node.target)
        return cls(
            node.name, node.op, target, map_aggregate(node.args, _referred), map_aggregate(node.kwargs, _referred), meta
        )

    def add_to(self, graph: fx.Graph, nodes: dict[str, fx.Node]) -> None:
        def node_of(value: Any) -> Any:
            return nodes[value.name] if isinstance(value, _Ref) else value

        target = imported(self.target.qualname) if isinstance(self.target, _Function) else self.target
        args, kwargs = map_aggregate(self.args, node_of), map_aggregate(self.kwargs, node_of)
        node = graph.create_node(self.op, target, args, kwargs, name=self.name)
        node.meta.update(self.meta)
        nodes[self.name] = node


def _referred(value: Any) -> Any:
    return _Ref(value.name) if isinstance(value, fx.Node) else value


def _named(function: Any) -> Any:
    """The function by name where the name leads back to it, else the function, for pickle to try."""
    try:
        qualname = fx.node._get_qualified_name(function)
        return _Function(qualname) if imported(qualname) is function else function
    except (AttributeError, ImportError, RuntimeError, ValueError):
        return function


def imported(qualname: str) -> Any:
    """The object of a dotted name. Modules on the way are imported where they are no attributes yet."""
    first, *rest = qualname.split(".")
    value: Any = importlib.import_module(first)
    path = first
    for part in rest:
        path = f"{path}.{part}"
        if not hasattr(value, part):
            importlib.import_module(path)
        value = getattr(value, part)
    return value


def _loaded(
    kind: type[TracedModule],
    contents: nn.Module,
    plain: Mapping[str, Iterable[_PlainNode]],
    codegens: Mapping[str, Any],
    facts: Facts,
    name: str,
) -> TracedModule:
    graphs = {}
    for mode, plain_nodes in plain.items():
        graph, nodes = fx.Graph(), {}  # type: ignore[var-annotated]
        for plain_node in plain_nodes:
            plain_node.add_to(graph, nodes)
        graph._codegen = codegens[mode]
        graphs[mode] = graph
    graphs.setdefault("train", graphs["eval"])
    traced = kind(contents, graphs, facts, name)
    propagate(traced)
    return traced


def constants_at_trace(contents: Contents) -> dict[str, float]:
    """Weight name -> the value of all its elements, for norms where these are equal and not 0."""
    names = {id(parameter): name for name, parameter in contents.parameters}
    weights: dict[str, Tensor] = {}
    for _, module in contents.modules:
        weight: Any = module._parameters.get("weight")  # a parametrized one would be computed, which may write state
        op = op_of(module)
        if op is not None and op.norm and id(weight) in names and not weight.is_meta and weight.numel():
            weights[names[id(weight)]] = weight
    by_device: dict[torch.device, list[str]] = {}
    for name, weight in weights.items():
        by_device.setdefault(weight.device, []).append(name)
    alike: dict[str, float] = {}
    for names_here in by_device.values():
        alike |= _constants({name: weights[name] for name in names_here})
    return {name: alike[name] for name in weights if name in alike}


@torch.no_grad()
def _constants(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Name -> the value of all elements, for the weights of one device whose elements are equal and not 0."""
    # one after the other, for one transfer; torch.cat promotes mixed dtypes to the widest
    numbers = torch.cat([weight if weight.dim() == 1 else weight.flatten() for weight in weights.values()]).double()
    lengths = torch.tensor([weight.numel() for weight in weights.values()], device="cpu")
    ends = lengths.cumsum(0).to(numbers.device)
    first = numbers[ends - lengths.to(numbers.device)]
    equal = (numbers == first.repeat_interleave(lengths.to(numbers.device))).cumsum(0)[ends - 1].cpu()
    whole = equal.diff(prepend=equal.new_zeros(1)) == lengths
    found = zip(weights, first.tolist(), whole.tolist(), strict=True)
    return {name: value for name, value, constant in found if constant and value != 0}
