"""A shell: a copy of a module tree around tensors of one's own choice.

Shells let the package switch modes, trace and infer shapes without touching the module they come from: every
submodule, attribute and hook is copied, every parameter and buffer is what the caller says it is. Tied
tensors stay tied.
"""

import copy
import functools
import types
from collections import OrderedDict
from collections.abc import Callable
from operator import is_
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nrfx.tracing.graph.scripted import Scripted
from nrfx.tracing.graph.walk import named_modules

M = TypeVar("M", bound=nn.Module)


def shell(module: M, tensor: Callable[[Tensor], Tensor], memo: dict[int, Any] | None = None) -> M:
    """A copy of `module` in which `tensor(t)` stands for every parameter and buffer t.

    memo: what stands for modules and tensors that are known already, by their ids.

    >>> linear = nn.Linear(2, 3)
    >>> shell(linear, lambda t: t).weight is linear.weight
    True
    >>> shell(linear, on_meta).weight.device.type
    'meta'
    """
    return _Copy(tensor, memo).of(module)


def is_as_new(twin: nn.Module, module: nn.Module) -> bool:
    """Whether a shell of `module` around the same tensors, which a forward has run on, is what a new shell would be.

    False also where that does not show: where an object of another kind than numbers, texts, classes, functions,
    modules, tensors, and lists, tuples and partials of such, may have changed inside; or a class has a way of its own
    to be copied.

    >>> net = nn.Sequential(nn.ReLU())
    >>> used = shell(net, same)
    >>> is_as_new(used, net)
    True
    >>> used[0].calls = 1
    >>> is_as_new(used, net)
    False
    """
    places, used = (named_modules(root, once=False) for root in (module, twin))
    if [path for path, _ in places] != [path for path, _ in used]:
        return False
    pairs = {(own, other) for (_, own), (_, other) in zip(places, used, strict=True)}
    one_for_one = len(pairs) == len({own for own, _ in pairs}) == len({other for _, other in pairs})
    return one_for_one and all(_holds_the_same(own, other) for own, other in pairs)


def _holds_the_same(module: nn.Module, twin: nn.Module) -> bool:
    """Whether a module of a shell holds no other values and tensors than the one it was made of."""
    own, other = vars(module), vars(twin)
    owner: Any = type(module)
    if not _is_copied_by_contents(owner) or type(twin) is not owner or own.keys() != other.keys():
        return False
    for key, value in own.items():
        kind: Any = type(value)
        now = other[key]
        if now is value and (kind in _DIRECT or (kind is tuple and _DIRECT.issuperset(map(type, value)))):
            continue
        if kind in _CONTAINERS:
            if type(now) is kind and not value and not now:
                continue
            if key not in _REGISTRIES or list(value) != list(now):
                return False
            if key != "_modules" and not all(map(is_, value.values(), now.values())):
                return False
        elif not _is_twin(value, now):
            return False
    return True


def _is_twin(value: Any, now: Any) -> bool:
    """Whether a value is what deepcopy makes of the other: of lists, tuples and partials that hold what it shares."""
    kind: Any = type(value)
    if type(now) is not kind:
        return False
    if kind is functools.partial:
        own, other = ((one.func, one.args, *one.keywords.items(), *vars(one).items()) for one in (value, now))
        return _is_twin(own, other)
    if kind in (tuple, list):
        return len(value) == len(now) and all(map(_is_twin, value, now))
    return now is value and kind in _DIRECT


def deep_copy(module: M, memo: dict[int, Any]) -> M:
    """copy.deepcopy(module, memo), several times as fast."""
    memo.setdefault(id(memo), []).append(module)  # as deepcopy does: an id that the memo holds must not be used again
    return _DeepCopy(lambda tensor: copy.deepcopy(tensor, memo), memo).of(module)


def computed_attributes(module: nn.Module) -> list[Tensor]:
    """Attributes that are results of arithmetic, such as the weight that a hook of weight_norm leaves behind in each
    forward: deepcopy refuses them.
    """
    odd = [
        value
        for _, submodule in named_modules(module)
        for value in submodule.__dict__.values()
        if type(value) not in _PLAIN
    ]
    return [value for value in odd if isinstance(value, Tensor) and not value.is_leaf]


