"""Records one forward of a model as a graph, on proxies that know the shapes of their values.

Not recorded, and reported as a TraceError: control flow on the values of tensors, gradient-mode and autocast regions,
random numbers that do not depend on the input.
"""

import builtins
import functools
import operator
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace
from torch.fx._symbolic_trace import _maybe_revert_all_patches, _wrapped_fns_to_patch

from nrfx.errors import TraceError
from nrfx.nests import Maker, is_made, state
from nrfx.rules import OPS, op_of
from nrfx.rules.registry import in_order
from nrfx.tracing.arguments import Arguments
from nrfx.tracing.causes import explained, place, user_line
from nrfx.tracing.known_forward import is_leaf
from nrfx.tracing.leaves import Leaves, ruled_functions_recorded
from nrfx.tracing.proxies import SizedProxy, is_instance, writes
from nrfx.tracing.shapes import Shapes, describe


def _ambient() -> tuple[object, ...]:
    """The modes of torch that a `with` block in a forward may change, which fx does not record."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cpu"),
        torch.get_autocast_dtype("cuda"),
    )


def _refuse_autocast(self: torch.autocast, *args: Any, **kwargs: Any) -> None:
    """Stands for autocast's methods in a forward. enabled=False is refused too: a caller may have autocast enabled."""
    raise TraceError(
        f"The forward has an autocast region ({(user_line() or 'in torch').strip()}), which a graph does not record. "
        "Move it outside the model, or trace the model in parts: nrfx.trace(..., partial=True)."
    )


def cuda_is_used() -> bool:
    return bool(torch.cuda.is_initialized())


def _random_state() -> tuple[object, ...]:
    """The states of the generators that a forward may draw from without a traced tensor."""
    cuda = torch.cuda.get_rng_state().tolist() if cuda_is_used() else None
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), cuda


DECIDED = (bool, int, float, str, torch.Size, torch.dtype, torch.device)
"""Values that follow from the shapes of the inputs: an `if` on one is decided while the forward is recorded."""


_ENTERED = ("torchvision.models.", "timm.")
"""Packages whose functions marked with torch.fx.wrap are recorded op by op: attention, with weights and multiply-adds
that the graph must show. Marked functions of other packages stay one call, as their authors ask for."""


LOOKED_INTO = Leaves()
"""No module is asked for as a leaf."""


