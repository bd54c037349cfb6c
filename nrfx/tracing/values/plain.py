"""int, float, len, max, min and type as the code of a forward sees them while it is recorded.

A number that follows from sizes stays a value of the graph, and the type of a traced value is that of the value it
stands for. The functions here stand in the globals of a file, as torch.fx puts its own there, and give what Python's
give for all other values. int, float and type are classes: they are exchanged only where the file's code calls them,
compares them with `==` or gives them to isinstance. `kind is int` would be answered wrongly, so a file that has other
uses keeps Python's own.
"""

import ast
import builtins
import functools
import linecache
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx


def _value(argument: Any) -> Any:
    """What a traced value stands for; any other value itself."""
    if not isinstance(argument, fx.Proxy):
        return argument
    tracer: Any = argument.tracer
    return tracer.value(argument)


class _StandIn(type):
    """The class of a class that stands for one of Python's: equal to it, with the same instances and subclasses."""

    plain: type

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(_value(instance), cls.plain)

    def __subclasscheck__(cls, subclass: Any) -> bool:
        return issubclass(subclass, cls.plain)

    def __eq__(cls, other: Any) -> bool:
        return other is cls.plain or other is cls

    def __hash__(cls) -> int:
        return hash(cls.plain)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        one = args[0] if len(args) == 1 and not kwargs and isinstance(args[0], fx.Proxy) else None
        if one is not None and isinstance(_value(one), builtins.int | builtins.float):
            return one.tracer.create_proxy("call_function", cls.plain, (one,), {})
        return cls.plain(*args, **kwargs)


class _Int(metaclass=_StandIn):
    plain = int


class _Float(metaclass=_StandIn):
    plain = float


class _TypeStandIn(_StandIn):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs:
            return builtins.type(_value(args[0]))
        return builtins.type(*args, **kwargs)


class _Type(metaclass=_TypeStandIn):
    plain = type


def _len(value: Any, /) -> Any:
    if isinstance(value, fx.Proxy) and isinstance(_value(value), Tensor | tuple | list):
        return value.tracer.create_proxy("call_function", len, (value,), {})
    return len(value)


def _extremum(function: Any) -> Any:
    """max or min, of numbers of which one is traced a call of the graph."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1:
            args = (tuple(args[0]),)
        items = args[0] if len(args) == 1 else args
        traced = next((item for item in items if isinstance(item, fx.Proxy)), None)
        if traced is None or kwargs or not all(isinstance(_value(item), int | float) for item in items):
            return function(*args, **kwargs)
        return traced.tracer.create_proxy("call_function", function, args, {})

    return call


_FUNCTIONS: Mapping[str, Any] = {"len": _len, "max": _extremum(max), "min": _extremum(min)}
_CLASSES: Mapping[str, Any] = {"int": _Int, "float": _Float}


def stand_ins(scope: Mapping[str, Any]) -> dict[str, Any]:
    """What may stand in the globals `scope` of a file for Python's own functions and classes, by name."""
    file = str(scope.get("__file__", ""))
    exchanged = {**_FUNCTIONS, **{name: kind for name, kind in _CLASSES.items() if _is_only_called(file, name)}}
    return {name: value for name, value in exchanged.items() if name not in scope}


def type_stand_in(scope: Mapping[str, Any]) -> dict[str, Any]:
    """The same for `type`."""
    if "type" in scope or not _is_only_called(str(scope.get("__file__", "")), "type"):
        return {}
    return {"type": _Type}


@functools.cache
def _is_only_called(file: str, name: str) -> bool:
    """Whether the code of a file calls the class `name`, and does nothing with it but what a stand-in does as well."""
    lines = linecache.getlines(file)
    mentions = re.compile(rf"(?<![\w.]){name}\b").search
    calls = re.compile(rf"(?<![\w.])({name}\(|map\({name}\b)").search
    if not any(map(calls, lines)):  # parsing takes longer
        return False
    blocks = [block for block in _blocks(lines) if any(map(mentions, block))]
    try:
        trees = [ast.parse("".join(block)) for block in blocks]
    except SyntaxError:  # a string over several lines may look like statements
        blocks = [lines]
        try:
            trees = [ast.parse("".join(lines))]
        except SyntaxError:
            return False
    uses, allowed = [], set[int]()
    for block, tree in zip(blocks, trees, strict=True):
        named = [number for number, line in enumerate(block, 1) if mentions(line)]
        for node, in_function in _around(named, tree):
            allowed.update(map(id, _uses(node)))
            if in_function and isinstance(node, ast.Name) and node.id == name:
                uses.append(node)
    return bool(uses) and all(isinstance(node.ctx, ast.Load) and id(node) in allowed for node in uses)


