"""What ops give in closed form: the shapes of the commonest, without running them on meta tensors.

torch runs a linear layer or an average over all positions on the meta device in 0.5 ms and an addition or a
concatenation in 0.3 ms, more than all else that a trace does with the node. Each function here gets the module (None
for a function) and the arguments as values, and gives what the op gives on meta tensors; or None where it does not
know, so that the op is run, and raises what it raises.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def of_linear(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """x [*, in] -> [*, out]."""
    x, weight = _read(module, args, kwargs)
    if x is None or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        return None
    return _empty(x, (*x.shape[:-1], weight.shape[0]))


def of_linear_call(_: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """F.linear: x [*, in], weight [out, in], perhaps a bias [out] -> [*, out]."""
    x, weight, bias = (*args, kwargs.get("bias"))[:3] if len(args) in (2, 3) else (None,) * 3
    if not kwargs.keys() <= {"bias"} or len(args) + len(kwargs) > 3 or not (_is_plain(x) and _is_plain(weight)):
        return None
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1] or x.dtype != weight.dtype:
        return None
    if bias is not None and not (_is_plain(bias) and (bias.shape, bias.dtype) == (weight.shape[:1], x.dtype)):
        return None
    return _empty(x, (*x.shape[:-1], weight.shape[0]))


def of_convolution(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """x [N, in, *positions] or [in, *positions] -> [N, out, *positions]."""
    x, weight = _read(module, args, kwargs)
    if x is None or module.padding_mode != "zeros":
        return None
    return _convolved(x, module, weight.shape[1] * module.groups, weight.shape[0])


def of_cross(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """A cross layer gives what the dense layer gives, of all its generations."""
    x, _ = _fitting(next(module.parameters()), args, kwargs)  # in one of the schemes it has a weight a generation
    if x is None or sum(module.in_generations) != x.shape[module.channel_dim]:
        return None
    out = sum(module.out_generations)
    if module.kernel_size:
        return _convolved(x, module, sum(module.in_generations), out)
    return _empty(x, (*x.shape[:-1], out))


def _convolved(x: Tensor, module: Any, into: int, out: int) -> Tensor | None:
    first = x.dim() - len(module.kernel_size) - 1
    if isinstance(module.padding, str) or first not in (0, 1) or x.shape[first] != into:
        return None
    read = zip(x.shape[first + 1 :], module.kernel_size, module.padding, module.dilation, module.stride, strict=True)
    positions = [(size + 2 * pad - apart * (taps - 1) - 1) // step + 1 for size, taps, pad, apart, step in read]
    return _empty(x, (*x.shape[:first], out, *positions)) if min(positions) > 0 else None


def _read(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The one tensor that a layer gets and its weight; (None, None) where they are not of one dtype and contiguous."""
    weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))  # attributes would be recorded
    if weight is not None and bias is not None and (bias.shape, bias.dtype) != (weight.shape[:1], weight.dtype):
        return None, None
    return _fitting(weight, args, kwargs)


