"""The arguments of a call: which of them are tensors, and how a traced module finds these when it is called.

Tensors are inputs of the graph, known by shape and dtype. Everything else is a constant of the graph, which a later
call must repeat.
"""

import enum
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, Self

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from nrfx.errors import TraceError
from nrfx.nests import flat, made, opened, replaced, step
from nrfx.tracing.graph.shapes import InputSpec

_CONSTANTS = (
    *(type(None), bool, int, float, complex, str, bytes, enum.Enum, slice, type(...)),
    *(torch.dtype, torch.device, torch.memory_format, torch.layout),
)
"""What an argument may be beside a tensor, or hold."""


class Absent(enum.Enum):
    """Stands for a default that is no plain value: a caller must leave it out, as in the trace."""

    LEFT_OUT = enum.auto()


LEFT_OUT = Absent.LEFT_OUT


@dataclass(frozen=True)
class Given:
    """The place of a tensor."""


@dataclass(frozen=True)
class Constant:
    """The place of anything else, which is built into the graph."""

    value: Any


@dataclass(frozen=True)
class Nest:
    """A tuple, list, mapping (its kind is dict) or object of a dataclass, with the form of what it holds by key."""

    kind: type[Any]
    parts: tuple[tuple[Any, "Form"], ...]


Form = Given | Constant | Nest


@dataclass(frozen=True)
class Parameter:
    """A parameter of a forward, and what it was given in the trace. `default` is (value,), or () for none."""

    name: str
    kind: inspect._ParameterKind
    default: tuple[Any, ...]
    form: Form


