"""What a rule sees (Call) and what it returns (Effect).

A rule describes one op by its effect on label tensors. Everything else (costs, liveness, rewriting, checking) is a
generic consumer of effects, so that an op is described once, here.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list

from nrfx.labels import collapse, fill
from nrfx.nests import PLAIN, tensors_of, with_tensors
from nrfx.records import record


class Unfit(Exception):
    """The op itself raised on the labels that it got: it does not take these widths."""


def attempt(op: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """op(*args, **kwargs), where whatever the op raises is an Unfit. A rule runs its op through this, so that only the
    op's own refusal counts as one, and a mistake in the rule does not.

    >>> attempt(torch.reshape, torch.zeros(6), (2, 3)).shape
    torch.Size([2, 3])
    >>> attempt(torch.reshape, torch.zeros(6), (4, 2))
    Traceback (most recent call last):
        ...
    nrfx.rules.effect.Unfit: shape '[4, 2]' is invalid for input of size 6
    """
    try:
        return op(*args, **kwargs)
    except Exception as error:  # an op may be a user's function, which raises what it likes
        raise Unfit((str(error).splitlines() or [type(error).__name__])[0]) from error


class Family(Enum):
    """What an op does to a value that is known to be constant, or to be scaled, channel by channel.

    >>> Family.POINTWISE.value
    'acts on each element alone'
    """

    VALUE = "gives a Python value: a size, a shape, a number"
    SOURCE = "brings in something that is not understood: an input, a bare parameter"
    IDENTITY = "gives its first operand, in eval mode"
    MOVEMENT = "moves elements, changes none"
    POINTWISE = "acts on each element alone"
    NORM = "scales and shifts each channel"
    POOL = "summarises each channel over positions"
    GROUPED = "contracts inside each channel or group, and keeps them apart"
    MIXED = "mixes channels or positions without learnt weights: softmax, layer norm, attention"
    CONTRACTION = "sums over its input channels with learnt weights"
    SINK = "the output of the network"
    UNKNOWN = "has no rule"


@record
class Site:
    """An axis of a parameter or buffer, and the layout that it follows.

    >>> Site("0.weight", dim=0, layout=torch.arange(8)).layout.numel()
    8
    """

    parameter: str
    dim: int
    layout: Tensor


@record
class Pin:
    """Channels that must not change, with the node and the reason.

    >>> Pin(torch.arange(8), node="mean", reason="a mean over the channels").reason
    'a mean over the channels'
    """

    labels: Tensor
    node: str
    reason: str


@record
class Work:
    """`times` * len(rows) * len(cols) multiply-adds of one example; a None layout counts once.

    >>> Work(times=9, rows=torch.arange(8), cols=torch.arange(3)).times  # a 3x3 kernel at one position
    9
    """

    times: int
    rows: Tensor | None
    cols: Tensor | None


@record
class Norm:
    """A normalisation, known by its `key`, with running statistics and, where affine, one gamma and beta a channel
    (names, or None). `scale`: it only multiplies by gamma.

    >>> channels = torch.arange(8)
    >>> names = {"gamma": "1.weight", "beta": "1.bias", "mean": "1.running_mean", "var": "1.running_var"}
    >>> Norm("1", "1", channels, axis=1, eps=1e-5, **names).gamma
    '1.weight'
    """

    path: str
    key: str
    layout: Tensor
    axis: int
    gamma: str | None
    beta: str | None
    mean: str | None
    var: str | None
    eps: float
    scale: bool = False


@record
class Reading:
    """Weights that sum over the channels `cols` on their input's `axis` and give the channels `rows`.

    `path` is the module that owns them, `key` names what they bring into being, `weight` is the parameter (None where a
    cross layer has several). `functional`: a function is given them, no module is called. `padded` says that zeros are
    read at the border. `transposed`: the weight is [columns, rows, *kernel]. In a cross layer, `generation` is that of
    each column and `out_generation` that of each row; elsewhere both are None.

    >>> rows, cols = torch.arange(3, 7), torch.arange(3)
    >>> read = Reading("0", "0", "0.weight", "0.bias", rows, cols, axis=1, padded=False)
    >>> read.rows.numel(), read.cols.numel()
    (4, 3)
    """

    path: str
    key: str
    weight: str | None
    bias: str | None
    rows: Tensor
    cols: Tensor
    axis: int
    padded: bool
    generation: Tensor | None = None
    out_generation: Tensor | None = None
    functional: bool = False
    groups: int = 1
    transposed: bool = False
    operand: int = 0  # which tensor among the arguments they read

    def by_columns(self, places: Tensor) -> Tensor:
        """[places on the axis, m] as [columns, m * places of a column]: an unfolded channel fills several places."""
        return places.reshape(self.cols.numel(), -1)

    def by_rows(self, weight: Tensor) -> Tensor:
        """The weight as [rows, columns of a group, *kernel]; also the way back."""
        if not self.transposed:
            return weight
        if self.groups == 1:
            return weight.transpose(0, 1)
        parts = weight.view(self.groups, -1, *weight.shape[1:])
        return parts.transpose(1, 2).flatten(0, 1)


@record
class Effect:
    """What one op does. `out`: labels (a tensor or a nest of them), or the Python value of a VALUE.

    `numbers`: the Python numbers that its values depend on. `literals`: arguments of the node, by index or name, that
    must be written anew because they state a width.

    >>> import nrfx
    >>> class Flip(nn.Module):
    ...     def forward(self, x):
    ...         return x.flip(1)  # the channels in the opposite order
    >>> @nrfx.rules.rule(Flip, keeps_shape=True, workless=True)
    ... def flip(call):
    ...     return Effect(Family.MOVEMENT, out=call.args[0].flip(1), apply=lambda x: x.flip(1), homogeneous=True)
    >>> nrfx.check_rule(Flip(), torch.randn(2, 4, 3, 3))
    ('channels stay apart', 'it scales with its input', 'constants are what its apply gives')
    """

    family: Family
    out: Any = None
    sites: tuple[Site, ...] = ()
    ties: tuple[tuple[Tensor, Tensor], ...] = ()
    pins: tuple[Pin, ...] = ()
    work: tuple[Work, ...] = ()
    reading: Reading | None = None
    also: tuple[Reading, ...] = ()  # further weights that read the same input
    norm: Norm | None = None
    apply: Callable[..., Any] | None = field(default=None, repr=False)  # the op on values other than labels
    homogeneous: bool = False  # op(s * x) = s * op(x) for every s > 0
    positive_only: bool = False  # homogeneous for s > 0 alone (relu, max): a negative factor must not pass
    undefined: bool = False  # it has no value at some numbers (log, sqrt, x / y)
    keeps_constants: bool = True  # a channel constant over its positions stays so, borders included
    adds: bool = False  # an addition: its operands lie on a residual stream
    between: bool = False  # it may multiply examples of the batch with each other
    uncounted: bool = False  # it may do multiply-adds that are not in `work`
    reason: str = ""  # of an UNKNOWN: why it is not understood
    numbers: tuple[Any, ...] = ()
    literals: Mapping[int | str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()  # parameters of the module that keep their shape at any width
    made_dim: int | None = None  # a dim of the result that the op makes: its size is the same for inputs of any size


@dataclass(frozen=True)
class Before:
    """A node at its old widths, for rules that must find out which new sizes mean the same.

    `out`: its old labels. `channel_of`: the channel of each label, old or new. `labels`: how many old ones there are.
    """

    out: Any
    channel_of: Tensor
    labels: int

    def alike(self, out: Tensor) -> bool:
        """Whether the dims along which channels change are the same, and all others have their old size."""
        if out.dim() != self.out.dim():
            return False
        for dim, (was, now) in enumerate(zip(self.varies(self.out), self.varies(out), strict=True)):
            if (now and not was) or (not was and out.shape[dim] != self.out.shape[dim]):
                return False
        return True

    def varies(self, labels: Tensor) -> list[bool]:
        """For each dim, whether channels change along it."""
        small = collapse(labels)
        known = (
            torch.where(small >= 0, self.channel_of[small.clamp(min=0)], small) if self.channel_of.numel() else small
        )
        return [known.shape[dim] > 1 and bool((known != known.narrow(dim, 0, 1)).any()) for dim in range(known.dim())]


@record
class Call:
    """One node of a graph, as its rule sees it.

    >>> import nrfx
    >>> class Double(nn.Module):
    ...     def forward(self, x):
    ...         return 2 * x
    >>> seen = []
    >>> @nrfx.rules.rule(Double, keeps_shape=True, workless=True)
    ... def double(call):
    ...     seen.append((call.path, tuple(call.args[0].shape), call.args[0].dtype))
    ...     return nrfx.rules.elementwise(call, homogeneous=True)
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), Double(), nn.Conv2d(4, 2, 1))
    >>> _ = nrfx.utilization(nrfx.trace(net, torch.zeros(1, 3, 5, 5)))
    >>> seen[0]
    ('1', (1, 4, 5, 5), torch.int64)
    """

    node: fx.Node
    args: tuple[Any, ...]  # label tensors and Python values
    kwargs: dict[str, Any]
    module: nn.Module | None
    path: str  # of the module; the node's name where there is none
    val: Any  # the node's value on the meta device, at the widths of the trace
    batch: int
    birth: Callable[[str, int], Tensor]  # (key, width) -> the labels that key brings into being
    opaque: Callable[[str], int]  # reason -> the label value that stands for it
    resized: bool  # whether the births have other widths than the modules
    before: "Before | None"  # where resized: the same node at its old widths
    name: Callable[[str], str]  # a parameter's name -> its first name, where parameters are tied
    parameter: Callable[[str], Tensor]  # a parameter or buffer by name; only its shape may be read
    registered: Callable[[str], bool]  # whether there is a parameter or buffer of that name
    workless: bool  # whether the op is known to do no multiply-adds that count
    shipped: bool = False  # whether its rule is one of nrfx, whose effects the tests check

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """The value passed at `index` or as `name`."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def own(self, attribute: str) -> str | None:
        """The full name of the module's parameter or buffer `attribute`, None where it is absent."""
        if self.module is None or attribute_of(self.module, attribute) is None:
            return None
        return self.name(f"{self.path}.{attribute}" if self.path else attribute)

    def attribute(self, index: int, name: str) -> str | None:
        """The parameter or buffer passed at `index` or as `name`, None where anything else is."""
        nodes = self.node.args
        node = nodes[index] if len(nodes) > index else self.node.kwargs.get(name)
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        first = self.name(str(node.target))
        return first if self.registered(first) else None

    def is_computed(self, index: int, name: str) -> bool:
        """Whether the argument at `index` or `name` is, or holds, a node: at other sizes it may be another number."""
        nodes = self.node.args
        found: list[fx.Node] = []
        fx.map_arg(nodes[index] if len(nodes) > index else self.node.kwargs.get(name), found.append)
        return bool(found)

    @property
    def function(self) -> Callable[..., Any]:
        """The op itself, on tensors of one's own. A module of the user's own runs as a copy in eval mode: it may keep a
        state."""
        if self.module is not None:
            torchs = type(self.module).__module__.startswith("torch.nn.")
            return self.module if torchs else partial(_on_a_copy, self.module)
        if isinstance(self.node.target, str):
            name = self.node.target
            return lambda x, *rest, **named: getattr(x, name)(*rest, **named)
        return self.node.target

    def pin(self, labels: Tensor, reason: str) -> Pin:
        """A pin of this node: the labels must not change, for this reason."""
        return Pin(labels, self.node.name, reason)

    def opaque_like(self, val: Any, reason: str) -> Any:
        """Opaque labels of the shape of `val` (nests included)."""
        code = self.opaque(reason)
        return with_tensors(val, lambda x: fill(code, x.shape))


