"""The one table of ops. Whatever is said of an op (its rule, which arguments are weights, what else holds) is said
once, under the key of the op:

    a module class                  nn.Conv2d, or a class of the user's own; subclasses share the entry
    a function                      F.relu, operator.add, torch.ops.mylib.op, a function of the user's own
    a custom autograd function      its class, a subclass of torch.autograd.Function
    the name of a tensor method     "flatten"
    "package.module:name"           a class or function of a package that may not be installed, or is slow to import

An op without an entry pins whatever it touches, and says so.
"""

import builtins
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from nrfx.errors import AnalysisError, UsageError
from nrfx.nests import Maker
from nrfx.rules.effect import Call, Effect, unknown

Rule = Callable[[Call], Effect]
AnyRule = TypeVar("AnyRule", bound=Rule)
Widths = Callable[[Any, int | None], dict[str, int]]
Gives = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

_TORCH_OPS = torch._ops.OpOverload | torch._ops.OpOverloadPacket


@dataclass(frozen=True)
class Op:
    """What is known of an op.

    Attributes:
        rule: what it does to channels, what it costs and what it reads.
        weights: the arguments, by index or name, that the op reads as weights where parameters of the network are given
            there. Other parameters bring channels into being where a graph reads them.
        keeps_shape: the result has the shape and the dtype of the first argument, which is a floating point tensor.
        gives: what it gives on meta tensors, by the module and the arguments; None where that is not known (sizes.py).
        workless: it does no multiply-adds that count, also where the rule does not understand a call.
        in_place: it changes its first argument. Names that end with "_" and `inplace=True` say so themselves.
        flags: a method that changes no element of its tensor, whatever its name says: requires_grad_, retain_grad.
        copies: the result never lies in the memory of the first argument.
        transposes: of a matrix it gives the transpose, so that a weight may pass through it.
        flattens: it may give a weight [rows, columns, *kernel] as the matrix [rows, columns * kernel], so that a weight
            may pass through it.
        noise: the arguments, by index or name, that say no more than how much noise there is in train mode: they may
            differ between the modes.
        makes: it makes a tensor of sizes alone, such as torch.zeros(n).
        checks: it raises where a decision of the trace no longer holds, and gives nothing (tracing/guards.py).
        fill: the place of the number in `fill_value` that it fills a tensor with, and that says nothing of its shape.
        norm: a normalisation, whose weight is a gamma: new channels start at the level that it had at the trace.
        widths: of a module: the attributes that repeat a width of its parameters, name -> number. The second argument
            is the width that the module meets, for one without parameters (a norm that is not affine), else None.
        shipped: nrfx registered it, whose effects the tests check; those of others are checked always.
        sized: the op that takes the sizes of parts in the place of their number.
        cross_form: the cross layer that takes the place of the module where generations meet.

    >>> import torch
    >>> op_of(torch.nn.Conv2d(3, 8, 1)).workless, OPS[torch.nn.BatchNorm2d].norm
    (False, True)
    """

    rule: Rule
    weights: tuple[int | str, ...] = ()
    noise: tuple[int | str, ...] = ()
    keeps_shape: bool = False
    gives: Gives | None = None
    workless: bool = False
    in_place: bool = False
    flags: bool = False
    copies: bool = False
    transposes: bool = False
    flattens: bool = False
    makes: bool = False
    fill: int | None = None
    checks: bool = False
    norm: bool = False
    widths: Widths | None = None
    sized: Any = None
    cross_form: type[nn.Module] | None = None
    shipped: bool = False


OPS: dict[Any, Op] = {}
REGISTERED: list[Any] = []
"""The keys in the order in which they got their rules, again where they got one again."""
shipping = True
"""Whether it is nrfx that registers: until all files of nrfx/rules are loaded."""


def register(rule: Rule, *keys: Any, **facts: Any) -> None:
    """Makes `rule` the rule of each of `keys`, with what else is known of these ops (the fields of Op).

    A rule may be registered again under its own name, as a notebook does when a cell is run twice.

    Raises:
        UsageError: a key is none of the kinds above, or has a rule of another name; `weights` is no tuple.
    """
    weights = facts.get("weights", ())
    if not isinstance(weights, tuple | list):
        raise UsageError(
            f"weights={weights!r}: expected a tuple of places or names of arguments, such as ({weights!r},)."
        )
    for key in dict.fromkeys(keys):  # some functions of torch have two names
        if not _is_key(key):
            raise UsageError(
                f"{key!r} cannot have a rule: expected a module class, a function, a class of autograd functions, an "
                "op such as torch.ops.mylib.my_op, or the name of a method of tensors."
            )
        if key in OPS and name_of(OPS[key].rule) != name_of(rule):
            raise UsageError(f"{key!r} has a rule already, {name_of(OPS[key].rule)}: an op has one rule.")
        OPS[key] = Op(rule, shipped=shipping, **facts)
        REGISTERED.append(key)


