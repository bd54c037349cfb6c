"""Records one forward of a model as a graph, on proxies that know the shapes of their values.

Not recorded, and reported as a TraceError: control flow on the values of tensors, changes of torch's modes other than
by the regions of regions.py, random numbers that do not depend on the input. What a forward decides by sizes becomes a
check of the graph (decisions.py).
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace
from torch.fx._symbolic_trace import _create_wrapped_func, _maybe_revert_all_patches

from nrfx.errors import TraceError
from nrfx.nests import Maker, is_made, state
from nrfx.rules import OPS, op_of
from nrfx.rules.registry import in_order, is_of_torch
from nrfx.tracing.calls.boxes import Marks, held, unpacked
from nrfx.tracing.calls.known_forward import is_leaf
from nrfx.tracing.calls.leaves import Leaves, ruled_functions_recorded, wrapped_functions_entered
from nrfx.tracing.graph.arguments import Arguments
from nrfx.tracing.graph.copies import SET_ARGS, SET_KWARGS
from nrfx.tracing.graph.guards import without_doubles
from nrfx.tracing.graph.regions import exchanges
from nrfx.tracing.graph.registered import HOST
from nrfx.tracing.graph.shapes import BOTH, Shapes, describe
from nrfx.tracing.graph.walk import Contents
from nrfx.tracing.recording.compiled import compiled_entered
from nrfx.tracing.recording.draws import Draws
from nrfx.tracing.recording.einops_backend import einops_recorded
from nrfx.tracing.recording.kept import Attributes, State
from nrfx.tracing.recording.modeless import Flag
from nrfx.tracing.recording.open_regions import OpenRegions
from nrfx.tracing.recording.replay import Replay, Runs
from nrfx.tracing.recording.signatures import check_call
from nrfx.tracing.recording.variables import variables_recorded
from nrfx.tracing.values.assignments import record_assignments, registered
from nrfx.tracing.values.causes import explained, place, user_line
from nrfx.tracing.values.decisions import Decisions
from nrfx.tracing.values.plain import stand_ins
from nrfx.tracing.values.proxies import SizedAttribute, SizedProxy, is_number_of_numpy, writes
from nrfx.tracing.values.questions import Questions

_RECORDED = (
    wrapped_functions_entered,
    ruled_functions_recorded,
    einops_recorded,
    compiled_entered,
    variables_recorded,
)
"""While these are active, calls that fx does not see are recorded."""

LIMITS_OF_DTYPES: tuple[Any, ...] = (torch.finfo, torch.iinfo)
"""Classes that a forward calls with the dtype of a tensor, which is a value of the graph: the call is recorded."""

_PLAIN = frozenset({int, float, bool, str, type(None)})

LOOKED_INTO = Leaves()
"""No module is asked for as a leaf."""


class Recorder(fx.Tracer):
    """Records one forward. Knows shapes while it records, so that an `if` on sizes can be decided."""

    def __init__(
        self,
        arguments: Arguments,
        training: bool,
        leaves: Leaves = LOOKED_INTO,
        scopes: tuple[dict[str, Any], ...] = (),
        otherwise: str = "",
        marks: Marks | None = None,
        watched: bool = False,
    ) -> None:
        """Takes the globals of the code in which int(n) stays symbolic, a question to which the answer is another
        (questions.py), what tells of boxes, and whether each module is asked for draws, not the whole forward alone."""
        # torch.arange(x.shape[0]) gets no tensor and would run at once; wrapped, it records a node if it gets a proxy.
        # fx looks for such functions in the globals of each forward; those of torch are wrapped in `_enter`.
        makers: list[Any] = [*(key for key, op in OPS.items() if op.makes and callable(key)), *LIMITS_OF_DTYPES]
        named = {maker.__name__: maker for maker in makers}
        self._of_torch: dict[str, Any] = {
            name: maker for name, maker in named.items() if vars(torch).get(name) is maker
        }
        super().__init__(autowrap_functions=tuple(makers))
        self._arguments = arguments
        self._training = training
        self._leaves = leaves
        self._made: dict[int, fx.Node | None] = {}
        self._marks = marks
        self._watched = watched
        self._scopes = scopes
        self._otherwise = otherwise
        self.inputs = arguments.inputs
        self.unmoved: tuple[str, ...] = ()
        self.asks_mode = False
        self.has_drawn = False  # whether all that stands against the graph is that the forward drew random numbers
        self.runs: Runs | None = None  # where it is noted what each submodule does
        self.replay: Replay | None = None  # where submodules do what they have done in another recording
        self.decisions = Decisions(self, scopes)
        self._questions = Questions(self.decisions, otherwise)
        self.kept: State = {}  # what the forward leaves for its next call
        self.written: State = {}
        self.replaced: State = {}  # other numbers for the tensors in whose places it leaves traced values
        self.module_stack: Any = {}  # a plain dictionary, for each node gets a copy
        self._failed: tuple[Exception, str, str] | None = None

    def trace(self, root: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:  # type: ignore[override]
        self.contents = contents = Contents.of(root)
        # reversed, so that of several names of one tensor the first is written last and stays
        tensors = (*reversed(contents.parameters), *reversed(contents.buffers))
        self._names = {id(tensor): name for name, tensor in tensors}
        self._registered = registered(contents.modules)
        attributes = Attributes(contents)
        if self._marks is not None:
            root.__dict__.setdefault(HOST, root)
        self._shapes = Shapes(contents, self._arguments.inputs, self._training, self._otherwise)
        self.regions = OpenRegions(self)
        self._draws = Draws(contents)
        try:
            with ExitStack() as stack:
                for entered in _RECORDED:
                    stack.enter_context(entered())
                graph = super().trace(root, concrete_args)
        except Exception as error:  # whatever the model's forward raises on traced values
            raise self._explained(root, self.decisions.error or error) from error
        if self.decisions.error is not None:  # the forward has caught it
            raise self._explained(root, self.decisions.error)
        try:
            self._draws.check_all("", type(root).__name__)
        except TraceError:
            self.has_drawn = True
            raise
        self.kept, self.written, self.replaced = attributes.changed(), attributes.written(), attributes.replaced()
        without_doubles(graph)
        for node in graph.nodes:
            if node.op == "call_function" and (op_of(node.target) is not None or node.target in LIMITS_OF_DTYPES):
                node.meta.pop("is_wrapped", None)  # generated code would register torch.arange as a global of its own
            if node.kwargs:
                called = type(root.get_submodule(node.target)) if node.op == "call_module" else node.target
                node.args, node.kwargs = in_order(called, node.args, node.kwargs)
        return graph

    def _explained(self, root: nn.Module, error: Exception) -> TraceError:
        if isinstance(error, TraceError):
            return error
        known = self._failed is not None and self._failed[0] is error
        path, kind = self._failed[1:] if self._failed is not None and known else ("", type(root).__name__)
        return explained(path, kind, error)

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
            result = root_fn(root, *given, **named)
            record_assignments(self, root, self._registered, self._names)
            return result

        return forward, [self.root, *proxies]

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if isinstance(m, nn.DataParallel):  # a graph runs on one device
            return m.module(*args, **kwargs)
        if self._is_made_here(m):
            self._enter(m)
            return forward(*args, **kwargs)
        path = (self.submodule_paths or {}).get(m)
        leaf = self.is_leaf_module(m, path or "")
        if leaf:
            check_call(m, args, kwargs)
        else:
            if self.replay is not None and not kwargs and path is not None:
                gave = self.replay.repeated(path, self, args)
                if gave is not None:
                    return SizedProxy(gave, self)
            self._enter(m)
        begun = None if leaf or kwargs or self.runs is None else self.runs.begin(self.graph, m)
        try:
            result = self._called(m, forward, args, kwargs, leaf)
        except Exception as error:  # whatever a forward raises
            # as it is, for the forward may catch what the model itself would get; of a module that is not registered
            # the place to name is its caller
            if path is not None and (self._failed is None or self._failed[0] is not error):
                self._failed = (error, path, type(m).__name__)
            raise
        if begun is not None and self.runs is not None:
            self.runs.end(begun, self.module_stack, args, result)
        if self._watched and not leaf and not is_of_torch(m.forward):  # a Sequential only calls others
            self._draws.check(self.path_of_module(m), type(m).__name__)
        return result

    def _called(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any, leaf: bool) -> Any:
        """The result of a module: of its node, or of its forward. Nodes know the modules that they are recorded in."""
        path = self.path_of_module(m)
        times = self.num_calls.get(path, 0)
        self.num_calls[path] = times + 1
        if self.runs is not None:
            self.runs.call(path, enters=not leaf)
        key = f"{path}@{times}" if times else path
        self.module_stack[key] = path, type(m)
        try:
            return self.create_proxy("call_module", path, args, kwargs) if leaf else forward(*args, **kwargs)
        finally:
            del self.module_stack[key]

    def _is_made_here(self, module: nn.Module) -> bool:
        """Whether the forward has made the module itself, of nothing or of tensors and modules of the model."""
        made = module not in (self.submodule_paths or {module: ""})
        return made and all(id(tensor) in self._names for tensor in (*module.parameters(), *module.buffers()))

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """A node with its modules and its line of code.

        Raises:
            TraceError: the op would mean something else in the graph.
        """
        self.decisions.settle()
        # fx looks through the arguments that it is given for numbers of torch's own symbols, which takes as long again
        node = self.graph.create_node(kind, target, None, None, name, type_expr)
        if args:
            SET_ARGS(node, args)
        if kwargs:
            SET_KWARGS(node, kwargs)
        if self.module_stack:
            node.meta["nn_module_stack"] = dict(self.module_stack)
        if (line := user_line()) is not None:
            node.meta["stack_trace"] = line
        self.regions.check(node)
        if writes(node) and (constant := self._constant_under(node)) is not None:
            raise TraceError(
                f"{describe(node)} writes into {constant.target}, a tensor that the forward makes and that is a "
                "constant of the graph: the change would last from call to call. Make it from a traced tensor, such as "
                "x.new_zeros(n)."
            )
        if self._marks is not None and node.op != "placeholder":  # the first value asks for all inputs
            self._mark(node)
        if self.replay is not None:
            self.replay.follow(node)
        return node

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> Any:
        """A proxy for a new node; for the call of a box that gives several values, a nest of proxies."""
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs), name, type_expr)
        proxy = SizedProxy(node, self) if proxy_factory_fn is None else proxy_factory_fn(node)
        return unpacked(self.value(proxy), proxy) if "opaque" in node.meta else proxy

    def _mark(self, node: fx.Node) -> None:
        """Says of a box what is known of it. Every value is found at once: an error then comes from its own place."""
        assert self._marks is not None
        is_box = self._marks.mark(node)
        if node.op == "call_module" or (node.op == "call_function" and not is_of_torch(node.target)):
            value = self.value_of(node)
        else:  # runs no module, so that nothing need be as it is without a trace; an exchange takes a millisecond
            self._shapes.fill(self.graph)
            value = node.meta["val"]
        if is_box and not held(value):
            raise TraceError(f"{describe(node)} gives a {type(value).__name__}, which a graph cannot hold.")

    def plain(self, value: Any) -> Any:
        """The value, or what it stands for on the example inputs if it is traced."""
        return self.value(value) if isinstance(value, fx.Proxy) else value

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
            for owner, method, instead in list(exchanges(self)):
                patcher.patch_method(owner, method, instead)
            for name, function in self._of_torch.items():
                patcher.patch(vars(torch), name, _create_wrapped_func(function))
            for scope in self._scopes:
                for name, stand_in in stand_ins(scope).items():
                    patcher.patch(scope, name, stand_in)
        self._questions.enter(patcher, module)

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
        kind = type(a)
        if kind is SizedProxy or kind is SizedAttribute:
            return a.node
        if kind in _PLAIN:
            return a
        if kind is tuple:
            return tuple([self.create_arg(item) for item in a])
        if kind is dict and not a:
            return a
        return self._other_arg(a)

    def _other_arg(self, a: Any) -> Any:
        """The argument, where it is no proxy, plain value or tuple."""
        if type(a) is Flag:
            return BOTH
        if is_number_of_numpy(a):  # the code of the graph has no name for numpy
            return a.item()
        if self._marks is not None and (a is self.root or a is vars(self.root)[HOST]):
            return self.create_node("get_attr", HOST, (), {})  # a method takes the model as `self`
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

    def value(self, obj: fx.Proxy) -> Any:
        """What a proxy stands for on the example inputs: a meta tensor or a plain value."""
        return self.value_of(obj.node)  # the node of an attribute is made when it is asked for

    def value_of(self, node: fx.Node) -> Any:
        """The value of a node on the example inputs."""
        if "val" in node.meta:
            return node.meta["val"]
        self._shapes.fill(self.graph, _maybe_revert_all_patches)  # modules and math functions are themselves again
        return node.meta["val"]
