"""One command for every catalogue: no process can stop a run, and rows are kept, resumed and published."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import nn

from benchmarks import command
from benchmarks.coverage import run
from benchmarks.coverage.catalogue import Catalogue
from benchmarks.coverage.field import FIELD
from benchmarks.coverage.field.row import FieldRow
from benchmarks.coverage.model import Model, Real
from benchmarks.coverage.row import Row, row_of
from benchmarks.coverage.vision import VISION
from benchmarks.table import progress_bar, read_csv, write_csv


def aborted() -> nn.Module:
    os.abort()


def endless() -> nn.Module:
    while True:
        pass


def tiny(name: str, build: Any = nn.Identity, family: str = "CNN") -> Model:
    return Model("torch", name, family, build, (Real((2, 3, 8, 8)),))


def test_a_process_that_dies_or_takes_too_long_is_a_row_with_the_step() -> None:
    models = tiny("aborted", aborted), tiny("endless", endless)
    with progress_bar(Console(quiet=True)) as progress:
        task = progress.add_task("")
        dead, slow = (run.row(VISION, model, run.Limits(1 << 34, 1.0), progress, task) for model in models)
    assert dead.failures == ("build: the process died with exit code -6",)
    assert slow.failures == ("build: the process was killed, its limits are 16 GiB and 1 s of CPU time",)
    assert dead.model == "torch:aborted" and dead.input == "3x8x8"


def test_one_model_of_each_family_comes_first() -> None:
    models = [tiny("a"), tiny("b"), tiny("c", family="ViT")]
    assert [model.name for model in run.families_first(models)] == ["a", "c", "b"]


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    """The field with the models a, b and c, its files in an empty folder; each model is examined at once, without a
    process."""
    (tmp_path / "build").mkdir()
    monkeypatch.setattr(command, "ROOT", tmp_path)
    for name in ("DOCS", "RESULTS", "ROOT"):
        monkeypatch.setattr(f"benchmarks.coverage.catalogue.{name}", tmp_path)
    field = replace(FIELD, models=lambda: [tiny("a"), tiny("b"), tiny("c", family="ViT")], preloaded=())
    monkeypatch.setattr(run, "FIELD", field)
    monkeypatch.setattr(run, "columns_of", lambda *_: {"failures": [], "form": "whole", "torch": "2", "date": "today"})
    yield field


def names(path: Path) -> list[str]:
    return [json.loads(line)["model"] for line in path.read_text().splitlines()]


def test_a_run_is_resumed_and_begun_anew(catalogue: Catalogue, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--field", "--only", "*:b"]) == 0
    assert run.main(["--field", "--resume"]) == 0
    assert names(catalogue.cache) == ["torch:b", "torch:a", "torch:c"]
    assert "3 models of 2 families" in catalogue.document.read_text()
    assert [line.split(",")[0] for line in catalogue.table.read_text().splitlines()[1:]] == [
        "torch:a",
        "torch:b",
        "torch:c",
    ]
    assert run.main(["--field"]) == 0 and names(catalogue.cache) == ["torch:a", "torch:c", "torch:b"]
    assert "3 of 3 models hold." in capsys.readouterr().out


def test_the_page_of_a_whole_catalogue_waits_for_every_row(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "FIELD", replace(catalogue, whole=True))
    run.main(["--field", "--family", "vit"])
    assert names(catalogue.cache) == ["torch:c"] and not catalogue.document.exists()
    monkeypatch.setattr(run, "FIELD", catalogue)
    run.main(["--field", "--family", "vit"])
    assert "1 models of 1 families; every check holds for 1 of them. 2 more" in catalogue.document.read_text()


def test_rows_that_a_run_does_not_examine_stay_in_the_files(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = replace(tiny("b"), package="not_installed")
    monkeypatch.setattr(run, "FIELD", replace(run.FIELD, models=lambda: [tiny("a"), absent, tiny("c", family="ViT")]))
    told = {"form": "parts", "torch": "1", "date": "1 May"}
    before = [row_of(FieldRow, {**run._head(run.FIELD, model), **told}) for model in run.FIELD.models()]
    write_csv(before, catalogue.table)
    monkeypatch.setattr(run, "columns_of", lambda *_: {"failures": ["trace: no"], "torch": "2", "date": "2 May"})
    assert run.main(["--field", "--only", "*:c"]) == 1
    *others, last = read_csv(FieldRow, catalogue.table)
    assert others == before[:2] and (last.model, last.failures, last.form) == ("torch:c", ("trace: no",), "")
    text = catalogue.document.read_text()
    assert "with torch 1, 2, 1 May to 2 May;" in text and "every check holds for 2 of them.\n" in text


def test_models_are_listed_and_a_name_that_none_has_is_said(
    catalogue: Catalogue, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--field", "--list", "--only", "torch:[ac]"]) == 0
    assert capsys.readouterr().out == "torch:a  CNN  2x3x8x8\ntorch:c  ViT  2x3x8x8\n"
    assert run.main(["--field", "--only", "resnet"]) == 2


def test_rows_survive_the_cache_and_those_of_before_are_read(catalogue: Catalogue) -> None:
    rows = [
        FieldRow("torch:a", "torch", "CNN", "2x3x8x8", mortal=0.5, pins=("1.0% x", "2.0% y"), form="parts"),
        Row("torch:gone", "torch", "CNN", "2x3"),
    ]
    for row in rows:
        run.append(row, catalogue.cache)
    before = {"model": "torch:c", "package": "torch", "family": "ViT", "input": "2x3x8x8", "free": 0.25, "old": 1}
    with catalogue.cache.open("a") as file:
        file.write(json.dumps(before) + "\n")
    known = run.cached(catalogue, list(catalogue.models()), catalogue.cache)
    assert known == {"torch:a": rows[0], "torch:c": FieldRow("torch:c", "torch", "ViT", "2x3x8x8", mortal=0.25)}
