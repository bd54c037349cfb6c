"""A traced network run node by node, without its code: to write and compile the code takes as long as to run it.

Not for graphs with regions, for calls with other arguments than tensors, and for networks whose code is there already.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx

from nrfx.tracing import PartialModule, TracedModule
from nrfx.tracing.graph.codegen import TracedCode
from nrfx.tracing.graph.regions import is_border
from nrfx.tracing.graph.registered import registered


def has_no_code(module: TracedModule) -> bool:
    """Whether a call of the network would first write its code, and does nothing else than its graph says."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    fresh = "_code" not in vars(module) and "forward" not in vars(module)
    plain = type(module.graph._codegen) is TracedCode and not any(is_border(node) for node in module.graph.nodes)
    fx_made = type(module).__mro__[1] is TracedModule  # fully_shard and the like put a class in front of fx's
    return fresh and plain and fx_made and not hooks and not isinstance(module, PartialModule)


def run_nodes(module: TracedModule, inputs: Iterable[Tensor]) -> Any:
    """What the graph of the network's mode gives for these inputs. A value is dropped behind its last reader."""
    values: dict[fx.Node, Any] = {}
    readers = {node: len(node.users) for node in module.graph.nodes}
    left = iter(inputs)
    for node in module.graph.nodes:
        values[node] = next(left, *node.args) if node.op == "placeholder" else _value(module, node, values)
        for source in node.all_input_nodes:
            readers[source] -= 1
            if not readers[source]:
                del values[source]
        if node.op == "output":
            return values[node]
        if not readers[node]:
            del values[node]
    return None


def _value(module: TracedModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args = _given(node.args, values)
    kwargs = _given(node.kwargs, values) if node.kwargs else {}
    target: Any = node.target
    if node.op == "call_module":
        return module.get_submodule(target)(*args, **kwargs)
    if node.op == "call_function":
        return target(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return registered(module, target) if node.op == "get_attr" else args[0]


def _given(argument: Any, values: dict[fx.Node, Any]) -> Any:
    """The argument with values in the places of nodes. Lists are new ones, which an op may change, as in the code."""
    if isinstance(argument, fx.Node):
        return values[argument]
    if isinstance(argument, tuple):
        items = [_given(item, values) for item in argument]
        return type(argument)(*items) if hasattr(argument, "_fields") else tuple(items)
    if isinstance(argument, list):
        return [_given(item, values) for item in argument]
    if isinstance(argument, dict):
        return {key: _given(item, values) for key, item in argument.items()}
    if isinstance(argument, slice):
        return slice(*(_given(part, values) for part in (argument.start, argument.stop, argument.step)))
    return argument
