"""NR against plain training on all networks at once: what is corrected, and what counts as far behind on the way."""

import pytest
from scipy import stats

from benchmarks.study.fashion.everywhere import behind, everywhere, since
from benchmarks.study.fashion.tables import Runs, by_row
from benchmarks.study.intervals import holm, p_value
from tests.benchmarks.study.fashion.test_tables import line


def table(differences: list[float]) -> Runs:
    lines = [line("BL", seed, 12.0) for seed in range(len(differences))]
    return by_row([*lines, *(line("NR", seed, 12.0 + each) for seed, each in enumerate(differences))])


def test_p_values_are_corrected_step_by_step() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []
    differences = [-1.0, -0.8, -1.1, -0.4]
    assert p_value(differences) == pytest.approx(stats.ttest_rel(differences, [0.0] * 4).pvalue)
    assert p_value([-1.0, -1.0]) == 0.0 and p_value([0.0, 0.0]) == 1.0


def test_a_difference_must_stand_among_all_tables() -> None:
    clear, weak, none = [-1.0, -1.1, -0.9, -1.0, -1.05], [-0.4, -0.1, -0.7, -0.3, -0.5], [0.3, -0.3, 0.1, -0.1, 0.02]
    alone = everywhere({("late", "params"): table(weak)})
    assert [each.better for each in alone] == [True]
    crowd = {("vgg", "params"): table(clear), ("late", "params"): table(weak)}
    crowd |= {(f"family {index}", "params"): table(none) for index in range(4)}
    found = {each.family: each for each in everywhere(crowd)}
    assert found["vgg"].better and not found["late"].better and not found["vgg"].worse
    assert found["late"].corrected == pytest.approx(5 * found["late"].p)
    worse = everywhere({("vgg", "flops"): table([-each for each in clear])})
    assert worse[0].worse and worse[0].line()[-1] == "**worse**" and worse[0].line()[:3] == ("vgg", "flops", "5")


def test_seeds_that_came_later_can_be_told_apart() -> None:
    later = since(table([-1.0, -1.0, -0.5, -0.7]), 2)
    assert {row: [*own] for row, own in later.items()} == {"BL": [2, 3], "NR": [2, 3]}


def test_tables_without_both_rows_are_left_out() -> None:
    assert everywhere({("vgg", "half"): by_row([line("BL", 0), line("NR-CR", 0)]), ("a", "b"): table([0.1])}) == []


def test_runs_far_behind_are_counted_among_those_with_one_event() -> None:
    held = [line("BL held", seed, curve="100:30.00 200:20.00") for seed in range(2)]
    curves = ("100:34.00 200:20.00", "100:30.00 200:21.00")
    once = [line("NR", seed, curve=curves[seed], event=200, events=1) for seed in range(2)]
    several = [line("NR, up to 2 events", seed, curve="100:60.00", event=100, events=2) for seed in range(2)]
    anew = [line("NR-FS", seed, curve="100:60.00", event=100, events=1) for seed in range(2)]
    found = behind({("vgg", "params"): by_row([*held, *once, *several, *anew])})
    assert (found.worst, found.further, found.runs) == (pytest.approx(2.0), 1, 2)
    assert (found.mean, found.same, found.known) == (pytest.approx(1.25), 1, 2)
    assert (found.other, found.apart, found.pairs) == (1, 0, 2)
    assert str(found).startswith("Of single runs 1 of 2 (50%) were more than 3")
    assert "NR with an event is 1.2 points behind in the mean, and 1 of 2 of these runs (50%)" in str(found)
    assert str(found).endswith("*another* seed in 0% of 2 pairs of seeds, and runs of NR in 50%.")


def test_plain_runs_of_two_seeds_are_counted_beside_them() -> None:
    held = [line("BL held", 0, curve="100:30.00 200:20.00"), line("BL held", 1, curve="100:26.00 200:21.00")]
    runs = [line("NR", seed, curve="100:26.00 200:20.00", event=100, events=1) for seed in range(2)]
    found = behind({("vgg", "params"): by_row([*held, *runs])})
    assert (found.further, found.other, found.apart, found.pairs) == (0, 0, 1, 2)
    assert found.mean == pytest.approx(-1.25), "what is ahead counts as well"


def test_only_the_steps_are_compared_at_which_all_runs_are_scored() -> None:
    held = [line("BL held", seed, curve="100:30.00 200:20.00 300:20.00") for seed in range(2)]
    curve = "100:30.00 120b:40.00 120e:40.00 140:40.00 200:21.00 300:40.00"
    runs = [line("NR", seed, curve=curve, event=120, events=1) for seed in range(2)]
    found = behind({("vgg", "params"): by_row([*held, *runs])})
    assert (found.mean, found.same, found.other) == (pytest.approx(0.5), 0, 0), "up to 100 steps behind the event"
    assert found.further == 2, "at any score"
