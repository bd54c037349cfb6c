"""The shape of benchmarks/: five rooms, the files that they share, and one command for all."""

import ast
import csv
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import benchmarks
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.command import verdict

HOME = Path(benchmarks.__file__).parent
ROOMS = ("speed", "soundness", "setups", "coverage", "study")
FILES = sorted(HOME.rglob("*.py"))
SHARED = [path.stem for path in sorted(HOME.glob("*.py")) if not path.stem.startswith("__")]

RESULTS = {
    "passes": "speed.passes.Timing",
    "pruning": "speed.pruning.Pruned",
    "growth": "speed.growth.Growth",
    "memory": "speed.memory.Peak",
    "meter": "speed.meter.Reading",
    "counting": "speed.counting.Time",
    "classification": "speed.classification.Row",
    "traps": "speed.correctness.Answer",
    "cross_convolutions": "speed.cross_convolutions.Timing",
    "cross_steps": "speed.cross_steps.Step",
    "gpu_convolutions": "speed.cross_convolutions.Timing",
    "gpu_steps": "speed.cross_steps.Step",
    "gpu_checks": "speed.gpu_checks.Check",
    "startup": "speed.startup.Start",
    "matrix": "soundness.matrix_page.Outcome",
    "partial": "soundness.partial.Row",
    "budgets": "soundness.budgets.Row",
    "exports": "soundness.exports.Row",
    "fuzz": "soundness.fuzz_page.Row",
    "kills": "soundness.kills.Row",
    "kills_2": "soundness.kills.Row",
    "processes": "soundness.processes.Row",
    "setups": "setups.setup.Row",
    "coverage": "coverage.vision.row.WholeRow",
    "field": "coverage.field.row.FieldRow",
    "digits": "study.digits_run.Trained",
    "demo": "study.demo_page.Line",
    "demo_choices": "study.demo_page.Line",
    "digits_choice": "study.digits_page.Choice",
    "search": "study.search.Search",
    "held": "study.held.Sight",
    "recalibration": "study.recalibration.Sight",
    "stream": "study.stream_page.Streamed",
    "fashion": "study.fashion.plan.Line",
    "fashion_choices": "study.fashion.plan.Line",
    "fashion_costs": "study.fashion.cost.Cost",
    "advice": "study.advice.advised.Advised",
    "advice_runs": "study.advice.runs.Full",
}
"""The class whose fields are the columns of each file of results; behind a name may stand a device and a dtype."""


def imported(path: Path) -> Iterator[str]:
    """The first name below `benchmarks` of everything that a file imports: a room or a shared file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("benchmarks."))
        elif isinstance(node, ast.ImportFrom) and node.module == "benchmarks":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks."):
            yield str(node.module).split(".")[1]


def users(shared: str) -> set[str]:
    """The rooms that import a shared file, themselves or through another shared file."""
    users_of_file = {path.relative_to(HOME).parts[0] for path in FILES if shared in imported(path)}
    through = {name.removesuffix(".py") for name in users_of_file - {*ROOMS, "__main__.py"}}
    return (users_of_file & set(ROOMS)).union(*(users(other) for other in through))


def test_there_are_five_rooms_and_every_file_says_what_it_is_about() -> None:
    assert {path.name for path in HOME.iterdir() if (path / "__init__.py").exists()} == set(ROOMS)
    assert all(ast.get_docstring(ast.parse(path.read_text())) for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOME)))
def test_a_file_imports_its_own_room_and_shared_files_alone(path: Path) -> None:
    own = {path.relative_to(HOME).parts[0]} & set(ROOMS)
    assert set(imported(path)) <= own | set(SHARED)


def test_a_shared_file_serves_two_rooms_or_more() -> None:
    assert [name for name in SHARED if len(users(name)) < 2] == []


def test_the_imports_of_a_file_are_seen_in_every_form(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text("import benchmarks.study.held\ndef late():\n    from benchmarks import speed\n    import os\n")
    assert sorted(imported(file)) == ["speed", "study"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_help_under_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m benchmarks {name} ")


def test_without_a_name_the_benchmarks_are_listed_with_a_line_each_and_none_is_imported() -> None:
    code = "import sys, benchmarks.__main__ as m; m.main([]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME.parent, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)
    assert all(len(line.split()) > 4 and len(line) <= 120 for line in lines)


def test_an_unknown_name_is_refused_with_the_names_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["velocity"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("There is no benchmark 'velocity'.") and all(f"\n{name} " in said for name in BENCHMARKS)


def test_a_verdict_counts_what_passed_and_is_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert [verdict(passed, "cases hold", Console()) for passed in ([True, True], [True, False])] == [0, 1]
    assert capsys.readouterr().out == "2 of 2 cases hold.\n1 of 2 cases hold.\n"


@pytest.mark.parametrize("path", sorted((HOME / "results").glob("*.csv")), ids=lambda path: path.stem)
def test_results_have_the_columns_that_their_benchmark_writes(path: Path) -> None:
    name = next(name for name in (path.stem, path.stem.rsplit("_", 2)[0]) if name in RESULTS)
    module, _, kind = RESULTS[name].rpartition(".")
    row: Any = getattr(import_module(f"benchmarks.{module}"), kind)
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == [field.name for field in fields(row)]
