"""The last line of the demo in each way in which it can end."""

import pytest

from nrfx.experiment.demo.verdict import verdict
from tests.experiment.demo.runs import GAIN, LOSS, NONE, pairs


def test_a_gain_is_told_with_its_interval() -> None:
    # differences -2, -2.3, -1.9: mean -2.07, deviation 0.208, reach 4.303 * 0.208 / sqrt(3) = 0.52
    assert verdict(GAIN) == (
        "Neural Rejuvenation helps here, by 2.07 ± 0.52 points (95 % interval over 3 seeds): test error 3.43 % with "
        "Neural Rejuvenation, 5.50 % without. Both have as many steps; NR's network has no more params and 38 % more "
        "multiply-adds."
    )


def test_no_difference_is_told_as_such_with_both_ends_of_the_interval() -> None:
    assert verdict(NONE).startswith(
        "No difference shown: test error 4.87 % with Neural Rejuvenation, 5.00 % without; 0 lies in the 95 % interval "
        "over 3 seeds, -4.51 to +4.24 points. Both"
    )


def test_few_seeds_of_one_sign_that_lie_far_apart_are_told_as_too_few() -> None:
    better, worse = ((4.32, 2.51), (4.6, 2.23), (7.38, 2.51)), ((2.51, 4.32), (2.23, 4.6), (2.51, 7.38))
    assert verdict(pairs(*better)).startswith(
        "Neural Rejuvenation is better with each seed, and 3 are too few to tell that from chance: test error 2.42 % "
        "with Neural Rejuvenation, 5.43 % without; 0 lies in the 95 % interval over 3 seeds, -7.06 to +1.03 points. "
        "More may tell (--seeds 5). Both"
    )
    assert verdict(pairs(*worse)).startswith("Neural Rejuvenation is worse with each seed, and 3 are too few to")
    assert verdict(pairs(*better, (9.0, 8.9), (20.0, 3.0))).startswith("No difference shown")


def test_a_loss_is_told_as_one() -> None:
    assert verdict(LOSS).startswith("Neural Rejuvenation does harm here, by 2.07 ± 0.52 points (95 % interval over 3")
    assert "helps" not in verdict(LOSS)


def test_one_seed_shows_nothing_however_large_the_difference() -> None:
    assert verdict(pairs((50.0, 3.0))).startswith("One seed shows no difference from chance: test error 3.00 % with")


def test_without_an_event_nothing_is_said_of_a_gain() -> None:
    note = "The search window ends at step 7."
    assert verdict(pairs((5.0, 3.0), (5.5, 3.2), event=0, note=note)) == (
        f"No rejuvenation took place, so that nothing is shown of it. {note}"
    )


def test_seeds_without_an_event_are_counted() -> None:
    some = [*GAIN[:2], *pairs((6.0, 4.1), event=0)]
    assert verdict(some).endswith("In 1 of 3 seeds no rejuvenation took place.")
    assert "In " not in verdict(GAIN)


@pytest.mark.parametrize(("flops", "words"), [(150_000, "22 % fewer"), (191_872, "as many")])
def test_multiply_adds_are_told_whichever_way_they_went(flops: int, words: str) -> None:
    assert f"no more params and {words} multiply-adds." in verdict(pairs((5.0, 3.0), (5.5, 3.2), flops=flops))
