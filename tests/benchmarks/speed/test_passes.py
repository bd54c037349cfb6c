"""The goals of a rewrite: seconds of the machine on which they were set, told in symbolic_trace of ResNet-50 there."""

from benchmarks.speed.passes import FLOOR, GOAL, UNIT_SECONDS, Timing, goals


def timing(model: str, work: str, milliseconds: float) -> Timing:
    return Timing(model, work, milliseconds, milliseconds, milliseconds, 1.0, 1.0, 3, "2.14", "today", "CPU")


def test_a_slower_machine_has_more_time() -> None:
    rows = [timing("resnet50", FLOOR, 2000 * UNIT_SECONDS), timing("resnet50", GOAL, 590.0)]
    (own,) = goals(rows)
    assert own.met and own.limit == 21.4 and round(own.figure, 2) == round(590 / 28, 2)
    (own,) = goals([rows[0], timing("resnet50", GOAL, 610.0)])
    assert not own.met


def test_each_network_has_its_own_goal_in_the_same_unit() -> None:
    rows = [timing("resnet50", FLOOR, 14.0), timing("resnet50", GOAL, 299.0), timing("densenet201", FLOOR, 70.0)]
    found = goals([*rows, timing("densenet201", GOAL, 999.0)])
    assert [each.met for each in found] == [True, True]
    assert [round(each.figure, 1) for each in found] == [21.4, 71.4]


def test_without_the_unit_or_the_network_there_is_no_goal() -> None:
    assert goals([timing("densenet201", GOAL, 999.0)]) == []
    assert goals([timing("resnet50", FLOOR, 14.0)]) == []
