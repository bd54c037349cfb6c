"""The last line of the demo: what happened, whichever way."""

from collections.abc import Sequence
from statistics import mean

from nrfx.experiment.demo.picture import Pair
from nrfx.experiment.intervals import interval

ENOUGH = 5
"""Seeds that are enough: with fewer, one sign in all of them says more than that 0 lies in the interval."""


def verdict(pairs: Sequence[Pair]) -> str:
    """Whether Neural Rejuvenation made fewer mistakes on the test images, by the paired interval over the seeds."""
    if not any(pair.nr.event for pair in pairs):
        return f"No rejuvenation took place, so that nothing is shown of it. {pairs[0].nr.note}".rstrip()
    return f"{_outcome(pairs)} {_terms(pairs)}"


def _outcome(pairs: Sequence[Pair]) -> str:
    plain, ours = (mean(pair.plain.test for pair in pairs), mean(pair.nr.test for pair in pairs))
    errors = f"test error {ours:.2f} % with Neural Rejuvenation, {plain:.2f} % without"
    if len(pairs) < 2:
        return f"One seed shows no difference from chance: {errors}. Three or more have an interval (--seeds 3)."
    found = interval([pair.difference for pair in pairs])
    over = f"over {len(pairs)} seeds"
    if not found.apart:
        low, high = found.mean - found.reach, found.mean + found.reach
        chance = f"0 lies in the 95 % interval {over}, {low:+.2f} to {high:+.2f} points"
        signs = {pair.difference > 0 for pair in pairs}
        if len(signs) == 2 or len(pairs) >= ENOUGH:
            return f"No difference shown: {errors}; {chance}."
        worse = signs.pop()
        return (
            f"Neural Rejuvenation is {'worse' if worse else 'better'} with each seed, and {len(pairs)} are too few to "
            f"tell that from chance: {errors}; {chance}. More may tell (--seeds {ENOUGH})."
        )
    points = f"by {abs(found.mean):.2f} ± {found.reach:.2f} points (95 % interval {over})"
    if found.mean < 0:
        return f"Neural Rejuvenation helps here, {points}: {errors}."
    return f"Neural Rejuvenation does harm here, {points}: {errors}."


def _terms(pairs: Sequence[Pair]) -> str:
    """Under what terms: what both had alike, and what not."""
    more = round(100 * (mean(pair.nr.flops / pair.plain.flops for pair in pairs) - 1))
    flops = f"{abs(more)} % {'more' if more > 0 else 'fewer'}" if more else "as many"
    without = sum(not pair.nr.event for pair in pairs)
    rest = f" In {without} of {len(pairs)} seeds no rejuvenation took place." if without else ""
    return f"Both have as many steps; NR's network has no more params and {flops} multiply-adds.{rest}"
