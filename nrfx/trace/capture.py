"""From a model and example inputs to a traced module.

The model is traced twice, in train and in eval mode, on shells of itself: it is never run, never switched and
never written to. Sizes stay symbolic in the graph; an `if` on sizes is decided by the example inputs, and a size that
Python wants as a plain number (range, int) becomes that number and a check.

Not handled, and reported as a TraceError: control flow on the values of tensors, gradient-mode and autocast
regions inside forward (fx would drop them in silence), random numbers drawn outside the graph, scripted and
quantized modules.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.trace.modes import merged
from nrfx.trace.module import Facts, TracedModule, constants_at_trace, copied, propagate
from nrfx.trace.proxies import AUGMENTED
from nrfx.trace.recorder import DECIDED, Recorder, cuda_is_used, place
from nrfx.trace.shapes import InputSpec
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
        _rebind_numbers(graph)
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
    if type(model).__call__ is not nn.Module.__call__ and not isinstance(model, fx.GraphModule):
        raise TraceError(
            f"{type(model).__name__} has a __call__ of its own, which a graph does not record: use forward."
        )
    for path, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(f"{place(path, kind)} is a TorchScript module: trace the model it was made from.")
        if type(module).__module__.startswith(_QUANTIZED):
            raise TraceError(f"{place(path, kind)} is quantized: trace the float model.")
        if type(module).__module__.startswith(_WRAPPERS):
            raise TraceError(f"{place(path, kind)} wraps a module: trace that one, and wrap the result.")
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
    tracer = Recorder(inputs, training)
    with _random_state_kept(), torch.enable_grad():
        graph = tracer.trace(root)
    return _Capture(graph, root, unmoved)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    devices = range(torch.cuda.device_count()) if cuda_is_used() else ()
    state = random.getstate()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(state)


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


def _rebind_numbers(graph: fx.Graph) -> None:
    """`n += 1` changes nothing that is not a tensor: there it gives a new value."""
    for node in graph.nodes:
        if node.target in AUGMENTED and not isinstance(_val(node.args[0]), Tensor):
            node.target = AUGMENTED[node.target]


def _val(argument: Any) -> Any:
    return argument.meta["val"] if isinstance(argument, fx.Node) else argument


def _erase_decided(graph: fx.Graph) -> None:
    """Removes what only an `if` has read: sizes and flags that no node uses."""
    for node in reversed(graph.nodes):
        pure = node.op in ("call_function", "call_method")
        if pure and not node.users and isinstance(node.meta["val"], DECIDED):
            graph.erase_node(node)
