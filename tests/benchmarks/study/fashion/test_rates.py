"""The learning rates of BL and NR."""

from benchmarks.study.fashion import rates
from benchmarks.study.fashion.choices import chosen
from benchmarks.study.fashion.plan import Line, Task
from tests.benchmarks.study.fashion.test_trials import of

BEST = {"BL": 0.1, "NR": 0.2}
SEEDS = range(3)


def tried() -> list[Line]:
    """Validation errors of the vgg, the least of each row at its best rate."""
    tasks = rates.rate_tasks("vgg").items()
    return [of(task, 12 + 0.01 * (seed - 1000) - (BEST[row] == lr)) for (row, lr, seed), task in tasks]


def test_the_best_learning_rate_of_each_row_is_marked() -> None:
    lines = tried()
    table = {cells[1]: cells for cells in rates.rate_rows(lines)}
    assert [cells[0] for cells in table.values()] == ["vgg", "vgg"]
    assert table["BL"][3].startswith("**11.01") and table["NR"][4].startswith("**11.01")
    assert not table["NR"][3].startswith("**") and [*rates.rate_rows(lines[1:3])] == []


def test_both_are_trained_again_with_their_own_rates_and_test_images() -> None:
    tasks = rates.tuned_tasks(tried(), "vgg", SEEDS)
    assert {(task.row, task.settings.lr) for task in tasks} == {*BEST.items()}
    assert all(task.test for task in tasks) and {task.seed for task in tasks} == {*SEEDS}
    half_known = [line for line in tried() if line.row == "BL"]
    assert rates.tuned_tasks(half_known, "vgg", SEEDS) == [], "NR is not tuned"


def test_a_rate_is_chosen_over_the_seeds_that_all_rates_have() -> None:
    tasks = rates.rate_tasks("vgg").items()
    lines = [of(task, 12 - (lr == BEST[row])) for (row, lr, seed), task in tasks if seed < 1002]
    lucky = [of(task, 1.0) for (row, lr, seed), task in tasks if (row, lr, seed) == ("NR", 0.4, 1002)]
    assert rates.tuned([*lines, *lucky], "vgg") == BEST, "one more seed of one rate says nothing"
    first = [line for line in lines if line.seed == 1000]
    assert rates.tuned(first, "vgg") == {} and len([*rates.rate_rows(first)]) == 2, "shown, not chosen by"


def test_own_rates_are_told_beside_the_one_of_all_rows() -> None:
    def with_error(task: Task, gain: float) -> Line:
        return of(task, 12 + 0.1 * task.seed - gain * (task.row == "NR"), event=40 if task.row == "NR" else 0)

    own = [with_error(task, 2.0) for task in rates.tuned_tasks(tried(), "vgg", SEEDS)]
    alike = [with_error(Task("vgg", "NR", "params", seed, chosen("vgg", "params", "NR")), 0.5) for seed in SEEDS]
    (cells,) = rates.tuned_rows(tried(), [*own, *alike], SEEDS)
    assert cells[:4] == ("vgg", "0.1", "0.2", "3")
    assert cells[6:] == ("**-2.00 ± 0.00**", "**± 0.00**", "**-0.50 ± 0.00**", "40"), (
        "plain: its own rate is that of all"
    )
    assert [*rates.tuned_rows(tried(), own[:2], SEEDS)] == [], "one seed says nothing"
