"""From a model and example inputs to a traced module.

The model is traced twice, in train and in eval mode, on shells of itself: it is never run, never switched and
never written to. Sizes stay symbolic in the graph; an `if` on sizes is decided by the example inputs.

Not handled, and reported as a TraceError: control flow on the values of tensors, gradient-mode and autocast
regions inside forward (fx would drop them in silence), random numbers drawn outside the graph, scripted and
quantized modules.
"""

import functools
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _maybe_revert_all_patches

from nrfx.errors import TraceError
from nrfx.trace.modes import merged
from nrfx.trace.module import ByMode, Facts, TracedModule, constants_at_trace, copied, propagate
from nrfx.trace.shapes import InputSpec, Shapes, describe
from nrfx.trace.shell import same, shell

NORMS: tuple[type[nn.Module], ...] = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def trace(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> TracedModule:
    """The model as a graph that shares its parameters and buffers and behaves like it in both modes.

    The model is left as it was. Only shape and dtype of the example inputs matter; arguments of the forward
    beyond them take their defaults for good. Hooks on modules with a forward of their own become part of the
    graph.

    Raises:
        TraceError: the model cannot be captured faithfully, or the inputs do not fit it.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> gm = trace(model, torch.zeros(1, 3, 9, 9))
    >>> [tuple(node.meta["val"].shape) for node in gm.graph.nodes][-1]
    (1, 8, 7, 7)
    """
    inputs = _specs(example_inputs)
    _refuse_unsupported(model)
    root = _shell_of(model)
    captures = {mode: _capture(model, inputs, mode) for mode in ("train", "eval")}
    constants = {mode: _constants(captures[mode]) for mode in captures}
    one = None
    if _same_constants(constants["train"], constants["eval"]):
        one = merged(captures["train"].graph, captures["eval"].graph, root)
    else:
        _rename(captures["train"].graph, constants["train"])
    for name, value in (constants["train"] | constants["eval"]).items():
        root.__dict__[name] = value
    graphs = {mode: one or captures[mode].graph for mode in captures}
    unmoved = {mode: captures[mode].unmoved for mode in captures}
    traced = _finished(root, graphs, inputs, unmoved, type(model).__name__)
    for graph in graphs.values():
        _erase_decided(graph)
    traced.recompile()
    return traced


def as_traced(gm: nn.Module, example_inputs: Tensor | tuple[Tensor, ...] | None = None) -> TracedModule:
    """`gm` as a traced module: itself if it is one, an fx.GraphModule by its graph, another module by
    tracing.

    A GraphModule of the user's own is neither touched nor traced again: its graph is copied and used in both
    modes, its tensors are shared. Without example inputs, shapes come from the "val" or "tensor_meta" of its
    placeholders.

    Raises:
        TraceError: no example inputs and no shapes, or the module cannot be captured.
    """
    if isinstance(gm, TracedModule):
        return gm
    if not isinstance(gm, fx.GraphModule):
        if example_inputs is None:
            raise TraceError(
                f"{type(gm).__name__} is not traced, and its input shapes are unknown: pass example_inputs=."
            )
        return trace(gm, example_inputs)
    inputs = _placeholder_specs(gm) if example_inputs is None else _specs(example_inputs)
    graph = copied(gm.graph)
    contents = nn.Module()
    for field in vars(contents):
        contents.__dict__[field] = vars(gm)[field]
    contents.__dict__.update({key: value for key, value in vars(gm).items() if isinstance(value, Tensor)})
    nothing: dict[str, tuple[str, ...]] = {"train": (), "eval": ()}
    return _finished(_shell_of(contents), {"train": graph, "eval": graph}, inputs, nothing, type(gm).__name__)


def _finished(
    root: nn.Module,
    graphs: Mapping[str, fx.Graph],
    inputs: tuple[InputSpec, ...],
    unmoved: Mapping[str, tuple[str, ...]],
    name: str,
) -> TracedModule:
    traced = TracedModule(root, graphs, Facts(inputs, constants_at_trace(root, NORMS), unmoved), name)
    propagate(traced)
    return traced


def _specs(example_inputs: object) -> tuple[InputSpec, ...]:
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    wrong = [type(x).__name__ for x in inputs if not isinstance(x, Tensor)]
    if wrong or not inputs:
        found = f"found {', '.join(wrong)}" if wrong else "found an empty tuple"
        raise TraceError(f"example_inputs must be a tensor or a tuple of tensors, one per argument; {found}.")
    return tuple((tuple(x.shape), x.dtype) for x in inputs)


def _placeholder_specs(gm: fx.GraphModule) -> tuple[InputSpec, ...]:
    specs = []
    for node in gm.graph.nodes:
        if node.op != "placeholder" or node.args:
            continue
        known = node.meta.get("val", node.meta.get("tensor_meta"))
        if not hasattr(known, "shape") or not hasattr(known, "dtype"):
            raise TraceError(f"The graph carries no shape for its input {node.name}: pass example_inputs=.")
        specs.append((tuple(int(size) for size in known.shape), known.dtype))
    return tuple(specs)


_WRAPPERS = ("torch._dynamo", "torch.nn.parallel", "torch.distributed")
_QUANTIZED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.nn.quantized",
    "torch.nn.intrinsic.quantized",
)


