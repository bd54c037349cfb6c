"""Products that an equation or pairs of dims describe: einsum and tensordot. With a parameter, linear layers."""

from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import torch
from torch import Tensor

from nrfx.rules.effect import Call, Effect, Family, Work, unknown
from nrfx.rules.movement import moved
from nrfx.rules.product import LETTERS, Product, placed, product, reads, weight, work_of
from nrfx.rules.registry import rule


@rule(torch.einsum, weights=tuple(range(1, 9)))
def einsum(call: Call) -> Effect:
    equation, operands = call.args[0], call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = tuple(operands[0])
    letters, out = _spelled(equation, [x.dim() for x in operands])
    if any(len(set(names)) != len(names) for names in letters):
        return unknown(call, f"einsum {equation!r} takes a diagonal")
    if len(operands) == 1:
        return _einsum_of_one(call, letters[0], out)
    given = [weight(call, index) for index in range(1, len(operands) + 1)]
    if len(operands) > 2:
        return _einsum_of_many(call, operands, letters, out, any(given))
    if any(given) and not all(given):
        return _einsum_linear(call, operands, letters, out, given)
    return _einsum_product(call, operands, letters, out).effect()


def _spelled(equation: str, dims: Sequence[int]) -> tuple[list[str], str]:
    """The letters of the operands, which have `dims` dims, and of the result; without dots, and with its arrow.

    >>> _spelled("...c,cd->...d", (3, 2))
    (['ABc', 'cd'], 'ABd')
    >>> _spelled("ij,jk", (2, 2))
    (['ij', 'jk'], 'ik')
    """
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    own = inputs.split(",")
    hidden = [count - len(names.replace("...", "")) for names, count in zip(own, dims, strict=True)]
    free = [name for name in ascii_uppercase + ascii_lowercase if name not in equation]
    dots = "".join(free[: max([0, *(count for names, count in zip(own, hidden, strict=True) if "..." in names)])])
    if not arrow:
        once = sorted(name for name in {*inputs} - {*",."} if inputs.count(name) == 1)
        out = "..." + "".join(once)
    letters = [
        names.replace("...", dots[len(dots) - max(count, 0) :]) for names, count in zip(own, hidden, strict=True)
    ]
    return letters, out.replace("...", dots)


def _einsum_of_one(call: Call, names: str, out: str) -> Effect:
    """A permutation of dims; sums over some of them are not read."""
    if sorted(names) != sorted(out):
        return unknown(call, f"einsum {call.args[0]!r} sums dims of one operand: nrfx reads x.sum(dims)")
    order = [names.index(name) for name in out]

    def turned(_: str, x: Any) -> Tensor:
        return (x if isinstance(x, Tensor) else x[0]).permute(order)

    return moved(call, turned)


def _einsum_product(call: Call, operands: Sequence[Tensor], letters: Sequence[str], out: str) -> Product:
    """As `product`, with the work of torch.einsum: what one operand alone sums goes first, and where nothing else is
    summed the operands are multiplied element by element.
    """
    alone = [set(own) - set(out).union(other) for own, other in zip(letters, reversed(letters), strict=True)]
    left = ["".join(name for name in own if name not in names) for own, names in zip(letters, alone, strict=True)]
    sizes = [dict(zip(own, x.shape, strict=True)) for x, own in zip(operands, letters, strict=True)]
    shared = [name for name in left[0] if name in left[1] and name not in out]
    if not any(sizes[0][name] > 1 and sizes[1][name] > 1 for name in shared):
        return product(call, operands, letters, out, Work(0, None, None))
    parts = [placed(x, own, kept) for x, own, kept in zip(operands, letters, left, strict=True)]
    wide = {name: max(size.get(name, 1) for size in sizes) for names in left for name in names}
    return product(call, operands, letters, out, work_of(call, parts, left, wide))


def _einsum_of_many(call: Call, operands: Sequence[Tensor], letters: list[str], out: str, weighs: bool) -> Effect:
    """Three operands or more, two at a time from the left, as torch does it without opt_einsum."""
    if weighs or torch.backends.opt_einsum.is_available():
        return unknown(call, f"einsum {call.args[0]!r} has more than two operands")
    left, names = operands[0], letters[0]
    products = []
    for index, (right, own) in enumerate(zip(operands[1:], letters[1:], strict=True), start=1):
        wanted = set(out).union(*letters[index + 1 :])
        last = index == len(operands) - 1
        kept = out if last else "".join(name for name in dict.fromkeys(names + own) if name in wanted)
        products.append(_einsum_product(call, (left, right), (names, own), kept))
        left, names = products[-1].out, kept
    return Effect(
        Family.MIXED,
        out=left,
        ties=tuple(tie for each in products for tie in each.ties),
        pins=tuple(pin for each in products for pin in each.pins),
        work=tuple(each.work for each in products),
    )


@rule(torch.tensordot, weights=(0, 1, "a", "b"))
def tensordot(call: Call) -> Effect:
    """An einsum whose new dims come last."""
    left, right, dims = call.args[0], call.argument(1, "b"), call.argument(2, "dims", 2)
    if isinstance(dims, int):
        dims = (range(left.dim() - dims, left.dim()), range(dims))
    pairs = [(a % left.dim(), b % right.dim()) for a, b in zip(*dims, strict=True)]
    first = LETTERS[: left.dim()]
    second = list(LETTERS[left.dim() : left.dim() + right.dim()])
    for a, b in pairs:
        second[b] = first[a]
    summed = {a for a, _ in pairs}
    out = "".join(name for dim, name in enumerate(first) if dim not in summed)
    out += "".join(name for dim, name in enumerate(second) if dim not in {b for _, b in pairs})
    given = [weight(call, 0), weight(call, 1)]
    letters = [first, "".join(second)]
    if any(given) and not all(given):
        return _einsum_linear(call, (left, right), letters, out, given)
    return product(call, (left, right), letters, out).effect()


def _einsum_linear(call: Call, operands: Any, letters: list[str], out: str, given: list[Any]) -> Effect:
    """einsum with a two-dimensional parameter that sums over one dim of x and gives one new one, at any place."""
    at = 0 if given[0] else 1
    labels, names, own = operands[1 - at], letters[1 - at], letters[at]
    summed = [name for name in own if name in names and name not in out]
    new = [name for name in own if name not in names]
    if len(own) != 2 or len(summed) != 1 or len(new) != 1:
        return unknown(call, f"{_shown(call)} with a parameter is no plain linear map")
    order = [name for name in out if name not in new]
    if order != [name for name in names if name not in summed]:
        return unknown(
            call, f"{_shown(call)} with a parameter moves dims: let the new dim take the place of the summed"
        )
    return reads(call, at, given[at], labels, names.index(summed[0]), out.index(new[0]), own.index(summed[0]))


def _shown(call: Call) -> str:
    return f"einsum {call.args[0]!r}" if isinstance(call.args[0], str) else "tensordot"
