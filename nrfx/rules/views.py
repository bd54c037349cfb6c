"""Views by sizes, which may state a width as a number or compute it: a rewrite states the sizes anew."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from nrfx.rules.effect import Before, Call, Effect, unknown
from nrfx.rules.movement import moved
from nrfx.rules.registry import gives_matrix, reads_as_weight, rule


@rule("view", "reshape", torch.reshape, flattens=True, workless=True)
def view(call: Call) -> Effect:
    """A view by sizes. A size that states a width as a number is written anew where the width changes."""
    sizes = call.args[1:] or (call.kwargs.get("shape", call.kwargs.get("size")),)
    if isinstance(sizes[0], torch.dtype):
        return unknown(call, "view(dtype) reinterprets the bits of its input")
    flat = len(call.args) > 1 and not isinstance(sizes[0], tuple | list)
    shape = list(sizes if flat else sizes[0])
    if call.before is None:
        return moved(call, partial(_shaped, shape), rearranges=True)
    if _of_weight(call.node):
        rows, *others = call.args[0].shape
        matrix = [rows, prod(others)]
        return replace(moved(call, partial(_shaped, matrix)), literals=_literals(call, shape, matrix, flat) or {})
    return _resized_view(call, call.before, shape, flat)


def _of_weight(node: fx.Node) -> bool:
    """Whether a weight [rows, columns, *kernel] is viewed as a matrix for an op that reads it so."""
    source = node.all_input_nodes[0]
    return gives_matrix(node) and source.op == "get_attr" and reads_as_weight(source, node)


def _resized_view(call: Call, before: Before, shape: list[int], flat: bool) -> Effect:
    """The view with those sizes under which each dim carries channels as it did, where there are some."""
    labels: Tensor = call.args[0]
    for sizes in _spellings(shape, before):
        known = -prod(sizes)
        fits = labels.numel() % known == 0 if -1 in sizes and known > 0 else labels.numel() == prod(sizes)
        if fits and before.alike(labels.reshape(sizes)):
            literals = _literals(call, shape, list(labels.reshape(sizes).shape), flat)
            if literals is None:
                continue
            return replace(moved(call, partial(_shaped, sizes)), literals=literals)
    return moved(call, partial(_shaped, shape))


def _shaped(sizes: list[int], x: Tensor, *_: Any, **__: Any) -> Tensor:
    """x.reshape(sizes), which reads the dims in front that it leaves and along which x repeats once."""
    kept = 0
    for size, own, stride in zip(sizes, x.shape, x.stride(), strict=False):
        if size != own or stride:
            break
        kept += 1
    if not kept or kept == len(sizes) or not x.numel():
        return x.reshape(sizes)
    try:
        one = x[(0,) * kept].reshape(sizes[kept:])
    except RuntimeError:
        return x.reshape(sizes)  # whose error names all sizes
    return one.expand(*x.shape[:kept], *one.shape)


def _spellings(shape: list[int], before: Before) -> Iterator[list[int]]:
    """The sizes as they are, then with each dim along which channels change left open."""
    yield shape
    closed = [before.out.shape[dim] if size == -1 else size for dim, size in enumerate(shape)]
    for dim, varies in enumerate(before.varies(before.out)):
        if varies:
            yield [*closed[:dim], -1, *closed[dim + 1 :]]


def _literals(call: Call, shape: list[int], sizes: list[int], flat: bool) -> dict[int | str, Any] | None:
    """The arguments to write anew: sizes that are others now. None where they cannot be written: all are taken from
    another value (y.shape) that does not change with them, or one is computed, perhaps from sizes of the input
    (batch * heads), and cannot be left open.
    """
    new = [given if given in (-1, size) else size for given, size in zip(shape, sizes, strict=True)]
    if new == shape:
        return {}
    node: Any = call.node
    named = "shape" if "shape" in call.kwargs else "size"
    stated = node.args[1:] if flat else node.args[1] if len(call.args) > 1 else node.kwargs[named]
    if isinstance(stated, fx.Node):
        return None
    items = [
        old if given == size else -1 if isinstance(old, fx.Node) else size
        for old, given, size in zip(stated, shape, new, strict=True)
    ]
    if items.count(-1) > 1:
        return None
    if flat:
        return {index + 1: item for index, item in enumerate(items) if shape[index] != new[index]}
    return {1 if len(call.args) > 1 else named: tuple(items) if isinstance(stated, tuple) else items}


@rule("view_as", "reshape_as", workless=True)
def view_as(call: Call) -> Effect:
    like: Tensor = call.args[1]
    return moved(call, lambda x, *_, **__: x.reshape(like.shape))