def _blocks(lines: Sequence[str]) -> list[Sequence[str]]:
    """The lines of each statement at the top of a file; with its decorators, and what goes on after `else`.

    All in one where it is not plain to see which lines are those of a string.
    """
    blocks: list[Sequence[str]] = []
    start, decorated, string = 0, False, ""
    for index, line in enumerate(lines):
        if not string and (line[:1].isalpha() or line[:1] in ("_", "@")):
            if not decorated and not line.startswith(_GOING_ON):
                blocks.append(lines[start:index])
                start = index
            decorated = line[0] == "@"
        if '"""' in line or "'''" in line:
            behind = _string_behind(line, string)
            if behind is None:
                return [lines]
            string = behind
    return [*blocks, lines[start:]]


def _string_behind(line: str, string: str) -> str | None:
    """The quotes of the string that goes on behind a line, "" for none; `string`: of the one that goes on before it.

    None where the quotes may stand in a comment or in another string.
    """
    at = 0
    while True:
        if string:
            end = line.find(string, at)
            if end < 0:
                return string
            if line[end - 1 : end] == "\\":
                return None
            at = end + 3
        found = _QUOTES.search(line, at)
        if found is None:
            return ""
        if not _OTHER_QUOTES.isdisjoint(line[at : found.start()]):
            return None
        at, string = found.end(), found.group()


_QUOTES = re.compile("\"{3}|'{3}")
_OTHER_QUOTES = frozenset("#\"'")
_GOING_ON = ("else", "elif", "except", "finally")


def _around(named: Sequence[int], tree: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """The pieces of code that cover one of the lines, each with whether it stands in the body of a function.

    What stands outside of them has run when the file was imported.
    """
    later = [(tree, False, False)]
    while later:
        node, in_function, whole = later.pop()
        yield node, in_function
        whole = whole or isinstance(node, ast.JoinedStr)  # whose parts may be counted from another line
        body: Any = node.body if isinstance(node, _FUNCTION) else ()
        of_body = {id(part) for part in (body if isinstance(body, list) else (body,))}
        for part in ast.iter_child_nodes(node):
            if whole or _covers(part, named):
                later.append((part, in_function or id(part) in of_body, whole))


_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _covers(part: Any, lines: Sequence[int]) -> bool:
    """Whether a piece of code, with its decorators, has one of the lines, which are in order."""
    last = getattr(part, "end_lineno", None)
    if last is None:  # an operator, or what holds the arguments of a function
        return True
    first = min([part.lineno, *(each.lineno for each in getattr(part, "decorator_list", ()))])
    at = bisect_left(lines, first)
    return at < len(lines) and lines[at] <= last


def _uses(parent: ast.AST) -> Iterable[ast.AST]:
    """The parts of a piece of code in which a name of a class is called, asked for, compared or only an annotation."""
    if isinstance(parent, ast.Call):
        yield parent.func
        asks = isinstance(parent.func, ast.Name) and parent.func.id in ("isinstance", "issubclass")
        for kinds in parent.args[1:] if asks else ():
            yield from ast.walk(kinds)
        if isinstance(parent.func, ast.Name) and parent.func.id == "map":
            yield from parent.args[:1]
    elif isinstance(parent, ast.Compare) and all(
        isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in parent.ops
    ):
        yield from (parent.left, *parent.comparators)
        for side in parent.comparators:
            yield from side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else ()
    elif isinstance(parent, ast.arg | ast.AnnAssign) and parent.annotation is not None:
        yield from ast.walk(parent.annotation)
    elif isinstance(parent, ast.FunctionDef) and parent.returns is not None:
        yield from ast.walk(parent.returns)
