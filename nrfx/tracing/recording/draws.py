"""The generators of random numbers that a forward may draw from without a traced tensor."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nrfx.errors import TraceError
from nrfx.tracing.graph.walk import Contents
from nrfx.tracing.values.causes import place


def _cuda_is_used() -> bool:
    return bool(torch.cuda.is_initialized())


def _random_state(held: Iterable[Any]) -> tuple[object, ...]:
    """The states of the generators that a forward may draw from without a traced tensor."""
    cuda = torch.cuda.get_rng_state().tolist() if _cuda_is_used() else None
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        cuda,
        [_state_of(one) for one in held],
    )


def _numpy_state() -> Any:
    """The state of numpy's global generator, None where numpy is not imported."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    kind, keys, *rest = numpy.random.get_state()
    return kind, keys.tobytes(), rest


def _held_generators(contents: Contents) -> list[Any]:
    """The generators of random numbers that a module or a submodule holds as attributes."""
    values = [value for _, _, value in contents.odd]
    return [v for v in values if isinstance(v, random.Random | torch.Generator) or hasattr(v, "bit_generator")]


def _state_of(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state().tolist()
    return repr(generator.bit_generator.state)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Sets the random generators of Python, numpy and torch back at the end. GPUs and numpy count where they are in use
    already."""
    devices = range(torch.cuda.device_count()) if _cuda_is_used() else ()
    state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpys = None if numpy is None else numpy.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(state)
            if numpy is not None:
                numpy.random.set_state(numpys)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """`random_state_kept`, in which draws of Python and torch begin at a seed.

    A GPU that is not in use yet is left out: torch would keep the seed for its first use, long behind the end of this.
    """
    with random_state_kept():
        random.seed(seed)
        device = torch.accelerator.current_accelerator()
        if device is None or (device.type == "cuda" and not _cuda_is_used()):
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield


class Draws:
    """The states of all generators when a forward begins."""

    def __init__(self, contents: Contents) -> None:
        self._held = _held_generators(contents)
        self._numpy = _numpy_state()
        self._state = _random_state(self._held)

    def check(self, path: str, kind: str) -> None:
        """Raises a TraceError, which names the module at the path, if there was a draw; numpy is not asked."""
        if _random_state(self._held) != self._state:
            raise self._refused(path, kind)

    def check_all(self, path: str, kind: str) -> None:
        """The same, with the generator of numpy, whose state takes 0.25 ms to ask for."""
        self.check(path, kind)
        if _numpy_state() != self._numpy:
            raise self._refused(path, kind)

    @staticmethod
    def _refused(path: str, kind: str) -> TraceError:
        return TraceError(
            f"{place(path, kind)} draws random numbers that do not depend on its input, so that one "
            "draw would be frozen into the graph. Draw them from a tensor of the forward, such as "
            "torch.rand_like(x) or x.new_empty(n).bernoulli_(p)."
        )
