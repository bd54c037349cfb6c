"""Works are called in turns, and a ratio compares the times of one round."""

import pytest

from benchmarks.speed.clock import Spread, in_turns, interleaved, ratio


def test_every_round_calls_every_work_once_after_a_call_that_warms_up() -> None:
    called: list[str] = []
    times = in_turns({name: lambda name=name: called.append(name) for name in "abc"}, 3)
    rounds = [called[start : start + 3] for start in range(0, 12, 3)]
    assert [sorted(each) for each in rounds] == [["a", "b", "c"]] * 4
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_without_a_warm_up_only_the_rounds_are_called() -> None:
    called: list[int] = []
    interleaved({"a": lambda: (float(called.append(1) is None),)}, 2, warm=False)
    assert len(called) == 2


def test_a_ratio_is_that_of_each_round_so_that_a_slow_round_does_not_count() -> None:
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Spread(2.0, 2.0, 2.0)


def test_a_spread_is_the_median_with_the_quartiles_and_a_single_value_is_all_three() -> None:
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    assert str(Spread(1234.5, 0.01234, 2.0)) == "1234 (0.0123 to 2)"
    with pytest.raises(ValueError, match="argument 2 is longer"):
        ratio([1.0], [1.0, 2.0])
