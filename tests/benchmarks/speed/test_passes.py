"""The goals of passes are in seconds of the machine that they were set on."""

from rich.console import Console

from benchmarks.speed.part import Settings
from benchmarks.speed.passes import FLOOR, GOAL, goals, timing
from benchmarks.timing import Environment

SETTINGS = Settings(quick=True, environment=Environment.here(), console=Console())


def rows(slower: float) -> list:
    """The rows of two networks on a machine that takes so many times as long as the one of the goals."""
    times = {
        "resnet50": {FLOOR: [0.014], "a forward of one image": [0.1], GOAL: [0.28]},
        "densenet121": {FLOOR: [0.037], "a forward of one image": [0.1]},
        "densenet201": {FLOOR: [0.075], "a forward of one image": [0.2], GOAL: [1.1]},
    }
    return [
        timing(name, work, {each: [slower * t for t in spent] for each, spent in own.items()}, SETTINGS)
        for name, own in times.items()
        for work in own
    ]


def test_a_slower_machine_meets_the_same_goals() -> None:
    for slower in (1.0, 2.0, 0.5):
        resnet, densenet = goals(rows(slower))
        assert abs(resnet.figure - 0.28) < 1e-9 and resnet.met
        assert abs(densenet.figure - 1.1) < 1e-9 and not densenet.met


def test_the_ratio_of_a_network_to_itself_is_that_of_the_rounds() -> None:
    times = {FLOOR: [0.01, 0.02, 0.03], "a forward of one image": [0.1] * 3, GOAL: [0.2, 0.4, 0.66]}
    (goal,) = goals([timing("resnet50", work, times, SETTINGS) for work in times])
    assert abs(goal.figure - 20 * 0.014) < 1e-9


def test_without_the_yardstick_there_is_no_goal() -> None:
    assert [
        goal.what.partition(":")[0] for goal in goals([row for row in rows(1.0) if row.model != "densenet121"])
    ] == ["resnet50"]
