"""What a network is, apart from the values of its tensors, and whether it still is the same.

The meter asks this in each reading, of thousands of objects. So they are compared by identity, many in one pass, and
as little as possible is allocated. The mode, train or eval, is no part of it, for channels and costs are those of both,
and neither is what is frozen: it may die all the same.

Not noticed: what changes inside an object that a module holds (an element of a list), changes of a class, and data of
another shape with as many elements in the same parameter.
"""

from collections.abc import Iterator
from itertools import chain, repeat
from operator import attrgetter, is_, itemgetter
from typing import Any

from torch import Tensor, nn

from nrfx.rules.registry import REGISTERED
from nrfx.tracing import TracedModule

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_REGISTERED = ("_modules", "_parameters", "_buffers")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Structure:
    """The graphs, modules, parameters and attributes of a network as they are now, and the rules of ops."""

    def __init__(self, traced: TracedModule) -> None:
        self.traced, self.graphs = traced, traced.graphs
        self.nodes = {graph: list(graph.nodes) for graph in self.graphs.values()}
        own = [vars(module) for module in traced.modules()]
        registered = [each[kind] for each in own for kind in _REGISTERED]
        self.sized = [REGISTERED, *own[1:]]
        hooks = [each[kind] for each in own for kind in _HOOKS]
        self.hooks = [each for each in hooks if each]
        self.held: list[dict[str, Any]] = [each for each in registered if each]
        self.empty = [each for each in (*registered, *hooks) if not each]
        # of the traced module itself: its graph, seen node by node, changes with the mode
        named = [("facts",), *([name for name in each if name not in _OF_EVERY_MODULE] for each in own[1:])]
        self.attributes = [(itemgetter(*names), each) for names, each in zip(named, own, strict=True) if names]
        self.parameters = list(traced.parameters())
        self.objects, self.numbers = [list(each) for each in self._objects()], list(self._numbers())

    def holds(self) -> bool:
        """Whether nothing of it has changed since."""
        if self.traced.graphs != self.graphs or any(self.empty):
            return False
        try:
            numbers = all(map(list.__eq__, self._numbers(), self.numbers))
        except Exception:  # an attribute is gone, or it is compared by code of its own, which may raise anything
            return False
        return numbers and all(map(_identical, self._objects(), self.objects))

    def _numbers(self) -> Iterator[list[Any]]:
        """What must stay equal."""
        yield list(map(len, self.sized))
        yield list(chain.from_iterable(self.hooks))  # each has a number of its own
        yield list(chain.from_iterable(self.held))
        yield [get(own) for get, own in self.attributes]
        yield list(map(Tensor.numel, self.parameters))  # a shape would take twice as long

    def _objects(self) -> Iterator[Iterator[Any]]:
        """What must stay the same objects."""
        yield chain.from_iterable(map(dict.values, self.held))
        for graph, nodes in self.nodes.items():
            yield iter(graph.nodes)
            for part in ("target", "_args", "_kwargs"):  # fx makes new arguments for each change of one
                yield map(attrgetter(part), nodes)
            yield map(dict.get, map(attrgetter("meta"), nodes), repeat("val"))


def _identical(now: Iterator[Any], was: list[Any]) -> bool:
    """Whether both give the same objects, and as many."""
    return all(map(is_, chain(now, (_END,)), chain(was, (_END,))))


_END = object()
