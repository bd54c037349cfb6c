"""The shape of every value: a graph interpreted on meta tensors, which have a shape and a dtype and no data.

The value of a node is `node.meta["val"]`: a meta tensor, a python value, or a tuple, list or dict of them.
Modules and functions that keep the shape of their first argument are not called at all: on meta a batch norm
takes 0.7 ms, and on a single value per channel it raises in train mode. Forward hooks are not called either;
one that changes a shape goes unnoticed.
"""

import functools
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.nests import PLAIN
from nrfx.rules import Op, has_rule, op_of
from nrfx.rules.registry import is_of_torch
from nrfx.tracing.graph.clone import on_meta, shell
from nrfx.tracing.graph.complaint import complaint
from nrfx.tracing.graph.equal_calls import EqualCalls
from nrfx.tracing.graph.regions import begin, casts, is_border
from nrfx.tracing.graph.registered import registered
from nrfx.tracing.graph.walk import Contents

InputSpec = tuple[tuple[int, ...], torch.dtype]


class _Both:
    """The class of BOTH alone."""

    def __repr__(self) -> str:
        return "BOTH"


BOTH = _Both()
"""An argument of a recorded node that is the mode: True in train mode, False in eval mode. modes.py puts a module in
its place; until then it counts as False."""

_NEEDS_VALUES = (
    "needs the values of a tensor, which differ from input to input: its result, or the shape of it, is not known. "
    "Write it with torch.where or masks of fixed size, or move it out of the forward. A layer of your own whose result "
    "has the shape of its input can stay as it is: nrfx.rules.opaque(ItsClass, keeps_shape=True)."
)