def attribute_of(module: nn.Module, name: str) -> Any:
    """getattr(module, name, None), for which torch makes an error where there is nothing: 2 us each time.

    >>> attribute_of(nn.ReLU(), "weight"), attribute_of(nn.ReLU(), "inplace")
    (None, False)
    """
    for registry in (module._parameters, module._buffers):
        if name in registry:
            return registry[name]
    kind = type(module)
    if name in vars(module) or hasattr(kind, name) or kind.__getattr__ is not nn.Module.__getattr__:
        return getattr(module, name, None)
    return module._modules.get(name)


def _on_a_copy(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return copy.deepcopy(module).eval()(*args, **kwargs)


def without_nan(nest: Any) -> Any:
    """A copy of the values in a nest of arguments, with 0 for what varies."""
    return with_tensors(nest, lambda x: x.nan_to_num(0.0, torch.inf, -torch.inf))


def only(value: float, x: Tensor) -> Tensor:
    """The constants that are `value`, NaN for all others."""
    return torch.where(x == value, x, float("nan"))


def tensors(nest: Any) -> list[Tensor]:
    """The label tensors in a nest of arguments, in order.

    >>> len(tensors(([torch.zeros(1), 3], {"x": torch.zeros(2)})))
    2
    """
    if isinstance(nest, Tensor):
        return [nest]
    kind = type(nest)
    if (
        kind is tuple or kind is list or kind is immutable_list
    ):  # nearly all nests; a tree of any kind is slower to walk
        return [labels for part in nest for labels in tensors(part)]
    if kind is dict or kind is immutable_dict:
        return [labels for part in nest.values() for labels in tensors(part)]
    if kind in PLAIN or kind is torch.Size or kind is slice:
        return []
    return list(tensors_of(nest).values())


def unknown(call: Call, reason: str) -> Effect:
    """The effect of what is not understood: whatever it touches is pinned, whatever it gives is opaque.

    Its work is not known, unless it cannot do any: no tensor of the network goes in.

    >>> import nrfx
    >>> class Sorted(nn.Module):
    ...     def forward(self, x):
    ...         return x.sort(1).values
    >>> @nrfx.rules.rule(Sorted, keeps_shape=True)
    ... def sorting(call):
    ...     return unknown(call, "it sorts channels by their values")
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Sorted())
    >>> nrfx.utilization(nrfx.trace(net, torch.zeros(1, 3, 5, 5))).pins[0].reason
    'it sorts channels by their values'
    """
    touched = tensors((call.args, call.kwargs))
    return Effect(
        Family.UNKNOWN,
        out=call.opaque_like(call.val, f"a result that is not understood ({reason})"),
        pins=tuple(call.pin(labels, reason) for labels in touched),
        uncounted=not call.workless,
        reason=reason,
    )


def counted(call: Call, reason: str, rule: Callable[[Call], "Effect"]) -> Effect:
    """The effect of an op that is understood, but for something that may change what it does: all of it is pinned."""
    understood = rule(replace(call, birth=lambda _, width: torch.zeros(width, dtype=torch.int64)))
    work = tuple(Work(each.times * _length(each.rows) * _length(each.cols), None, None) for each in understood.work)
    effect = unknown(call, reason)
    if not work and effect.uncounted == understood.uncounted:  # as of an index that is written to
        return effect
    return replace(effect, work=work, uncounted=understood.uncounted)


def _length(layout: Tensor | None) -> int:
    return 1 if layout is None else layout.numel()