@dataclass(frozen=True)
class CallForm:
    """How a model was called in the trace, and so how the traced module is called.

    ordered: whether the order of items in mappings matters, for the forward goes through them.
    """

    parameters: tuple[Parameter, ...]
    ordered: bool = False

    @property
    def has_mappings(self) -> bool:
        """Whether some argument is a mapping of several items, or holds one."""
        return any(_has_mappings(parameter.form) for parameter in self.parameters)

    @property
    def given(self) -> list[str]:
        """The parameters that were given something in the trace; those of **kwargs by their own names."""
        names: list[str] = []
        for parameter in self.parameters:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD and isinstance(parameter.form, Nest):
                names += [name for name, _ in parameter.form.parts]
            elif not parameter.default or parameter.form != _form(parameter.default[0]):
                names.append(parameter.name)
        return names

    @property
    def is_starred(self) -> bool:
        """Whether some arguments are those of *args, which have a place and no name."""
        return any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in self.parameters)

    def tensors(self, *values: Any) -> list[Any]:
        """The tensors among the values of all parameters, in order; a TraceError names what differs from the trace."""
        found: list[Any] = []
        for parameter, value in zip(self.parameters, values, strict=True):
            _take(parameter.form, value, parameter.name, self.ordered, found)
        return found

    def in_order(self, args: tuple[Any, ...]) -> list[Any]:
        """The tensors among values that are given by position alone, as torch.export and fx.Interpreter give them.

        Where keywords became positions, they are the values of the parameters that were given in the trace.
        """
        given = self.given
        named = dict(zip(given, args, strict=False)) if len(args) == len(given) else {}
        try:
            return self.tensors(*self._by_position(args))
        except TraceError:
            if not named:
                raise
            return self.tensors(*(_of_name(p, named) for p in self.parameters))

    def _by_position(self, args: tuple[Any, ...]) -> list[Any]:
        plain = [p for p in self.parameters if p.kind not in _STARRED]
        starred = [args[len(plain) :]] if args[len(plain) :] else []
        values = [*args[: len(plain)], *starred]
        return values + [p.default[0] if p.default else LEFT_OUT for p in self.parameters[len(values) :]]

    def filled(self, tensors: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) of a call with these tensors, without what has its default: a decorator may give that too."""
        rest, given, by_name = iter(tensors), self.given, False
        placed = {inspect.Parameter.POSITIONAL_ONLY} if not self.is_starred else set(inspect._ParameterKind)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in self.parameters:
            value = _filled(parameter.form, rest)
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args += value
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs |= value
            elif value is LEFT_OUT or (parameter.name not in given and parameter.kind not in placed):
                by_name = True
            elif by_name or parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return tuple(args), kwargs


@dataclass(frozen=True)
class Arguments:
    """The arguments of the forward that is recorded: tensors by shape and dtype, all else as constants of the graph.

    Attributes:
        inputs: shape and dtype of each tensor, in order.
        leaves: the leaves of the flattened (args, kwargs): None for a tensor, (value,) for a constant.
        structure: the structure of (args, kwargs).
        names: a name for each tensor's placeholder.
        form: how the traced module is to be called, None where the tensors are its arguments, one by one.
        like: (args, kwargs) of the user's own, whose classes the forward gets; None takes those of `structure`.
    """

    inputs: tuple[InputSpec, ...]
    leaves: tuple[tuple[Any] | None, ...] = ()
    structure: pytree.TreeSpec | None = None
    names: tuple[str, ...] = ()
    form: CallForm | None = None
    like: Any = field(default=None, compare=False, repr=False)
    backwards: bool = False

    def filled(self, tensors: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with the given values in the places of the tensors."""
        rest = iter(tensors)
        if self.like is not None:
            args, kwargs = replaced(
                self.like, lambda leaf: next(rest) if isinstance(leaf, Tensor) else leaf, self.backwards
            )
            return args, kwargs
        assert self.structure is not None
        leaves = [next(rest) if leaf is None else leaf[0] for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return args, kwargs

    @property
    def turned(self) -> Self:
        """The same, mappings in the opposite order."""
        return replace(self, backwards=True)


def arguments_of(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """The arguments of a call of a bound forward.

    Raises:
        TraceError: they do not fit its signature, hold no tensor, or something that is neither tensor nor constant.
    """
    if not any(isinstance(leaf, Tensor) for _, leaf in flat((args, dict(kwargs)))):
        given = _shown_call(args, kwargs)
        raise TraceError(f"The example inputs ({given}) hold no tensor; expected one, or a tuple of arguments.")
    signature = inspect.signature(forward)
    try:
        named = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TraceError(
            f"The example inputs ({_shown_call(args, kwargs)}) do not fit forward{signature}: {error}."
        ) from error
    parameters = signature.parameters
    leaves = [leaf for name, value in named.items() for leaf in _leaves(parameters[name], value)]
    _check(leaves)
    form = CallForm(
        tuple(_parameter(parameters[name], named) for name in parameters if _matters(parameters[name], named))
    )
    tensors = {path: leaf for path, leaf in leaves if isinstance(leaf, Tensor)}
    return Arguments(
        inputs=tuple((tuple(x.shape), x.dtype) for x in tensors.values()),
        names=names_of(tensors),
        form=None if _is_plain(form) else form,
        like=(args, {name: kwargs[name] for name in (*(n for n in parameters if n in kwargs), *kwargs)}),
    )


def specs_of(example_inputs: Any) -> tuple[InputSpec, ...]:
    """Shape and dtype of the tensors in example inputs for a graph whose signature is not asked.

    Raises:
        TraceError: as for `arguments_of`.
    """
    nest = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    leaves = [leaf for index, value in enumerate(nest) for leaf in flat(value, str(index))]
    _check(leaves)
    return tuple((tuple(x.shape), x.dtype) for _, x in leaves if isinstance(x, Tensor))


def _leaves(parameter: inspect.Parameter, value: Any) -> list[tuple[str, Any]]:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return [leaf for name, part in value.items() for leaf in flat(part, name)]
    return list(flat(value, parameter.name))


def _check(leaves: Iterable[tuple[str, Any]]) -> None:
    """Raises TraceError for what cannot be an argument of a traced module."""
    for path, leaf in leaves:
        if isinstance(leaf, Tensor):
            if leaf.is_nested:
                raise TraceError(f"Example input {path} is a nested tensor; expected one with a plain shape.")
            if 0 in leaf.shape:
                raise TraceError(
                    f"Example input {path} has shape {list(leaf.shape)}: pass at least one example of a real size."
                )
        elif not isinstance(leaf, _CONSTANTS):
            raise TraceError(
                f"Example input {path} is a {type(leaf).__name__}; expected a tensor, a number, a string or None, or "
                "a tuple, list, dictionary or dataclass of them."
            )


def _matters(parameter: inspect.Parameter, named: Mapping[str, Any]) -> bool:
    """Whether a call must say anything of a parameter: an empty *args or **kwargs is left to Python."""
    return parameter.kind not in _STARRED or bool(named.get(parameter.name))


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_written(default: Any) -> bool:
    """Whether a default stands in generated code as it is."""
    if isinstance(default, tuple):
        return type(default) is tuple and all(map(_is_written, default))
    return type(default) in (type(None), bool, int, str) or (type(default) is float and math.isfinite(default))


def _parameter(parameter: inspect.Parameter, named: Mapping[str, Any]) -> Parameter:
    without = parameter.default is inspect.Parameter.empty
    default = parameter.default if _is_written(parameter.default) else LEFT_OUT
    value = named.get(parameter.name, default)
    return Parameter(parameter.name, parameter.kind, () if without else (default,), _form(value))


def _form(value: Any) -> Form:
    inside = opened(value)
    if inside is None:
        return Given() if isinstance(value, Tensor) else Constant(value)
    kind = dict if isinstance(value, Mapping) and not is_dataclass(value) else type(value)
    return Nest(kind, tuple((key, _form(part)) for key, part in inside))


def _is_plain(form: CallForm) -> bool:
    """Whether the tensors are the arguments, one by one, so that the signature of a graph says it all."""
    for parameter in form.parameters:
        starred = parameter.kind is inspect.Parameter.VAR_POSITIONAL and isinstance(parameter.form, Nest)
        forms = [part for _, part in parameter.form.parts] if starred else [parameter.form]  # type: ignore[union-attr]
        if not all(isinstance(each, Given) for each in forms) or not (starred or parameter.kind in _BY_POSITION):
            return False
    return True


def names_of(paths: Iterable[str]) -> tuple[str, ...]:
    """A name for the placeholder of each tensor.

    >>> names_of(["x", "batch['image']", "batch.image"])
    ('x', 'batch_image', 'batch_image_')
    """
    names: list[str] = []
    for path in paths:
        name = re.sub(r"\W+", "_", path).strip("_") or "input"
        while name in names:
            name += "_"
        names.append(name)
    return tuple(names)


def _of_name(parameter: Parameter, named: Mapping[str, Any]) -> Any:
    """The value of a parameter among those that are given by name."""
    if parameter.kind is inspect.Parameter.VAR_KEYWORD and isinstance(parameter.form, Nest):
        return {name: named[name] for name, _ in parameter.form.parts}
    return named.get(parameter.name, parameter.default[0] if parameter.default else LEFT_OUT)


def _has_mappings(form: Form) -> bool:
    if not isinstance(form, Nest):
        return False
    return (form.kind is dict and len(form.parts) > 1) or any(_has_mappings(part) for _, part in form.parts)


def _filled(form: Form, tensors: Iterator[Any]) -> Any:
    if isinstance(form, Given):
        return next(tensors)
    if isinstance(form, Constant):
        return form.value
    parts = {key: _filled(part, tensors) for key, part in form.parts}
    if form.kind is dict:
        return parts
    if is_dataclass(form.kind):
        return made(form.kind, parts, {})
    return form.kind(*parts.values()) if hasattr(form.kind, "_fields") else form.kind(parts.values())


def _take(form: Form, value: Any, path: str, ordered: bool, found: list[Any]) -> None:
    """Adds the tensors of `value` to `found`, in the order of the form; raises TraceError where it has another form.

    While torch.fx traces a traced module again, a proxy may stand for anything.
    """
    if isinstance(form, Given):
        if not isinstance(value, Tensor | fx.Proxy):
            raise _other(path, value, "a tensor")
        found.append(value)
    elif isinstance(form, Constant):
        if not isinstance(value, fx.Proxy) and not _is_same(form.value, value):
            raise _other(path, value, shown(form.value))
    else:
        if not isinstance(value, fx.Proxy):
            _check_nest(form, value, path, ordered)
        for key, part in form.parts:
            inner = getattr(value, key) if is_dataclass(form.kind) else value[key]
            _take(part, inner, step(path, value, key), ordered, found)


def _check_nest(form: Nest, value: Any, path: str, ordered: bool) -> None:
    """Raises TraceError unless the value is a nest of the form's kind with the same keys."""
    keys = [key for key, _ in form.parts]
    if is_dataclass(form.kind):
        if not isinstance(value, form.kind):
            raise _other(path, value, f"a {form.kind.__name__}")
    elif form.kind is not dict:
        if type(value) is not form.kind or len(value) != len(keys):
            raise _other(path, value, f"a {form.kind.__name__} of {len(keys)}")
    elif not isinstance(value, Mapping) or set(value) != set(keys) or (ordered and list(value) != keys):
        order = " in this order, for the forward goes through it" if ordered else ""
        raise _other(path, value, f"a mapping of {', '.join(map(repr, keys))}{order}")


def _is_same(constant: Any, value: Any) -> bool:
    return value is constant or (type(value) is type(constant) and bool(value == constant))


def _other(path: str, value: Any, expected: str) -> TraceError:
    given = "left out" if value is LEFT_OUT else shown(value)
    return TraceError(
        f"The argument {path} is {given}; when the model was traced, it was {expected}. Whatever is no tensor is built "
        "into the graph: trace the model again on arguments like those that it is to be called with."
    )


def _shown_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    return ", ".join([*map(shown, args), *(f"{name}={shown(value)}" for name, value in kwargs.items())])


def shown(value: Any) -> str:
    """An argument in a few words: tensors by shape and dtype."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if value is LEFT_OUT:
        return "left out"
    if isinstance(value, Mapping) and not is_dataclass(value):
        return f"a mapping of {', '.join(map(repr, value))}" if value else "an empty mapping"
    if isinstance(value, _CONSTANTS):
        return repr(value)
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
