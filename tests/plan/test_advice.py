"""Advice as a value: what follows from planned widths and a trial, and how searches are joined."""

import json
from dataclasses import replace

import pytest

from nrfx.errors import AnalysisError
from nrfx.plan.advice import GAIN, SAME_SHAPE, TOO_FAR, Advice, Prospect, Trial, joined


def advice(*plans: tuple[int, ...], threshold: float = 0.01, r: float = 0.4, trial: Trial | None = None) -> Advice:
    """Of layers a, b, c with 8, 16 and 32 channels, by what each seed plans for them within the params."""
    seeds = len(plans)
    widths = {name: tuple(plan[at] for plan in plans) for at, name in enumerate("abc")}
    prospect = Prospect(
        budget="params",
        most_params=1000,
        most_flops=None,
        steps=(200,) * seeds,
        threshold=(threshold,) * seeds,
        r=(r,) * seeds,
        alpha=(2.0,) * seeds,
        params=(990,) * seeds,
        flops=(7000,) * seeds,
        live={name: tuple(width // 2 for width in of) for name, of in widths.items()},
        widths=widths,
    )
    return Advice(
        steps=(300,) * seeds,
        trigger=0.5,
        threshold=0.01,
        params=1000,
        flops=5000,
        r_params=(r,) * seeds,
        r_flops=(r,) * seeds,
        layers={"a": 8, "b": 16, "c": 32},
        together={"a": (), "b": ("b2",), "c": ()},
        live={"a": (8,) * seeds, "b": (8,) * seeds, "c": (9,) * seeds},
        prospects=(prospect,),
        asked="params",
        trial=trial,
        notes=(),
    )


def trial(*changes: float) -> Trial:
    """A trial in which the loss of each seed changes by such a part."""
    plain = (0.5,) * len(changes)
    planned = tuple(0.5 * (1 + change) for change in changes)
    return Trial(300, plain, planned, (20.0,) * len(changes), (18.0,) * len(changes))


MOVED = (16, 16, 20)


def test_a_plan_that_only_scales_the_network_moves_no_width_and_promises_no_gain() -> None:
    scaled = advice((12, 24, 48), (10, 20, 40), trial=trial(-0.5, -0.5))
    assert scaled.reshape(scaled.prospects[0]) == pytest.approx(0, abs=1e-12)
    assert scaled.verdict.gain == "not expected" and "keeps the shape" in scaled.verdict.reason


def test_reshape_is_the_spread_of_the_logarithms_of_the_changes() -> None:
    moved = advice((16, 16, 16))  # twice, once, half
    assert moved.reshape(moved.prospects[0]) == pytest.approx(2 / 3 * 0.693147, rel=1e-5)
    assert moved.change(moved.prospects[0]) == pytest.approx({"a": 2, "b": 1, "c": 0.5})


def test_seeds_that_plan_the_same_are_steady_and_those_that_plan_the_opposite_are_not() -> None:
    same, opposite, one = advice(MOVED, MOVED), advice((16, 16, 16), (4, 16, 64)), advice(MOVED)
    assert same.steadiness(same.prospects[0]) == 1
    assert opposite.steadiness(opposite.prospects[0]) == pytest.approx(0)
    assert one.steadiness(one.prospects[0]) is None


def test_a_layer_starves_or_wastes_if_it_does_in_every_seed() -> None:
    told = advice((16, 18, 20), (12, 16, 16))
    assert told.starving == ("a",) and told.wasting == ("c",)
    assert advice((16, 16, 20), (8, 16, 40)).starving == ()


@pytest.mark.parametrize(
    ("changes", "gain", "words"),
    [
        ((-0.2, -0.1), "expected", "a loss 15 % lower, in every seed"),
        ((-0.2, 0.02), "not expected", "a loss 9 % lower, but not in every seed"),
        ((-GAIN / 2, -GAIN / 2), "not expected", "a loss only 3 % lower"),
        ((0.1, 0.3), "not expected", "a loss 20 % higher"),
    ],
)
def test_a_trial_decides_where_width_moves(changes: tuple[float, ...], gain: str, words: str) -> None:
    verdict = advice(MOVED, MOVED, trial=trial(*changes)).verdict
    assert verdict.gain == gain and words in verdict.reason


def test_without_a_trial_a_gain_can_be_ruled_out_and_not_be_promised() -> None:
    verdict = advice(MOVED).verdict
    assert verdict.gain == "not known" and "nrfx advise" in verdict.reason


def test_an_event_that_would_not_come_brings_nothing() -> None:
    verdict = advice(MOVED, r=0.62, trial=trial(-0.5)).verdict
    assert verdict.gain == "not expected" and "r is 0.62, and the trigger is 0.50" in verdict.reason


def test_a_plan_behind_a_fall_far_below_the_trigger_is_no_ground_for_an_answer() -> None:
    verdict = advice(MOVED, MOVED, r=0.24, trial=trial(-0.5, -0.5)).verdict
    assert verdict.gain == "not known" and "r fell to 0.24" in verdict.reason and "more steps" in verdict.reason
    assert advice(MOVED, MOVED, r=0.26, trial=trial(-0.5, -0.5)).verdict.gain == "expected"


def test_a_plan_from_gammas_that_are_nearly_alike_is_no_ground_for_an_answer() -> None:
    verdict = advice(MOVED, threshold=TOO_FAR + 0.01, trial=trial(-0.5)).verdict
    assert verdict.gain == "not known" and "more steps" in verdict.reason


def test_a_plan_behind_a_search_in_which_nothing_died_is_no_ground_for_an_answer() -> None:
    early = replace(advice(MOVED, threshold=0.3, trial=trial(-0.5)), r_params=(0.96,))
    assert early.verdict.gain == "not known"
    assert replace(early, r_params=(0.9,)).verdict.gain == "expected"


def test_searches_are_joined_seed_behind_seed() -> None:
    one, other = advice(MOVED, trial=trial(-0.1)), advice((12, 16, 24), trial=trial(-0.2))
    both = joined([one, other])
    assert both == advice(MOVED, (12, 16, 24), trial=trial(-0.1, -0.2)) and both.seeds == 2
    assert joined([one]) == one


def test_searches_of_two_networks_are_not_joined() -> None:
    one = advice(MOVED)
    with pytest.raises(AnalysisError, match=r"0\.5 and 0\.25 as trigger"):
        joined([one, replace(one, trigger=0.25)])


def test_a_budget_that_one_seed_cannot_meet_is_left_out() -> None:
    one = advice(MOVED)
    none = replace(one, prospects=(), notes=("Within 10 params nothing can be planned.",))
    both = joined([one, none])
    assert both.prospects == () and both.notes == none.notes
    assert both.verdict.gain == "not known" and both.starving == ()


def test_json_has_all_of_it_and_what_follows_from_it() -> None:
    told = advice(MOVED, MOVED, trial=trial(-0.2, -0.2))
    plain = json.loads(told.to_json())
    assert plain == json.loads(json.dumps(told.as_dict()))
    assert plain["gain"] == "expected" and plain["starving"] == ["a"] and plain["wasting"] == ["c"]
    assert plain["trial"]["change"] == -0.2 and plain["prospects"][0]["widths"]["c"] == [20, 20]
    assert plain["prospects"][0]["reshape"] > SAME_SHAPE and plain["prospects"][0]["steadiness"] == 1