class _Copy:
    """A copy of a module around other tensors.

    Most of a module is numbers and empty dictionaries of hooks: to pass over them is several times as fast as deepcopy.
    """

    def __init__(self, tensor: Callable[[Tensor], Tensor], memo: dict[int, Any] | None = None) -> None:
        self._tensor = tensor
        self._memo: dict[int, Any] = {} if memo is None else memo
        self._later: list[tuple[dict[str, Any], str, Any]] = []

    def of(self, module: M) -> M:
        """The copy. What only deepcopy can copy comes last, when all modules and tensors that it may hold are known."""
        holder: dict[str, Any] = {}
        self._put(holder, "copy", module)
        for contents, key, value in self._later:
            contents[key] = copy.deepcopy(value, self._memo)
        twin: M = holder["copy"]
        return twin

    def _put(self, contents: dict[str, Any], name: str, module: Any) -> None:
        """Puts the copy of a module, or None, under a name."""
        contents[name] = known = None if module is None else self._memo.get(id(module))
        if known is not None or module is None:
            return
        if isinstance(module, torch.jit.ScriptModule):
            self._script(contents, name, module)
            return
        kind: Any = type(module)
        if not _is_copied_by_contents(kind):
            for each in (*module.parameters(), *module.buffers()):
                self._known(each)
            for each in computed_attributes(module):
                self._known(each, each.detach())
            self._later.append((contents, name, module))
            return
        contents[name] = self._memo[id(module)] = twin = kind.__new__(kind)
        own = vars(twin)
        own.update(vars(module))  # in their order, whatever is exchanged below
        for key, value in vars(module).items():
            found = type(value)
            if found in _DIRECT or (found is tuple and _DIRECT.issuperset(map(type, value))):
                continue
            if found in _CONTAINERS and not value:
                own[key] = found()
            elif found is list and _DIRECT.issuperset(map(type, value)):
                own[key] = self._memo.setdefault(id(value), list(value))
            else:
                self._attribute(own, key, value)

    def _script(self, contents: dict[str, Any], name: str, module: torch.jit.ScriptModule) -> None:
        """Puts a plain module around the tensors of a TorchScript module, which cannot be exchanged in it."""
        contents[name] = self._memo[id(module)] = Scripted(module, self._known)

    def _attribute(self, contents: dict[str, Any], key: str, value: Any) -> None:
        if key == "_modules":
            children: dict[str, Any] = {}
            contents[key] = children
            for name, child in value.items():
                self._put(children, name, child)
        elif key in ("_parameters", "_buffers"):
            contents[key] = {name: None if tensor is None else self._known(tensor) for name, tensor in value.items()}
        elif _is_constant(value):
            return
        elif key == "_compiled_call_impl":
            del contents[key]  # belongs to module.compile(), and to the module it was made of
        elif isinstance(value, Tensor) and not value.is_leaf:
            contents[key] = self._known(value, value.detach())
        else:
            self._later.append((contents, key, value))

    def _known(self, tensor: Tensor, without_graph: Tensor | None = None) -> Tensor:
        """What stands for a tensor."""
        twin: Tensor | None = self._memo.get(id(tensor))
        if twin is None:
            twin = self._memo[id(tensor)] = self._tensor(tensor if without_graph is None else without_graph)
        return twin


class _DeepCopy(_Copy):
    """A copy around copies of the tensors, or what the memo has for them."""

    def _script(self, contents: dict[str, Any], name: str, module: torch.jit.ScriptModule) -> None:
        """A TorchScript module stays one."""
        contents[name] = module  # in its place among the others
        self._later.append((contents, name, module))


_DIRECT = frozenset({int, float, str, bool, type(None), type, types.FunctionType, types.BuiltinFunctionType})
"""What deepcopy does not copy."""
_CONTAINERS = frozenset({dict, OrderedDict, set})
_PLAIN = _DIRECT | _CONTAINERS | {tuple, list}
_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules"})
_OWN_WAYS = frozenset({"__deepcopy__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__"})


def _is_constant(value: Any) -> bool:
    """Whether all copies may share the value: numbers, texts, classes, functions, and tuples and frozen dataclasses of
    ours that hold such."""
    kind: Any = type(value)
    if kind in _DIRECT:
        return True
    if kind is tuple:
        return all(map(_is_constant, value))
    return _is_frozen(kind) and all(map(_is_constant, vars(value).values()))


@functools.cache
def _is_frozen(kind: Any) -> bool:
    """Whether it is a frozen dataclass of ours."""
    params: Any = getattr(kind, "__dataclass_params__", None)
    return params is not None and bool(params.frozen) and kind.__module__.startswith("nrfx.")


@functools.cache
def _is_copied_by_contents(kind: Any) -> bool:
    """Whether deepcopy has no way of its own for this class."""
    for base in kind.__mro__:
        if base in (nn.Module, object):
            continue
        # torch's own __setstate__ only fills in what old checkpoints lack.
        own = _OWN_WAYS - {"__setstate__"} if base.__module__.startswith("torch.nn.modules") else _OWN_WAYS
        if own & vars(base).keys():
            return False
    return True


def same(tensor: Tensor) -> Tensor:
    """The tensor itself, for shells that share."""
    return tensor


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, dtype and kind (parameter or not) without data."""
    bare = torch.empty_like(tensor.detach(), device="meta")
    return nn.Parameter(bare, requires_grad=False) if isinstance(tensor, nn.Parameter) else bare


def each_on_meta() -> Callable[[Tensor], Tensor]:
    """`on_meta` for all tensors of a model: most are like another one, and an alias is made in a third of the time."""
    known: dict[Any, Tensor] = {}

    def bare(tensor: Tensor) -> Tensor:
        kind = type(tensor)
        if kind is not Tensor and kind is not nn.Parameter:
            return on_meta(tensor)
        key = tensor.shape, tensor.stride(), tensor.dtype
        one = known.get(key)
        if one is None:
            one = known[key] = on_meta(tensor.detach())
        return nn.Parameter(one, requires_grad=False) if kind is nn.Parameter else one.detach()

    return bare
