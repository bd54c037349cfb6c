"""Whether the layers of a traced module still fit its graph.

A graph holds shapes that were inferred when it was traced. A layer that was deleted or exchanged for a wider one since
would make every count wrong, and some of them in silence.

Not checked: options of a layer that change positions, such as its stride.
"""

from typing import Any

from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.rules import Op, op_of
from nrfx.rules.effect import attribute_of
from nrfx.rules.registry import is_of_torch, widths_of
from nrfx.tracing.graph.module import TracedModule
from nrfx.tracing.graph.regions import under_autocast
from nrfx.tracing.graph.registered import registered
from nrfx.tracing.graph.walk import held

_AGAIN = "Trace the model again after a change of its layers."


def check_not_cut(module: nn.Module) -> None:
    """Raises TraceError where fully_shard or tensor parallelism has cut parameters over processes."""
    cut = next((name for name, each in held(module).parameters if hasattr(each, "device_mesh")), None)
    if cut is not None:
        raise TraceError(
            f"{cut} is cut over processes (a DTensor): trace and look at the network before fully_shard, compute "
            "budgets there, and give the traced module to fully_shard. nrfx.Rejuvenator takes it as it is then."
        )


def check_layers(traced: TracedModule) -> None:
    """Raises TraceError unless each layer and tensor that the graphs read is there and as wide as they say.

    The convolutions, linear layers, batch, instance and group norms of torch have a width that is checked.
    """
    modules = dict(traced.named_modules(remove_duplicate=False))
    checked: set[tuple[str, int, int]] = set()
    for graph in dict.fromkeys(traced.graphs.values()):
        for node in graph.nodes:
            if node.op == "call_module":
                _check_called(node, modules, checked)
            elif node.op == "get_attr":
                _check_read(traced, str(node.target))


def _check_called(node: fx.Node, modules: dict[str, nn.Module], checked: set[tuple[str, int, int]]) -> None:
    """checked: path, and the ids of the values, of the calls before; the nodes hold the values."""
    path = str(node.target)
    if path not in modules:
        raise TraceError(f"The graph calls {path}, and there is no such module any more. {_AGAIN}")
    sources = node.all_input_nodes
    source, result = sources[0].meta.get("val") if sources else None, node.meta.get("val")
    call = path, id(source), id(result)
    if isinstance(source, Tensor) and call not in checked:
        checked.add(call)
        _check_width(path, modules[path], source, result)


def _check_read(traced: TracedModule, name: str) -> None:
    try:
        registered(traced, name)
    except AttributeError as error:
        raise TraceError(f"The graph reads {name}, and there is no such tensor any more. {_AGAIN}") from error


def _check_width(path: str, module: Any, source: Tensor, result: Any) -> None:
    op = op_of(module)
    if op is None or not (op.norm or op.widths) or not is_of_torch(module.forward):
        return
    if op.norm and not hasattr(module, "normalized_shape"):
        _check_norm(path, module, source)
    elif op.widths is not None and not op.norm:
        _check_layer(path, module, source, result)


def _op_of_torch(module: nn.Module) -> Op | None:
    """The entry of a module that runs a forward of torch: other classes hold their parameters as they like."""
    return op_of(module) if is_of_torch(module.forward) else None


def _check_norm(path: str, module: Any, source: Tensor) -> None:
    width = source.shape[0 if _is_unbatched(module, source) else 1]
    tensors = [attribute_of(module, name) for name in ("weight", "bias", "running_mean", "running_var")]
    wrong = next((t.numel() for t in tensors if t is not None and t.numel() != width), None)
    if wrong is not None:
        kind = type(module).__name__
        raise TraceError(f"{path} ({kind}) normalises {wrong} channels, and the graph gives it {width}. {_AGAIN}")


def _is_unbatched(module: Any, source: Tensor) -> bool:
    """Whether an instance norm gets one example without a batch dim."""
    dims = getattr(module, "_get_no_batch_dim", None)
    return dims is not None and source.dim() == dims()


def _check_layer(path: str, module: Any, source: Tensor, result: Any) -> None:
    """The check of a layer that states how many channels it takes and gives."""
    kind, weight = type(module).__name__, attribute_of(module, "weight")
    if not _is_layer(module):
        return
    if not isinstance(weight, Tensor):
        raise TraceError(f"{path} ({kind}) has no weight any more. {_AGAIN}")
    stated = widths_of(module)
    widths = tuple(stated.get(f"{side}_channels", stated.get(f"{side}_features")) for side in ("in", "out"))
    axis = source.dim() - weight.dim() + 1  # of the channels
    wanted = source.shape[axis], result.shape[axis]
    if widths != wanted:
        raise TraceError(
            f"{path} ({kind}) takes {widths[0]} channels and gives {widths[1]}, and in the graph {wanted[0]} and "
            f"{wanted[1]}. {_AGAIN}"
        )


def _is_layer(module: Any) -> bool:
    """Whether the module states how many channels it takes and gives: a convolution or a linear layer."""
    return hasattr(module, "in_channels") or hasattr(module, "in_features")


def check_dtypes(traced: TracedModule) -> None:
    """Raises TraceError where a convolution or a linear layer reads another dtype than that of its weight, and no
    autocast region of the forward gives both the same."""
    modules = dict(traced.named_modules())
    for graph in dict.fromkeys(traced.graphs.values()):
        cast = under_autocast(graph)
        for node in graph.nodes:
            if node in cast:
                continue
            module: Any = modules.get(str(node.target)) if node.op == "call_module" else None
            op = None if module is None else op_of(module)
            if op is None or op.widths is None or op.norm or not node.all_input_nodes or _op_of_torch(module) is None:
                continue
            if "weight" in vars(module):  # a hook computes it anew (weight_norm), in the dtype of its parameters
                continue
            source = node.all_input_nodes[0].meta["val"]
            if isinstance(source, Tensor) and _is_layer(module) and module.weight.dtype != source.dtype:
                raise TraceError(
                    f"{node.target} ({type(module).__name__}) reads {_named(source.dtype)} and its weight is "
                    f"{_named(module.weight.dtype)}. Pass example_inputs of the model's dtype, or convert the whole "
                    "model."
                )


def _named(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
