"""`torch.autograd.Variable` of a traced tensor: the tensor without its past, as torch itself has it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor, fx
from torch.autograd import Variable


@contextmanager
def variables_recorded() -> Iterator[None]:
    """While active, `Variable(x)` of a traced tensor is recorded as `x.detach()`."""
    with patch.object(Variable, "__new__", _made):
        yield


_NEW: Any = Variable.__new__


def _made(cls: type[Variable], data: Any = None, requires_grad: bool = False, *more: Any, **options: Any) -> Any:
    if more or options or not isinstance(data, fx.Proxy) or not isinstance(_value(data), Tensor):
        return _NEW(cls, data, requires_grad, *more, **options)
    detached = data.detach()
    return detached.requires_grad_() if requires_grad else detached


def _value(proxy: fx.Proxy) -> Any:
    tracer: Any = proxy.tracer
    return tracer.value(proxy)
