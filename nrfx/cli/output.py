"""What a command prints: JSON or its report, and a spinner while it works."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType

from nrfx.report import columns, render


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
