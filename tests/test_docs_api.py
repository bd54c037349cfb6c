"""The reference has every public name, each with an example."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

import nrfx
from nrfx import liveness, models, nn, rules
from tests.documents import PAGES, ROOT, blocks_of, name_of

REFERENCE = [
    path
    for page in PAGES
    if "api/" in name_of(page)
    for path in re.findall(r"^- `(nrfx\.\S+)`: ", page.read_text(), flags=re.M)
]


def named(path: str) -> Any:
    """The object of a dotted path, such as nrfx.deploy.latency.latency."""
    found, parts = nrfx, path.split(".")
    for count in range(1, len(parts)):
        if not hasattr(found, parts[count]):
            import_module(".".join(parts[: count + 1]))
        found = getattr(found, parts[count])
    return found


def identity(path: str) -> object:
    """What is equal for two names of one object. Trainers take seconds to import: of theirs it is the name."""
    return path if "integrations" in path else id(named(path))


def documented(text: str) -> set[str]:
    """The public names of a room, as its docstring lists them in backquotes."""
    return {word for word in re.findall(r"`(\w+)`", text) if word in vars(rules)}


def used(code: str) -> Iterator[str]:
    """The names of nrfx that code imports, or reaches by attributes."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "nrfx":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"nrfx(\.\w+)+", path := ast.unparse(node)):
            owner = named(path.rpartition(".")[0])
            yield path if inspect.ismodule(owner) else path.rpartition(".")[0]


def test_no_name_stands_twice() -> None:
    assert len(REFERENCE) == len({*REFERENCE}) > 80


def test_every_public_name_stands_in_the_reference() -> None:
    public = {f"nrfx.{name}" for name in nrfx.__all__ if not inspect.ismodule(getattr(nrfx, name))}
    public |= {f"nrfx.liveness.{name}" for name in liveness.__all__}
    public |= {f"nrfx.rules.{name}" for name in documented(inspect.getdoc(rules) or "") - {"OPS", "op_of"}}
    public |= {f"nrfx.nn.{name}" for name in nn.__all__}
    public |= {
        f"nrfx.models.{name}" for name in models.__all__ if callable(getattr(models, name)) and name != "Network"
    }
    assert sorted(public - {*REFERENCE}) == []


def test_every_name_that_a_page_uses_stands_in_the_reference() -> None:
    """`nrfx.x.y` by what it is: a shorter name of the same object will do."""
    known = {identity(path) for path in REFERENCE}
    missing = {
        f"{name_of(page)}:{block.line}: {path}"
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "python"
        for path in used(block.code)
        if identity(path) not in known and not inspect.ismodule(named(path))
    }
    assert missing == set()


@pytest.mark.parametrize("path", [path for path in REFERENCE if "integrations" in path])
def test_a_callback_has_an_example(path: str) -> None:
    module, _, name = path.rpartition(".")
    body = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text()).body
    (found,) = (node for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    assert ">>> " in (ast.get_docstring(found) or "")


@pytest.mark.parametrize("path", [path for path in REFERENCE if "integrations" not in path])
def test_a_public_name_has_an_example(path: str) -> None:
    value = named(path)
    text = inspect.getdoc(value) or ""
    assert ">>> " in text, f"{path} has no example"
    assert vars(value)["__doc__"] if inspect.isclass(value) else text, f"{path} has its base's docstring"
    for name, member in vars(value).items() if inspect.isclass(value) else ():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property | classmethod)):
            listed = re.search(rf"^ +.*\b{name}\b.*: ", text, flags=re.M)  # among the attributes
            assert inspect.getdoc(member) or listed, f"{path}.{name} is not documented"


def test_the_pages_of_the_site_are_all_pages() -> None:
    index, api = (ROOT / "docs" / "index.md").read_text(), (ROOT / "docs" / "api.md").read_text()
    linked = {link for text in (index, api) for link in re.findall(r"^- \[[^]]+\]\(([^)]+\.md)\)", text, flags=re.M)}
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert pages - linked == {"index.md"}
