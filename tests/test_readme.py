"""tests/README.md says where each source file is tested, and every test file has its place."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "tests" / "README.md").read_text()
TABLE = dict(re.findall(r"^\| `(nrfx/\S+\.py)` \| `(\S+)` \|$", README, flags=re.M))
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "nrfx").rglob("*.py") if path.name != "__init__.py")
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py"))


def mirror(source: Path) -> Path:
    """The test file of the same name: tests/analysis/test_cost.py for nrfx/analysis/cost.py."""
    return Path("tests", *source.parts[1:-1], f"test_{source.name}")


def imported(test: Path) -> Iterator[str]:
    """The files of nrfx that a test file imports, such as nrfx/analysis/cost.py."""
    for node in ast.walk(ast.parse((ROOT / test).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                yield f"{name.replace('.', '/')}.py"
        elif isinstance(node, ast.Import):
            yield from (f"{alias.name.replace('.', '/')}.py" for alias in node.names)


def functions(test: Path) -> set[str]:
    return {node.name for node in ast.parse((ROOT / test).read_text()).body if isinstance(node, ast.FunctionDef)}


def subjects(test: Path) -> Iterator[Path]:
    """The source files that a test file may be named after: test_cost_small.py after cost_small.py or cost.py."""
    folder = Path(*(test.parts[1:-1] if test.parts[1] == "benchmarks" else ("nrfx", *test.parts[1:-1])))
    words = test.stem.split("_")[1:]
    yield from (folder / f"{'_'.join(words[:count])}.py" for count in range(1, len(words) + 1))


def test_the_table_is_read_and_has_no_file_twice() -> None:
    assert len(TABLE) == README.count("| `nrfx/") > 20
    assert set(TABLE) <= set(map(str, SOURCES))


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_source_file_has_a_test_file_of_its_name_or_a_row_of_the_table_and_not_both(source: Path) -> None:
    assert (ROOT / mirror(source)).exists() != (str(source) in TABLE), f"{mirror(source)}, or a row in tests/README.md"


@pytest.mark.parametrize("source", TABLE)
def test_the_test_file_of_a_row_imports_the_source_or_the_row_names_one_of_its_tests(source: str) -> None:
    path, _, name = TABLE[source].partition("::")
    assert Path(path) in TESTS
    assert name in functions(Path(path)) if name else source in imported(Path(path))


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_a_test_file_is_named_after_a_source_file_or_in_the_readme(test: Path) -> None:
    assert any((ROOT / source).exists() for source in subjects(test)) or f"{test.name}" in README
