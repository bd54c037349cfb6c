"""Functions under `torch.jit.script`, `torch.jit.trace` or `torch.compile`: their Python is what is recorded."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.fx import _symbolic_trace

from nrfx.errors import TraceError


@contextmanager
def compiled_entered() -> Iterator[None]:
    """While active, a call of such a function on traced values runs its Python."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.jit.ScriptFunction, "__call__", _called))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch._dynamo.config.patch(error_on_nested_fx_trace=False))
        yield


_CALL: Any = torch.jit.ScriptFunction.__call__


def _called(self: Any, *args: Any, **kwargs: Any) -> Any:
    if _symbolic_trace._find_proxy(args, kwargs) is None:
        return _CALL(self, *args, **kwargs)
    if not hasattr(self, "_torchdynamo_inline"):
        raise TraceError(
            f"The forward calls {self.qualified_name}, a TorchScript function that was loaded from a file: a graph has "
            "no code for it. Call the Python function that it was made of."
        )
    return self._torchdynamo_inline(*args, **kwargs)