class Recorder(fx.Tracer):
    """Records one forward. Knows shapes while it records, so that an `if` on sizes can be decided."""

    def __init__(self, arguments: Arguments, training: bool, leaves: Leaves = LOOKED_INTO) -> None:
        # torch.arange(x.shape[0]) gets no tensor and would run at once; wrapped, it records a node if it gets a proxy.
        # fx looks for such functions in the globals of each forward, and in modules that are listed: here in torch.
        super().__init__(autowrap_functions=tuple(key for key, op in OPS.items() if op.makes and callable(key)))
        self._autowrap_search.append(torch)
        self._arguments = arguments
        self._training = training
        self._leaves = leaves
        self._baked: set[fx.Node] = set()
        self._made: dict[int, fx.Node | None] = {}

    def trace(self, root: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:  # type: ignore[override]
        # reversed, so that of several names of one tensor the first is written last and stays
        self._names = {
            id(tensor): name
            for name, tensor in (
                *reversed(list(root.named_parameters())),
                *reversed(list(root.named_buffers())),
            )
        }
        self._registered = _registered(root)
        self._shapes = Shapes(root, self._arguments.inputs, self._training)
        self._ambient = _ambient()
        self._random = _random_state()
        try:
            with _wrapped_functions_entered(), ruled_functions_recorded():
                graph = super().trace(root, concrete_args)
        except TraceError:
            raise
        except Exception as error:
            raise explained("", type(root).__name__, error) from error
        self._check_random("", type(root).__name__)
        self._check_assignments(root)
        for node in graph.nodes:
            if node.op == "call_function" and op_of(node.target) is not None:
                node.meta.pop("is_wrapped", None)  # generated code would register torch.arange as a global of its own
            if node.kwargs:
                called = type(root.get_submodule(node.target)) if node.op == "call_module" else node.target
                node.args, node.kwargs = in_order(called, node.args, node.kwargs)
        return graph

    def check(self) -> None:
        """Raises a TraceError unless every node of the recorded graph can be run on the shapes it gets."""
        self._shapes.fill(self.graph)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._leaves.has(m, module_qualified_name) or is_leaf(m)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """One placeholder per tensor; all other arguments are what they are in the call."""
        own = vars(self.root).get("forward")  # set on the instance: it hides that of the class
        if own is not None:
            root_fn = functools.wraps(own)(lambda _, *args, **kwargs: own(*args, **kwargs))
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self._arguments.names]
        given, named = self._arguments.filled(proxies)

        @functools.wraps(root_fn)
        def forward(root: nn.Module, *_: Any) -> Any:
            self._enter(root)
            return root_fn(root, *given, **named)

        return forward, [self.root, *proxies]

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        leaf = self.is_leaf_module(m, (self.submodule_paths or {}).get(m, ""))
        if not leaf:
            self._enter(m)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except TraceError:
            raise
        except Exception as error:
            path = (self.submodule_paths or {}).get(m)
            if path is None:
                raise  # the module is not registered: the place to name is its caller
            raise explained(path, type(m).__name__, error) from error
        if not leaf:
            self._check_random(self.path_of_module(m), type(m).__name__)
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node with its line of code; raises TraceError for an op that would mean something else in the graph."""
        node = super().create_node(*args, **kwargs)
        if (line := user_line()) is not None:
            node.meta["stack_trace"] = line
        if _ambient() != self._ambient:
            raise TraceError(
                f"{describe(node)} runs in a no_grad, set_grad_enabled, inference_mode or autocast region of "
                "the forward (or in a custom autograd.Function), which a graph does not record. Move the "
                "region outside the model, or use detach()."
            )
        if writes(node) and (constant := self._constant_under(node)) is not None:
            raise TraceError(
                f"{describe(node)} writes into {constant.target}, a tensor that the forward makes and that is a "
                "constant of the graph: the change would last from call to call. Make it from a traced tensor, such as "
                "x.new_zeros(n)."
            )
        return node

    def _constant_under(self, node: fx.Node) -> fx.Node | None:
        """The constant whose memory the first argument of a node may share."""
        source: Any = node.args[0]
        while isinstance(source, fx.Node) and source.op in ("call_function", "call_method") and source.args:
            source = source.args[0]
        if not (isinstance(source, fx.Node) and source.op == "get_attr"):
            return None
        return source if isinstance(vars(self.root).get(str(source.target)), Tensor) else None

    def _enter(self, module: nn.Module) -> None:
        """Prepares for the forward of a module that is recorded op by op."""
        if module._backward_hooks or module._backward_pre_hooks:
            where = place((self.submodule_paths or {}).get(module, ""), type(module).__name__)
            raise TraceError(f"{where} has backward hooks, which a graph does not record: register them after tracing.")
        patcher: Any = _symbolic_trace.CURRENT_PATCHER
        if patcher.visit_once(torch.autocast):  # patched twice, it would stay so: fx reverts in the order of patching
            for method in ("__init__", "__enter__"):
                patcher.patch_method(torch.autocast, method, _refuse_autocast)
            patcher.patch(vars(builtins), "isinstance", is_instance)  # a forward may ask in any file that it calls

    def _check_assignments(self, root: nn.Module) -> None:
        """Raises TraceError where the forward has put another tensor in the place of a parameter or buffer."""
        for name, now in _registered(root).items():
            before = self._registered.get(name)
            source = now.node if isinstance(now, fx.Proxy) else now
            while isinstance(source, fx.Node) and writes(source):  # buffer += 1 assigns the result of a change in place
                source = source.args[0]
            kept = source.target == self._names.get(id(before)) if isinstance(source, fx.Node) else source is before
            if not kept:
                raise TraceError(
                    f"The forward assigns a new value to {name}, which a graph does not record. Write it into the "
                    f"tensor instead: self.{name.rpartition('.')[2]}.copy_(value)."
                )

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters and buffers are nodes of the graph, also where the forward computes with them."""
        name = self._names.get(id(attr_val)) if isinstance(attr_val, Tensor) else None
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def create_arg(self, a: Any) -> Any:
        """The argument of a node. An object of the model's own that holds traced values is made by a node."""
        if not is_made(a, fx.Proxy):
            return super().create_arg(a)
        outermost = not self._made
        if id(a) not in self._made:  # a dictionary with attributes holds each of its values twice
            self._made[id(a)] = None
            parts = tuple(map(super().create_arg, state(a)))
            self._made[id(a)] = self.create_node("call_function", Maker(type(a)), parts, {})
        made = self._made[id(a)]
        if outermost:  # what is changed before it is used again is another value
            self._made.clear()
        return made

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that records changes in place, and knows shapes."""
        return SizedProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """The truth of a value that follows from sizes. fx raises for all others: a tensor has no values here."""
        value = self.value(obj)
        if value is None or isinstance(value, DECIDED):
            return bool(value)
        return super().to_bool(obj)

    def number(self, obj: fx.Proxy) -> int | float | None:
        """The number that a traced size is on the example inputs, None for anything else.

        Python wants it plain (range, int), so it becomes a constant of the graph, and the graph checks it from now on.
        """
        value = self.value(obj)
        if not isinstance(value, int | float):
            return None
        if obj.node not in self._baked:
            self._baked.add(obj.node)
            message = f"{obj.node.name} must be {value}, as in the inputs that the model was traced on: trace it again."
            torch._assert(operator.eq(obj, value), message)
        return value

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The items of a tuple whose length follows from sizes."""
        value = self.value(obj)
        if isinstance(value, tuple | list):
            items: Any = obj
            return iter([items[index] for index in range(len(value))])
        return super().iter(obj)

    def value(self, obj: fx.Proxy) -> Any:
        """What a proxy stands for on the example inputs: a meta tensor or a plain value."""
        node = obj.node  # the node of an attribute is made when it is asked for
        with _maybe_revert_all_patches():  # modules and math functions are themselves again, not recorders
            self._shapes.fill(self.graph)
        return node.meta["val"]

    def _check_random(self, path: str, kind: str) -> None:
        if _random_state() != self._random:
            raise TraceError(
                f"{place(path, kind)} draws random numbers that do not depend on its input, so that one "
                "draw would be frozen into the graph. Draw them from a tensor of the forward, such as "
                "torch.rand_like(x) or x.new_empty(n).bernoulli_(p)."
            )


def _registered(root: nn.Module) -> dict[str, Any]:
    """Whatever is registered as parameter or buffer, by name."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in root.named_modules()
        for name, value in (*module._parameters.items(), *module._buffers.items())
    }


@contextmanager
def _wrapped_functions_entered() -> Iterator[None]:
    """Functions that torchvision and timm mark with torch.fx.wrap are ordinary ones in here."""
    entered = {
        key: scope for key, scope in _wrapped_fns_to_patch.items() if scope.get("__name__", "").startswith(_ENTERED)
    }
    for key in entered:
        del _wrapped_fns_to_patch[key]
    try:
        yield
    finally:
        _wrapped_fns_to_patch.update(entered)
