"""What a command prints: JSON or its report, and a spinner while it works."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType

from nrfx.analysis.utilization import Utilization
from nrfx.analysis.why import Why
from nrfx.files import write
from nrfx.report import columns, render
from nrfx.rewrite.result import Rejuvenation


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A spinner on stderr, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{what} ..."):
        yield


def remark(sentences: Sequence[str]) -> None:
    """Says on stderr what was done without being asked for, whatever goes to stdout."""
    for sentence in sentences:
        print(f"nrfx: {sentence}", file=sys.stderr)


def written(arguments: argparse.Namespace, result: Utilization | Why | Rejuvenation, title: str) -> list[str]:
    """Writes the page on a result that was asked for, and says so."""
    if arguments.html is None:
        return []
    from nrfx.report.html import page  # noqa: PLC0415 (jinja2 is needed for nothing else)

    write(arguments.html, page(result, title).encode())
    return [f"The page is {arguments.html}."]


def show(
    arguments: argparse.Namespace, plain: Mapping[str, Any], report: RenderableType, ending: Sequence[str] = ()
) -> None:
    """JSON, or the report: with colours on a terminal, plain elsewhere."""
    if arguments.json:
        print(json.dumps(plain, indent=2))
        return
    whole = Group(report, *(["", *ending] if ending else []))
    console = Console(width=columns())
    if console.is_terminal:
        console.print(whole, highlight=False)
    else:
        print(render(whole))
