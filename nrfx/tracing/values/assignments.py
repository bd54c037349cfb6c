"""Buffers in whose places a forward puts new tensors (`self.count = self.count + 1`): the graph writes into them."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.tracing.graph.walk import named_modules
from nrfx.tracing.values.proxies import writes


def registered(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, Any]:
    """Whatever these modules register as parameter or buffer, by name."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in modules
        for name, value in (*module._parameters.items(), *module._buffers.items())
    }


def record_assignments(recorder: Any, root: nn.Module, before: Mapping[str, Any], names: Mapping[int, str]) -> None:
    """Records that each buffer whose place the forward gave to a new tensor gets the values of this.

    It does so at the end of the forward, for until then whoever has the old tensor computes with its old values. The
    new one is copied first: it may lie in the memory of a buffer that is written before. It keeps no gradient, for the
    backward pass of the next step could not go back through this one.

    Args:
        before: what was registered when the forward began. names: the id of a tensor -> its first name.

    Raises:
        TraceError: a parameter was replaced, or a buffer by something else than a tensor of its shape and dtype.
    """
    now_registered = registered(named_modules(root))
    others = {name: now for name, now in now_registered.items() if now is not before.get(name)}  # nearly always none
    assigned = {name: now for name, now in others.items() if not _is_kept(before.get(name), now, names)}
    for name, now in assigned.items():
        _check(name, before.get(name), recorder.value(now) if isinstance(now, fx.Proxy) else now)
    # a copy of what is no proxy: the tensor itself is registered now, and would be taken for what was there
    made = {name: now.detach().clone() if isinstance(now, Tensor) else now for name, now in assigned.items()}
    values = {name: recorder.create_proxy("call_method", "detach", (now,), {}) for name, now in made.items()}
    values = {name: recorder.create_proxy("call_method", "clone", (value,), {}) for name, value in values.items()}
    for name, value in values.items():
        buffer = recorder.create_proxy("get_attr", names[id(before[name])], (), {})
        recorder.create_proxy("call_method", "copy_", (buffer, value), {})


def _is_kept(before: Any, now: Any, names: Mapping[int, str]) -> bool:
    """Whether what is registered is the tensor that was there, which may have been written into."""
    source = now.node if isinstance(now, fx.Proxy) else now
    while isinstance(source, fx.Node) and writes(source):  # buffer += 1 assigns the result of a change in place
        source = source.args[0]
    return source.target == names.get(id(before)) if isinstance(source, fx.Node) else source is before


def _check(name: str, before: Any, value: Any) -> None:
    buffer = isinstance(before, Tensor) and not isinstance(before, nn.Parameter)
    if buffer and isinstance(value, Tensor) and (value.shape, value.dtype) == (before.shape, before.dtype):
        return
    found = f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    expected = f"{list(before.shape)} {before.dtype}" if buffer else "no new tensor, for it is no buffer"
    raise TraceError(
        f"The forward assigns a new value to {name}: it is {found}, and a graph can record {expected}. Write into the "
        f"tensor instead, self.{name.rpartition('.')[2]}.copy_(value), or keep it outside the model."
    )
