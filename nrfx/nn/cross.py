"""Convolutions and linear layers whose channels belong to generations.

Generation 0 holds the channels that survived, generation n those born at the n-th rejuvenation. A block W_ij
maps input generation j to output generation i; the blocks with i != j are the cross connections. With
y_ij = W_ij * x_j, two schemes treat them (the bias is added afterwards):

    attention    out_i = y_ii + 2 sigmoid(y_ii) * sum_{j != i} y_ij
    removed      out_i = sum_{j in present[i]} y_ij                    all other blocks do not exist

The input's channels may lie in any order of runs (as after a concatenation); the output's are contiguous.
Not handled: groups, transposed convolutions, padding modes other than zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nrfx.errors import RewriteError

Runs = tuple[tuple[int, int], ...]
Pieces = tuple[tuple[int, int], ...]

_SCHEMES = ("attention", "removed")
_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DENSE_CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Cross(nn.Module):
    """What every cross layer shares: the generations, the two schemes, and the parameters.

    Args:
        in_generations: channels per input generation; 0 for a generation that is absent there.
        out_generations: channels per output generation, as many entries as in_generations.
        scheme: "attention" (one parameter, `weight`, laid out as in the dense layer) or "removed" (one
            parameter `weights.<i>` per output generation i, with columns only for the inputs that it reads).
        in_runs: (generation, width) runs in the order of the input's channels; None: contiguous, in order.
        present: for scheme "removed", the input generations that each output generation reads; None: its own.

    Raises:
        RewriteError: the generations, the runs or the present blocks do not fit together.
    """

    channel_dim: ClassVar[int]
    bias: nn.Parameter | None

    def __init__(
        self,
        in_generations: Sequence[int],
        out_generations: Sequence[int],
        kernel_size: tuple[int, ...],
        *,
        bias: bool,
        scheme: str,
        in_runs: Iterable[Sequence[int]] | None,
        present: Iterable[Sequence[int]] | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.in_generations = _generations(in_generations, "in_generations")
        self.out_generations = _generations(out_generations, "out_generations")
        _check_lengths(self.in_generations, self.out_generations)
        self.scheme = _scheme(scheme)
        self.kernel_size = kernel_size
        self.in_runs = _runs(in_runs, self.in_generations)
        self.present = _present(present, scheme, len(self.in_generations))
        self._in_pieces = tuple(_pieces(self.in_runs, {j}) for j in range(len(self.in_generations)))
        self._row_pieces = tuple(_pieces(self.in_runs, set(reads)) for reads in self.present)
        self._register_weights(device, dtype)
        new_bias = nn.Parameter(torch.empty(sum(self.out_generations), device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", new_bias)
        self.reset_parameters()

    def _register_weights(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        def parameter(out: int, in_: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(out, in_, *self.kernel_size, device=device, dtype=dtype))

        if self.scheme == "attention":
            self.weight = parameter(sum(self.out_generations), sum(self.in_generations))
            return
        rows = {str(i): parameter(self.out_generations[i], len(self.columns(i))) for i in self._rows_with_input()}
        if not rows:
            raise RewriteError(
                f"in_generations {self.in_generations}, out_generations {self.out_generations} and present "
                f"{self.present} leave no block at all: let an output generation read an input one."
            )
        self.weights = nn.ParameterDict(rows)

    def _rows_with_input(self) -> tuple[int, ...]:
        return tuple(i for i, out in enumerate(self.out_generations) if out and self._row_pieces[i])

    def columns(self, generation: int) -> tuple[int, ...]:
        """The input channels that an output generation reads, ascending: the columns of its weight.

        >>> CrossConv2d((2, 1), (2, 2), 1, scheme="removed", in_runs=((0, 1), (1, 1), (0, 1))).columns(0)
        (0, 2)
        """
        return tuple(c for start, width in self._row_pieces[generation] for c in range(start, start + width))

    def rows(self, generation: int) -> range:
        """The output channels of a generation.

        >>> CrossLinear((2, 1), (2, 3)).rows(1)
        range(2, 5)
        """
        start = sum(self.out_generations[:generation])
        return range(start, start + self.out_generations[generation])

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws weights from normal(0, sqrt(2 / (prod(kernel) * out))), He's rule by fan out; bias 0."""
        deviation = math.sqrt(2 / (math.prod(self.kernel_size) * sum(self.out_generations)))
        for weight in self._weights():
            weight.normal_(0, deviation)
        if self.bias is not None:
            self.bias.zero_()

    def _weights(self) -> list[nn.Parameter]:
        return [self.weight] if self.scheme == "attention" else list(self.weights.values())

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output: the dense layer's shapes, output generations contiguous and in order."""
        rows = self._attended(x) if self.scheme == "attention" else self._present_rows(x)
        out = rows[0] if len(rows) == 1 else torch.cat(rows, self.channel_dim)
        if self.bias is None:
            return out
        # A float32 bias would promote what autocast computed in 16 bits.
        return out + self.bias.to(out.dtype).reshape(-1, *[1] * (-1 - self.channel_dim))

    def _attended(self, x: Tensor) -> list[Tensor]:
        """Eqs. 9 and 10 for any number of generations, from one contraction per input generation."""
        by_input = {
            j: self._contract(_take(x, pieces, self.channel_dim), _take(self.weight, pieces, 1))
            for j, pieces in enumerate(self._in_pieces)
            if pieces
        }
        return [self._attended_row(i, by_input) for i, out in enumerate(self.out_generations) if out]

    def _attended_row(self, i: int, by_input: Mapping[int, Tensor]) -> Tensor:
        rows = self.rows(i)
        blocks = {j: _take(y, ((rows.start, len(rows)),), self.channel_dim) for j, y in by_input.items()}
        same = blocks.pop(i, None)
        if not blocks:
            assert same is not None
            return same
        first, *rest = blocks.values()
        cross = sum(rest, start=first)
        # Without own inputs y_ii is 0 and 2 sigmoid(0) = 1.
        return cross if same is None else same + 2 * torch.sigmoid(same) * cross

    def _present_rows(self, x: Tensor) -> list[Tensor]:
        rows = {
            i: self._contract(_take(x, self._row_pieces[i], self.channel_dim), self.weights[str(i)])
            for i in self._rows_with_input()
        }
        like = next(iter(rows.values()))
        return [rows[i] if i in rows else self._zeros(like, out) for i, out in enumerate(self.out_generations) if out]

    def _zeros(self, like: Tensor, width: int) -> Tensor:
        # new_zeros would lose channels_last, and the concatenation with it.
        zero = torch.zeros_like(like.narrow(self.channel_dim, 0, 1))
        return torch.cat([zero] * width, self.channel_dim)

    def _contract(self, x: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def dense_weight(self) -> Tensor:
        """The dense layer's weight, [out, in, *kernel], zero where a block is absent; differentiable."""
        if self.scheme == "attention":
            return self.weight
        return torch.cat([self._dense_row(i) for i, out in enumerate(self.out_generations) if out])

    def _dense_row(self, i: int) -> Tensor:
        like = self._weights()[0]
        row = like.new_zeros(self.out_generations[i], sum(self.in_generations), *self.kernel_size)
        if str(i) not in self.weights:
            return row
        columns = torch.tensor(self.columns(i), device=row.device)
        return row.index_copy(1, columns, self.weights[str(i)])

    def extra_repr(self) -> str:
        """The generations and the scheme first, then what is not a default."""
        said = [
            f"{self.in_generations} -> {self.out_generations}",
            *self._repr_shape(),
            f"scheme={self.scheme!r}",
        ]
        if self.in_runs != _runs(None, self.in_generations):
            said.append(f"in_runs={self.in_runs}")
        if self.present != _present(None, self.scheme, len(self.in_generations)):
            said.append(f"present={self.present}")
        if self.bias is None:
            said.append("bias=False")
        return ", ".join(said)

    def _repr_shape(self) -> list[str]:
        return []

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON values, with the class under "type"; weights are not in it.

        >>> CrossLinear((2, 1), (2, 3)).config()["out_generations"]
        [2, 3]
        """
        return {
            "type": type(self).__name__,
            "in_generations": list(self.in_generations),
            "out_generations": list(self.out_generations),
            "bias": self.bias is not None,
            "scheme": self.scheme,
            "in_runs": [list(run) for run in self.in_runs],
            "present": [list(reads) for reads in self.present] if self.scheme == "removed" else None,
            **self._shape_config(),
        }

    def _shape_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """A layer of the shape that config() described, with new weights.

        Raises:
            RewriteError: the config is not one of this class, or names an argument that does not exist.

        >>> Cross.from_config(CrossLinear((2, 1), (2, 3)).config())
        CrossLinear((2, 1) -> (2, 3), scheme='attention')
        """
        arguments = dict(config)
        kind = str(arguments.pop("type", cls.__name__))
        known = {layer.__name__: layer for layer in _LAYERS if issubclass(layer, cls)}
        if kind not in known:
            raise RewriteError(f"The config is of type {kind!r}, expected one of {sorted(known)}.")
        try:
            return known[kind](**arguments, device=device, dtype=dtype)
        except TypeError as error:
            raise RewriteError(f"The config of a {kind} does not fit its constructor: {error}.") from error

    def _copy_dense(self, dense: nn.Module) -> None:
        """Makes this layer's parameters fresh copies of the dense layer's; absent blocks are dropped."""
        weight = dense.get_parameter("weight")
        copies: list[tuple[nn.Module, str, Tensor]] = []
        if self.scheme == "attention":
            copies.append((self, "weight", weight))
        else:
            for i in self._rows_with_input():
                rows = _take(weight, ((self.rows(i).start, self.out_generations[i]),), 0)
                copies.append((self.weights, str(i), _take(rows, self._row_pieces[i], 1)))
        for owner, name, value in copies:
            setattr(owner, name, _copied(value, weight.requires_grad))
        if self.bias is not None:
            bias = dense.get_parameter("bias")
            self.bias = _copied(bias, bias.requires_grad)
        self.train(dense.training)


class _CrossConv(Cross):
    """The convolutions: a Cross whose contraction slides a kernel over the last `spatial` dims."""

    spatial: ClassVar[int]
    groups = 1
    padding_mode = "zeros"

    def __init__(
        self,
        in_generations: Sequence[int],
        out_generations: Sequence[int],
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        bias: bool = True,
        scheme: str = "attention",
        in_runs: Iterable[Sequence[int]] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        present: Iterable[Sequence[int]] | None = None,
    ) -> None:
        kernel = self._per_dim(kernel_size, "kernel_size", least=1)
        super().__init__(
            in_generations,
            out_generations,
            kernel,
            bias=bias,
            scheme=scheme,
            in_runs=in_runs,
            present=present,
            device=device,
            dtype=dtype,
        )
        self.in_channels = sum(self.in_generations)
        self.out_channels = sum(self.out_generations)
        self.stride = self._per_dim(stride, "stride", least=1)
        self.padding = self._padding(padding)
        self.dilation = self._per_dim(dilation, "dilation", least=1)

    def _per_dim(self, value: int | Sequence[int], name: str, least: int) -> tuple[int, ...]:
        values = (value,) * self.spatial if isinstance(value, int) else tuple(value)
        if len(values) != self.spatial or not all(isinstance(v, int) and v >= least for v in values):
            raise RewriteError(
                f"{type(self).__name__} got {name}={value!r}: give an integer >= {least}, or {self.spatial} of them."
            )
        return values

    def _padding(self, padding: int | Sequence[int] | str) -> tuple[int, ...] | str:
        if not isinstance(padding, str):
            return self._per_dim(padding, "padding", least=0)
        if padding not in ("same", "valid") or (padding == "same" and set(self.stride) != {1}):
            raise RewriteError(
                f"{type(self).__name__} got padding={padding!r} with stride {self.stride}: "
                "give numbers, 'valid', or with stride 1 'same'."
            )
        return padding

    def _contract(self, x: Tensor, weight: Tensor) -> Tensor:
        return _CONVOLVE[self.spatial](x, weight, None, self.stride, self.padding, self.dilation)

    def _repr_shape(self) -> list[str]:
        said = [f"kernel_size={self.kernel_size}", f"stride={self.stride}"]
        if self.padding != (0,) * self.spatial:
            said.append(f"padding={self.padding!r}")
        if self.dilation != (1,) * self.spatial:
            said.append(f"dilation={self.dilation}")
        return said

    def _shape_config(self) -> dict[str, Any]:
        return {
            "kernel_size": list(self.kernel_size),
            "stride": list(self.stride),
            "padding": self.padding if isinstance(self.padding, str) else list(self.padding),
            "dilation": list(self.dilation),
        }

    @classmethod
    def from_dense(
        cls,
        conv: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        in_generations: Sequence[int],
        out_generations: Sequence[int],
        *,
        scheme: str = "attention",
        in_runs: Iterable[Sequence[int]] | None = None,
        present: Iterable[Sequence[int]] | None = None,
    ) -> Self:
        """The cross layer with a copy of a dense convolution's parameters, absent blocks dropped.

        Device, dtype, requires_grad and the train/eval flag follow; the convolution is left as it was.

        Raises:
            RewriteError: the convolution is grouped, pads with anything but zeros, or has other widths.

        >>> CrossConv2d.from_dense(nn.Conv2d(8, 8, 3, padding=1), (6, 2), (5, 3))
        CrossConv2d((6, 2) -> (5, 3), kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), scheme='attention')
        """
        expected = _DENSE_CONV[cls.spatial]
        if not isinstance(conv, expected):
            raise RewriteError(
                f"{cls.__name__} is made from an nn.{expected.__name__}, not from a {type(conv).__name__}."
            )
        if conv.groups != 1 or conv.padding_mode != "zeros":
            raise RewriteError(
                f"{conv} has groups={conv.groups} and padding_mode={conv.padding_mode!r}; "
                "a cross layer needs groups=1 and padding_mode='zeros': keep this layer dense."
            )
        layer = cls(
            in_generations,
            out_generations,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            bias=conv.bias is not None,
            scheme=scheme,
            in_runs=in_runs,
            present=present,
            device="meta",
        )
        _check_widths(layer, (conv.in_channels, conv.out_channels), conv)
        layer._copy_dense(conv)
        return layer


class CrossConv1d(_CrossConv):
    """A 1d cross convolution; arguments as in CrossConv2d. [N, in, L] -> [N, out, L'].

    >>> CrossConv1d((4, 2), (3, 3), 3)(torch.zeros(1, 6, 10)).shape
    torch.Size([1, 6, 8])
    """

    spatial = 1
    channel_dim = -2


class CrossConv2d(_CrossConv):
    """A 2d convolution whose cross connections between generations attend, or are removed.

        out_i = y_ii + 2 sigmoid(y_ii) * sum_{j != i} y_ij + bias_i            y_ij = W_ij * x_j

    Shapes: [N, in, H, W] -> [N, out, H', W'], as nn.Conv2d, whose attributes it has. With scheme="attention"
    the parameters are those of nn.Conv2d, name and layout included, and so are the multiply-adds; with
    scheme="removed" absent blocks cost neither parameters nor multiply-adds.

    Source: Neural Rejuvenation, Eqs. 9 and 10, here for any number of generations. There is no bias in the
    paper; here it stays outside the attention. An output generation without inputs of its own has y_ii = 0:
    the plain sum.

    Raises:
        RewriteError: arguments that do not fit together.

    >>> layer = CrossConv2d((40, 24), (48, 30), kernel_size=3, padding=1)
    >>> layer.weight.shape, layer(torch.zeros(1, 64, 8, 8)).shape
    (torch.Size([78, 64, 3, 3]), torch.Size([1, 78, 8, 8]))
    >>> sorted(CrossConv2d((40, 24), (48, 30), 3, scheme="removed").state_dict())
    ['bias', 'weights.0', 'weights.1']
    """

    spatial = 2
    channel_dim = -3


class CrossConv3d(_CrossConv):
    """A 3d cross convolution; arguments as in CrossConv2d. [N, in, D, H, W] -> [N, out, D', H', W'].

    >>> CrossConv3d((4, 2), (3, 3), 1)(torch.zeros(1, 6, 2, 2, 2)).shape
    torch.Size([1, 6, 2, 2, 2])
    """

    spatial = 3
    channel_dim = -4


class CrossLinear(Cross):
    """A linear layer whose cross connections attend, or are removed. [..., in] -> [..., out].

    >>> CrossLinear((4, 2), (3, 3))(torch.zeros(5, 7, 6)).shape
    torch.Size([5, 7, 6])
    """

    channel_dim = -1

    def __init__(
        self,
        in_generations: Sequence[int],
        out_generations: Sequence[int],
        bias: bool = True,
        scheme: str = "attention",
        in_runs: Iterable[Sequence[int]] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        present: Iterable[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            in_generations,
            out_generations,
            (),
            bias=bias,
            scheme=scheme,
            in_runs=in_runs,
            present=present,
            device=device,
            dtype=dtype,
        )
        self.in_features = sum(self.in_generations)
        self.out_features = sum(self.out_generations)

    def _contract(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        in_generations: Sequence[int],
        out_generations: Sequence[int],
        *,
        scheme: str = "attention",
        in_runs: Iterable[Sequence[int]] | None = None,
        present: Iterable[Sequence[int]] | None = None,
    ) -> Self:
        """The cross layer with a copy of a dense linear layer's parameters, absent blocks dropped.

        Device, dtype, requires_grad and the train/eval flag follow; the linear layer is left as it was.

        Raises:
            RewriteError: it is no nn.Linear, or has other widths.

        >>> CrossLinear.from_dense(nn.Linear(8, 8), (6, 2), (5, 3))
        CrossLinear((6, 2) -> (5, 3), scheme='attention')
        """
        if not isinstance(linear, nn.Linear):
            raise RewriteError(f"{cls.__name__} is made from an nn.Linear, not from a {type(linear).__name__}.")
        layer = cls(
            in_generations,
            out_generations,
            bias=linear.bias is not None,
            scheme=scheme,
            in_runs=in_runs,
            present=present,
            device="meta",
        )
        _check_widths(layer, (linear.in_features, linear.out_features), linear)
        layer._copy_dense(linear)
        return layer


_LAYERS: tuple[type[Cross], ...] = (CrossConv1d, CrossConv2d, CrossConv3d, CrossLinear)


def _take(x: Tensor, pieces: Pieces, dim: int) -> Tensor:
    """The (start, width) pieces of one dim of x, joined; x itself or a view of it where that is enough."""
    if pieces == ((0, x.shape[dim]),):
        return x
    parts = [x.narrow(dim, start, width) for start, width in pieces]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _pieces(runs: Runs, generations: set[int]) -> Pieces:
    """Where the channels of these generations lie: (start, width), neighbours merged.

    >>> _pieces(((0, 30), (1, 10), (2, 5), (0, 20)), {0, 1})
    ((0, 40), (45, 20))
    """
    pieces: list[tuple[int, int]] = []
    start = 0
    for generation, width in runs:
        if generation in generations:
            touches = pieces and sum(pieces[-1]) == start
            pieces[-1:] = [(pieces[-1][0], pieces[-1][1] + width)] if touches else [*pieces[-1:], (start, width)]
        start += width
    return tuple(pieces)


def _copied(value: Tensor, requires_grad: bool) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=requires_grad)


def _generations(widths: Sequence[int], name: str) -> tuple[int, ...]:
    if not all(isinstance(width, int) and width >= 0 for width in widths) or sum(widths) == 0:
        raise RewriteError(
            f"{name}={widths!r}: give one channel count per generation, integers >= 0 that are not all 0."
        )
    return tuple(widths)


def _check_lengths(in_generations: tuple[int, ...], out_generations: tuple[int, ...]) -> None:
    if len(in_generations) != len(out_generations):
        raise RewriteError(
            f"in_generations {in_generations} has {len(in_generations)} entries and out_generations "
            f"{out_generations} has {len(out_generations)}: pad the shorter one with zeros for "
            "generations that are absent there."
        )


def _check_widths(layer: Cross, widths: tuple[int, int], dense: nn.Module) -> None:
    found = sum(layer.in_generations), sum(layer.out_generations)
    if found != widths:
        raise RewriteError(
            f"{dense} maps {widths[0]} channels to {widths[1]}, but the generations "
            f"{layer.in_generations} -> {layer.out_generations} map {found[0]} to {found[1]}: "
            "their sums must be the layer's widths."
        )


def _scheme(scheme: str) -> str:
    if scheme not in _SCHEMES:
        raise RewriteError(
            f"scheme={scheme!r}: a cross layer has one of the schemes {_SCHEMES}; 'dense' is nn's own layer."
        )
    return scheme


def _runs(in_runs: Iterable[Sequence[int]] | None, in_generations: tuple[int, ...]) -> Runs:
    """The runs without empty ones, neighbours of one generation merged."""
    given = enumerate(in_generations) if in_runs is None else [_pair(run) for run in in_runs]
    merged: list[tuple[int, int]] = []
    for generation, width in given:
        if merged and merged[-1][0] == generation:
            merged[-1] = (generation, merged[-1][1] + width)
        elif width:
            merged.append((generation, width))
    found = tuple(sum(w for g, w in merged if g == j) for j in range(len(in_generations)))
    if found != in_generations or sum(found) != sum(width for _, width in merged):
        raise RewriteError(
            f"in_runs {tuple(merged)} holds {found} channels per generation, but in_generations is "
            f"{in_generations}: every input channel must lie in exactly one run."
        )
    return tuple(merged)


def _pair(run: Sequence[int]) -> tuple[int, int]:
    values = tuple(run)
    if len(values) != 2 or not all(isinstance(value, int) and value >= 0 for value in values):
        raise RewriteError(f"in_runs holds {values}: a run is a pair (generation, width) of integers >= 0.")
    return values[0], values[1]


def _present(present: Iterable[Sequence[int]] | None, scheme: str, generations: int) -> tuple[tuple[int, ...], ...]:
    """The input generations that each output generation reads, ascending."""
    if scheme == "attention":
        if present is not None:
            raise RewriteError('present is for scheme="removed"; under "attention" every block is present.')
        return (tuple(range(generations)),) * generations
    if present is None:
        return tuple((i,) for i in range(generations))
    rows = tuple(tuple(sorted(set(reads))) for reads in present)
    if len(rows) != generations or any(j not in range(generations) for reads in rows for j in reads):
        raise RewriteError(
            f"present={rows} must name, for each of the {generations} output generations, the input "
            f"generations that it reads, each between 0 and {generations - 1}."
        )
    return rows