class Shapes:
    """Interprets one graph of a model on meta tensors, from inputs of the given shapes, in one mode."""

    def __init__(self, contents: Contents, inputs: Sequence[InputSpec], training: bool, otherwise: str = "") -> None:
        """Takes what the model holds: a forward that is recorded may put traced values into the places of tensors.

        otherwise: a question to a tensor that is answered the other way round, such as is_contiguous.
        """
        self._root = contents.root
        self._training = training
        self._inputs = [torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in inputs]
        self._left = iter(self._inputs)
        self._last: fx.Node | None = None
        self._otherwise = otherwise
        self._modules = contents.by_path
        own: dict[str, Tensor] = dict((*contents.parameters, *contents.buffers))
        self._tensors = {**_unregistered(contents), **own}
        self._device = next(iter(own.values())).device if own else torch.device("cpu")
        self._shells: dict[str, nn.Module] = {}
        self._equal_calls = EqualCalls()
        self._autocast = [False]  # whether it is on: outside of all regions, then in each that is open

    def fill(self, graph: fx.Graph, around: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        """Sets `meta["val"]` on every node that has none; called again, goes on with the nodes that are new.

        Args:
            around: what code in Python needs around it. While a forward is recorded, methods of modules are exchanged
                for it, and to put them back takes a millisecond; most values need no such code.

        Raises:
            TraceError: a node cannot be run on the shapes it gets; names the node, its module and the shapes.
        """
        with _without_gradients(), ExitStack() as self._open:
            self._around = around
            self._equal_calls.begin()
            for node in self._new(graph):
                if node.op == "placeholder":
                    given = next(self._left, None)
                    node.meta.setdefault("val", _default(node) if given is None else given)
                elif "val" not in node.meta or is_border(node):
                    node.meta["val"] = self._value(node)
        if (extra := len(list(self._left))) > 0:
            raise TraceError(f"{extra} of {len(self._inputs)} example inputs are more than the graph takes.")

    def _new(self, graph: fx.Graph) -> Iterator[fx.Node]:
        """The nodes behind the last one done: while a forward is recorded, the graph grows between two calls."""
        node = graph._root if self._last is None else self._last
        while (node := node.next) is not graph._root:
            yield node
            self._last = node

    def _value(self, node: fx.Node) -> Any:
        """The value of a node, from those of its inputs."""
        args, kwargs = _with_any_fill(node, resolved(node.args), resolved(node.kwargs))
        if is_border(node):
            around = self._autocast[-1]
            self._autocast.append(casts(node, around)) if node.target is begin else self._autocast.pop()
            return None
        if self._autocast[-1]:
            args, kwargs = _in_one_dtype((args, kwargs), self._own_dtypes(node))
        try:
            run = partial(_RUN[node.op], self, node)
            value = self._equal_calls.value(node, run, args, kwargs) if args else run(args, kwargs)
            return not value if self._otherwise and question(node) == self._otherwise else value
        except Exception as error:  # whatever an op, or a module of the model's own that is a leaf, raises
            if (box := node.meta.get("opaque")) is not None and box.output is not None:
                return box.output
            valueless = isinstance(error, NotImplementedError) or "meta tensor" in str(error)
            if valueless:
                raise TraceError(f"{describe(node)} {_NEEDS_VALUES}") from error
            self._code_runs()
            called = self._root.get_submodule(str(node.target)) if node.op == "call_module" else node.target
            raise TraceError(
                f"{describe(node)} cannot be run on {_shown((args, kwargs))}: {complaint(error, called, args, kwargs)} "
                "Check that example_inputs fit the model's forward."
            ) from error

    def _own_dtypes(self, node: fx.Node) -> set[torch.dtype]:
        """The floating point dtypes of the parameters of the module that a node calls."""
        module = self._root.get_submodule(str(node.target)) if node.op == "call_module" else nn.Module()
        return {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}

    def _code_runs(self) -> None:
        """Enters what code in Python needs around it, until all is filled."""
        self._open.enter_context(self._around())
        self._around = nullcontext

    def _call_module(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        module = self._modules.get(str(node.target)) or self._root.get_submodule(str(node.target))
        op = op_of(module)
        if op is not None and op.keeps_shape and has_rule(type(module)) and args and isinstance(args[0], Tensor):
            _check_norm(op, module, args[0])
            return _unstrided(args[0])
        known = None if op is None or op.gives is None or not has_rule(type(module)) else op.gives(module, args, kwargs)
        if known is not None:
            return known
        self._code_runs()
        return self._leaf(str(node.target)).forward(*args, **kwargs)

    def _call_function(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        op = op_of(node.target)
        if op is not None and op.keeps_shape and args and _is_float(args[0]):
            return _unstrided(args[0])
        if op is not None and op.gives is not None and (known := op.gives(None, args, kwargs)) is not None:
            return known
        if op is not None and op.checks:
            return None
        if not isinstance(node.target, types.BuiltinFunctionType) and not _is_of_numbers(node.target, args):
            self._code_runs()
        if node.target is getattr:
            return self._attribute(node.args[0], *args[1:])
        if op is not None and op.makes:
            args, kwargs = pytree.tree_map(_number, (args, {**kwargs, "device": "meta"}))
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _attribute(self, source: Any, name: str, *default: Any) -> Any:
        owner = source.meta["val"] if isinstance(source, fx.Node) else source
        if isinstance(owner, Tensor) and name in _PLACES:
            return _PLACES[name](self._device)
        return getattr(owner, name, *default)

    def _call_method(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        op = op_of(node.target)
        if op is not None and op.keeps_shape and _is_float(args[0]):
            return _unstrided(args[0])
        if op is not None and op.gives is not None and (known := op.gives(None, args, kwargs)) is not None:
            return known
        if op is not None and op.flags:
            return args[0]
        if op is not None and op.makes:
            args = (args[0], *pytree.tree_map(_number, args[1:]))
        # unsqueeze_ and its like change the shape of the very tensor that is an earlier node's value.
        me = args[0].detach() if str(node.target).endswith("_") and isinstance(args[0], Tensor) else args[0]
        return getattr(me, str(node.target))(*args[1:], **kwargs)

    def _get_attr(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        name = str(node.target)
        value = self._tensors[name] if name in self._tensors else registered(self._root, name)
        if isinstance(value, nn.Module):
            return self._leaf(str(node.target))
        return on_meta(value) if isinstance(value, Tensor) else value

    def _output(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        return args[0]

    def _leaf(self, path: str) -> nn.Module:
        if path not in self._shells:
            self._code_runs()
            self._shells[path] = shell(registered(self._root, path), on_meta).train(self._training)
        return self._shells[path]


def _unregistered(contents: Contents) -> dict[str, Tensor]:
    """The tensors that are plain attributes of modules, by name."""
    return {
        f"{path}.{name}" if path else name: value for path, name, value in contents.odd if isinstance(value, Tensor)
    }


@contextmanager
def _without_gradients() -> Iterator[None]:
    """No value keeps a graph of gradients. A `with torch.no_grad()` would be recorded with the forward."""
    before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(False)
    try:
        yield
    finally:
        torch._C._set_grad_enabled(before)


_RUN: dict[str, Any] = {
    "call_module": Shapes._call_module,
    "call_function": Shapes._call_function,
    "call_method": Shapes._call_method,
    "get_attr": Shapes._get_attr,
    "output": Shapes._output,
}


# Where a value is: the answer for the model's own device, not for meta.
_PLACES: dict[str, Any] = {
    "device": lambda device: device,
    "is_cuda": lambda device: device.type == "cuda",
    "is_cpu": lambda device: device.type == "cpu",
    "is_meta": lambda device: device.type == "meta",
}


_QUESTIONS = {"is_contiguous", "requires_grad", "is_leaf", "is_inference"}
"""What tensors of one shape answer differently from run to run of one graph."""


def question(node: fx.Node) -> str | None:
    """Which question a node asks that another run of the same graph may answer otherwise, None if none."""
    name = node.args[1] if node.target is getattr else node.target
    named = name if isinstance(name, str) else getattr(name, "__name__", "")
    return named if node.op in ("call_function", "call_method") and named in _QUESTIONS else None


def describe(node: fx.Node) -> str:
    """Where a node is, in words: its name, the module it was recorded in, and the line of code if known."""
    stack = node.meta.get("nn_module_stack")
    inside = ""
    if stack:
        path, kind = next(reversed(stack.values()))
        inside = f" in {path} ({kind if isinstance(kind, str) else kind.__name__})"
    line = f", {trace.splitlines()[0].strip()}" if (trace := node.meta.get("stack_trace")) else ""
    return f"Node {node.name} ({node.op} {_target_name(node.target)}){inside}{line}"


def _target_name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _default(node: fx.Node) -> Any:
    if not node.args:
        raise TraceError(f"No example input for the argument {node.target}: pass one tensor per argument.")
    return node.args[0]


def resolved(argument: Any) -> Any:
    """The argument with every node replaced by its value, lists as plain fresh lists, and devices by meta."""
    if isinstance(argument, fx.Node):
        return _placed(argument.meta["val"])
    if type(argument) in PLAIN or not isinstance(argument, tuple | list | dict | slice):
        return _placed(argument)
    if isinstance(argument, tuple):
        items = [resolved(item) for item in argument]
        return type(argument)(*items) if hasattr(argument, "_fields") else tuple(items)
    if isinstance(argument, list):
        return [resolved(item) for item in argument]
    if isinstance(argument, dict):
        return {key: resolved(item) for key, item in argument.items()}
    return slice(resolved(argument.start), resolved(argument.stop), resolved(argument.step))


def _placed(value: Any) -> Any:
    """The value, for a device meta, and for the mode False."""
    if isinstance(value, torch.device):
        return torch.device("meta")
    return False if value is BOTH else value


def _number(value: Any) -> Any:
    """A number of the kind that a tensor without dims holds, in its place: torch.full fills with either."""
    if not (isinstance(value, Tensor) and value.dim() == 0):
        return value
    return 0.0 if value.is_floating_point() else False if value.dtype == torch.bool else 0


def _in_one_dtype(nest: Any, dtypes: set[torch.dtype]) -> Any:
    """The arguments with all floating point tensors in the widest dtype of them and `dtypes`: autocast chooses one, and
    on "meta" it does nothing."""
    dtypes = dtypes | {leaf.dtype for leaf in pytree.tree_leaves(nest) if _is_float(leaf)}
    if len(dtypes) < 2:
        return nest
    widest = functools.reduce(torch.promote_types, dtypes)
    return pytree.tree_map(lambda leaf: leaf.to(widest) if _is_float(leaf) else leaf, nest)


def _is_of_numbers(function: Any, args: Any) -> bool:
    """Whether it is a function of torch that gets no tensor, such as torch._assert: it runs no module."""
    return is_of_torch(function) and not any(isinstance(arg, Tensor | tuple | list | dict) for arg in args)


def _with_any_fill(node: fx.Node, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments, with a number in the place of a tensor of no dims that others are filled with."""
    op = op_of(node.target) if node.op in ("call_function", "call_method") else None
    if op is None or op.fill is None:
        return args, kwargs
    return (
        tuple(_any_number(arg) if place == op.fill else arg for place, arg in enumerate(args)),
        {name: _any_number(arg) if name == "fill_value" else arg for name, arg in kwargs.items()},
    )


def _any_number(value: Any) -> Any:
    return torch.zeros((), dtype=value.dtype).item() if isinstance(value, Tensor) else value


def _unstrided(x: Tensor) -> Tensor:
    """A contiguous tensor like x: a layer norm of a transposed tensor is contiguous, and can be viewed."""
    return x if x.is_contiguous() else torch.empty_like(x, memory_format=torch.contiguous_format)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _check_norm(op: Op, module: nn.Module, x: Tensor) -> None:
    """Raises the ValueError that a norm of torch would raise for this input if it were called."""
    if not (op.norm and is_of_torch(module.forward)):
        return
    if callable(check_dims := getattr(module, "_check_input_dim", None)):
        check_dims(x)
    weight = module._parameters.get("weight")  # the attribute would be recorded, while a forward is
    if weight is None:
        return
    last = hasattr(module, "normalized_shape")
    dims = getattr(module, "_get_no_batch_dim", None)  # an instance norm may be given one example
    axis = 0 if callable(dims) and x.dim() == dims() else 1
    width = x.shape[-weight.dim() :] if last else x.shape[axis : axis + 1]
    if width != weight.shape:
        raise ValueError(f"a norm over {list(weight.shape)} got {list(width)}.")


def _shown(value: Any) -> str:
    """The arguments of a call as text, tensors by shape and dtype."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list):
        return f"({', '.join(_shown(item) for item in value if item not in ((), {}))})" if value else "()"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_shown(item)}" for key, item in value.items())
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__
