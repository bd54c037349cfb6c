"""The decisions that a forward takes on traced values while it is recorded: truths, lengths, plain numbers.

Each is taken by the example inputs and becomes a guard of the graph (guards.py). No guard stands where the value does
not matter: torch's parser of arguments asks each proxy for a number before it hands all of them over as they are, and
the sizes of parameters are the network's own.

Not seen: text made of sizes (f"{x.shape}"), which a forward may use as a key.
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, fx

from nrfx.tracing.graph.guards import assumed, reads, text_of
from nrfx.tracing.graph.shapes import question
from nrfx.tracing.values.bytecode import called_at
from nrfx.tracing.values.causes import user_frame


@dataclass(frozen=True)
class _Pending:
    """A number that was asked for and not yet used, or the error that there is none.

    Attributes:
        frame, at: the code that asked, and the instruction that it was at.
        source: the proxy that was asked.
        guard: the arguments of its guard, None where it is no number.
    """

    frame: types.FrameType
    at: int
    source: Any
    guard: tuple[Any, Any, str] | None
    error: Exception | None = None


class Decisions:
    """The decisions of one recording.

    Attributes:
        questions: what the forward has asked that may be answered otherwise in another run of the same graph, with the
            line of code.
        wanting: the globals of code that asked for a plain number, for which int, float, len, max and min of their own
            (plain.py) would keep it symbolic.
        error: the first error that says that the forward cannot be recorded, also where the forward has caught it.
    """

    def __init__(self, tracer: Any, exchanged: tuple[dict[str, Any], ...]) -> None:
        self._tracer = tracer
        self._exchanged = {id(scope) for scope in exchanged}
        self._pending: list[_Pending] = []
        self._checked: set[fx.Node] = set()
        self.questions: dict[str, str] = {}
        self.wanting: dict[int, dict[str, Any]] = {}
        self.error: Exception | None = None

    def refused(self, error: Exception) -> Exception:
        """The error, remembered: a forward that catches it goes another way than the model would."""
        self.error = self.error or error
        return error

    def truth(self, asked: Any, frame: types.FrameType) -> bool:
        """The truth of a value that follows from sizes. fx raises for a tensor: it has no values here."""
        value = self._tracer.value(asked)
        if isinstance(value, Tensor):
            try:
                return bool(fx.Tracer.to_bool(self._tracer, asked))
            except fx.proxy.TraceError as error:
                raise self.refused(error) from None
        self._want(frame, ("max", "min"))
        asking = [name for node in reads(asked.node) if (name := question(node)) is not None]
        for name in asking:
            self.ask(name)
        if not asking and not _is_of_parameters(asked.node):
            self._check(asked, bool(value), frame, "where the forward asks for a truth")
        return bool(value)

    def ask(self, name: str) -> None:
        """Notes a question that may be answered otherwise in another run."""
        frame = user_frame()
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}" if frame else "in torch"
        self.questions.setdefault(name, where)

    def is_settled(self, kinds: tuple[str, ...]) -> bool:
        """Whether the forward is in a region of one of these kinds."""
        return any(kind in kinds for kind in self._tracer.regions.kinds())

    def number(self, asked: Any, frame: types.FrameType, kind: str = "") -> int | float:
        """The number that a value is on the example inputs, which Python wants plain."""
        value = self._tracer.value(asked)
        if not isinstance(value, int | float):
            what = f"an integer or {'a float' if kind == 'float' else 'an index'}"
            error = TypeError(f"{asked.node.name} is traced, and cannot be interpreted as {what}")
            self._pending.append(_Pending(frame, frame.f_lasti, asked, None, error))
            raise error
        self._want(frame, (kind,))
        guard = (asked, value, self._text(frame, "where the forward wants a plain number"))
        self._pending.append(_Pending(frame, frame.f_lasti, asked, guard))
        return value

    def length(self, asked: Any, frame: types.FrameType) -> int:
        """The length of a value on the example inputs."""
        value = self._tracer.value(asked)
        if not hasattr(value, "__len__") or (isinstance(value, Tensor) and not value.dim()):
            raise TypeError(f"object of type '{type(value).__name__}' has no len()")
        if isinstance(value, Tensor):
            self._want(frame, ("len",))
        return self._length(asked, value, frame)

    def _length(self, asked: Any, value: Any, frame: types.FrameType) -> int:
        found = self._tracer.create_proxy("call_function", len, (asked,), {})
        self._check(found, len(value), frame, "where the forward goes by a length")
        return len(value)

    def items(self, asked: Any, frame: types.FrameType) -> Iterator[Any]:
        """The items of a tuple or tensor whose length follows from sizes."""
        value = self._tracer.value(asked)
        if isinstance(value, tuple | list) or (isinstance(value, Tensor) and value.dim()):
            return iter([asked[index] for index in range(self._length(asked, value, frame))])
        try:
            return fx.Tracer.iter(self._tracer, asked)
        except fx.proxy.TraceError as error:
            raise self.refused(error) from None

    def parsed(self, frame: types.FrameType, arguments: Any) -> None:
        """Forgets the numbers that torch's parser of arguments asked for in the call that it hands over now."""
        if not self._pending:
            return
        given = {id(leaf) for leaf in pytree.tree_leaves(arguments)}
        self._pending = [
            one
            for one in self._pending
            if not (one.frame is frame and one.at == frame.f_lasti and id(one.source) in given)
        ]

    def settle(self) -> None:
        """Records the guards of the numbers that were asked for since the last node."""
        pending, self._pending = self._pending, []
        for one in pending:
            if one.error is not None:
                self.refused(one.error)
            elif one.guard is not None and one.source.node not in self._checked:
                self._checked.add(one.source.node)
                self._tracer.create_proxy("call_function", assumed, one.guard, {})

    def _check(self, found: Any, expected: Any, frame: types.FrameType, what: str) -> None:
        self._tracer.create_proxy("call_function", assumed, (found, expected, self._text(frame, what)), {})

    def _text(self, frame: types.FrameType, what: str) -> str:
        return text_of(user_frame() or frame, what, self._tracer.inputs)

    def _want(self, frame: types.FrameType, names: tuple[str, ...]) -> None:
        """Notes the code that asks, if it calls a function of Python of such a name for it."""
        scope = frame.f_globals
        if id(scope) not in self._exchanged and called_at(frame.f_code, frame.f_lasti) in names:
            self.wanting[id(scope)] = scope


_OF_SIZES = {"shape", "ndim", "size", "dim", "numel", "nelement", "ndimension"}
_PLAIN = {"_operator", "builtins", "math"}


def _is_of_parameters(node: fx.Node) -> bool:
    """Whether a value follows from the sizes of parameters, buffers and constants alone."""
    return all(source.op == "get_attr" or _is_arithmetic(source) for source in reads(node))


def _is_arithmetic(node: fx.Node) -> bool:
    if isinstance(node.meta["val"], Tensor) or node.op not in ("call_function", "call_method"):
        return False
    if node.target is getattr:
        return node.args[1] in _OF_SIZES
    if isinstance(node.target, str):
        return node.target in _OF_SIZES
    return getattr(node.target, "__module__", "") in _PLAIN
