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
from collections.abc import Iterable, Mapping, Sequence
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
    try:
        tree = _parsed([block for block in _blocks(lines) if any(map(mentions, block))])
    except SyntaxError:  # a string over several lines may look like statements
        try:
            tree = ast.parse("".join(lines))
        except SyntaxError:
            return False
    allowed = {id(node) for parent in ast.walk(tree) for node in _uses(parent)}
    uses = [node for node in _in_functions(tree) if isinstance(node, ast.Name) and node.id == name]
    return bool(uses) and all(isinstance(node.ctx, ast.Load) and id(node) in allowed for node in uses)


def _blocks(lines: Sequence[str]) -> Iterable[Sequence[str]]:
    """The lines of each statement at the top of a file; with its decorators, and what goes on after `else`."""
    text = "".join(lines)
    if any(text.count(quotes) and _hides(lines, quotes) for quotes in ('"""', "'''")):
        yield lines
        return
    start, decorated = 0, False
    for index, line in enumerate(lines):
        if line[:1].isalpha() or line[:1] in ("_", "@"):
            if not decorated and not line.startswith(_GOING_ON):
                yield lines[start:index]
                start = index
            decorated = line[0] == "@"
    yield lines[start:]


def _hides(lines: Sequence[str], quotes: str) -> bool:
    """Whether a string over several lines, inside of a statement, may have one that looks like another statement."""
    inside = indented = False
    for line in lines:
        if inside and indented and line[:1].strip() and not line.startswith(quotes):
            return True
        if line.count(quotes) % 2:
            inside, indented = not inside, line[:1].isspace()
    return False


_GOING_ON = ("else", "elif", "except", "finally")


def _parsed(blocks: Iterable[Sequence[str]]) -> ast.Module:
    """The statements of all blocks in one tree."""
    return ast.Module([each for block in blocks for each in ast.parse("".join(block)).body], [])


def _in_functions(tree: ast.AST) -> Iterable[ast.AST]:
    """All that stands in bodies of functions; the rest has run when the file was imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in node.body:
                yield from ast.walk(statement)
        elif isinstance(node, ast.Lambda):
            yield from ast.walk(node.body)


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
