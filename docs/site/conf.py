"""The docs site: `sphinx-build -W --keep-going -c docs/site . build/site` from the root of the repository.

Its sources are the Markdown pages as they stand in the repository, which read well there too. Two things are added when
a page is read: the sections of docs/index.md become the navigation, and a list item that begins with a public name, in
docs/api/, becomes what its docstring says.
"""

import importlib
import inspect
import os
import re
from typing import Any

from sphinx.ext.autodoc.mock import mock

project = "nrfx"
author = "the authors of nrfx"
copyright = "the authors of nrfx, MIT licence"
html_title = "nrfx"
language = "en"
smartquotes = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "tests/README.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "venv", "nrfx", "README.md"]

myst_heading_anchors = 4  # as on a code host
default_role = "code"  # docstrings write code in single backquotes
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_inherit_docstrings = False
autodoc_mock_imports = ["lightning", "transformers"]  # trainers: they take longer to load than all pages to build
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["nrfx.css"]
html_extra_path = ["extra"]  # index.html, which leads to the first page
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
html_use_index = True
html_theme_options = {
    "light_logo": "logo.svg",
    "dark_logo": "logo_dark.svg",
    "sidebar_hide_name": True,
    "light_css_variables": {"color-brand-primary": "#0f766e", "color-brand-content": "#0b6a63"},
    "dark_css_variables": {"color-brand-primary": "#5eead4", "color-brand-content": "#5eead4"},
}
pygments_style = "friendly"
pygments_dark_style = "monokai"


def named(path: str) -> Any:
    """The object of a dotted path, such as nrfx.deploy.latency.latency."""
    found, parts = importlib.import_module("nrfx"), path.split(".")
    with mock(autodoc_mock_imports):
        for count in range(1, len(parts)):
            if not hasattr(found, parts[count]):
                importlib.import_module(".".join(parts[: count + 1]))
            found = getattr(found, parts[count])
    return found


def directive(path: str) -> str:
    """What autodoc is asked about a public name."""
    value = named(path)
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if callable(value) else "autodata"


def reference(text: str) -> str:
    """A page of docs/api/ in which what the docstrings say stands in the places of its list items."""

    def documented(item: re.Match[str]) -> str:
        return f"```{{eval-rst}}\n.. {directive(item[1])}:: {item[1]}\n```\n"

    return re.sub(r"^- `(nrfx\.[\w.]+)`(?:: .*(?:\n  .*)*)?\n", documented, text, flags=re.M)


def plain(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Makes a docstring mean in reStructuredText what it says as plain text.

    Indented text outside of the sections is literal: equations in the code's own names. Elsewhere stars, bars and
    underscores at the ends of names stand for themselves, unless they are in backquotes or in an example.
    """
    marked, section, literal, example = [""], False, False, False
    for line in lines:
        example = bool(line) and (example or line.lstrip().startswith(">>> "))
        if line and not line.startswith(" "):
            section, literal = bool(re.fullmatch(r"[A-Z][a-z]+:", line)), False
        if line.startswith(" ") and not (section or literal or example):
            marked += ["", "::", ""]
            literal = True
        marked.append(line if literal or example else escaped(line))
    lines[:] = marked[1:]


def escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part[:1] == "`" else re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts)


def contents(section: str) -> str:
    """A section, its heading in the first line, as a hidden table of contents: a page for each link, with its title."""
    heading, _, body = section.partition("\n")
    links = re.findall(r"^- \[([^]]+)\]\(([^)]+)\.md\)", body, flags=re.M)
    pages = [f"{title} </{os.path.normpath(f'docs/{page}')}>" for title, page in links]
    return "\n".join(["```{toctree}", ":hidden:", ":titlesonly:", f":caption: {heading}", "", *pages, "```"])


def read(app: Any, page: str, source: list[str]) -> None:
    if page == root_doc:
        source[0] += "\n" + "\n\n".join(map(contents, source[0].split("\n## ")[1:]))
    elif page == "docs/api":
        source[0] += "\n" + contents(source[0].removeprefix("# "))
    elif page.startswith("docs/api/"):
        source[0] = reference(source[0])


def setup(app: Any) -> None:
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", plain, priority=400)  # ahead of napoleon
