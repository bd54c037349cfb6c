"""What a forward keeps for its next call in attributes that are not registered: a count, a tensor that it adds to.

A graph holds such a value as it was in the recorded call. That is right for what stays the same from the second call on
(a table that is made once), and for what a call writes before it reads. The forward is recorded again as its second and
its third call: where their graphs differ, one graph cannot stand for the calls.

Not seen: what the first call alone does besides making tables, and what changes after the third.
"""

from collections.abc import Mapping
from functools import cached_property
from operator import is_
from typing import Any

import torch
from torch import Tensor, fx, nn

from nrfx.errors import TraceError
from nrfx.tracing.graph.walk import Contents

_PLAIN = (bool, int, float, str, type(None))

_OF_FX = "_tensor_constant"
"""Attributes that hold the constants of a graph."""

State = Mapping[tuple[str, str], Any]
"""(path of a module, attribute) -> value."""


class Attributes:
    """The attributes of modules as they are now."""

    def __init__(self, contents: Contents) -> None:
        self._before = [(path, vars(module), dict(vars(module))) for path, module in contents.modules]
        self._tensors = {
            (path, name): (value, value._version)
            for path, name, value in contents.odd
            if isinstance(value, Tensor) and not value.is_inference()  # of these torch counts no versions
        }

    @cached_property
    def _touched(self) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        """(path, attributes now, attributes before) of the modules that hold other objects, or under other names."""
        found = []
        for path, now, before in self._before:
            same = len(now) == len(before) and all(map(is_, now, before))
            if not (same and all(map(is_, now.values(), before.values()))):
                found.append((path, now, before))
        return found

    def changed(self) -> State:
        """The plain values and tensors that stand in the places of others, when this or `replaced` is first asked."""
        found: dict[tuple[str, str], Any] = {}
        for path, attributes, before in self._touched:
            for name, now in attributes.items():
                was = before.get(name)
                if now is was or name == "training" or (name not in before and name.startswith(_OF_FX)):
                    continue  # modes are recorded each (modeless.py)
                if isinstance(now, Tensor) or (type(now) in _PLAIN and (type(now) is not type(was) or now != was)):
                    found[path, name] = now
        return found

    def written(self) -> State:
        """The tensors that were written into."""
        return {place: value for place, (value, version) in self._tensors.items() if value._version != version}

    def replaced(self) -> State:
        """The tensors in whose places traced values stand now, with other numbers."""
        return {
            (path, name): was + 1 if was.is_floating_point() else torch.zeros_like(was)
            for path, attributes, before in self._touched
            for name, now in attributes.items()
            if isinstance(now, fx.Proxy) and isinstance(was := before.get(name), Tensor)
        }


def put(root: nn.Module, state: State) -> None:
    """Sets the attributes of `root` and its modules to this state."""
    for (path, name), value in state.items():
        vars(root.get_submodule(path))[name] = value.detach().clone() if isinstance(value, Tensor) else value


def refused(name: str) -> TraceError:
    """The error for an attribute that each call changes."""
    return TraceError(
        f"The forward changes {name} in each call and computes with it, and a graph would hold the value of one call. "
        f"Make it a buffer, self.register_buffer({name.rpartition('.')[2]!r}, ...): the graph writes into buffers as "
        "the forward does."
    )
