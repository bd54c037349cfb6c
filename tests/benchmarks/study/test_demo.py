"""The demo over many seeds: it goes on from its lines, and page and picture say what they say."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import command
from benchmarks.study import demo
from benchmarks.study.demo import DECIDING, Wanted, carried_out, lines, main, tried, wanted
from benchmarks.study.demo_page import Line, choice_rows, page, pairs_of, picture, rows
from benchmarks.table import read_csv
from nrfx.experiment.config import RunConfig
from nrfx.experiment.demo.training import ROWS, Row, Task
from tests.experiment.demo.runs import TINY, run


def line(row: Row, seed: int, test: float | None, setting: str = "digits") -> Line:
    over = vars(run(row, seed, 5.0 if test is None else test)) | {"test": test}
    texts = {name: " ".join(map(str, over[name])) for name in ("layers", "widths")}
    curve = " ".join(f"{step}:{error:.2f}" for step, error in over["curve"])
    about = {"key": f"{setting}{row}{seed}", "setting": setting, "torch": "2", "date": "today", "cpu": "a machine"}
    return Line(**{**over, **texts, **about, "curve": curve})


STUDY = [line(row, seed, 5.0 + 0.1 * seed - 2 * (row == "nr")) for seed in range(4) for row in ROWS]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("LINES", "CHOICES", "PAGE", "PICTURE"):
        monkeypatch.setattr(demo, name, tmp_path / name)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    return tmp_path


def test_a_run_is_a_line_that_comes_back_as_it_was(files: Path) -> None:
    job = Wanted("tiny", Task(TINY, 0, "nr"), test=True)
    (first,) = lines([job], files / "LINES", Console(quiet=True))
    assert first.event > 0 and first.test is not None and len(first.curve.split()) == TINY.config.epochs
    (again,) = read_csv(Line, files / "LINES")
    assert again.trained().widths == first.trained().widths and again.key == first.key == job.key
    assert carried_out(replace(job, test=False)).test is None


def test_only_what_is_missing_is_trained(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def over(job: Wanted) -> Line:
        done.append((job.task.seed, job.task.row))
        return replace(line(job.task.row, job.task.seed, 5.0), key=job.key)

    monkeypatch.setattr(demo, "carried_out", over)
    jobs = [*wanted(["digits"], range(2), None)]
    lines(jobs[:3], files / "LINES", Console(quiet=True))
    found = lines(jobs, files / "LINES", Console(quiet=True))
    assert done == [(0, "plain"), (0, "nr"), (1, "plain"), (1, "nr")]
    assert [(each.seed, each.row) for each in found] == done
    assert len((files / "LINES").read_text().splitlines()) == 5


def test_a_key_is_that_of_the_settings_and_new_settings_of_a_config_leave_it() -> None:
    job = Wanted("digits", Task(TINY, 0, "nr"), test=True)
    other = replace(TINY, config=replace(TINY.config, lr=0.3))
    keys = {job.key, replace(job, test=False).key, replace(job, task=Task(TINY, 1, "nr")).key}
    assert len(keys | {replace(job, task=Task(other, 0, "nr")).key}) == 4
    assert set(DECIDING) <= set(RunConfig.__dataclass_fields__)


def test_the_choice_is_made_on_other_seeds_and_without_the_test_images() -> None:
    assert not {job.task.seed for job in tried()} & {job.task.seed for job in wanted(["digits"], demo.SEEDS, None)}
    assert not any(job.test for job in tried()) and all(job.test for job in wanted(["digits"], demo.SEEDS, None))


def test_the_table_has_the_paired_interval_in_bold_where_0_lies_outside() -> None:
    (found,) = rows(STUDY)
    assert found[:6] == ("digits", "4", "5.15 ± 0.21", "3.15 ± 0.21", "**-2.00 ± 0.00**", "4 of 4")
    assert found[7:9] == ("x 1.38", "640 (4 of 4)")
    mixed = [replace(each, test=9.0) if (each.row, each.seed) == ("nr", 0) else each for each in STUDY]
    (found,) = rows(mixed)
    assert "**" not in found[4] and found[5] == "3 of 4"
    assert [*rows(STUDY[:2])] == []


def test_the_choice_is_by_validation_errors() -> None:
    tries = [replace(each, test=None, validation=each.validation + 10) for each in STUDY]
    (found,) = choice_rows(tries)
    assert found[2] == "15.15 ± 0.21"


def test_the_page_says_what_the_demo_would_and_the_picture_is_its_first_seeds() -> None:
    text = page(STUDY, [replace(each, test=None) for each in STUDY], range(4))
    assert "- digits: Neural Rejuvenation helps here, by 2.00 ± 0.00 points (95 % interval over 4 seeds)" in text
    drawn = picture(STUDY)
    assert "http" not in drawn.replace("http://www.w3.org", "")  # nothing is fetched
    words = " ".join("".join(ET.fromstring(drawn).itertext()).split())
    assert "(mean, and each seed)" in words and "over 3 seeds" in words
    assert len(pairs_of(STUDY)) == 4


def test_a_network_over_its_params_fails(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for params, status in ((43_417, 0), (43_471, 1)):
        over = [replace(each, params=params) if each.row == "nr" else each for each in STUDY]
        monkeypatch.setattr(demo, "read_csv", lambda kind, path, over=over: over)
        assert main(["--page"]) == status
    assert (files / "PAGE").read_text().startswith("# The demo, over 10 seeds") and (files / "PICTURE").exists()
