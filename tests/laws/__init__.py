"""Laws that hold for every network and every way to rewrite it (tests/test_laws.py tries them).

A law is a function of a Trial: it passes, or raises.
"""

from collections.abc import Callable

from tests.laws.cost import (
    compacting_keeps_the_function_and_the_live_cost,
    costs_are_exact_and_within_the_budget,
    costs_do_not_depend_on_the_batch_that_was_traced,
    the_budget_leaves_no_room_for_another_channel,
)
from tests.laws.criteria import what_a_criterion_gives_up_is_replaced
from tests.laws.function import (
    a_rewrite_keeps_the_function,
    nothing_dead_at_the_same_cost_changes_nothing,
    rejuvenating_twice_keeps_the_function,
    what_comes_out_trains,
    what_is_saved_is_loaded,
)
from tests.laws.meter import a_meter_reads_what_utilization_says
from tests.laws.origins import every_number_comes_from_its_origin, two_rewrites_compose
from tests.laws.sizes import other_sizes_give_what_the_model_gives
from tests.laws.trial import Options, Trial, options

Law = Callable[[Trial], None]
LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        a_rewrite_keeps_the_function,
        costs_are_exact_and_within_the_budget,
        the_budget_leaves_no_room_for_another_channel,
        nothing_dead_at_the_same_cost_changes_nothing,
        rejuvenating_twice_keeps_the_function,
        two_rewrites_compose,
        what_comes_out_trains,
        compacting_keeps_the_function_and_the_live_cost,
        what_is_saved_is_loaded,
        every_number_comes_from_its_origin,
        a_meter_reads_what_utilization_says,
        what_a_criterion_gives_up_is_replaced,
        other_sizes_give_what_the_model_gives,
        costs_do_not_depend_on_the_batch_that_was_traced,
    )
}

REPLAY = "from tests.networks import *; from tests.laws import *; "


def obeyed(trial: Trial, law: Law) -> None:
    """Tries a law. What breaks it carries a line of code that does it again."""
    try:
        law(trial)
    except Exception as error:
        error.add_note(f"{REPLAY}{law.__name__}(Trial({trial.plan}, {trial.how}))")
        raise


__all__ = [
    "LAWS",
    "REPLAY",
    "Law",
    "Options",
    "Trial",
    "a_meter_reads_what_utilization_says",
    "a_rewrite_keeps_the_function",
    "compacting_keeps_the_function_and_the_live_cost",
    "costs_are_exact_and_within_the_budget",
    "costs_do_not_depend_on_the_batch_that_was_traced",
    "every_number_comes_from_its_origin",
    "nothing_dead_at_the_same_cost_changes_nothing",
    "obeyed",
    "options",
    "other_sizes_give_what_the_model_gives",
    "rejuvenating_twice_keeps_the_function",
    "the_budget_leaves_no_room_for_another_channel",
    "two_rewrites_compose",
    "what_a_criterion_gives_up_is_replaced",
    "what_comes_out_trains",
    "what_is_saved_is_loaded",
]
