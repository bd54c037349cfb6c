"""The regions that a forward has open while it is recorded, and the modes of torch that it runs in.

A change of these modes that is no region is not recorded, and refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from nrfx.errors import TraceError
from nrfx.tracing.graph.regions import begin, end
from nrfx.tracing.graph.shapes import describe

# the functions themselves: while a forward is recorded, others stand in their places (questions.py)
_is_grad_enabled = torch.is_grad_enabled
_is_inference_mode_enabled = torch.is_inference_mode_enabled
_is_autocast_enabled = torch.is_autocast_enabled


def _ambient() -> tuple[object, ...]:
    """The modes of torch that a `with` block in a forward may change, which fx does not record."""
    return (
        _is_grad_enabled(),
        _is_inference_mode_enabled(),
        _is_autocast_enabled("cpu"),
        _is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cpu"),
        torch.get_autocast_dtype("cuda"),
    )


class OpenRegions:
    """Begins and ends regions in the graph that `tracer` records, and in torch. Made where the forward begins."""

    def __init__(self, tracer: fx.Tracer) -> None:
        self._tracer = tracer
        self._ambient = _ambient()
        self._open: list[tuple[fx.Proxy, tuple[object, ...]]] = []  # with the modes around each

    def check(self, what: fx.Node | str) -> None:
        """Raises a TraceError, which names the node or text, if the modes are no longer those of the open regions."""
        if _ambient() != self._ambient:
            running = describe(what) if isinstance(what, fx.Node) else what
            raise TraceError(
                f"{running} runs after a change of gradient mode or autocast that is no `with` block and no decorator, "
                "or in a custom autograd.Function, which a graph does not record. Write `with torch.no_grad():` or "
                "`with torch.autocast(...):`, or use detach()."
            )

    def kinds(self) -> list[Any]:
        """The kinds of the open regions, outermost first."""
        return [region.node.args[0] for region, _ in self._open]

    def open(self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], enter: Callable[[], object]) -> None:
        """Begins a region of that kind in the graph, and here."""
        self.check(f"A region of torch.{kind}")
        around = self._ambient
        enter()
        self._ambient = _ambient()
        region = self._tracer.create_proxy("call_function", begin, (kind, *args), kwargs, name=kind)
        self._open.append((region, around))

    def close(self, leave: Callable[[], Any]) -> Any:
        """Ends the innermost region in the graph, and here."""
        result = leave()
        region, self._ambient = self._open.pop()
        self._tracer.create_proxy("call_function", end, (region,), {})
        return result

    @contextmanager
    def modes_kept(self) -> Iterator[None]:
        """The gradient mode of the forward, in code for which an autograd function has switched gradients off."""
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(bool(self._ambient[0]))  # a `with` block would be recorded
        try:
            yield
        finally:
            torch._C._set_grad_enabled(before)