def _refuse_unsupported(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TraceError(f"trace wants an nn.Module and got {type(model).__name__}.")
    for path, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(f"{_place(path, kind)} is a TorchScript module: trace the model it was made from.")
        if type(module).__module__.startswith(_QUANTIZED):
            raise TraceError(f"{_place(path, kind)} is quantized: trace the float model.")
        if type(module).__module__.startswith(_WRAPPERS):
            raise TraceError(f"{_place(path, kind)} wraps a module: trace that one, and wrap the result.")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise TraceError(f"{name} has no shape yet: run one batch through the model before tracing it.")


def _shell_of(model: nn.Module) -> Any:
    try:
        return shell(model, same)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}). "
            "Tracing works on a deepcopy of the modules, without their tensors: remove what refuses it."
        ) from error


class _Capture:
    """The graph of the model in one mode, with the shell it was recorded on."""

    def __init__(self, graph: fx.Graph, root: nn.Module, unmoved: tuple[str, ...]) -> None:
        self.graph = graph
        self.root = root
        self.unmoved = unmoved


def _capture(model: nn.Module, inputs: tuple[InputSpec, ...], mode: str) -> _Capture:
    root = _shell_of(model)
    training = mode == "train"
    root.train(training)
    unmoved = tuple(path for path, module in root.named_modules() if module.training != training)
    tracer = _Tracer(inputs, training)
    with _random_state_kept(), torch.enable_grad():
        graph = tracer.trace(root)
    return _Capture(graph, root, unmoved)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    devices = range(torch.cuda.device_count()) if _cuda_is_used() else ()
    state = random.getstate()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(state)


def _ambient() -> tuple[object, ...]:
    """What a `with` block in a forward may change, and fx does not record."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cpu"),
        torch.get_autocast_dtype("cuda"),
    )


def _cuda_is_used() -> bool:
    return bool(torch.cuda.is_initialized())


def _random_state() -> tuple[object, ...]:
    cuda = torch.cuda.get_rng_state().tolist() if _cuda_is_used() else None
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), cuda


_DECIDED = (bool, int, float, str, torch.Size, torch.dtype, torch.device)


class _Tracer(fx.Tracer):
    """Records one forward. Knows shapes while it records, so that an `if` on sizes can be decided."""

    def __init__(self, inputs: tuple[InputSpec, ...], training: bool) -> None:
        super().__init__()
        self._inputs = inputs
        self._training = training

    def trace(self, root: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:  # type: ignore[override]
        self._names = {
            id(tensor): name
            for name, tensor in (
                *reversed(list(root.named_parameters())),
                *reversed(list(root.named_buffers())),
            )
        }
        self._shapes = Shapes(root, self._inputs, self._training)
        self._ambient = _ambient()
        self._random = _random_state()
        try:
            graph = super().trace(root, concrete_args)
        except TraceError:
            raise
        except Exception as error:
            raise _explained("", type(root).__name__, error) from error
        self._check_random("", type(root).__name__)
        return graph

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """One placeholder per example input; arguments beyond them take their defaults."""
        names = _argument_names(root_fn, len(self._inputs), [list(shape) for shape, _ in self._inputs])
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in names)]

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            result = super().call_module(m, forward, args, kwargs)
        except TraceError:
            raise
        except Exception as error:
            path = (self.submodule_paths or {}).get(m)
            if path is None:
                raise  # the module is not registered: the place to name is its caller
            raise _explained(path, type(m).__name__, error) from error
        if not _is_leaf(m):
            self._check_random(self.path_of_module(m), type(m).__name__)
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if (line := _user_line()) is not None:
            node.meta["stack_trace"] = line
        if _ambient() != self._ambient:
            raise TraceError(
                f"{describe(node)} runs in a no_grad, set_grad_enabled, inference_mode or autocast region of "
                "the forward (or in a custom autograd.Function), which a graph does not record. Move the "
                "region outside the model, or use detach()."
            )
        return node

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters and buffers are nodes of the graph, also where the forward computes with them."""
        name = self._names.get(id(attr_val)) if isinstance(attr_val, Tensor) else None
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def to_bool(self, obj: fx.Proxy) -> bool:
        """The truth of a python value that follows from sizes; that of a tensor is not known."""
        value = self._value(obj)
        if value is None or isinstance(value, _DECIDED):
            return bool(value)
        return super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The items of a tuple whose length follows from sizes."""
        value = self._value(obj)
        if isinstance(value, tuple | list):
            items: Any = obj
            return iter([items[index] for index in range(len(value))])
        return super().iter(obj)

    def _value(self, obj: fx.Proxy) -> Any:
        node = obj.node  # the node of an attribute is made when it is asked for
        with _maybe_revert_all_patches():  # modules and math functions are themselves again, not recorders
            self._shapes.fill(self.graph)
        return node.meta["val"]

    def _check_random(self, path: str, kind: str) -> None:
        if _random_state() != self._random:
            raise TraceError(
                f"{_place(path, kind)} draws random numbers that do not depend on its input, so that one "
                "draw would be frozen into the graph. Draw them from a tensor of the forward, such as "
                "torch.rand_like(x) or x.new_empty(n).bernoulli_(p)."
            )


_COSMETIC = frozenset(
    {"__init__", "__repr__", "extra_repr", "reset_parameters", "__setstate__", "__getstate__", "__deepcopy__"}
)


def _is_leaf(module: nn.Module) -> bool:
    """Whether the module's forward is torch's own (or ours), and so known by its class."""
    if "forward" in vars(module) or nn.utils.parametrize.is_parametrized(module):
        return False
    kind: Any = type(module)
    return has_known_forward(kind)


@functools.cache
def has_known_forward(kind: Any) -> bool:
    """Whether a class runs a forward of torch.nn or nrfx.nn, and no subclass changed a method that forward
    may call."""
    if kind.__module__.startswith("nrfx.nn") or issubclass(kind, ByMode):
        return True
    origin = next(base for base in kind.__mro__ if "forward" in vars(base))
    known = origin.__module__.startswith(("torch.nn.", "torch.ao.nn."))
    if not known or origin is nn.Module or issubclass(kind, nn.Sequential):
        return False
    subclasses = kind.__mro__[: kind.__mro__.index(origin)]
    methods = {name for name in dir(origin) if callable(getattr(origin, name, None))} - _COSMETIC
    return all(sub.__module__.startswith("torch.") or not methods & vars(sub).keys() for sub in subclasses)


def _argument_names(forward: Callable[..., Any], count: int, shapes: list[list[int]]) -> list[str]:
    """The names of the first `count` arguments of a forward, self excepted."""
    signature = inspect.signature(forward)
    try:
        bound = signature.bind(None, *range(count)).arguments
    except TypeError as error:
        raise TraceError(
            f"{count} example inputs of shapes {shapes} do not fit forward{signature}: {error}."
        ) from error
    names: list[str] = []
    for name, value in list(bound.items())[1:]:
        names.extend([f"{name}_{index}" for index in range(len(value))] if isinstance(value, tuple) else [name])
    return names


_HERE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


def _user_line() -> str | None:
    """The innermost line of code that is neither torch's nor ours, in the form of a traceback."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_HERE, _TORCH, "<")):
            return f'File "{name}", line {frame.f_lineno}, in {frame.f_code.co_name}'
        if frame.f_code is fx.Tracer.trace.__code__:
            return None
        frame = frame.f_back  # type: ignore[assignment]
    return None


