"""Boxes: submodules and functions that cannot be traced, as single calls of the graph.

A box runs its own code in the place where it stood. Whatever goes in or comes out keeps its width, and so does every
parameter that its code may read. It may not give Python numbers that depend on values: the graph would freeze them.
"""

import dis
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import FunctionType
from typing import Any, Self

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from nrfx.tracing.calls.leaves import exchanged, recorded_as_call
from nrfx.tracing.graph.module import TracedModule
from nrfx.tracing.graph.registered import HOST


@dataclass(frozen=True)
class Box:
    """What is known of one call of a box.

    Attributes:
        reason: why it cannot be traced.
        output: what it gave in a run of the model, with meta tensors; None where that is not known, or where it holds
            numbers or has sizes that depend on values.
        flops: its multiply-adds in that run, None if unknown.
        of_one: those in a run on the first example alone, for another example does not add all of them again; None if
            unknown.
        reads: the parameters and buffers that its code may read.
    """

    reason: str
    output: Any = None
    flops: int | None = None
    of_one: int | None = None
    reads: tuple[str, ...] = ()

    def below(self, path: str) -> Self:
        """The same call in a model of which this one's model is the submodule at `path`."""
        return replace(self, reads=tuple(f"{path}.{name}" for name in self.reads))


Calls = Mapping[str, Sequence[Any]]
"""Name of a box -> what is known of each of its calls, in order: objects with `output`, `flops` and `of_one`."""


