"""The shape of the package: imports run one way, in the order of the data, and the doors are documented."""

import ast
import inspect
from pathlib import Path

import pytest

import nrfx

ROOT = Path(nrfx.__file__).parent
ORDER = (
    *(
        "errors",
        "files",
        "labels",
        "nn",
        "trace",
        "rules",
        "channels",
        "constants",
        "liveness",
        "cost",
        "budget",
        "budget_request",
        "reallocate",
    ),
    *(
        "utilization",
        "tie_graph",
        "why",
        "rewrite",
        "verify",
        "options",
        "limits",
        "decision",
        "rejuvenate",
        "recalibrate",
        "outline",
        "report",
        "checkpoint",
    ),
    *("training", "models", "job", "cli"),
)
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def rank(dotted: str) -> int:
    return ORDER.index(dotted.split(".")[1])


def imported(path: Path) -> set[str]:
    """What a module imports of nrfx when it is loaded. A value's __str__ may look for its rendering later."""
    body = ast.parse(path.read_text()).body
    found = {node.module for node in body if isinstance(node, ast.ImportFrom) and node.module}
    found |= {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in found if name.startswith("nrfx.")}


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] not in ("__init__.py", "__main__.py")], ids=str)
def test_a_module_imports_only_what_comes_before_it(module: Path) -> None:
    own = ORDER.index(module.with_suffix("").parts[0])
    later = {name for name in imported(ROOT / module) if rank(name) > own}
    assert not later, f"{module} imports {sorted(later)}, which comes after it"


def test_the_surface_is_sorted_and_every_name_on_it_is_documented() -> None:
    assert list(nrfx.__all__) == sorted(nrfx.__all__)
    for name in nrfx.__all__:
        assert inspect.getdoc(getattr(nrfx, name)), name


def test_every_module_says_what_it_is_about() -> None:
    for module in MODULES:
        assert ast.get_docstring(ast.parse((ROOT / module).read_text())), module


def test_nothing_in_the_project_names_a_package_index_or_a_local_path() -> None:
    files = [
        path
        for path in ROOT.parent.rglob("*")
        if path.suffix in (".py", ".md", ".toml", ".csv") and ".venv" not in path.parts
    ]
    for path in files:
        text = path.read_text()
        for word in ("pypi" + ".org", "--index" + "-url", "/wo" + "rk/"):
            assert word not in text, f"{path} contains {word}"