def named(names: str) -> Iterator[Any]:
    """The functions of torch and the methods of tensors with these names, which a space separates."""
    for name in names.split():
        yield from [getattr(torch, name)] if hasattr(torch, name) else []
        yield from [name] if hasattr(Tensor, name) else []


def _is_key(key: Any) -> bool:
    """Whether a graph can call what the key stands for. Instances, bound methods and partials would never be found."""
    if isinstance(key, str):
        return ":" in key or hasattr(Tensor, key)
    if isinstance(key, type):
        return issubclass(key, nn.Module | torch.autograd.Function | Maker) or key.__module__ == builtins.__name__
    of_a_class = isinstance(getattr(key, "__self__", None), type)  # SomeFunction.apply
    return isinstance(key, types.FunctionType | types.BuiltinFunctionType | _TORCH_OPS) and not of_a_class


def rule(*keys: Any, **facts: Any) -> Callable[[AnyRule], AnyRule]:
    """Decorator: this function is the rule of each of `keys`; `facts` are the other fields of `Op`.

    The function takes a `Call` and returns an `Effect`. A module class with a rule is not looked into by `nrfx.trace`,
    and a function with a rule is recorded as one call. docs/extending.md has worked examples.

    Raises:
        UsageError: a key has a rule of another name already.

    >>> from nrfx.rules import elementwise
    >>> class Gate(nn.Module):
    ...     def forward(self, x):
    ...         return x * torch.sigmoid(x * 2)
    >>> @rule(Gate, keeps_shape=True, workless=True)
    ... def gate(call):
    ...     return elementwise(call)
    """

    def add(function: AnyRule) -> AnyRule:
        register(function, *keys, **facts)
        return function

    return add


def op_of(target: Any) -> Op | None:
    """The entry of a module, or of the target of a call_function or call_method node; None where there is none."""
    target = type(target) if isinstance(target, nn.Module) else target
    op = OPS.get(target)  # nearly all stand under themselves
    if op is not None or type(target) is str:
        return op
    if type(target) is types.BuiltinFunctionType:  # operators on numbers, which nearly all have no entry
        return OPS.get(_dotted_builtin(target))
    keys = _other_keys(target) if isinstance(target, type) else _keys(target)
    return next((OPS[key] for key in keys if key in OPS), None)


def widths_of(module: nn.Module, met: int | None = None) -> dict[str, int]:
    """The attributes of a module that repeat a width, with their numbers, as the `widths` of its op says; else {}.

    Raises:
        AnalysisError: `widths` of a user's own op raised, or gave something else.
    """
    op = op_of(module)
    if op is None or op.widths is None:
        return {}

    def refused(found: str) -> AnalysisError:
        asked = f"widths={name_of(op.widths)} of the op {_title(type(module))}"
        return AnalysisError(
            f"{asked} {found}: it takes the module and the width that it meets, and gives {{attribute: number}}."
        )

    try:
        widths = op.widths(module, met)
    except Exception as error:  # whatever a function of a user's own raises
        raise refused(f"failed ({type(error).__name__}: {error})") from error
    if not isinstance(widths, dict) or not all(isinstance(width, int) for width in widths.values()):
        raise refused(f"gave {widths!r}")
    return widths


def has_rule(kind: type) -> bool:
    """Whether a class itself, not one of its bases, has a rule."""
    return kind in OPS or _dotted(kind) in OPS


def ruled_base(kind: type) -> Any:
    """The class itself or the nearest of its bases that has a rule; None where none has."""
    return kind if kind in OPS else next((base for base in kind.__mro__ if has_rule(base)), None)


def rule_of(node: fx.Node, module: nn.Module | None) -> Rule:
    """The rule of a call node; for an op without one, a rule that pins whatever it touches and says so."""
    op = op_of(node.target if module is None else module)
    if op is not None:
        return op.rule
    title = _title(node.target if module is None else type(module))
    return lambda call: unknown(call, f"nrfx has no rule for {title}")


def reads_as_weight(node: fx.Node, user: fx.Node) -> bool:
    """Whether `user` reads the tensor of `node`, perhaps transposed, as one of its weights."""
    op = op_of(user.target) if user.op in ("call_function", "call_method") else None
    if op is None:
        return False
    if transposes(user) or gives_matrix(user):
        return any(reads_as_weight(user, next_user) for next_user in user.users)
    names = parameters_of(user.target)
    weights = {names.index(place) if place in names else place for place in op.weights}
    places = (*enumerate(user.args), *user.kwargs.items())
    return any(place in weights and _holds(value, node) for place, value in places)


def transposes(node: fx.Node) -> bool:
    """Whether the node gives the transpose of a matrix: w.t(), w.T, torch.transpose(w, 0, 1)."""
    if node.target is getattr:
        return node.args[1] in ("T", "mT")
    op = op_of(node.target) if node.op in ("call_function", "call_method") else None
    return op is not None and op.transposes