_LOOP = "it loops over a tensor. Loop over a number that is known when the model is built, and index with it."
_PLAIN = (
    "it gives a traced value to a function that wants a plain one (torch.zeros(n), torch.tensor(x)). Write "
    "it from a tensor of the forward, such as x.new_zeros, or mark the function with torch.fx.wrap."
)
_CAUSES = {
    "cannot be iterated": _LOOP,
    "control flow": "an `if`, `while` or assert depends on the values of a tensor. Use torch.where, or "
    "move it out of the forward.",
    "'len' is not supported": "it calls len() of a traced value. Use x.shape[0].",
    "not installed as a submodule": "it calls a module that is not registered. Keep modules in attributes, "
    "nn.ModuleList or nn.ModuleDict.",
    "cannot be interpreted as an integer": "it uses a traced size as a Python integer (range, int). Use a "
    "number that is known when the model is built.",
    "Proxy": _PLAIN,
}


def _explained(path: str, kind: str, error: Exception) -> TraceError:
    said = " ".join(str(error).split())
    itself = f"{type(error).__name__}: {said}"
    if isinstance(error, TypeError):
        itself = f"{itself}. If traced values are involved, {_PLAIN}"
    cause = next((cause for key, cause in _CAUSES.items() if key in said), itself)
    return TraceError(f"{_place(path, kind)} cannot be traced: {cause}" + ("" if cause.endswith(".") else "."))


def _place(path: str, kind: str) -> str:
    return f"{path} ({kind})" if path else f"The model ({kind})"


def _constants(capture: _Capture) -> dict[str, Tensor]:
    """The tensors that the forward made out of nothing, by the name that tracing gave them."""
    targets = {str(node.target) for node in capture.graph.nodes if node.op == "get_attr"}
    attributes = vars(capture.root)
    return {name: attributes[name] for name in sorted(targets) if isinstance(attributes.get(name), Tensor)}


def _same_constants(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and (a.is_meta or torch.equal(a, b))
        for a, b in ((one[name], two[name]) for name in one)
    )


def _rename(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    """Gives the train graph's constants names that the eval graph's do not have."""
    for name in list(constants):
        constants[f"train{name}"] = constants.pop(name)
    for node in graph.nodes:
        if node.op == "get_attr" and f"train{node.target}" in constants:
            node.target = f"train{node.target}"


def _erase_decided(graph: fx.Graph) -> None:
    """Removes what only an `if` has read: sizes and flags that no node uses."""
    for node in reversed(graph.nodes):
        pure = node.op in ("call_function", "call_method")
        if pure and not node.users and isinstance(node.meta["val"], _DECIDED):
            graph.erase_node(node)
