"""What a cross layer's call is handed, checked before a kernel reads memory.

Two lines of defence. `check_call` compares input and parameters with the layer's form and raises what nn.Conv*d and
nn.Linear raise, a RuntimeError. `dense` and `checked` stand where a kernel gets a bare address: the first copies what
lies in memory otherwise than it reads (strides, a lazy minus sign), the second refuses what the kernel would take for
something else, so that no mistake of ours can become a read or a write outside of an array.

Not handled: arrays that another thread resizes while a kernel runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nrfx.nn.attention import Form

_PLAIN = (Tensor, nn.Parameter)
_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_DIMS = {0: "[*, {}]", 1: "[N, {0}, L] or [{0}, L]", 2: "[N, {0}, H, W] or [{0}, H, W]"}


def check_call(x: Tensor, weight: Tensor, bias: Tensor | None, form: Form) -> None:
    """Compares a call with the layer's form; what only records operations is left to these operations.

    Raises:
        RuntimeError: a rank, a number of channels, a shape, a dtype or a device that does not fit.
        TypeError: x is no tensor.
    """
    if is_recorded(x):
        return
    check_input(x, form)
    if weight.shape != form.weight_shape:
        raise RuntimeError(
            f"The weight of a {_name(form)} has the shape {list(weight.shape)}, expected {list(form.weight_shape)}: "
            f"its generations are {form.runs} -> {form.rows}."
        )
    check_alike(x, weight, "weight", form)
    check_bias(x, bias, form)


def is_recorded(x: object) -> bool:
    """Whether x only stands for a tensor, as under torch.compile, torch.jit.trace and in a symbolic trace."""
    if isinstance(x, Tensor):
        return torch.compiler.is_compiling() or torch._C._is_tracing()
    if not hasattr(type(x), "__torch_function__"):
        raise TypeError(f"A cross layer takes a tensor, but got a {type(x).__name__}.")
    return True


def check_input(x: Tensor, form: Form) -> None:
    """Raises RuntimeError for an input of another rank or number of channels."""
    spatial, channels = len(form.kernel), form.weight_shape[1]
    leading = x.dim() - spatial
    if leading not in (1, 2) if spatial else leading < 1:
        wanted = _DIMS.get(spatial, "[N, {0}, D, H, W] or [{0}, D, H, W]").format(channels)
        raise RuntimeError(f"A {_name(form)} expected an input {wanted}, but got one of shape {list(x.shape)}.")
    width = x.shape[-1 - spatial]
    if width != channels:
        raise RuntimeError(
            f"A {_name(form)} expected an input of {channels} channels in dim {-1 - spatial}, but got {width} channels "
            f"in one of shape {list(x.shape)}."
        )


def check_bias(x: Tensor, bias: Tensor | None, form: Form) -> None:
    """Raises RuntimeError for a bias of another length, device or dtype."""
    if bias is None:
        return
    if bias.shape != form.weight_shape[:1]:
        raise RuntimeError(
            f"The bias of a {_name(form)} has the shape {list(bias.shape)}, expected {list(form.weight_shape[:1])}."
        )
    check_alike(x, bias, "bias", form)


def check_alike(x: Tensor, parameter: Tensor, name: str, form: Form) -> None:
    """Raises RuntimeError where a parameter is of another device or, but for autocast, of another dtype."""
    if x.device != parameter.device:
        raise RuntimeError(
            f"A {_name(form)} got an input on {x.device}, but its {name} is on {parameter.device}: expected one device."
        )
    if x.dtype != parameter.dtype and not _autocasts(x):
        raise RuntimeError(
            f"A {_name(form)} got an input of {x.dtype}, but its {name} is of {parameter.dtype}: expected one dtype."
        )


def _autocasts(x: Tensor) -> bool:
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _name(form: Form) -> str:
    return f"CrossConv{len(form.kernel)}d" if form.kernel else "CrossLinear"


# Who is looking


def is_watched(*tensors: Tensor | None) -> bool:
    """Whether somebody wants to see plain operations, or one of the tensors is more than numbers in memory."""
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or False in map(_is_plain, tensors)
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _is_plain(tensor: Tensor | None) -> bool:
    # Sparse, opaque and batched tensors have no storage; batched gradients are of no subclass and under no transform.
    return tensor is None or (type(tensor) in _PLAIN and torch._C._has_storage(tensor))


# Memory


def channels_last(form: Form) -> torch.memory_format:
    """The layout with the channels fastest; the ordinary one where torch has none for so many dims."""
    return _LAST.get(len(form.kernel), torch.contiguous_format)


def layout_of(x: Tensor, form: Form) -> torch.memory_format:
    """The one of the two layouts of the kernels that x has; the ordinary one where it has neither."""
    last = channels_last(form)
    if x.dim() != len(form.kernel) + 2 or x.is_contiguous() or not x.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


def dense(x: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """x with its own numbers in memory, in this layout and without gaps; x itself where that is so."""
    if x.is_neg() or x._is_zerotensor():  # contiguous() leaves both as they are
        x = x.clone(memory_format=torch.preserve_format).resolve_neg()
    x = x.contiguous(memory_format=layout)
    return x if x.data_ptr() % x.element_size() == 0 else x.clone()


def checked(
    x: Tensor,
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """x, which a kernel may take for numbers of this shape, dtype, device and layout.

    Raises:
        RuntimeError: it is another tensor, or its memory is not there.
    """
    is_another = x.shape != shape or x.dtype != dtype or x.device != device
    if is_another or not x.is_contiguous(memory_format=layout) or x.is_neg():
        raise RuntimeError(
            f"A kernel of a cross layer needs {list(shape)} of {dtype} on {device}, dense as {layout}, but got "
            f"{list(x.shape)} of {x.dtype} on {x.device} with strides {x.stride()}."
        )
    end = (x.storage_offset() + x.numel()) * x.element_size()
    if not x.data_ptr() or x.data_ptr() % x.element_size() or end > x.untyped_storage().nbytes():
        raise RuntimeError(
            f"A kernel of a cross layer got a tensor of shape {list(shape)} whose memory is not there: "
            "its storage is empty, too small or lies askew."
        )
    return x


def described(
    ys: Sequence[Tensor], form: Form, layout: torch.memory_format, device: torch.device, dtypes: Sequence[torch.dtype]
) -> tuple[tuple[int, ...], torch.dtype, torch.device, torch.memory_format]:
    """What `checked` holds every map of the attention against: the first one's shape and dtype.

    Raises:
        RuntimeError: the maps are not those of the form, or of a dtype that the kernels do not know.
    """
    shape, dtype = ys[0].shape, ys[0].dtype
    actual, expected = (len(ys), shape[form.channel_dim]), (len(form.inputs), form.weight_shape[0])
    if actual != expected or dtype not in dtypes:
        raise RuntimeError(
            f"The attention got {actual[0]} maps of {actual[1]} channels in {dtype}, expected {expected[0]} of "
            f"{expected[1]} in one of {list(dtypes)}."
        )
    return shape, dtype, device, layout