SIZES = frozenset({"size", "dim", "numel", "ndimension", "ndim", "__len__"})
"""The methods that give a size of a tensor."""


def asks_for_sizes(node: fx.Node) -> bool:
    """Whether the node asks for no more of its first input than its shape, dtype or device."""
    if node.op == "call_method":
        return node.target in SIZES
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "device", "dtype")
    return node.target is len


def gives_matrix(node: fx.Node) -> bool:
    """Whether the node gives its first input, [rows, columns, *kernel], as the matrix [rows, columns * kernel]; a
    matrix as itself.
    """
    op = op_of(node.target) if node.op in ("call_function", "call_method") else None
    if op is None or not op.flattens:
        return False
    was, now = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
    sizes = [tuple(val.shape) for val in (was, now) if isinstance(val, Tensor)]
    return len(sizes) == 2 and len(sizes[0]) > 1 and sizes[1] == (sizes[0][0], prod(sizes[0][1:]))


def _holds(value: Any, node: fx.Node) -> bool:
    return value is node or (isinstance(value, tuple | list) and any(item is node for item in value))


class AppliedFunction:
    """A custom autograd function as a plain function, which a graph can call by name."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        self.function = function
        self.__name__, self.__qualname__ = function.__name__, function.__qualname__
        self.__module__ = function.__module__

    def __call__(self, *args: Any) -> Any:
        return self.function.apply(*args)

    @property
    def is_new_style(self) -> bool:
        """Whether its forward takes no ctx."""
        return self.function.setup_context is not torch.autograd.Function.setup_context

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AppliedFunction) and other.function is self.function

    def __hash__(self) -> int:
        return hash(self.function)

    def __reduce__(self) -> tuple[Any, ...]:
        return AppliedFunction, (self.function,)


def is_of_torch(function: Any) -> bool:
    """Whether a function is one of torch or Python, which torch itself records."""
    return str(function.__module__).partition(".")[0] in ("torch", "_operator", "builtins")


def parameters_of(target: Any) -> tuple[str, ...]:
    """The names of the arguments by position of a custom op, or of a function or class of the user's own; else ()."""
    if isinstance(target, torch._ops.OpOverloadPacket):
        overloads = target.overloads()
        return parameters_of(getattr(target, overloads[0])) if len(overloads) == 1 else ()
    if isinstance(target, torch._ops.OpOverload):
        return tuple(argument.name for argument in target._schema.arguments if not argument.kwarg_only)
    function, own = target, 0
    if isinstance(target, AppliedFunction):
        function, own = target.function.forward, 0 if target.is_new_style else 1  # ctx
    elif isinstance(target, type) and issubclass(target, nn.Module):
        function, own = target.forward, 1  # self
    if not isinstance(function, types.FunctionType) or is_of_torch(function):
        return ()
    return function.__code__.co_varnames[own : function.__code__.co_argcount]


def in_order(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, by position where they were passed by name, so that a rule finds them in one place.

    >>> def scaled(x, weight, bias=None): ...
    >>> in_order(scaled, (), {"weight": 2, "x": 1})
    ((1, 2), {})
    """
    given, named = list(args), dict(kwargs)
    for name in parameters_of(target)[len(args) :]:
        if name not in named:
            break
        given.append(named.pop(name))
    return tuple(given), named


def _keys(target: Any) -> Iterator[Any]:
    """The keys under which a module or a target may stand, the nearest first."""
    if isinstance(target, AppliedFunction):
        target = target.function
    if isinstance(target, Maker):
        target = Maker
    if isinstance(target, torch._ops.OpOverload):
        yield from (target, target.overloadpacket)
        return
    for kind in target.__mro__ if isinstance(target, type) else (target,):
        yield kind
        if not isinstance(kind, str):
            yield _dotted(kind)


@lru_cache(1024)
def _dotted_builtin(function: types.BuiltinFunctionType) -> str:
    return _dotted(function)


_OTHER_KEYS: WeakKeyDictionary[type, tuple[Any, ...]] = WeakKeyDictionary()
"""Class -> the keys under which it may stand beside itself: containers and blocks have no rule, and are asked often."""


def _other_keys(kind: type) -> tuple[Any, ...]:
    known = _OTHER_KEYS.get(kind)
    if known is None:
        # without the class itself, which the weak key would then keep alive
        known = _OTHER_KEYS[kind] = tuple(key for key in _keys(kind) if key is not kind)
    return known


def _dotted(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}:{getattr(kind, '__qualname__', '')}"


def name_of(rule: Any) -> str:
    """The name of a rule, with its module."""
    rule = rule.func if isinstance(rule, partial) else rule
    return f"{rule.__module__}.{getattr(rule, '__qualname__', type(rule).__name__)}"


def _title(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
