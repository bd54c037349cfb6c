"""The tables of the study: pairing by seed, correction for many comparisons, and how far a search is behind."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.study.fashion import run as study
from benchmarks.study.fashion.cost import Cost
from benchmarks.study.fashion.page import page
from benchmarks.study.fashion.plan import NONE_SPARED, Line
from benchmarks.study.fashion.tables import by_row, chance, events_of, harm, mean_harm, paired, rows, spared_rows
from benchmarks.study.intervals import interval


def line(row: str = "BL", seed: int = 0, error: float = 15.0, curve: str = "100:30 200:20", **values: object) -> Line:
    texts = dict.fromkeys(("key", "settings", "torch", "date", "cpu"), "{}")
    numbers = dict.fromkeys(("params", "flops", "event", "events", "r", "lam", "alpha", "seconds"), 0)
    own = {"family": "vgg", "row": row, "budget": "params", "seed": seed, "steps": 200, "validation": error}
    own |= {"test": error, "curve": curve, "widths": "4 4 8 8 64 64"}
    return Line(**{**texts, **numbers, **own, **values})


def test_differences_are_those_of_the_same_seed() -> None:
    plain = {seed: line(seed=seed, error=10.0 + seed) for seed in range(3)}
    better = {seed: line("NR", seed, 9.0 + seed) for seed in range(1, 4)}
    found = paired(better, plain, "test")
    assert found is not None and (found.mean, found.reach) == (-1.0, 0.0) and found.apart
    assert paired({5: line()}, plain, "test") is None


def test_an_interval_for_many_comparisons_is_wider() -> None:
    one, ten = interval([1.0, 2.0, 3.0]), interval([1.0, 2.0, 3.0], 10)
    assert one.reach == pytest.approx(2.484, abs=1e-3)
    assert ten.reach == pytest.approx(8.14, abs=0.01) and ten.mean == one.mean


def test_harm_is_the_most_that_a_search_is_behind_plain_training_at_the_same_step() -> None:
    plain = line(curve="100:30.00 200:20.00 300:18.00")
    run = line("NR", curve="100:31.00 150e:29.00 170:28.50 200:24.50 300:30.00", event=150)
    assert harm(run, plain) == pytest.approx(28.5 - 23.0)  # step 170; step 300 lies too far behind the event
    assert harm(line("NR", curve="100:29.00"), plain) == pytest.approx(-1.0)


def test_the_mean_of_the_seeds_is_behind_by_less_than_the_worst_of_them() -> None:
    plain = {seed: line("BL held", seed, curve="100:30.00 200:20.00") for seed in range(3)}
    curves = ("100:33.00 200:20.00", "100:30.00 150e:31.00 200:20.00", "100:30.00 200:26.00")
    events = (200, 150, 200)
    runs = {seed: line("NR", seed, curve=curves[seed], event=events[seed]) for seed in range(3)}
    # step 100: (3 + 0 + 0) / 3; the event: (0 + 6 + 6) / 3; step 200 is one that only two of the searches reached
    assert mean_harm(runs, plain) == pytest.approx(4.0)
    assert max(harm(runs[seed], plain[seed]) for seed in range(3)) == pytest.approx(6.0)
    assert mean_harm({0: runs[0]}, plain) == pytest.approx(3.0)


def test_plain_runs_of_two_seeds_are_apart_by_chance() -> None:
    plain = {0: line("BL held", 0, curve="100:30.00 200:20.00"), 1: line("BL held", 1, curve="100:28.00 200:29.00")}
    runs = {seed: line("NR", seed, event=5) for seed in range(2)}
    assert chance(plain, runs) == pytest.approx(2.0)  # 100 steps behind the event are those up to step 105
    assert chance(plain, {}) is None


def test_rows_without_a_budget_stand_in_the_tables_of_all_budgets(tmp_path: Path) -> None:
    curve = "100:30.00 200:20.00"
    lines = [line(seed=seed, error=15 + 0.1 * seed, curve=curve) for seed in range(3)]
    assert "## vgg" not in page(lines, [], [], [], tmp_path / "results.png"), "plain training alone is no table"
    lines += [line("NR", seed, 13 + 0.1 * seed, curve, event=100, budget="flops") for seed in range(3)]
    text = page(lines, [], [], [], tmp_path / "results.png")
    assert "## vgg, params <= 1x" not in text and "| vgg | flops | 3 | **-2.00 ± 0.00** |" in text
    tasks = study._tasks(study_options(rows=["BL", "NR"], budgets=["params", "flops"], seeds=1))
    assert [(task.row, task.budget) for task in tasks] == [("BL", "params"), ("NR", "params"), ("NR", "flops")]


def study_options(**changed: object) -> Namespace:
    return Namespace(**({"choose": False, "rates": False, "tuned": False, "families": ["vgg"]} | changed))


def test_a_table_has_a_line_for_each_row_and_marks_what_lies_off_zero() -> None:
    table = by_row(
        [line(seed=seed, error=15 + 0.1 * seed) for seed in range(5)]
        + [line("NR", seed, 14 + 0.11 * seed, event=100, steps=200) for seed in range(5)]
        + [line("NR-CA", seed, 15 + (-1) ** seed, event=100 * (seed > 0)) for seed in range(5)]
    )
    plain, nr, crossed = rows(table)
    assert (plain[0], plain[6], nr[6]) == ("BL", "", "**-0.98 ± 0.02**")
    assert "**" not in crossed[6] and crossed[-1] == "100 (4 of 5)"


def test_of_several_events_it_is_told_how_many_there_were() -> None:
    lines = {seed: line("NR, up to 5 events", seed, event=900 + 100 * seed, events=2 + seed) for seed in range(2)}
    assert events_of(lines) == "950, the last of 2.5"
    assert events_of({0: line("NR", event=40, events=1), 1: line("NR", 1)}) == "40 (1 of 2)"


def test_the_page_has_the_tables_the_verdict_and_the_picture(tmp_path: Path) -> None:
    curve = "100:30.00 200:20.00"
    lines = [line(seed=seed, error=15 + 0.1 * seed, curve=curve) for seed in range(3)]
    lines += [line(row, seed, 13 + 0.1 * seed, curve, event=100) for row in ("NR", "NR-CA") for seed in range(3)]
    text = page(lines, [], [], [Cost("vgg", 10.0, 1.02, 14.2, "", "", "")], tmp_path / "results.png")
    assert "| vgg | 10.0 | 1.02 plain steps | 14 plain steps |" in text
    assert (
        "## vgg, params <= 1x" in text
        and "| vgg | params | 3 | **-2.00 ± 0.00** | 0e+00 | 0e+00 |  | **better** |" in text
    )
    assert "better than BL: `NR-CA`; worse: none" in text
    assert "![" in text and (tmp_path / "results.png").stat().st_size > 5000


def test_a_row_is_told_beside_itself_with_all_gammas_pulled_alike() -> None:
    lines = [
        *(line("BL", seed, 12.0 + seed) for seed in range(3)),
        *(line("BL held", seed) for seed in range(3)),
        *(line("NR" + NONE_SPARED, seed, 11.0 + seed, curve="100:34 200:24", event=200) for seed in range(3)),
        *(line("NR", seed, 10.5 + seed, curve="100:31 200:20", event=100) for seed in range(1, 3)),
        *(line(row, seed) for row in ("NR-FS", "NR-FS" + NONE_SPARED) for seed in range(3)),  # nothing is kept there
        *(line("NR-CR", seed) for seed in range(3)),  # in one way alone
    ]
    (told,) = spared_rows(by_row(lines))
    assert told[:4] == ("NR", "2", "4.0", "1.0") and told[4:6] == ("4.0", "1.0")
    assert told[6:] == ("**-1.00 ± 0.00**", "**-1.50 ± 0.00**", "200", "100")


def test_rows_without_spared_gammas_stand_in_their_own_table_alone(tmp_path: Path) -> None:
    rows_of = ("BL", "BL held", "NR", "NR" + NONE_SPARED)
    text = page([line(row, seed) for row in rows_of for seed in range(2)], [], [], [], tmp_path / "results.png")
    assert "| vgg | params | NR | 2 |" in text and NONE_SPARED not in text
