"""The tables of what was tried before the study."""

from benchmarks.study.fashion import choices
from benchmarks.study.fashion.plan import Task
from benchmarks.study.fashion.trials import choice_rows, gentler_rows, named_rows
from tests.benchmarks.study.fashion.test_tables import line

PLAIN = "100:30.00 200:20.00"


def of(task: Task, error: float, **values: object):
    return line(task.row, task.seed, error, key=task.key, family=task.family, budget=task.budget, **values)


def test_variants_are_compared_with_their_row_and_with_plain_training() -> None:
    lines = [
        line(task.row, seed, 15 + 0.01 * seed + (name in ("NR-BR", "NR-BR, together")), key=task.key)
        for (name, seed), task in choices.tasks().items()
        if name in ("BL", "NR", "NR-BR", "NR-BR, warm-up of 200", "NR-BR, together", "NR-BR, together, factors up to 4")
    ]
    table = {cells[0]: cells for cells in choice_rows(lines)}
    assert len(table) == 6
    assert table["NR-BR, warm-up of 200"][3].startswith("**-1.00") and table["NR"][3] == ""
    assert table["NR-BR"][5].startswith("**1.00") and table["NR-BR, warm-up of 200"][4] == ""
    assert table["NR-BR, together, factors up to 4"][4].startswith("**-1.00"), "minus the others together"


def test_a_gentler_search_is_compared_with_training_at_the_same_learning_rate() -> None:
    where = next(iter(choices.GENTLER_ON))
    curves = {"BL held": PLAIN, "all pulled alike": "100:30.00 200:27.00", "half as fast": "100:30.00 200:21.00"}
    lines = [
        of(
            task,
            12 + 0.01 * seed + (name == "all pulled alike"),
            curve=curves[name],
            event=0 if name == "BL held" else 200,
        )
        for (name, seed), task in choices.gentler_tasks(*where).items()
        if name in curves
    ]
    table = {cells[2]: cells for cells in gentler_rows(lines)}
    assert table.keys() == curves.keys()
    assert table["all pulled alike"][5:] == ("**1.00 ± 0.00**", "7.0", "7.0", "200")
    assert table["half as fast"][6:] == ("1.0", "1.0", "200") and table["BL held"][5:8] == ("", "", "")


def test_a_network_of_one_seed_is_told_without_an_interval() -> None:
    (few, whole), lines = choices.NAMED_ON[:2], []
    for where, seeds in ((few, choices.FEW_SEEDS[:1]), (whole, choices.FEW_SEEDS)):
        for (row, seed), task in choices.named_tasks(*where).items():
            if seed in seeds:
                lines.append(of(task, 12 - 0.5 * (row == "NR"), event=40 if row == "NR" else 0))
    assert [*named_rows(lines)] == [
        (*few, "1", "12.00", "-0.50", "40"),
        (*whole, "3", "12.00", "**-0.50 ± 0.00**", "40"),
    ]
