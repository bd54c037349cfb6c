"""Where the constants of channels go that a criterion gives up: into a bias or running means, or nowhere.

    placed    bias += W c, or the running mean of every norm behind -= W c; c: what each column reads from now on
    0         where neither can take it: a layer without both, one that is called several times, cross attention

What is given up is replaced, so that no carrier is needed: behind zero padding the constant counts as if it went on
there. It is exact where the channel is this constant on all inputs already (analysis/criterion.py), and no zeros of a
padding are read beside a constant other than 0.
"""

from collections.abc import Set

import torch

from nrfx.analysis.channels import Channels, readers
from nrfx.analysis.given_up import GivenUp
from nrfx.analysis.liveness import Liveness, live_along
from nrfx.plan.absorb import Absorption, absorber, drop_constants
from nrfx.rules import Family


def place(
    channels: Channels, liveness: Liveness, given_up: GivenUp, attention: Set[str], constants: bool
) -> Absorption:
    """The absorption of the constants of channels that are given up.

    Args:
        attention: keys of the weights that will be cross-attention layers.
        constants: False drops all constants.
    """
    absorbers, before, exact = {}, {}, True
    dropped: list[str] = []
    for key, step in readers(channels.steps).items():
        reading = step.effect.reading
        if reading is None or step.effect.family is not Family.CONTRACTION:
            continue
        if key not in given_up.constants:  # a layer of train mode alone, which is not in the function
            before[key] = torch.zeros(reading.cols.numel()).double()
            continue
        gone = ~live_along(channels, liveness.live, reading.cols)
        value = given_up.constants[key]
        target = None if key in attention else absorber(channels, step, len(liveness.constants.read[key]))
        if not constants or (target is None and bool(value.any())):
            dropped += [key] if bool(value.any()) else []
            value = torch.zeros_like(value)
        if target is not None:
            absorbers[key] = target
        before[key] = value
        same = given_up.exact[key] & (value == given_up.constants[key]) & ((value == 0) | (not reading.padded))
        exact = exact and bool((same | ~gone).all())
    after = {key: torch.zeros_like(value) for key, value in before.items()}
    nothing = drop_constants(channels)
    return Absorption(
        *(nothing.carriers, absorbers, before, after, nothing.carrier_of, nothing.hold),
        given=True,
        exact=exact,
        notes=_notes(given_up, exact, dropped if constants else []),
    )


def _notes(given_up: GivenUp, exact: bool, dropped: list[str]) -> tuple[str, ...]:
    if exact:
        return ("All of them are constant: the function is kept.",)
    stand_in = "their means over the batches" if given_up.measured else "zeros, for there are no batches to average"
    notes = [f"In the place of those that are not constant stand {stand_in}; the function moves."]
    if dropped:
        more = f" and {len(dropped) - 1} more" if len(dropped) > 1 else ""
        notes.append(f"Zeros stand at {dropped[0]}{more}, which can take no constant.")
    return tuple(notes)
