"""einops on the values of a forward that is recorded: functions and layers become reshapes, permutes and reductions.

einops chooses a backend by the type of a tensor. For proxies it gets its own backend of torch, with sizes that stay
traced values, so that the graph takes other sizes. It is never imported from here.
"""

import functools
import operator
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

from nrfx.tracing.values.proxies import SizedAttribute, SizedProxy


@contextmanager
def einops_recorded() -> Iterator[None]:
    """While active, einops takes proxies. What it has remembered of them is forgotten at the end."""
    with ExitStack() as stack:
        if (backends := sys.modules.get("einops._backends")) is not None:
            _exchange(stack, backends)
        try:
            yield
        finally:
            _forget()


def _exchange(stack: ExitStack, backends: ModuleType) -> None:
    backend: Any = backends.TorchBackend()
    backend.shape = _sizes
    backends._type2backend.update(dict.fromkeys(_PROXIES, backend))
    einops: Any = sys.modules["einops.einops"]
    stack.enter_context(patch.object(einops, "_product", _product))
    if (torchs := sys.modules.get("einops.layers.torch")) is not None:  # their forward is written for TorchScript
        mixins: Any = sys.modules["einops.layers"]
        for layer, mixin in (("Rearrange", mixins.RearrangeMixin), ("Reduce", mixins.ReduceMixin)):
            stack.enter_context(patch.object(getattr(torchs, layer), "forward", mixin._apply_recipe))


_PROXIES = (SizedProxy, SizedAttribute)


class _Sizes(list[Any]):
    """Sizes one by one. A list is no key of a cache: einops computes with it anew each time."""

    def __repr__(self) -> str:  # for the errors of einops
        return f"[{', '.join(map(str, self))}]"


def _sizes(x: Any) -> _Sizes:
    shape = x.shape
    return _Sizes(shape[dim] for dim in range(len(shape)))


def _product(sizes: Sequence[Any]) -> Any:
    """As einops has it, without a first factor of 1, which would be a node of the graph."""
    return functools.reduce(operator.mul, sizes) if sizes else 1


def _forget() -> None:
    """A forward may have imported einops itself, which has then chosen a backend and kept shapes that hold proxies."""
    if (backends := sys.modules.get("einops._backends")) is None:
        return
    for kind in _PROXIES:
        backends._type2backend.pop(kind, None)
    einops: Any = sys.modules["einops.einops"]
    einops._reconstruct_from_shape.cache_clear()
