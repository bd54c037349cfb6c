"""From a model and example inputs to a traced module.

The model is traced on shells of itself: it is never run, never switched and never written to. Where its forward asks
for a mode, it is traced in each (modeless.py). Sizes stay symbolic in the graph; an `if` on sizes is decided by the
example inputs, and so is a number that Python wants plain (range, an index): the graph checks them (guards.py). Regions
without gradients and of autocast are regions of the graph (regions.py); a custom autograd function is one call, which
pins what it touches.

Not handled, and reported as a TraceError: control flow on the values of tensors, random numbers drawn outside the
graph, inference mode inside forward, quantized modules, and a model that is scripted as a whole. Models with such
places can be traced in parts (partition.py).
"""

import threading
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.garbage import unsearched
from nrfx.tracing.calls.boxes import Boxes
from nrfx.tracing.calls.leaves import Leaves
from nrfx.tracing.graph.arguments import arguments_of, specs_of
from nrfx.tracing.graph.copies import copied
from nrfx.tracing.graph.module import Facts, TracedModule, constants_at_trace, propagate
from nrfx.tracing.graph.original import remember
from nrfx.tracing.graph.shapes import InputSpec
from nrfx.tracing.graph.staleness import check_dtypes, check_layers, check_not_cut
from nrfx.tracing.graph.walk import Contents, unchanged
from nrfx.tracing.partial.partition import trace_parts
from nrfx.tracing.recording.both_modes import shell_of, trace_whole
from nrfx.tracing.recording.unsupported import refuse_unsupported
from nrfx.tracing.values.writers import read_results

_TRACING = threading.RLock()
"""Held while a model is traced: torch.fx exchanges methods of nn.Module meanwhile, for all threads."""


def trace(
    model: nn.Module,
    example_inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    partial: bool = False,
    leaves: Iterable[type[nn.Module] | nn.Module | str] = (),
) -> TracedModule:
    """The model as a graph that shares its parameters and buffers and behaves like it in both modes.

    The model is left as it was. Of the tensors that it is given, only shape and dtype matter; everything else (numbers,
    strings, None, defaults) is built into the graph, and a later call must repeat it. The result is called as the
    model is: by position or keyword, defaults left out. Hooks on modules with a forward of their own become part of
    the graph.

    Args:
        example_inputs: the positional arguments: a tuple holds them, anything else is the only one. Each is a tensor,
            or a nest of tensors and constants: a tuple, list, mapping or object of a dataclass.
        kwargs: the keyword arguments, nests as well.
        partial: for a model that cannot be traced whole (detection, control flow on values). The smallest submodules
            and functions that cannot be traced become single calls of the graph, which keep the widths that they touch.
            Where the model's own forward is what fails, or where that leaves more free, the largest submodules that can
            be traced are graphs, and the model's own code runs around them; values that pass between the two keep their
            width. For this copies of the model are run on the example inputs, which may be anything that its forward
            takes. Flops of parts are those of this run: give it one example.
        leaves: modules that are not looked into, as classes, modules or paths: each call of one is a node of its own.
            Without a rule for its class (`nrfx.rules.rule`), a leaf pins whatever it touches. Modules of torch.nn and
            classes with a rule are leaves already.

    Raises:
        TraceError: the model cannot be captured faithfully, or the inputs do not fit it; with partial=True, no part
            of it can.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> gm = trace(model, torch.zeros(1, 3, 9, 9))
    >>> [tuple(node.meta["val"].shape) for node in gm.graph.nodes][-1]
    (1, 8, 7, 7)
    """
    args, named = positional(example_inputs), dict(kwargs or {})
    # in parts, copies of the model are run on the example inputs
    alone = not partial and isinstance(model, nn.Module)
    with _TRACING, unchanged(model) if alone else nullcontext(), unsearched() if alone else nullcontext():
        refuse_unsupported(model)
        check_not_cut(model)
        wanted = Leaves.of(model, leaves)
        if isinstance(model, TracedModule):
            wanted = wanted.and_paths(model.facts.leaves)
        if partial:
            traced = trace_parts(model, args, named, wanted)
        else:
            try:
                traced = trace_whole(model, arguments_of(model.forward, args, named), wanted, Boxes.of(model))
            except TraceError as error:
                if isinstance(error.__cause__, fx.proxy.TraceError):  # the code asks for values
                    raise TraceError(f"{error} Or trace with partial=True: this code then stays code.") from error
                raise
    if not partial:
        check_dtypes(traced)
    remember(traced, model)
    return traced


def as_traced(
    gm: nn.Module,
    example_inputs: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    leaves: Iterable[str] = (),
) -> TracedModule:
    """`gm` as a traced module: itself if it is one, an fx.GraphModule by its graph, another module by
    tracing.

    A GraphModule of the user's own is neither touched nor traced again: its graph is copied and used in both
    modes, its tensors are shared. Without example inputs, shapes come from the "val" or "tensor_meta" of its
    placeholders. `kwargs`, `leaves`: as for `trace`, where it is traced.

    Raises:
        TraceError: no example inputs and no shapes, the module cannot be captured, or its layers changed since.
    """
    if isinstance(gm, TracedModule):
        check_not_cut(gm)
        check_layers(gm)
        return gm
    if not isinstance(gm, nn.Module):
        raise TraceError(f"Expected a module that nrfx.trace returned, or an nn.Module; got a {type(gm).__name__}.")
    if not isinstance(gm, fx.GraphModule):
        if example_inputs is None:
            raise TraceError(
                f"{type(gm).__name__} is not traced, and its input shapes are unknown: pass example_inputs=."
            )
        return trace(gm, example_inputs, kwargs, leaves=leaves)
    inputs = _placeholder_specs(gm) if example_inputs is None else specs_of(example_inputs)
    graph = copied(gm.graph)
    contents = nn.Module()
    for field in vars(contents):
        contents.__dict__[field] = vars(gm)[field]
    contents.__dict__.update({key: value for key, value in vars(gm).items() if isinstance(value, Tensor)})
    root = shell_of(contents)
    facts = Facts(inputs, constants_at_trace(Contents.of(root)), {"train": (), "eval": ()})
    traced = TracedModule(root, {"train": graph, "eval": graph}, facts, type(gm).__name__)
    propagate(traced)
    read_results(graph, dict(traced.named_modules(remove_duplicate=False)))
    traced.recompile()
    check_dtypes(traced)
    remember(traced, gm)
    return traced


def positional(example_inputs: Any) -> tuple[Any, ...]:
    """The positional arguments: a tuple holds them, anything else (a named tuple too) is the only one."""
    several = isinstance(example_inputs, tuple) and not hasattr(example_inputs, "_fields")
    return example_inputs if several else (example_inputs,)


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