@dataclass(frozen=True)
class Boxes:
    """The boxes of one trace: submodules by their paths, functions as "package.module:name", each with its reason.

    `calls` gives what is known of their calls in train mode, or in eval mode. None: nothing may become a box.
    """

    reasons: Mapping[str, str] = field(default_factory=dict)
    functions: Mapping[str, FunctionType] = field(default_factory=dict)
    calls: Callable[["Boxes", bool], Calls] | None = None

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Those of a module that was traced with some, which is traced again."""
        graphs: Mapping[str, fx.Graph] = module.graphs if isinstance(module, TracedModule) else {}
        nodes = {mode: [node for node in graph.nodes if "opaque" in node.meta] for mode, graph in graphs.items()}
        every = {box_name(node): node for found in nodes.values() for node in found}
        calls: dict[str, dict[str, list[Box]]] = {mode: {name: [] for name in every} for mode in nodes}
        for mode, found in nodes.items():
            for node in found:
                calls[mode][box_name(node)].append(node.meta["opaque"])
        return cls(
            {name: node.meta["opaque"].reason for name, node in every.items()},
            {name: node.target for name, node in every.items() if isinstance(node.target, FunctionType)},
            (lambda boxes, training: calls["train" if training else "eval"]) if every else None,
        )

    @property
    def paths(self) -> frozenset[str]:
        """The submodules among them."""
        return frozenset(self.reasons).difference(self.functions)

    def marks(self, training: bool) -> "Marks | None":
        """What tells of each call, as it is recorded, what is known of it."""
        if self.calls is None:
            return None
        return Marks(self.reasons, self.calls(self, training) if self.reasons else {})

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """The functions are recorded as calls in here."""
        with ExitStack() as active:
            for function in self.functions.values():
                active.enter_context(exchanged(function, recorded_as_call))
            yield

    def without(self, names: Iterable[str]) -> Self:
        """The boxes without these, and without those that lie inside of the submodules that are left."""
        gone = frozenset(names)
        kept = {name: why for name, why in self.reasons.items() if name not in gone}
        inner = {name for name in kept for other in kept if name.startswith(f"{other}.")}
        reasons = {name: why for name, why in kept.items() if name not in inner}
        return replace(self, reasons=reasons, functions={n: f for n, f in self.functions.items() if n in reasons})


NO_BOXES = Boxes()


class Marks:
    """Notes at each call of a box in one graph what is known of it, `node.meta["opaque"]`."""

    def __init__(self, reasons: Mapping[str, str], calls: Calls) -> None:
        self._reasons, self._calls = reasons, calls
        self._seen: Counter[str] = Counter()
        self._nodes: list[fx.Node] = []

    def mark(self, node: fx.Node) -> bool:
        """Whether the node is the call of a box."""
        name = box_name(node)
        if name not in self._reasons:
            return False
        known, index = self._calls.get(name, ()), self._seen[name]
        self._seen[name] += 1
        call = known[index] if index < len(known) else None
        told = {} if call is None else {"output": call.output, "flops": call.flops, "of_one": call.of_one}
        node.meta["opaque"] = Box(self._reasons[name], **told)
        self._nodes.append(node)
        return True

    def finish(self, root: nn.Module) -> None:
        """Notes what the boxes may read, from their code: when they are themselves again, not recorded."""
        for node in self._nodes:
            node.meta["opaque"] = replace(node.meta["opaque"], reads=_read(root, node))


def box_name(node: fx.Node) -> str:
    """The name that a box called by this node has, "" for nodes that no box can be."""
    if node.op == "call_module":
        return str(node.target)
    return dotted(node.target) if node.op == "call_function" and isinstance(node.target, FunctionType) else ""


def dotted(function: FunctionType) -> str:
    """A function as "package.module:name"."""
    return f"{function.__module__}:{function.__qualname__}"


def _read(root: nn.Module, node: fx.Node) -> tuple[str, ...]:
    """What the code of a box may read beyond the tensors that it is given."""
    if node.op == "call_module":
        return reads_of(None, {str(node.target): root.get_submodule(str(node.target))})
    modules = {**dict(root.named_modules(remove_duplicate=False)), HOST: vars(root).get(HOST, root)}
    given = (str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
    return reads_of(node.target, {"" if name == HOST else name: modules[name] for name in given if name in modules})


def unpacked(value: Any, call: Any) -> Any:
    """What a box gives, with an item of the recorded call for each tensor and number, so that code that asks for None
    is answered. Containers of other kinds stay one value."""
    if value is None:
        return None
    if type(value) in (tuple, list):
        return type(value)(unpacked(item, call[index]) for index, item in enumerate(value))
    if type(value) in (dict, OrderedDict):
        return type(value)((key, unpacked(item, call[key])) for key, item in value.items())
    return call


def held(value: Any) -> bool:
    """Whether a graph can hold what a box gives."""
    leaves, structure = pytree.tree_flatten(value)
    kinds = {type(None), tuple, list, dict}
    plain = all(kind in kinds or issubclass(kind, tuple | dict) for kind in _kinds(structure))
    return plain and all(isinstance(leaf, _LEAVES) for leaf in leaves)


_LEAVES = (Tensor, type(None), bool, int, float, str, torch.dtype, torch.device)


def _kinds(structure: pytree.TreeSpec) -> Iterator[type]:
    if not structure.is_leaf():
        yield structure.type
        for child in structure.children():
            yield from _kinds(child)


def on_meta(output: Any) -> Any:
    """A nest of tensors without their data; None where it holds anything but tensors, None and text."""
    leaves = pytree.tree_leaves(output)
    if not all(isinstance(leaf, Tensor | str | None) for leaf in leaves):
        return None
    return pytree.tree_map_only(Tensor, lambda x: x.detach().to("meta"), output)


def alike(one: Any, other: Any) -> bool:
    """Whether two outputs have the same structure, shapes and dtypes."""
    (a, of_a), (b, of_b) = pytree.tree_flatten(one), pytree.tree_flatten(other)
    return of_a == of_b and [_described(x) for x in a] == [_described(x) for x in b]


def _described(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf


def reads_of(function: Any, modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """The names of what a function may read that is given these submodules, by path, one of which may be its `self`.

    Of a module whose method it is, that is what the method's code asks for by name. It is everything that the module
    registers where the code hands `self` on, and so it is for a module that is given as another argument.
    """
    names: dict[str, None] = {}
    for path, module in modules.items():
        asked = _asked(type(module), function, set()) if _is_method(type(module), function) else None
        for name in _registered_under(module, asked):
            names[f"{path}.{name}" if path else name] = None
    return tuple(names)


def _registered_under(module: nn.Module, asked: set[str] | None) -> Iterator[str]:
    for kind in (module.named_parameters, module.named_buffers):
        for name, _ in kind(remove_duplicate=False):
            if asked is None or name.partition(".")[0] in asked:
                yield name


def _is_method(kind: type, function: Any) -> bool:
    return isinstance(function, FunctionType) and getattr(kind, function.__name__, None) is function


_REGISTRIES = frozenset({"_modules", "_parameters", "_buffers", "__dict__"})


def _asked(kind: type, function: Any, seen: set[Any]) -> set[str] | None:
    """The attributes of `self` that a method asks for, itself or through other methods; None where any may be."""
    code = getattr(function, "__code__", None)
    if (
        code is None
        or not code.co_varnames
        or code.co_varnames[0] in code.co_cellvars
        or hasattr(function, "__wrapped__")
    ):
        return None
    seen.add(function)
    me, names = code.co_varnames[0], set()
    for one, following in pairwise(dis.get_instructions(code)):
        if me not in (one.argval if isinstance(one.argval, tuple) else (one.argval,)) or "FAST" not in one.opname:
            continue
        if (
            not one.opname.startswith("LOAD_FAST")
            or isinstance(one.argval, tuple)
            or following.opname not in _ATTRIBUTE
        ):
            return None
        names.add(following.argval)
    if names & _REGISTRIES:
        return None
    for name in tuple(names):
        own = getattr(kind, name, None)
        method = own.fget if isinstance(own, property) else own
        if isinstance(method, FunctionType) and method not in seen:
            deeper = _asked(kind, method, seen)
            if deeper is None:
                return None
            names |= deeper
    return names


_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR")
