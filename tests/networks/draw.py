"""Strategies that draw plans."""

from typing import Any

from hypothesis import strategies as st

from tests.networks.blocks import (
    NORMS,
    Again,
    Branches,
    Gate,
    Pool,
    Preact,
    Residual,
    Selected,
    Transposed,
    Twice,
    TwoNorms,
    Unit,
)
from tests.networks.layers import BARE, PRODUCTS, SINGLES, Attention, Bare, Computed, Mixer, Single
from tests.networks.moves import ARITHMETIC, HOWS, JOINS, MOVES, Arithmetic, Move, Split
from tests.networks.piece import ACTIVATIONS, Piece
from tests.networks.plan import TAILS, Plan
from tests.networks.wild import WILD, Wild


def one_of(values: Any) -> Any:
    """One of the values, or of the keys of a mapping."""
    return st.sampled_from(list(values))


def units(**fixed: Any) -> st.SearchStrategy[Unit]:
    drawn: dict[str, Any] = {
        "width": one_of((4, 6, 8, 3)),
        "kernel": one_of((1, 3, 1, 3, 5)),
        "stride": one_of((1, 1, 2)),
        "groups": one_of((1, 1, 1, 0, 2, -2)),
        "bias": st.booleans(),
        "padded": one_of((True, False)),
        "act": one_of(ACTIVATIONS),
        "norm": one_of(("batch",) * 9 + tuple(NORMS)),
        "tall": one_of((False, False, False, True)),
    }
    return st.builds(Unit, **(drawn | fixed))


def preacts() -> st.SearchStrategy[Preact]:
    return st.builds(Preact, one_of((4, 6, 8)), one_of((1, 3)), st.booleans(), one_of(ACTIVATIONS))


def pools() -> st.SearchStrategy[Pool]:
    return st.builds(Pool, one_of(("max", "avg", "avg", "sum")), one_of((1, 2)), st.booleans(), st.booleans())


def tuples(elements: Any, least: int, most: int) -> Any:
    return st.lists(elements, min_size=least, max_size=most).map(tuple)


def pieces() -> st.SearchStrategy[Any]:
    inner = st.one_of(units(), units(), preacts())
    body = tuples(inner, 1, 2)
    branch = tuples(st.one_of(units(), units(), preacts(), pools()), 0, 2)
    wild = st.builds(Wild, one_of(WILD), st.booleans())
    joins = one_of(("add", "add", "add", "sub", "mul", "max"))
    kinds: dict[type[Piece], Any] = {
        Unit: units(),
        Residual: st.builds(Residual, body, st.booleans(), one_of(ACTIVATIONS), joins),
        Branches: st.builds(Branches, tuples(branch, 1, 3)),
        Gate: st.builds(Gate, one_of((2, 4)), one_of(("sigmoid", "relu6", "none")), st.booleans(), st.booleans()),
        Pool: pools(),
        Split: st.builds(
            Split,
            one_of(HOWS),
            one_of(JOINS),
            tuples(inner, 0, 1),
        ),
        Move: st.builds(Move, one_of(MOVES)),
        Arithmetic: st.builds(Arithmetic, one_of(ARITHMETIC)),
        Twice: st.builds(Twice, units(), st.booleans(), st.booleans(), st.booleans()),
        TwoNorms: st.builds(TwoNorms, units(), one_of(("cat", "add", "mul"))),
        Single: st.builds(Single, one_of(SINGLES)),
        Preact: preacts(),
        Transposed: st.builds(
            Transposed,
            *(one_of((4, 6, 8)), one_of((1, 2, 3)), one_of((1, 2)), one_of((1, 1, 0, 2)), st.booleans()),
            *(one_of((True, True, False)), one_of(ACTIVATIONS)),
        ),
        Again: st.builds(Again, body, one_of((2, 3)), st.booleans()),
        Selected: st.builds(Selected, one_of((1, 3))),
        Computed: st.builds(
            Computed, one_of(PRODUCTS), one_of((4, 6)), one_of((True, True, False)), one_of(ACTIVATIONS)
        ),
        Bare: st.builds(Bare, one_of(BARE)),
        Attention: st.builds(
            Attention,
            *(one_of((1, 2)), one_of((2, 3)), one_of(("sdpa", "by hand", "einsum", "module"))),
            *(one_of(("batch", "layer", "none")), st.booleans()),
        ),
        Wild: wild,
        Mixer: st.builds(Mixer, one_of((6, 8)), one_of(NORMS), one_of(ACTIVATIONS), st.booleans()),
    }
    return st.one_of(*kinds.values(), wild, wild, wild, wild, units())


PATTERNS = (
    *(".", "x.", ".xx", "xxxx....", ".xxxxxxxxxxxxxxxxxxx", "..x", "x", "xx..", ".x", "x..x.", "..xx.x", "xx.", "...x"),
)
LENGTHS = (0, 1, 2, 3, 4, 2, 3, 4, 5)


IMAGES = ((8, 8), (6, 9), (5, 7), (3, 4), (4, 2), (7, 7), (6, 6))
"""Positions that are as many as some width, odd ones, and sides that differ."""
BATCHES = (2, 3, 4, 6, 1)


def shaped(positions: tuple[int, int], batch: int) -> tuple[int, ...]:
    return batch, 3, *positions


def plans() -> st.SearchStrategy[Plan]:
    """Plans of a stem and up to 5 pieces."""
    rest = one_of(LENGTHS).flatmap(lambda length: tuples(pieces(), length, length))
    drawn = st.builds(
        Plan,
        *(st.builds(stemmed, units(), rest), one_of(TAILS), tuples(one_of(PATTERNS), 1, 4)),
        *(
            one_of(("zero", "random", "negative")),
            one_of((0, 1)),
            one_of((0, 0, 0, 2, 5)),
            one_of((False, False, True)),
            st.builds(shaped, one_of(IMAGES), one_of(BATCHES)),
        ),
    )
    return drawn.filter(has_channels)


def stemmed(stem: Unit, rest: tuple[Any, ...]) -> tuple[Any, ...]:
    return stem, *rest


def has_channels(plan: Plan) -> bool:
    """Whether some convolution or linear layer sums over channels: without any there is nothing to analyse."""
    return plan.tail != "none" or plan.pieces[0].groups > 0