def _fitting(weight: Tensor | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or weight is None:
        return None, None
    x = args[0]
    known = x.dtype == weight.dtype and x.is_contiguous() and weight.is_contiguous()
    return (x, weight) if known else (None, None)


def of_windows(spatial: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """A pool over windows of so many dims: x [N, C, *positions] or [C, *positions] -> as many channels."""
    x = _one_plain(args, kwargs)
    if x is None or x.dim() - spatial not in (1, 2) or not x.numel() or getattr(module, "return_indices", False):
        return None
    names = ("kernel_size", "stride", "padding", "dilation")
    taps, steps, pads, aparts = (_each(getattr(module, name, 1), spatial) for name in names)
    sizes = x.shape[-spatial:]
    if any(2 * pad > tap or tap > size for pad, tap, size in zip(pads, taps, sizes, strict=True)):
        return None
    positions = []
    for size, tap, step, pad, apart in zip(sizes, taps, steps, pads, aparts, strict=True):
        room = size + 2 * pad - apart * (tap - 1) - 1
        count = (-(-room // step) if module.ceil_mode else room // step) + 1
        # the last window must begin inside of the input or of the padding in front of it
        positions.append(count - 1 if module.ceil_mode and (count - 1) * step >= size + pad else count)
    return _empty(x, (*x.shape[:-spatial], *positions)) if min(positions) > 0 else None


def of_adaptive_average(spatial: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """An average over so many dims of positions: x [N, C, *positions] or [C, *positions] -> [*, C, *output_size]."""
    if module is None and len(args) != 2:
        return None
    size = args[1] if module is None else module.output_size
    x = _one_plain(args[:1] if module is None else args, kwargs)
    if x is None or x.dim() - spatial not in (1, 2) or not x.numel() or size is None:
        return None
    sizes = _each(size, spatial)
    if len(sizes) != spatial or not all(each is None or (type(each) is int and each > 0) for each in sizes):
        return None
    positions = (old if new is None else new for new, old in zip(sizes, x.shape[-spatial:], strict=True))
    return _empty(x, (*x.shape[:-spatial], *positions))


def _each(value: Any, spatial: int) -> tuple[Any, ...]:
    """A number for each dim of positions."""
    return tuple(value) if isinstance(value, tuple | list) else (value,) * spatial


def _one_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The one argument, where it is a contiguous tensor of floating point numbers."""
    return args[0] if len(args) == 1 and not kwargs and _is_plain(args[0]) else None


def _is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.is_contiguous()


def of_concatenation(_: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Tensors of one dtype, whose sizes differ along `dim` alone, one behind the other."""
    parts, dim = (*args, kwargs.get("dim", 0))[:2] if args else (None, None)
    if len(args) + len(kwargs) > 2 or not kwargs.keys() <= {"dim"} or type(dim) is not int:
        return None
    if not isinstance(parts, tuple | list) or not parts or not all(map(_is_plain, parts)):
        return None
    first = parts[0]
    if not -first.dim() <= dim < first.dim():
        return None
    sizes = list(first.shape)
    sizes[dim] = sum(part.shape[dim] for part in parts if part.dim() == first.dim())
    fits = all(part.dtype == first.dtype and _fits(part.shape, sizes, dim) for part in parts)
    return _empty(first, sizes) if fits else None


def _fits(shape: Sequence[int], sizes: Sequence[int], dim: int) -> bool:
    """Whether a shape has these sizes, but for that along `dim`."""
    dim %= len(sizes)
    return len(shape) == len(sizes) and all(
        at == dim or size == whole for at, (size, whole) in enumerate(zip(shape, sizes, strict=True))
    )


def of_padding(_: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """F.pad with a constant: more places in front of the last dims and behind them."""
    if len(args) < 2 or args[2:] not in ((), ("constant",)) or kwargs.get("mode", "constant") != "constant":
        return None
    x, pads = args[:2]
    if not kwargs.keys() <= {"mode", "value"} or not _is_plain(x) or not isinstance(pads, tuple | list):
        return None
    if len(pads) % 2 or len(pads) > 2 * x.dim() or not all(type(pad) is int and pad >= 0 for pad in pads):
        return None
    sizes = list(x.shape)
    for place in range(0, len(pads), 2):
        sizes[-1 - place // 2] += pads[place] + pads[place + 1]
    return _empty(x, sizes)


def of_roll(_: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """x rolled along some of its dims, by as many numbers of places."""
    x: Any = args[0] if args else None
    rest = dict(zip(("shifts", "dims"), args[1:], strict=False)) | kwargs
    if len(args) > 3 or not _is_plain(x) or rest.keys() != {"shifts", "dims"} or not x.numel():
        return None
    shifts, dims = (each if isinstance(each, tuple | list) else (each,) for each in (rest["shifts"], rest["dims"]))
    known = len(shifts) == len(dims) and all(type(each) is int for each in (*shifts, *dims))
    return _empty(x, x.shape) if known and all(-x.dim() <= dim < x.dim() for dim in dims) else None


def of_softmax(_: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """A softmax along one dim, or what else replaces each element by one: the sizes of x."""
    given: tuple[Any, ...] = (*args, kwargs.get("dim"), None)
    x, dim = given[:2]
    more = kwargs.keys() - {"dim", "_stacklevel"}  # F.softmax says where to warn
    if len(args) > 2 or (len(args) == 2 and "dim" in kwargs) or any(kwargs[name] is not None for name in more):
        return None
    return _empty(x, x.shape) if _is_plain(x) and type(dim) is int and -x.dim() <= dim < x.dim() else None


def of_normalize(_: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """F.normalize along one dim: the sizes and the order in memory of x."""
    x = args[0] if len(args) == 1 else None
    if not isinstance(x, Tensor) or not x.is_floating_point() or 1 in x.shape or not x.numel():  # 1: in any order
        return None
    dim, p = kwargs.get("dim", 1), kwargs.get("p", 2.0)
    known = (
        kwargs.keys() <= {"dim", "p", "eps", "out"}
        and kwargs.get("out") is None
        and type(dim) is int
        and type(p) in (int, float)
    )
    return torch.empty_like(x) if known and -x.dim() <= dim < x.dim() else None


def of_arithmetic(_: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """x + y of one dtype, one of which is broadcast to the shape of the other; or of a tensor and a number."""
    if kwargs or len(args) != 2:
        return None
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if not tensors or not all(_is_plain(arg) or type(arg) in (int, float) for arg in args):
        return None
    small, large = sorted((tensors[0], tensors[-1]), key=Tensor.dim)
    if small.shape != large.shape and not _is_broadcast(small.shape, large.shape):
        small, large = large, small
    known = small.dtype == large.dtype and (small.shape == large.shape or _is_broadcast(small.shape, large.shape))
    return _empty(large, large.shape) if known else None


def of_update(_: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """x += y: the sizes of x, which stay."""
    known = of_arithmetic(None, args, kwargs)
    grown = known is not None and isinstance(args[0], Tensor) and args[0].shape != known.shape
    return None if grown else known


def _is_broadcast(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether torch repeats a tensor of this shape to the other one."""
    ends = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, wanted) for size, wanted in ends)


def of_attention(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None] | None:
    """nn.MultiheadAttention of a batch, without masks: the values, and the averaged weights if they are wanted."""
    weight = module._parameters.get("in_proj_weight")
    known = weight is not None and len(args) == 3 and kwargs.keys() <= {"need_weights"}
    known &= module._parameters.get("bias_k") is None and not module.add_zero_attn  # they are further keys
    if not known or not all(isinstance(arg, Tensor) and arg.dim() == 3 and arg.dtype == weight.dtype for arg in args):
        return None
    query, key, value = args
    width, batch = module.embed_dim, 0 if module.batch_first else 1
    fit = {arg.shape[-1] for arg in args} == {width} and len({arg.shape[batch] for arg in args}) == 1
    if not fit or key.shape != value.shape:
        return None
    weights = (query.shape[batch], query.shape[1 - batch], key.shape[1 - batch])
    wanted = kwargs.get("need_weights", True)
    return _empty(query, query.shape), _empty(query, weights) if wanted else None


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device)  # new_empty takes four times as long on meta
