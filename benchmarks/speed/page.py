"""The page docs/speed.md: a section for each table, which the benchmark of the table writes."""

from collections.abc import Sequence

from benchmarks.command import DOCS

PAGE = DOCS / "speed.md"
HEAD = """# What nrfx costs

Every table is written by the benchmark that it names, which runs on one thread. Times are CPU times, medians
of repeats. They depend on the machine and on what else it does, so compare them within one table. *Spread* is the
distance of the quartiles of the repeats, as a part of their median.
"""


def with_section(page: str, title: str, lines: Sequence[str]) -> str:
    """The page with this section in the place of the one of the same title, or behind all others.

    >>> with_section("# Page\\n\\n## A\\n\\nold\\n\\n## B\\n\\nkept\\n", "A", ["new"])
    '# Page\\n\\n## A\\n\\nnew\\n\\n## B\\n\\nkept\\n'
    """
    head, *sections = page.rstrip("\n").split("\n\n## ")
    texts = {section.partition("\n")[0]: section for section in sections}
    texts[title] = "\n".join([title, "", *lines])
    return "\n\n## ".join([head, *texts.values()]) + "\n"


def written(title: str, lines: Sequence[str]) -> str:
    """The text of docs/speed.md with this section."""
    return with_section(PAGE.read_text() if PAGE.exists() else HEAD, title, lines)
