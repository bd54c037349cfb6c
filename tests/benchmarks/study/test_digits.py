"""The digits study: intervals, pairing by seed, what fails, and that a study that was broken off goes on."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import command
from benchmarks.study import digits
from benchmarks.study.digits_page import interval, page, paired
from benchmarks.study.digits_run import SETTINGS, Trained, images, network, trained
from nrfx.experiment.recipe import RECIPES


def run(row: str = "BL", seed: int = 0, error: float = 5.0, params: int = 16_794) -> Trained:
    event = int(RECIPES[row].rejuvenates)
    numbers = dict.fromkeys(Trained.__dataclass_fields__, 1.0) | {"test_error": error, "validation_error": error}
    counts = {
        "seed": seed,
        "params": params,
        "flops": 400_000,
        "epochs": 200,
        "events": event,
        "event_epoch": 50 * event,
    }
    return Trained(**{**numbers, **counts, "row": row, "torch": "2", "date": "today", "cpu": "a machine"})


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("KEPT", "TABLE", "PAGE"):
        monkeypatch.setattr(digits, name, tmp_path / name)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(digits, "trained", run)
    yield tmp_path / "KEPT"


def test_a_baseline_that_is_saturated_or_a_row_over_its_params_fails() -> None:
    assert not digits._fails([run(), run("NR")])
    assert digits._fails([run(error=3.0), run("NR")])
    assert digits._fails([run(), run("NR", params=16_795)])


def test_the_interval_is_student_s() -> None:
    # t of 9 degrees of freedom at 97.5 % is 2.262; the deviation of 0 to 9 is 3.028.
    interval_of_ten = interval([float(value) for value in range(10)])
    assert interval_of_ten.mean == 4.5
    assert interval_of_ten.reach == pytest.approx(2.262 * 3.028 / 10**0.5, rel=1e-3)
    assert interval_of_ten.apart and not interval([-1.0, 1.0, 0.5]).apart


def test_differences_are_those_of_one_seed() -> None:
    one = {seed: run(seed=seed, error=4.0 + seed) for seed in range(4)}
    other = {seed: run("NR", seed, error=3.0 + seed) for seed in (1, 2, 3)}
    assert paired(other, one).mean == -1.0 and paired(other, one).reach == pytest.approx(0.0)


def test_the_page_has_every_row_and_says_which_differ() -> None:
    runs = [
        run(row, seed, error=5.0 + 0.1 * seed - (row == "NR-CA") * (1 + 0.01 * seed))
        for row in RECIPES
        for seed in range(3)
    ]
    text = page(runs, SETTINGS)
    assert all(f"| {row} | 3 |" in text for row in RECIPES)
    assert "- Better than BL, 0 outside the interval of the difference: NR-CA." in text
    assert "Too close to BL to call: BL-CA, NR-CR" in text


def test_a_study_goes_on_with_the_runs_that_are_missing(kept: Path) -> None:
    kept.write_text("".join(json.dumps(asdict(run("NR", seed, error=9.0))) + "\n" for seed in (0, 1)))
    assert digits.main(["--rows", "BL", "NR", "--seeds", "3", "--resume"]) == 0
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert sorted((line["row"], line["seed"]) for line in lines) == [(row, s) for row in ("BL", "NR") for s in range(3)]
    assert [line["test_error"] for line in lines if line["row"] == "NR"] == [9.0, 9.0, 5.0]
    assert not digits.TABLE.exists()


def test_a_study_of_all_rows_is_written_and_one_from_the_start_forgets(kept: Path) -> None:
    kept.write_text(json.dumps(asdict(run("NR", 0, error=9.0))) + "\n")
    assert digits.main([]) == 0
    assert len(digits.TABLE.read_text().splitlines()) == 1 + 10 * len(RECIPES)
    assert "9.00" not in digits.PAGE.read_text()


def test_choosing_prints_no_test_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "trained", lambda row, seed, _: replace(run(row, seed), test_error=77.77))
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    digits.choose(console)
    console.file.close()
    said = console.export_text()
    assert "0.002" in said and "5.00" in said and "77.77" not in said


def test_seeds_for_choosing_are_none_of_the_study_s() -> None:
    assert not set(digits.CHOOSING) & set(range(digits.SEEDS))


@pytest.mark.parametrize("row", ["BL-CA", "NR+DSD"])
def test_a_run_is_of_the_network_and_the_images_of_its_seed(row: str) -> None:
    result = trained(row, 3, replace(SETTINGS, epochs=2, interval=3))
    assert (result.row, result.seed, result.epochs) == (row, 3, 2)
    assert result.params == sum(parameter.numel() for parameter in network(3).parameters())
    data = images(3)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [145, 449, 1203]
