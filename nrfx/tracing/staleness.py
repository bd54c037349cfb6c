"""Whether the layers of a traced module still fit its graph.

A graph holds shapes that were inferred when it was traced. A layer that was deleted or exchanged for a wider one since
would make every count wrong, and some of them in silence.

Not checked: options of a layer that change positions, such as its stride.
"""

from typing import Any

from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.tracing.module import TracedModule

_LAYERS: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS: Any = nn.modules.batchnorm._BatchNorm
_AGAIN = "Trace the model again after a change of its layers."


def check_layers(traced: TracedModule) -> None:
    """Raises TraceError unless each layer and tensor that the graphs read is there and as wide as they say.

    Only convolutions, linear layers and batch norms have a width that is checked, and the dtype of those with weights.
    """
    modules = dict(traced.named_modules())
    for graph in dict.fromkeys(traced.graphs.values()):
        for node in graph.nodes:
            if node.op == "call_module":
                _check_called(node, modules)
            elif node.op == "get_attr":
                _check_read(traced, str(node.target))


def _check_called(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    path = str(node.target)
    if path not in modules:
        raise TraceError(f"The graph calls {path}, and there is no such module any more. {_AGAIN}")
    source = node.all_input_nodes[0].meta.get("val") if node.all_input_nodes else None
    if isinstance(source, Tensor):
        _check_width(path, modules[path], source, node.meta.get("val"))


def _check_read(traced: TracedModule, name: str) -> None:
    owner, _, attribute = name.rpartition(".")
    try:
        getattr(traced.get_submodule(owner), attribute)
    except AttributeError as error:
        raise TraceError(f"The graph reads {name}, and there is no such tensor any more. {_AGAIN}") from error


def _check_width(path: str, module: Any, source: Tensor, result: Any) -> None:
    kind = type(module).__name__
    if isinstance(module, _NORMS):
        tensors = [t for t in (module.weight, module.bias, module.running_mean, module.running_var) if t is not None]
        wrong = next((t.numel() for t in tensors if t.numel() != source.shape[1]), None)
        if wrong is not None:
            raise TraceError(
                f"{path} ({kind}) normalises {wrong} channels, and the graph gives it {source.shape[1]}. {_AGAIN}"
            )
    elif isinstance(module, _LAYERS):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            raise TraceError(f"{path} ({kind}) has no weight any more. {_AGAIN}")
        axis = source.dim() - weight.dim() + 1  # of the channels
        widths = weight.shape[1] * getattr(module, "groups", 1), weight.shape[0]
        wanted = source.shape[axis], result.shape[axis]
        if widths != wanted:
            raise TraceError(
                f"{path} ({kind}) takes {widths[0]} channels and gives {widths[1]}, and in the graph {wanted[0]} and "
                f"{wanted[1]}. {_AGAIN}"
            )


def check_dtypes(traced: TracedModule) -> None:
    """Raises TraceError where a convolution or a linear layer reads another dtype than that of its weight."""
    modules = dict(traced.named_modules())
    for graph in dict.fromkeys(traced.graphs.values()):
        for node in graph.nodes:
            module: Any = modules.get(str(node.target)) if node.op == "call_module" else None
            source = node.all_input_nodes[0].meta["val"] if module is not None and node.all_input_nodes else None
            if isinstance(module, _LAYERS) and isinstance(source, Tensor):
                weight: Any = module.weight
                if weight.dtype != source.dtype:
                    raise TraceError(
                        f"{node.target} ({type(module).__name__}) reads {_named(source.dtype)} and its weight is "
                        f"{_named(weight.dtype)}. Pass example_inputs of the model's dtype, or convert the whole model."
                    )


def _named(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
