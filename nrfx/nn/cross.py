"""What every cross layer shares: channels that belong to generations, and two schemes for the blocks between these.

Generation 0 holds the channels that survived, generation n those born at the n-th rejuvenation. A block W_ij
maps input generation j to output generation i; the blocks with i != j are the cross connections. With
y_ij = W_ij * x_j, two schemes treat them (the bias is added afterwards):

    attention    out_i = y_ii + 2 sigmoid(y_ii) * sum_{j != i} y_ij
    removed      out_i = sum_{j in present[i]} y_ij                    all other blocks do not exist

The input's channels may lie in any order of runs (as after a concatenation); the output's are contiguous.
Not handled: groups, transposed convolutions, padding modes other than zeros.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from nrfx.errors import RewriteError
from nrfx.nn.attention import Form, by_generation
from nrfx.nn.generations import (
    Pieces,
    check_lengths,
    checked_present,
    checked_runs,
    checked_scheme,
    checked_widths,
    pieces,
)
from nrfx.nn.implementations import cross_attention, with_bias
from nrfx.nn.leaf import recorded_call
from nrfx.nn.operands import check_bias, check_input, is_recorded

_Kind = TypeVar("_Kind", bound="Cross")


class Cross(nn.Module):
    """What every cross layer shares: the generations, the two schemes, and the parameters.

    Args:
        in_generations: channels per input generation; 0 for a generation that is absent there.
        out_generations: channels per output generation, as many entries as in_generations.
        scheme: "attention" (one parameter, `weight`, laid out as in the dense layer) or "removed" (one
            parameter `weights.<i>` per output generation i, with columns only for the inputs that it reads).
        in_runs: (generation, width) runs in the order of the input's channels; None: contiguous, in order.
        present: for scheme "removed", the input generations that each output generation reads; None: its own.

    Attributes:
        form: what the layer computes, without its weights.

    Raises:
        RewriteError: the generations, the runs or the present blocks do not fit together.

    >>> from nrfx.nn import CrossLinear
    >>> layer = CrossLinear((4, 2), (3, 3))
    >>> isinstance(layer, Cross), layer.weight.shape, layer.scheme
    (True, torch.Size([6, 6]), 'attention')
    """

    channel_dim: ClassVar[int]
    bias: nn.Parameter | None
    form: Form

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
        self.in_generations = checked_widths(in_generations, "in_generations")
        self.out_generations = checked_widths(out_generations, "out_generations")
        check_lengths(self.in_generations, self.out_generations)
        self.scheme = checked_scheme(scheme)
        self.kernel_size = kernel_size
        self.in_runs = checked_runs(in_runs, self.in_generations)
        self.present = checked_present(present, scheme, len(self.in_generations))
        read = functools.cache(lambda reads: pieces(self.in_runs, set(reads)))  # all rows read the same under attention
        self._row_pieces = tuple(
            read(reads) if rows else () for reads, rows in zip(self.present, self.out_generations, strict=True)
        )
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
        rows = {str(i): parameter(self.out_generations[i], self._read_width(i)) for i in self._rows_with_input()}
        if not rows:
            raise RewriteError(
                f"in_generations {self.in_generations}, out_generations {self.out_generations} and present "
                f"{self.present} leave no block at all: let an output generation read an input one."
            )
        self.weights = nn.ParameterDict(rows)

    def _rows_with_input(self) -> tuple[int, ...]:
        return tuple(i for i, out in enumerate(self.out_generations) if out and self._row_pieces[i])

    def _read_width(self, generation: int) -> int:
        return sum(width for _, width in self._row_pieces[generation])

    def columns(self, generation: int) -> tuple[int, ...]:
        """The input channels that an output generation reads, ascending: the columns of its weight.

        >>> from nrfx.nn import CrossConv2d
        >>> CrossConv2d((2, 1), (2, 2), 1, scheme="removed", in_runs=((0, 1), (1, 1), (0, 1))).columns(0)
        (0, 2)
        """
        return tuple(c for start, width in self._row_pieces[generation] for c in range(start, start + width))

    def rows(self, generation: int) -> range:
        """The output channels of a generation.

        >>> from nrfx.nn import CrossLinear
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
            if not weight.is_meta:  # a rewrite fills it; drawing nothing on the meta device takes 10 ms
                weight.normal_(0, deviation)
        if self.bias is not None:
            self.bias.zero_()

    def _weights(self) -> list[nn.Parameter]:
        return [self.weight] if self.scheme == "attention" else list(self.weights.values())

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output: the dense layer's shapes, output generations contiguous and in order."""
        call: Tensor | None = recorded_call(self, x)
        if call is not None:
            return call
        if self.scheme == "attention":
            return cross_attention(x, self.weight, self.bias, self.form)
        self._check(x)
        rows = self._grouped(x) if self._is_grouped() else self._present_rows(x)
        return with_bias(rows, self.bias, self.form)

    def _check(self, x: Tensor) -> None:
        """Raises RuntimeError for an input or a bias that does not fit; torch's own operations compare the weights."""
        if not is_recorded(x):
            check_input(x, self.form)
            check_bias(x, self.bias, self.form)

    def _is_grouped(self) -> bool:
        """Whether the present blocks are those of a grouped convolution: each generation its own, all of equal size."""
        return (
            bool(self.kernel_size)
            and len(set(self.in_generations)) == len(set(self.out_generations)) == 1
            and self.in_runs == tuple(enumerate(self.in_generations))
            and self.present == tuple((i,) for i in range(len(self.in_generations)))
        )

    def _grouped(self, x: Tensor) -> Tensor:
        weight = torch.cat(list(self.weights.values()))
        return self.form.contract(x, weight, groups=len(self.in_generations))

    def _present_rows(self, x: Tensor) -> Tensor:
        parts = by_generation(x, self.in_runs, self.channel_dim)
        rows = {i: self.form.contract(self._read(parts, i, x), self.weights[str(i)]) for i in self._rows_with_input()}
        like = next(iter(rows.values()))
        present = [
            rows[i] if i in rows else self._zeros(like, out) for i, out in enumerate(self.out_generations) if out
        ]
        return present[0] if len(present) == 1 else torch.cat(present, self.channel_dim)

    def _read(self, parts: Mapping[int, Tensor], i: int, x: Tensor) -> Tensor:
        """The input channels that output generation i reads, in the input's order."""
        read = self.present[i]
        if len(read) == 1:
            return parts[read[0]]
        whole = self._row_pieces[i] == ((0, sum(self.in_generations)),)
        return x if whole else _take(x, self._row_pieces[i], self.channel_dim)

    def _zeros(self, like: Tensor, width: int) -> Tensor:
        # new_zeros would lose channels_last, and the concatenation with it.
        zero = torch.zeros_like(like.narrow(self.channel_dim, 0, 1))
        return torch.cat([zero] * width, self.channel_dim)

    @property
    def is_head(self) -> bool:
        """Whether it has one output generation that reads all others: then `heads` can tell their shares apart.

        >>> from nrfx.nn import CrossLinear
        >>> CrossLinear((3, 2), (5, 0), scheme="removed", present=((0, 1), ())).is_head
        True
        """
        rows = [i for i, out in enumerate(self.out_generations) if out]
        return self.scheme == "removed" and len(rows) == 1 and self._read_width(rows[0]) == sum(self.in_generations)

    def heads(self, x: Tensor, generations: Sequence[int]) -> tuple[Tensor, ...]:
        """What each of these input generations gives to the output of a head: with all of them, their sum is forward.

        The bias is in the first one. A generation without channels gives 0. Shapes: each as the layer's output.

        >>> from nrfx.nn import CrossLinear
        >>> layer = CrossLinear((3, 2), (5, 0), scheme="removed", present=((0, 1), ()))
        >>> survivors, rejuvenated = layer.heads(torch.ones(1, 5), (0, 1))
        >>> torch.allclose(survivors + rejuvenated, layer(torch.ones(1, 5)))
        True
        """
        self._check(x)
        (weight,) = self._weights()
        inputs = by_generation(x, self.in_runs, self.channel_dim)
        columns = by_generation(weight, self.in_runs, 1)
        products = {j: self.form.contract(inputs[j], columns[j]) for j in generations if j in inputs}
        like = next(iter(products.values()))
        first, *others = (products[j] if j in products else torch.zeros_like(like) for j in generations)
        return with_bias(first, self.bias, self.form), *others

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
        if self.in_runs != checked_runs(None, self.in_generations):
            said.append(f"in_runs={self.in_runs}")
        if self.present != checked_present(None, self.scheme, len(self.in_generations)):
            said.append(f"present={self.present}")
        if self.bias is None:
            said.append("bias=False")
        return ", ".join(said)

    def _repr_shape(self) -> list[str]:
        return []

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON values, with the class under "type"; weights are not in it.

        >>> from nrfx.nn import CrossLinear
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

        >>> from nrfx.nn import CrossLinear
        >>> Cross.from_config(CrossLinear((2, 1), (2, 3)).config())
        CrossLinear((2, 1) -> (2, 3), scheme='attention')
        """
        arguments = dict(config)
        kind = str(arguments.pop("type", cls.__name__))
        known = {layer.__name__: layer for layer in _classes(cls)}
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


def _classes(kind: type[_Kind]) -> list[type[_Kind]]:
    """The layers among a class and those made from it: the ones that know where their channels are."""
    below = [known for child in kind.__subclasses__() for known in _classes(child)]
    return [kind, *below] if hasattr(kind, "channel_dim") else below


def _take(x: Tensor, pieces: Pieces, dim: int) -> Tensor:
    """The (start, width) pieces of one dim of x, joined; a view of it where that is enough."""
    parts = [x.narrow(dim, start, width) for start, width in pieces]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _copied(value: Tensor, requires_grad: bool) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=requires_grad)


def check_widths(layer: Cross, widths: tuple[int, int], dense: nn.Module) -> None:
    own = sum(layer.in_generations), sum(layer.out_generations)
    if own != widths:
        raise RewriteError(
            f"{dense} maps {widths[0]} channels to {widths[1]}, but the generations "
            f"{layer.in_generations} -> {layer.out_generations} map {own[0]} to {own[1]}: "
            "their sums must be the layer's widths."
        )
