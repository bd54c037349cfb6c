"""Where code asks for a truth only to hand it on: to ops that keep their shape whatever it is, as `F.dropout(x, p,
self.training)`, or to functions that do no more with it.

Such a truth may be both at once in one recording (modeless.py). The code is read, not run: every place where the truth
goes must be such a call, or a test (`if training:`), in which it notes that it was asked. Anything else (a comparison,
a default, `is True`, an attribute that keeps it) is no handing on; nor is a call of what is no function of a file.
"""

import ast
import dis
import functools
import inspect
import linecache
import textwrap
import tokenize
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nrfx.rules import op_of
from nrfx.tracing.values.bytecode import catches


@dataclass(frozen=True)
class _Use:
    """An argument of a call: of the function with this dotted name, at this place or under this name."""

    function: tuple[str, ...]
    place: int | str


def only_handed_on(code: types.CodeType, scope: Mapping[str, Any], name: str, seen: tuple[Any, ...] = ()) -> bool:
    """Whether code does nothing else with each value of an attribute (".training") or parameter ("training").

    scope: the globals of the code.
    """
    if (code, name) in seen:
        return True
    uses = _uses(code, code.co_filename).get(name)
    return uses is not None and all(_only_hands_on(use, scope, (*seen, (code, name))) for use in uses)


def _only_hands_on(use: _Use, scope: Mapping[str, Any], seen: tuple[Any, ...]) -> bool:
    first, *names = use.function
    function = scope.get(first)
    for name in names:
        if not isinstance(function, types.ModuleType):
            return False
        function = vars(function).get(name)
    op = op_of(function) if isinstance(function, types.FunctionType | types.BuiltinFunctionType) else None
    if op is not None:
        return op.shipped and op.keeps_shape
    if not isinstance(function, types.FunctionType):
        return False
    code = function.__code__
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if isinstance(use.place, int):
        return use.place < code.co_argcount and only_handed_on(code, function.__globals__, named[use.place], seen)
    by_name = named[code.co_posonlyargcount :]
    return use.place in by_name and only_handed_on(code, function.__globals__, use.place, seen)


@functools.lru_cache(1024)
def _uses(code: types.CodeType, file: str) -> Mapping[str, tuple[_Use, ...] | None]:
    """Parameter, or "." and attribute -> the calls that take it; None where it is used in another way.

    Nothing where the source is not that of the code, or the code may catch the error of an op. `file`: codes of two
    files may be equal.
    """
    function = None if catches(code) else _source(code, file)
    if function is None:
        return {}
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    names = {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], ".training"}
    found: dict[str, list[_Use] | None] = {name: [] for name in names}
    for node, way in _places(function):
        name = node.id if isinstance(node, ast.Name) else f".{node.attr}" if isinstance(node, ast.Attribute) else ""
        if name in _SEEING_ALL:
            return {}
        uses = found.get(name)
        if uses is None or way is _TEST:
            continue
        if isinstance(way, _Use) and isinstance(node.ctx, ast.Load) and way.function[0] not in own:  # type: ignore[attr-defined]
            uses.append(way)
        else:
            found[name] = None
    return {name: None if uses is None else tuple(uses) for name, uses in found.items()}


_TEST = object()
"""A place in which a value is asked for its truth, and goes nowhere."""

_SEEING_ALL = frozenset({"locals", "vars", "eval", "exec", "dir", "globals"})


def _places(function: ast.AST) -> Iterator[tuple[ast.AST, Any]]:
    """The expressions in a function, each with the call that takes it, or _TEST; None elsewhere."""
    left: list[tuple[ast.AST, Any]] = [(function, None)]
    while left:
        node, way = left.pop()
        yield node, way
        ways: dict[int, Any] = {}
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            ways[id(node.test)] = _TEST
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            ways[id(node.operand)] = _TEST
        elif isinstance(node, ast.BoolOp) and way is _TEST:
            ways = {id(value): _TEST for value in node.values}
        elif isinstance(node, ast.Call) and (called := _dotted(node.func)):
            starred = any(isinstance(arg, ast.Starred) for arg in node.args)
            ways = {} if starred else {id(arg): _Use(called, at) for at, arg in enumerate(node.args)}
            ways |= {id(word.value): _Use(called, word.arg) for word in node.keywords if word.arg is not None}
        elif isinstance(node, ast.keyword):
            ways[id(node.value)] = way
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.keyword):
                left.append((part, ways.get(id(part.value))))
            else:
                left.append((part, ways.get(id(part))))


def _dotted(called: ast.AST) -> tuple[str, ...]:
    """("F", "dropout") of F.dropout; () of what is no name."""
    names: list[str] = []
    while isinstance(called, ast.Attribute):
        names.append(called.attr)
        called = called.value
    return (called.id, *reversed(names)) if isinstance(called, ast.Name) else ()


def _source(code: types.CodeType, file: str) -> ast.AST | None:
    """The source of a function, None where it is not found or gives other code."""
    lines = linecache.getlines(file)[code.co_firstlineno - 1 :]
    try:
        tree = ast.parse(textwrap.dedent("".join(inspect.getblock(lines))))
        compiled = compile(tree, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, tokenize.TokenError, IndexError):
        return None
    made = [const for const in compiled.co_consts if isinstance(const, types.CodeType)]
    whole = len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef) and len(made) == 1
    return tree.body[0] if whole and _told(made[0]) == _told(code) else None


def _told(code: types.CodeType) -> list[tuple[str, Any]]:
    """The instructions of a code, but for what tells a method from a function of an imported file, and for jumps."""
    told = []
    for one in dis.get_instructions(code):
        if one.opname not in ("PUSH_NULL", "NOP"):
            jumps = one.opcode in dis.hasjrel or isinstance(one.argval, types.CodeType)
            text = isinstance(one.argval, str) and one.opname == "LOAD_CONST"  # it may be indented otherwise
            name = one.opname.replace("LOAD_METHOD", "LOAD_ATTR")
            told.append((name, None if jumps or text else one.argval))
    return told
