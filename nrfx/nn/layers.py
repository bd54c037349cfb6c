"""The cross layers: convolutions of one to three dims, and the linear layer. cross.py has what they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import nn

from nrfx.errors import RewriteError
from nrfx.nn.attention import Form
from nrfx.nn.cross import Cross, check_widths

_DENSE_CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


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
        self.form = Form(self.in_runs, self.out_generations, kernel, self.stride, self.padding, self.dilation)

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
        check_widths(layer, (conv.in_channels, conv.out_channels), conv)
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
        self.form = Form(self.in_runs, self.out_generations)

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
        check_widths(layer, (linear.in_features, linear.out_features), linear)
        layer._copy_dense(linear)
        return layer
