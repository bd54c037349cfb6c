"""docs/paper.md names only what there is: functions, tests, commands, networks, and files that links lead to."""

import ast
import csv
import importlib
import inspect
import re
from functools import reduce
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

import nrfx
from benchmarks.__main__ import BENCHMARKS
from nrfx.cli.commands import main
from tests.models.test_networks import COSTS

ROOT = Path(__file__).parent.parent
PAPER = (ROOT / "docs" / "paper.md").read_text()
CODE = re.findall(r"`([^`]+)`", PAPER)
REFERENCES = sorted({code for code in CODE if code.startswith("tests/")})
NAMES = sorted({name for code in CODE for name in re.findall(r"^nrfx(?:\.\w+)+", code)})


def resolved(dotted: str) -> Any:
    """What a dotted name stands for: the longest module that there is, and attributes of it."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[length:], module)
    raise LookupError(dotted)


def test_names_and_tests_are_read_from_the_page() -> None:
    assert "nrfx.rejuvenate" in NAMES and len(NAMES) > 15
    assert "tests/benchmarks/soundness/test_budgets.py" in REFERENCES and len(REFERENCES) > 20


@pytest.mark.parametrize("name", NAMES)
def test_every_function_on_the_page_exists(name: str) -> None:
    assert inspect.getdoc(resolved(name))


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_test_on_the_page_exists(reference: str) -> None:
    path, _, name = reference.partition("::")
    tests = [node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert not name or name in tests


def test_every_option_on_the_page_is_one_of_rejuvenate_or_of_the_rejuvenator() -> None:
    known = {*inspect.signature(nrfx.rejuvenate).parameters, *inspect.signature(nrfx.Rejuvenator).parameters}
    options = {name for code in CODE if not code.startswith("nrfx") for name in re.findall(r"(\w+)=", code)}
    assert "reinitialize" in options and options <= known


def test_every_command_on_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for name in re.findall(r"python -m benchmarks (\w+)", PAPER):
        assert name in BENCHMARKS
    commands = [code.split()[1:] for code in CODE if code.startswith("nrfx ")]
    for command, *_ in commands:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
    options = {word for command in commands for word in command if word.startswith("--")}
    main_help = capsys.readouterr().out
    assert commands and all(option in main_help for option in options)


def test_the_costs_on_the_page_are_those_of_the_networks() -> None:
    for (name, _), (params, flops, *_) in COSTS.items():
        line = next(line for line in PAPER.splitlines() if re.search(rf"\| `{name}`", line))
        assert f"{params:,}" in line and f"{flops:,}" in line


def test_the_summary_of_the_budgets_is_that_of_the_file() -> None:
    with (ROOT / "benchmarks" / "results" / "budgets.csv").open() as file:
        rows = list(csv.DictReader(file))
    misses = [float(row["miss"]) for row in rows]
    columns = ("table", "network", "classes", "measure")
    theirs = {tuple(map(row.get, columns)): float(row["paper_miss"]) for row in rows if row["paper_miss"]}
    sizes = [abs(miss) for miss in theirs.values()]
    section = " ".join(PAPER.partition("## The budgets")[2].partition("## ")[0].split())
    assert f"by {mean(sizes):.1f} % on average, by {max(sizes):.1f} % at most" in section
    assert f"{sum(miss > 0 for miss in theirs.values())} of {len(theirs)} lie above" in section
    assert f"{len(rows)} rejuvenations meet theirs from below, with at most {-min(misses):.3f} % left" in section
    assert max(misses) <= 0


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)  # code has brackets of its own
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        assert target.startswith("http") or (page.parent / target).exists(), target
