"""The optimizers that a training loop steps: one, several, or those inside of wrappers.

A wrapper holds another optimizer and steps it: that of accelerate, or a Lookahead. Where it keeps state of its own, it
is an optimizer beside the one that it wraps, of a kind of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.optim import Optimizer

from nrfx.errors import TrainingError
from nrfx.optimizers.packages import kind_of

INNER = ("optimizer", "base_optimizer", "_base_optimizer", "_optimizer", "base")
"""The attributes under which wrappers hold what they wrap."""


def optimizers_of(value: Any) -> tuple[Optimizer, ...]:
    """The optimizers in a value, each once: an optimizer, a wrapper of one, or an iterable or mapping of these.

    Raises:
        TrainingError: there is none, or something else among them.

    >>> import torch
    >>> weight, bias = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    >>> both = [torch.optim.SGD([weight], lr=0.1), torch.optim.AdamW([bias])]
    >>> [type(each).__name__ for each in optimizers_of(both)]
    ['SGD', 'AdamW']
    """
    found = tuple({id(each): each for each in _found(value)}.values())
    if not found:
        raise TrainingError(_EXPECTED.format(value))
    return found


_EXPECTED = (
    "optimizer is {!r}; expected one of torch.optim over gm.parameters(), such as SGD, a wrapper that holds one, or a "
    "list of several."
)


def _found(value: Any) -> Iterator[Optimizer]:
    inner = inner_of(value)
    if inner is not None:
        yield from _found(inner)
        if _keeps_state(value, inner):
            yield value
    elif isinstance(value, Optimizer):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _found(each)
    else:
        raise TrainingError(_EXPECTED.format(value))


def inner_of(value: Any) -> Any:
    """What a wrapper wraps, None where the value is no wrapper."""
    for name in INNER:
        inner = getattr(value, name, None)
        if isinstance(inner, Optimizer) or (inner is not None and inner is not value and inner_of(inner) is not None):
            return inner
    return None


def _keeps_state(wrapper: Any, inner: Any) -> bool:
    """Whether the wrapper has a state of its own, which is in use or of a known kind."""
    state = getattr(wrapper, "state", None)
    if not isinstance(state, Mapping) or state is getattr(inner, "state", None):
        return False
    return bool(state) or (isinstance(wrapper, Optimizer) and kind_of(wrapper) is not None)
